"""Durations without a ceiling: a geometric tail beyond K, beside the same model with a large K."""

import math
from dataclasses import replace

import pytest
import torch
from factory import (
    Size,
    by_threads,
    for_each_backend,
    gradients_of,
    make_inputs,
    one_sequence,
    runs_on,
    tensors,
    upstream,
    with_grad,
)
from tolerances import assert_close

from torch_semimarkov import (
    Segments,
    SemiMarkovCRFHead,
    explain,
    log_partition,
    marginals,
    sample,
    segment_log_prob,
    segment_score,
    viterbi,
)
from torch_semimarkov.backends.reference.partition import composite
from torch_semimarkov.errors import ConfigError, SegmentError, ShapeError
from torch_semimarkov.functional import exact
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.semirings import CrossEntropySemiring

SIZE = Size((40, 25), K=4, C=3)
FLAGS = ["tail", "all-tail"]
for_each_flags = pytest.mark.parametrize("flags", FLAGS)


def unrolled(inputs):
    """The same model with K as large as T and no tail."""
    p = Potentials(**inputs).canonical().without_tail()
    return {**dict(p.terms()), "lengths": p.lengths}


@for_each_flags
def test_a_tail_is_a_very_large_number_of_durations(flags):
    inputs = make_inputs(SIZE, flags=flags)
    large = unrolled(inputs)
    assert large["duration_bias"].shape == (40, 3)
    assert "tail" not in large
    with runs_on("reference"):
        for semiring in ("log", "max"):
            found = log_partition(**inputs, semiring=semiring)
            truth = log_partition(**large, semiring=semiring)
            assert_close("log_partition", torch.float64, found, truth)
        assert viterbi(**inputs).segments == viterbi(**large).segments
        few, many = marginals(**inputs), marginals(**large)
    for name in ("labels", "starts", "ends", "boundaries"):
        assert_close("marginals", torch.float64, getattr(few, name), getattr(many, name))
    long = many.durations[3:]
    assert_close("marginals", torch.float64, few.durations[3], long.sum(0))
    beyond = (torch.arange(len(long))[:, None] * long).sum(0)
    assert_close("marginals", torch.float64, few.beyond, beyond)


@for_each_flags
def test_gradients_are_those_of_the_large_model(flags):
    inputs = with_grad(make_inputs(SIZE, flags=flags))
    weight = upstream(SIZE.B)
    with runs_on("reference"):
        found = gradients_of(log_partition(**inputs), inputs, weight)
        truth = gradients_of(log_partition(**unrolled(inputs)), inputs, weight)
    assert set(found) == set(tensors(inputs))
    for name, grad in found.items():
        assert_close("gradient", torch.float64, grad, truth[name])


@for_each_backend
@pytest.mark.parametrize("K", [1, 2, 7, 8, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_best_segmentation_is_that_of_the_large_model(backend, K, dtype):
    inputs = make_inputs(Size((90, 61, 1), K=K, C=3, padding=2), dtype, "tail")
    # new segments cost much, so that long ones are the best
    inputs["transition"] -= 9
    inputs["start_scores"] -= 9
    inputs["duration_bias"][-1] += 6
    inputs["tail"] = inputs["tail"] / 8 - 0.5
    with runs_on("reference"):
        truth = viterbi(**unrolled(inputs))
    with runs_on(backend):
        found = viterbi(**inputs)
    assert_close("score", dtype, found.scores, truth.scores)
    assert found.segments == truth.segments
    assert int(found.segments.durations.max()) > K, "no segment was in the tail"


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("K", [1, 2, 5])
def test_samples_have_the_frequencies_of_the_marginals(backend, K):
    inputs = make_inputs(Size((12,), K=K, C=2), flags="tail")
    inputs["scores"][0, 6, 0] = -torch.inf  # no segment of label 0 goes across
    draw = torch.Generator().manual_seed(0)
    with runs_on(backend):
        drawn = sample(**inputs, num_samples=4000, generator=draw)
    truth = marginals(**inputs)
    beyond = (drawn.durations - K).clamp(min=0) * drawn.mask
    for label in range(2):
        found = (beyond * (drawn.labels == label)).sum((-1, -2)).double()
        margin = 4 * found.std() / math.sqrt(len(found)) + 1e-3  # where none was drawn
        assert abs(found.mean() - truth.beyond[label]) < margin
    starts = torch.zeros(12).index_add(
        0, drawn.starts[drawn.mask], torch.ones(int(drawn.mask.sum()))
    )
    assert ((starts / 4000 - truth.boundaries[0]).abs() < 4 * 0.5 / math.sqrt(4000)).all()
    assert (segment_log_prob(drawn, **inputs) > -torch.inf).all()


def test_samples_of_long_segments_have_the_lengths_of_the_tail():
    inputs = make_inputs(Size((3000,), K=3, C=2), flags="plain")
    inputs["scores"] *= 0
    inputs["transition"] = torch.tensor([[-torch.inf, 0.0], [0.0, -torch.inf]]).double()
    inputs["duration_bias"] = torch.tensor([[-torch.inf] * 2] * 2 + [[0.0] * 2]).double()
    # few segments, so that their lengths are nearly those of a geometric distribution
    inputs["tail"] = torch.full((2,), -1e-9, dtype=torch.float64)
    inputs["transition"] -= 6
    draw = torch.Generator().manual_seed(0)
    drawn = sample(**inputs, num_samples=500, generator=draw, backend="cpu")
    truth = marginals(**inputs, backend="cpu")
    expected = float(truth.boundaries.sum())
    counts = drawn.counts.double()
    assert abs(counts.mean() - expected) < 4 * counts.std() / math.sqrt(500)
    assert int(drawn.durations.max()) > 1000
    assert int(drawn.durations[drawn.mask].min()) >= 3


def test_the_edge_tensor_holds_the_tail():
    inputs = make_inputs(Size((9, 6), K=2, C=2), flags="all-tail")
    p = Potentials(**inputs).canonical()
    assert exact.route(p, "log", "exact").edge_shape == (2, 9, 9, 2, 2)
    found = exact.exact_log_partition(p, "log")
    assert_close("log_partition", torch.float64, found, log_partition(**inputs))


def test_the_score_of_a_long_segment_counts_the_positions_beyond():
    zeros = torch.zeros
    segments = Segments.from_list([[(0, 7, 0)]])
    terms = zeros(1, 7, 1), zeros(1, 1), torch.tensor([[5.0], [1.0]])
    assert segment_score(segments, *terms, tail=torch.tensor([0.25])).item() == 1 + 5 * 0.25
    with pytest.raises(SegmentError, match=r"7 positions, more than K = 2.*give the model a tail"):
        segment_score(segments, *terms)
    with pytest.raises(SegmentError, match="a duration of 7 is forbidden"):
        segment_score(segments, *terms, tail=torch.tensor([-torch.inf]))


def test_a_tail_of_minus_infinity_is_none():
    inputs = make_inputs(SIZE, flags="boundary")
    none = torch.full((3,), -torch.inf)
    assert torch.equal(log_partition(**inputs, tail=none, backend="reference"),
                       log_partition(**inputs, backend="reference"))  # fmt: skip
    assert marginals(**inputs, tail=none, backend="reference").beyond.tolist() == [0.0] * 3
    assert marginals(**inputs, backend="reference").beyond.tolist() == [0.0] * 3


def test_a_call_that_a_backend_has_no_tail_for_says_so_and_takes_another():
    assert explain(**make_inputs(SIZE, flags="tail")).chosen == "cpu"
    found = explain(**make_inputs(SIZE, flags="all-tail"))
    assert found.chosen == "reference"
    assert "has no geometric tail" in found.reasons["cpu"]


def test_a_tail_of_another_shape_is_refused():
    with pytest.raises(ShapeError, match=r"tail must be \(C,\) = \(3,\), got \(4,\)"):
        log_partition(**make_inputs(SIZE), tail=torch.zeros(4))


# The compiled kernels, which hold lists of what is open

HOSTILE = {
    "plain": lambda inputs, draw: None,
    "large": lambda inputs, draw: _scale(inputs, 100.0),
    "sparse": lambda inputs, draw: _forbid(inputs, draw),
    "impossible": lambda inputs, draw: inputs["scores"][0, 3].fill_(-torch.inf),
}


def _scale(inputs, factor):
    for term in tensors(inputs).values():
        term *= factor


def _forbid(inputs, draw):
    """Runs of closed labels, few starts and ends, but the last label anywhere."""
    for name, rate in (("scores", 0.1), ("start_scores", 0.6), ("end_scores", 0.6)):
        forbidden = torch.rand(inputs[name].shape, generator=draw) < rate
        forbidden[..., -1] = False
        inputs[name][forbidden] = -torch.inf
    inputs["transition"][0, 1] = -torch.inf


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("K", [1, 2, 7, 8, 17, 120])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_compiled_sums_and_gradients_are_those_of_the_reference(hostile, K, dtype):
    size = Size((90, 61, 1), K=K, C=3, padding=2)
    inputs = make_inputs(size, dtype, "tail")
    HOSTILE[hostile](inputs, torch.Generator().manual_seed(0))
    wide = with_grad({k: x.double() if k != "lengths" else x for k, x in inputs.items()})
    inputs, weight = with_grad(inputs), upstream(size.B)
    with runs_on("reference"):
        truth = log_partition(**wide)
    with runs_on("cpu"):
        found = log_partition(**inputs)
    assert (truth[0] == -torch.inf) == (hostile == "impossible")
    assert_close("log_partition", dtype, found, truth)
    wanted = gradients_of(truth, wide, weight)
    quantity = "gradient of large scores" if hostile == "large" else "gradient"
    for name, grad in gradients_of(found, inputs, weight.to(found.dtype)).items():
        assert_close(quantity, dtype, grad, wanted[name])
        if name == "scores":
            assert (grad[inputs["scores"] == -torch.inf] == 0).all()


def test_lists_that_are_long_and_full_of_holes_give_the_same_gradients():
    size = Size((700,), K=50, C=2)
    inputs = make_inputs(size, flags="tail")
    draw = torch.Generator().manual_seed(0)
    inputs["start_scores"][torch.rand(1, 700, 2, generator=draw) < 0.3] = -torch.inf
    inputs["duration_bias"] *= 0.1
    inputs["tail"] = torch.tensor([-0.01, -0.3], dtype=torch.float64)
    inputs = with_grad(inputs)
    both = {}
    for backend in ("reference", "cpu"):
        with runs_on(backend):
            value = log_partition(**inputs)
            both[backend] = gradients_of(value, inputs, torch.ones(1))
    for name, grad in both["cpu"].items():
        assert_close("gradient", torch.float64, grad, both["reference"][name])


def test_the_compiled_sums_have_the_same_bits_whatever_the_threads_and_the_batch():
    size = Size((300, 280, 7) * 14, K=60, C=20)  # work enough for threads
    inputs = with_grad(make_inputs(size, torch.float32, "tail"))

    def compute():
        value = log_partition(**inputs)
        return value.detach(), *gradients_of(value, inputs, upstream(size.B).float()).values()

    first, *others = by_threads((1, 2, 2), compute)
    for other in others:
        assert all(torch.equal(x, y) for x, y in zip(first, other, strict=True))
    with runs_on("cpu"):
        alone = log_partition(**one_sequence(inputs, 2))
    assert torch.equal(alone[0], first[0][2])


# The head


def test_a_head_with_a_tail_takes_runs_longer_than_k_and_learns_the_rate():
    torch.manual_seed(0)
    head = SemiMarkovCRFHead(2, 3, tail="geometric")
    labels = torch.tensor([[0] * 20 + [1] * 2 + [0] * 8])
    loss = head.compute_loss(torch.randn(1, 30, 2), labels=labels)
    assert loss >= 0
    loss.backward()
    assert head.tail_logit.grad.abs().sum() > 0
    with pytest.raises(SegmentError, match="max_duration = 3"):
        SemiMarkovCRFHead(2, 3).compute_loss(torch.randn(1, 30, 2), labels=labels)


def test_the_rate_of_a_head_lies_between_0_and_1_whatever_is_learned():
    head = SemiMarkovCRFHead(2, 3, tail="geometric")
    torch.testing.assert_close(head.potentials(torch.zeros(1, 5, 2))["tail"].exp(),
                               torch.full((2,), 3 / 4))  # fmt: skip
    head.tail_logit.data = torch.tensor([30.0, -30.0])
    assert (head.potentials(torch.zeros(1, 5, 2))["tail"] <= 0).all()


def test_a_label_with_a_longest_duration_of_its_own_has_no_tail():
    head = SemiMarkovCRFHead(2, 4, tail="geometric", label_max_duration=[2, 4])
    terms = head.potentials(torch.zeros(1, 12, 2))
    assert terms["tail"][0] == -torch.inf
    assert terms["tail"][1] > -torch.inf
    labels = torch.tensor([[1] * 9 + [0] * 3])
    with pytest.raises(SegmentError, match="max_duration = 2"):
        head.compute_loss(torch.zeros(1, 12, 2), labels=labels)
    whole = head.compute_loss(torch.zeros(1, 12, 2), labels=labels, long_runs="split")
    assert whole >= 0


def test_a_tail_of_another_name_is_refused():
    with pytest.raises(ConfigError, match='tail must be "geometric" or None'):
        SemiMarkovCRFHead(2, 3, tail="poisson")


@pytest.mark.parametrize("flags", FLAGS)
def test_a_model_with_a_tail_is_compared_with_one_that_has_none(flags):
    p = Potentials(**make_inputs(SIZE, flags=flags)).canonical()
    q = replace(p, tail=None)
    truth = [model.without_tail() for model in (p, q)]
    nothing = torch.full((36, 3), -torch.inf, dtype=torch.float64)
    longer = replace(truth[1], duration_bias=torch.cat((q.duration_bias, nothing)))
    longer = replace(longer, transition=truth[0].transition)
    for first, second, one, other in ((p, q, truth[0], longer), (q, p, longer, truth[0])):
        semiring = CrossEntropySemiring()
        found = composite(first, semiring, None, second)
        assert_close("log_partition", torch.float64, found, composite(one, semiring, None, other))
