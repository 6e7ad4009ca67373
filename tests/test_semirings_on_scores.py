"""Every semiring on scores, transitions and durations, on the reference backend at once."""

from dataclasses import replace
from math import inf

import pytest
import torch
from factory import (
    FLAGS,
    SIZE,
    SIZES,
    for_each_flags,
    for_each_size,
    gradients_of,
    make_inputs,
    one_sequence,
    oracles,
    runs_on,
    tensors,
    upstream,
    with_grad,
)
from semimarkov_cases import K_BEST, PAIRS, from_paths, semiring_called
from tolerances import assert_close

from torch_semimarkov import explain, log_partition
from torch_semimarkov.backends.reference.partition import composite
from torch_semimarkov.errors import ShapeError, UnsupportedError
from torch_semimarkov.functional.edge_totals import edge_total
from torch_semimarkov.functional.edges import edge_potentials
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.semirings import EntropySemiring, KMaxSemiring, SampledSemiring

float64 = torch.float64
SINGLE = ("log", "max", "std", "kmax", "entropy", "sampled")
for_each_semiring = pytest.mark.parametrize("name", SINGLE)


def as_taken(name, inputs):
    """The terms as the semiring takes them: plain weights for the standard one."""
    if name != "std":
        return inputs
    return {**inputs, **{key: x.exp() for key, x in tensors(inputs).items()}}


def total(name, inputs, **options):
    return log_partition(**as_taken(name, inputs), semiring=semiring_called(name), **options)


def expected_total(name, size, flags):
    values = []
    for oracle in oracles(size, float64, flags):
        scores = torch.from_numpy(oracle.scores)
        scores = scores.exp() if name == "std" else scores
        values.append(from_paths("log" if name == "sampled" else name, scores))
    return torch.stack(values, -1)


@for_each_flags
@for_each_size
@for_each_semiring
def test_totals_are_those_of_enumeration(name, size, flags):
    inputs = make_inputs(size, flags=flags)
    with runs_on("reference"):
        value = total(name, inputs)
    assert_close("log_partition", float64, value, expected_total(name, size, flags))


@for_each_flags
@pytest.mark.parametrize("name", ["std", "kmax", "entropy"])
def test_gradients_are_those_of_the_same_potentials_as_edges(name, flags):
    ours, edges = with_grad(make_inputs(flags=flags)), with_grad(make_inputs(flags=flags))
    weight = upstream(SIZE.B)
    with runs_on("reference"):
        value = total(name, ours)
    p = Potentials(**edges).canonical()
    edge = edge_potentials(p)
    edge = edge.exp() if name == "std" else edge
    other = edge_total(edge, p.lengths + 1, semiring=semiring_called(name))
    if name == "kmax":
        weight = weight * torch.arange(1, K_BEST + 1, dtype=float64)[:, None]
    assert_close("log_partition", float64, value, other)
    value, other = (torch.where(x.detach() == -inf, 0.0, x) for x in (value, other))
    found, wanted = gradients_of(value, ours, weight), gradients_of(other, edges, weight)
    for term in found:
        assert_close("gradient", float64, found[term], wanted[term])


@for_each_semiring
def test_padding_never_reaches_the_result(name):
    inputs = with_grad(as_taken(name, make_inputs(flags="all")))
    spoiled = {key: x.detach().clone() for key, x in inputs.items()}
    for b, length in enumerate(inputs["lengths"].tolist()):
        for key in ("scores", "start_scores", "end_scores"):
            spoiled[key][b, length:] = torch.nan
    spoiled = with_grad(spoiled)
    semiring = semiring_called(name)
    values = [log_partition(**x, semiring=semiring, backend="reference") for x in (inputs, spoiled)]
    assert torch.equal(*values)
    if name != "sampled":
        finite = [torch.where(value.detach() == -inf, 0.0, value) for value in values]
        weight = torch.ones_like(values[0])
        left, right = (
            gradients_of(value, x, weight)
            for value, x in zip(finite, (inputs, spoiled), strict=True)
        )
        assert all(torch.equal(left[term], right[term]) for term in left)


@for_each_semiring
def test_a_ragged_batch_equals_its_sequences_one_by_one(name):
    inputs = make_inputs(flags="all")
    value = total(name, inputs, backend="reference")
    for b in range(SIZE.B):
        alone = total(name, one_sequence(inputs, b), backend="reference")
        assert_close("log_partition", float64, value[..., b : b + 1], alone)


@pytest.mark.parametrize("interval", [1, 2, 7])
@pytest.mark.parametrize("name", ["std", "kmax", "entropy"])
@pytest.mark.parametrize("flags", ["boundary", "all", "tail", "all-tail"])
def test_checkpointing_changes_neither_value_nor_gradient(name, interval, flags):
    plain, kept = with_grad(make_inputs(flags=flags)), with_grad(make_inputs(flags=flags))
    values = total(name, plain), total(name, kept, checkpoint_interval=interval)
    assert torch.equal(*values)
    first = [torch.where(x.detach() == -inf, 0.0, x)[..., :1] for x in values]
    weight = torch.ones_like(first[0])
    left, right = gradients_of(first[0], plain, weight), gradients_of(first[1], kept, weight)
    assert all(torch.equal(left[term], right[term]) for term in left)


@for_each_flags
@for_each_size
@pytest.mark.parametrize("name", PAIRS)
def test_pairs_of_models_are_compared_as_enumeration_does(name, size, flags):
    """q is another draw that forbids nothing, and then p and q change their roles."""
    free = "tail" if "tail" in FLAGS[flags] else "plain"
    p, q = make_inputs(size, flags=flags), make_inputs(size, flags=free, seed=1)
    models = [Potentials(**x).canonical() for x in (p, q)]
    models[1] = widened(models[1], models[0])
    scores = [
        [torch.from_numpy(oracle.scores) for oracle in found]
        for found in (oracles(size, float64, flags), oracles(size, float64, free, 1))
    ]
    for first, second in ((0, 1), (1, 0)):
        value = composite(models[first], semiring_called(name), None, models[second])
        rows = zip(scores[first], scores[second], strict=True)
        expected = torch.stack([from_paths(name, x, y) for x, y in rows])
        assert_close("log_partition", float64, value, expected)


def widened(p, like):
    """The same model with (K, C, C) transitions if the other has them."""
    if not like.per_duration or p.per_duration:
        return p
    return replace(p, transition=p.transition.expand(p.K, p.C, p.C).contiguous())


@pytest.mark.parametrize("flags", ["plain", "all", "all-tail"])
def test_the_gradient_of_a_sampled_total_is_one_segmentation(flags):
    inputs = with_grad(make_inputs(SIZES[3], flags=flags))
    generator = torch.Generator().manual_seed(1)
    value = log_partition(**inputs, semiring=SampledSemiring(generator), backend="reference")
    B = SIZES[3].B
    drawn = gradients_of(value, inputs, torch.ones(B, dtype=float64))
    labels = drawn["scores"]
    inside = torch.arange(SIZES[3].T) < inputs["lengths"][:, None]
    assert ((labels == 0) | (labels == 1)).all()
    assert torch.equal(labels.sum(-1), inside.double())
    assert float(drawn["duration_bias"].sum()) == float(drawn["transition"].sum()) + B


def test_samples_have_the_frequencies_of_the_model():
    inputs = make_inputs(SIZES[4])
    exact = oracles(SIZES[4])[0].marginals()["labels"]
    many = 3000
    copies = {**one_sequence(inputs, 0)}
    copies["scores"] = copies["scores"].expand(many, -1, -1).clone().requires_grad_()
    copies["lengths"] = copies["lengths"].expand(many)
    generator = torch.Generator().manual_seed(0)
    value = log_partition(**copies, semiring=SampledSemiring(generator), backend="reference")
    (drawn,) = torch.autograd.grad(value.sum(), copies["scores"])
    p = torch.from_numpy(exact)
    assert ((drawn.mean(0) - p).abs() <= 5 * (p * (1 - p) / many).sqrt()).all()


# Names, objects and what is refused


def test_other_semirings_run_on_the_reference_without_being_asked():
    inputs = make_inputs()
    named = log_partition(**inputs, semiring="entropy")
    assert torch.equal(named, log_partition(**inputs, semiring=EntropySemiring()))
    assert log_partition(**inputs, semiring=KMaxSemiring(2)).shape == (2, SIZE.B)
    for semiring in ("entropy", KMaxSemiring(2)):
        found = explain(**inputs, semiring=semiring)
        assert found.chosen == "reference" and "has no semiring" in found.reasons["cpu"][0]


def test_a_backend_that_lacks_a_semiring_says_so():
    with pytest.raises(UnsupportedError, match="cpu: has no semiring 'kmax'"):
        log_partition(**make_inputs(), semiring=KMaxSemiring(2), backend="cpu")


@pytest.mark.parametrize("name", PAIRS)
def test_one_set_of_potentials_cannot_be_compared(name):
    with pytest.raises(UnsupportedError, match="compares two sets of potentials, and gets one"):
        log_partition(**make_inputs(), semiring=name)


def test_kmax_by_name_asks_for_its_k():
    with pytest.raises(UnsupportedError, match=r"pass KMaxSemiring\(k\)"):
        log_partition(**make_inputs(), semiring="kmax")


def test_what_is_no_semiring_is_refused():
    with pytest.raises(UnsupportedError, match="semiring must be a name"):
        log_partition(**make_inputs(), semiring=3)


def test_negative_weights_are_refused_unless_they_lie_past_a_length():
    inputs = as_taken("std", make_inputs(SIZES[5]))
    inputs["scores"][:, -1] = -1.0
    assert log_partition(**inputs, semiring="std").isfinite().all()
    inputs["scores"][0, 0] = -1.0
    inputs["transition"][0, 0] = -1.0
    with pytest.raises(ShapeError, match=r"(?s)scores holds negative.*transition holds negative"):
        log_partition(**inputs, semiring="std")
