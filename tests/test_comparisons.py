"""Contract of cross-entropy and KL divergence: enumeration, derivatives, what is infinite."""

import numpy as np
import pytest
import torch
from factory import (
    SIZE,
    SIZES,
    Size,
    device_of,
    for_each_backend,
    for_each_flags,
    for_each_size,
    function_of_finite_terms,
    make_inputs,
    oracles,
    runs_on,
    tensors,
    with_grad,
)
from tolerances import FLOAT64, assert_close

from torch_semimarkov import (
    Potentials,
    cross_entropy,
    entropy,
    kl_divergence,
)
from torch_semimarkov.errors import ShapeError

COMPARISONS = {"cross_entropy": cross_entropy, "kl_divergence": kl_divergence}
for_each_comparison = pytest.mark.parametrize("name", COMPARISONS)
SMALL = SIZES[3]


def enumerated(name, p, q):
    """Cross-entropy or KL divergence of two oracles of the same segmentations."""
    mine = p.probabilities()
    here = mine > 0
    log_q = q.scores - q.log_partition if q.log_partition > -np.inf else q.scores
    cost = -log_q if name == "cross_entropy" else (p.scores - p.log_partition) - log_q
    return float((mine[here] * cost[here]).sum()) if here.any() else 0.0


@for_each_backend
@for_each_comparison
@for_each_size
@for_each_flags
def test_comparisons_are_the_enumerated_ones(backend, name, size, flags):
    p = make_inputs(size, flags=flags, device=device_of(backend))
    q = make_inputs(size, flags=flags, seed=1, device=device_of(backend))
    with runs_on(backend):
        found = COMPARISONS[name](p, q)
    pairs = zip(oracles(size, FLOAT64, flags), oracles(size, FLOAT64, flags, 1), strict=True)
    with np.errstate(invalid="ignore"):
        assert_close("entropy", FLOAT64, found, [enumerated(name, *pair) for pair in pairs])


@for_each_backend
@for_each_comparison
@pytest.mark.parametrize(("mine", "theirs"), [("plain", "all"), ("per-duration", "boundary")])
def test_models_with_other_terms_and_durations_are_compared(backend, name, mine, theirs):
    p_size, q_size = Size((5, 3), K=2, C=2), Size((5, 3), K=3, C=2)
    p = make_inputs(p_size, flags=mine, device=device_of(backend))
    q = make_inputs(q_size, flags=theirs, device=device_of(backend))
    with runs_on(backend):
        found, back = COMPARISONS[name](p, q), COMPARISONS[name](q, p)
    expected = []
    pairs = zip(oracles(p_size, flags=mine), oracles(q_size, flags=theirs), strict=True)
    for first, second in pairs:
        scores = dict(zip(second.segmentations, second.scores, strict=True))
        shared = np.array([scores[y] for y in first.segmentations])
        mass, here = first.probabilities(), first.probabilities() > 0
        cost = second.log_partition - shared
        cost = cost if name == "cross_entropy" else cost + first.scores - first.log_partition
        expected.append(float((mass[here] * cost[here]).sum()))
    assert_close("entropy", FLOAT64, found, expected)
    # the other way round the longer duration is possible, and forbidden
    assert back.isinf().all()


@for_each_backend
def test_a_model_is_at_no_distance_from_itself(backend):
    inputs = make_inputs(SIZE, flags="all", device=device_of(backend))
    with runs_on(backend):
        assert torch.equal(kl_divergence(inputs, inputs), torch.zeros_like(entropy(**inputs)))
        assert_close("entropy", FLOAT64, cross_entropy(inputs, inputs), entropy(**inputs))


@for_each_backend
@for_each_comparison
def test_what_q_forbids_counts_however_small_it_is_under_p(backend, name):
    p = make_inputs(Size((40, 12), K=3, C=2), device=device_of(backend))
    p["scores"][0, 7, 1] = -5000.0
    q = {**p, "scores": p["scores"].clone()}
    q["scores"][0, 7, 1] = -torch.inf
    leaves = with_grad(p), with_grad(q)
    with runs_on(backend):
        found = COMPARISONS[name](*leaves)
        assert found[0] == torch.inf and found[1].isfinite()
        back = COMPARISONS[name](q, p)
        assert back.isfinite().all()
        found.sum().backward()
    for side in leaves:
        assert all(x.grad.isfinite().all() for x in tensors(side).values())
        assert not side["scores"].grad[0].any()


@for_each_comparison
def test_what_neither_can_reach_does_not_count(name):
    # q forbids a start with label 1, and p cannot start with it either, for another reason
    p = make_inputs(Size((5,), K=2, C=2), flags="start-end")
    q = {**p, "start": p["start"].clone()}
    q["start"][1] = -torch.inf
    p["scores"][0, 0, 1] = -torch.inf
    assert COMPARISONS[name](p, q).isfinite().all()


@for_each_backend
@for_each_comparison
def test_impossible_sequences_are_0_under_p_and_infinite_under_q(backend, name):
    possible = make_inputs(SIZE, flags="boundary", device=device_of(backend))
    not_possible = with_grad({**possible, "scores": possible["scores"].clone()})
    with torch.no_grad():
        not_possible["scores"][0] = -torch.inf
    with runs_on(backend):
        first = COMPARISONS[name](not_possible, possible)
        second = COMPARISONS[name](possible, not_possible)
        neither = COMPARISONS[name](not_possible, not_possible)
    assert first[0] == neither[0] == 0.0 and second[0] == torch.inf
    (first.sum() + second[1:].sum() + neither.sum()).backward()
    assert all(x.grad.isfinite().all() for x in tensors(not_possible).values())


def test_potentials_are_models_as_dicts_are():
    p, q = make_inputs(SIZE, flags="boundary"), make_inputs(SIZE, flags="boundary", seed=1)
    truth = kl_divergence(p, q)
    assert torch.equal(kl_divergence(Potentials(**p), Potentials(**q)), truth)
    assert torch.equal(kl_divergence(Potentials(**p), q), truth)


@for_each_comparison
def test_models_of_other_sequences_are_refused_with_what_differs(name):
    compare, p = COMPARISONS[name], make_inputs(SIZE)
    with pytest.raises(ShapeError, match=r"q must have \(B, T, C\) = \(3, 5, 3\) like p"):
        compare(p, make_inputs(Size((5, 1, 4), K=3, C=2)))
    with pytest.raises(ShapeError, match=r"q must have lengths \[5, 1, 4\] like p, got \[5, 2"):
        compare(p, make_inputs(Size((5, 2, 4), K=3, C=3)))
    with pytest.raises(ShapeError, match="q must be Potentials or a dict"):
        compare(p, p["scores"])
    with pytest.raises(ShapeError, match=r"(?s)of the model q: .*transition must be"):
        compare(p, {**p, "transition": torch.zeros(2, 2, dtype=FLOAT64)})
    with pytest.raises(ShapeError, match="checkpoint_interval must be >= 1"):
        compare(p, p, checkpoint_interval=0)


# Derivatives


@for_each_backend
@for_each_comparison
@pytest.mark.parametrize("flags", ["boundary", "all"])
def test_comparisons_pass_gradcheck_in_both_models(backend, name, flags):
    if device_of(backend) != "cpu":
        pytest.skip("the reference judges these gradients on other devices")
    first, second = make_inputs(SMALL, flags=flags), make_inputs(SMALL, flags=flags)
    second = {**second, "scores": second["scores"] * 0.5 + 1.0}
    compare = COMPARISONS[name]
    for mine, other, swapped in ((first, second, False), (second, first, True)):

        def call(*, other=other, swapped=swapped, **terms):
            return compare(other, terms) if swapped else compare(terms, other)

        function, arguments = function_of_finite_terms(mine, call)
        with runs_on(backend):
            assert torch.autograd.gradcheck(function, arguments, fast_mode=True)
            assert torch.autograd.gradgradcheck(function, arguments, fast_mode=True)
