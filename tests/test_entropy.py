"""Contract of the entropy: enumeration, derivatives, ties, and what is certain."""

import numpy as np
import pytest
import torch
from factory import (
    LARGER_SIZES,
    SIZE,
    SIZES,
    Size,
    by_threads,
    device_of,
    for_each_backend,
    for_each_dtype,
    for_each_flags,
    for_each_other_backend,
    for_each_size,
    function_of_finite_terms,
    gradients_of,
    make_inputs,
    one_sequence,
    oracles,
    runs_on,
    stacked,
    upstream,
    with_grad,
)
from long_double import LongDouble, terms_of
from oracle import counts_of
from tolerances import FLOAT32, FLOAT64, assert_close

from torch_semimarkov import (
    Potentials,
    dispatch,
    entropy,
    log_partition,
)
from torch_semimarkov.errors import UnsupportedError
from torch_semimarkov.functional import explain
from torch_semimarkov.semirings import TangentSemiring

SMALL = SIZES[3]
# The reference takes seconds for large tables by duration.
LARGER_CASES = [(size, flags) for size in LARGER_SIZES for flags in ("boundary", "forbidden")]
LARGER_CASES += [(LARGER_SIZES[0], "impossible"), (Size((40, 13), K=12, C=9), "all")]


def moved(inputs, backend):
    return {name: x.to(device_of(backend)) for name, x in inputs.items()}


def truths(size, dtype, flags):
    return [each.entropy() for each in oracles(size, dtype, flags)]


# Entropy


@for_each_backend
@for_each_size
@for_each_flags
def test_the_entropy_is_the_enumerated_one(backend, size, flags):
    with runs_on(backend):
        found = entropy(**make_inputs(size, flags=flags, device=device_of(backend)))
    assert_close("entropy", FLOAT64, found, truths(size, FLOAT64, flags))


@for_each_backend
@for_each_dtype
@pytest.mark.parametrize("flags", ["plain", "all"])
def test_every_type_gives_the_entropy_of_its_own_numbers(backend, dtype, flags):
    with runs_on(backend):
        found = entropy(**make_inputs(SIZE, dtype, flags, device=device_of(backend)))
    assert found.dtype == torch.promote_types(dtype, FLOAT32)
    assert_close("entropy", dtype, found, truths(SIZE, dtype, flags))


def slope_of_entropy(found):
    """Gradient of the entropy by enumeration: less the covariance of score and counts."""
    total = {name: np.zeros_like(value) for name, value in vars(found.sequence).items()}
    if found.log_partition == -np.inf:
        return total
    p = found.probabilities()
    mean = (p[p > 0] * found.scores[p > 0]).sum()
    for y, share, score in zip(found.segmentations, p, found.scores, strict=True):
        for name, count in counts_of(found.sequence, y).items() if share > 0 else ():
            total[name] -= share * (score - mean) * count
    return total


@for_each_backend
@for_each_size
@for_each_flags
def test_the_gradient_of_the_entropy_is_the_enumerated_one(backend, size, flags):
    inputs = with_grad(make_inputs(size, flags=flags, device=device_of(backend)))
    weight = upstream(size.B, device=device_of(backend))
    with runs_on(backend):
        found = gradients_of(entropy(**inputs), inputs, weight)
    slopes = [slope_of_entropy(each) for each in oracles(size, FLOAT64, flags)]
    for name in found:
        parts = [w * slope[name] for w, slope in zip(weight.tolist(), slopes, strict=True)]
        assert_close("gradient", FLOAT64, found[name], stacked(inputs, name, parts))


@for_each_other_backend
@pytest.mark.parametrize(("size", "flags"), LARGER_CASES, ids=str)
def test_larger_sizes_agree_with_the_reference(backend, size, flags):
    weight, results = upstream(size.B), []
    inputs = make_inputs(size, flags=flags, device=device_of(backend))
    # what does not change the entropy and keeps the reference's messages, and their rounding, small
    rate = log_partition(**inputs) / inputs["lengths"]
    inputs["scores"] -= torch.where(rate.isinf(), 0.0, rate)[:, None, None]
    for name in (backend, "reference"):
        inputs = with_grad(inputs)
        with runs_on(name):
            value = entropy(**inputs)
            found = gradients_of(value, inputs, weight.to(value.device))
        results.append((value, found))
    (value, found), (truth, expected) = results
    assert_close("entropy", FLOAT64, value, truth)
    for term in expected:
        assert_close("second derivative", FLOAT64, found[term], expected[term])


@for_each_backend
@pytest.mark.parametrize("flags", ["boundary", "forbidden", "all"])
@pytest.mark.parametrize("interval", [1, 3, 100])
def test_checkpoints_change_neither_the_entropy_nor_its_gradient(backend, flags, interval):
    inputs = with_grad(make_inputs(SIZE, flags=flags, device=device_of(backend)))
    weight, results = upstream(SIZE.B, device=device_of(backend)), []
    with runs_on(backend):
        for option in (None, interval):
            value = entropy(**inputs, checkpoint_interval=option)
            results.append((value, gradients_of(value, inputs, weight)))
    assert_close("entropy", FLOAT64, results[0][0], results[1][0])
    for name in results[0][1]:
        assert_close("gradient", FLOAT64, results[0][1][name], results[1][1][name])


@for_each_backend
@pytest.mark.parametrize("flags", ["boundary", "all"])
def test_a_ragged_batch_equals_its_sequences_one_by_one(backend, flags):
    inputs = make_inputs(SIZE, flags=flags, device=device_of(backend))
    with runs_on(backend):
        together = entropy(**inputs)
        alone = torch.cat([entropy(**one_sequence(inputs, b)) for b in range(SIZE.B)])
    assert_close("entropy", FLOAT64, together, alone)


@for_each_backend
@pytest.mark.parametrize("flags", ["boundary", "all"])
def test_nan_in_the_padding_changes_nothing(backend, flags):
    inputs = with_grad(make_inputs(SIZE, flags=flags, device=device_of(backend)))
    spoilt = {}
    for name, x in inputs.items():
        spoilt[name] = x
        if name in ("scores", "start_scores", "end_scores"):
            spoilt[name] = x.detach().clone()
            for b, length in enumerate(SIZE.lengths):
                spoilt[name][b, length:] = torch.nan
            spoilt[name].requires_grad_()
    weight = upstream(SIZE.B, device=device_of(backend))
    with runs_on(backend):
        value, other = entropy(**inputs), entropy(**spoilt)
        found, expected = (
            gradients_of(v, x, weight) for v, x in ((other, spoilt), (value, inputs))
        )
    assert torch.equal(value, other)
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_the_number_of_threads_changes_no_bit():
    # large enough that threads are worth it
    inputs = with_grad(make_inputs(Size((900,) * 5, K=40, C=9)))

    def compute():
        value = entropy(**inputs)
        return [value, *gradients_of(value, inputs, upstream(5)).values()]

    first, *others = by_threads((1, 2, 3), compute)
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def long_double_entropies(inputs):
    """Log Z less the expected score, of each sequence, in long double; for (C, C) transitions."""
    found = []
    for b in range(len(inputs["scores"])):
        judge, terms = LongDouble(inputs, b), terms_of(inputs, b)
        counts = {
            "scores": judge.labels, "start_scores": judge.starts, "end_scores": judge.ends,
            "transition": judge.pairs, "duration_bias": judge.durations,
            "start": judge.starts[0], "end": judge.ends[-1],
        }  # fmt: skip
        expected = sum((np.squeeze(terms[name]) * count).sum() for name, count in counts.items())
        found.append(float(judge.value - expected))
    return found


@for_each_backend
@pytest.mark.parametrize("scale", [30.0, 1000.0])
def test_extreme_scores_agree_with_the_reference(backend, scale):
    size, results = Size((60, 33), K=9, C=5), []
    for name in ("reference", backend):
        inputs = make_inputs(size, flags="boundary", device=device_of(backend))
        steep = {k: x * scale if x.is_floating_point() else x for k, x in inputs.items()}
        steep = with_grad(steep)
        with runs_on(name):
            value = entropy(**steep)
        results.append((value, gradients_of(value, steep, torch.ones_like(value))))
    (_, expected), (value, found) = results
    for b, exact in enumerate(long_double_entropies(steep)):
        absolute = scale * (1e-12 if backend == "cpu" else 1e-10)
        assert value[b].item() == pytest.approx(exact, rel=1e-9, abs=absolute)
    # the reference's messages are of the size of log Z, and so is their rounding
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-8 * scale)


@for_each_backend
def test_durations_that_are_forbidden_or_hardly_possible_keep_the_entropy_right(backend):
    inputs = make_inputs(Size((80, 41), K=30, C=3), device=device_of(backend))
    bias = inputs["duration_bias"]
    bias[:10] = -torch.inf
    bias[10:20] = -2000.0
    bias[29, 0] = 3000.0
    inputs["scores"][:, 17, 1] = -torch.inf
    inputs["scores"][:, 20:40, 2] = -900.0
    results = []
    for name in ("reference", backend):
        leaves = with_grad(inputs)
        with runs_on(name):
            value = entropy(**leaves)
        results.append((value, gradients_of(value, leaves, torch.ones_like(value))))
    (truth, expected), (value, found) = results
    torch.testing.assert_close(value, truth, rtol=1e-9, atol=1e-9)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-7, atol=1e-7)


# Closed forms at length


@for_each_backend
@pytest.mark.parametrize("offset", [0.0, 40.0])
def test_independent_positions_have_the_sum_of_their_entropies(backend, offset):
    T, C = (20_000 if backend == "cpu" else 500), 3
    scores = torch.randn(1, T, C) + offset
    with runs_on(backend):
        found = entropy(
            scores.to(device_of(backend)),
            *(torch.zeros(n, C, device=device_of(backend)) for n in (C, 1)),
        )
    p = np.asarray(scores[0].double().numpy(), np.longdouble)
    p = np.exp(p - p.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    truth = float(-(p * np.log(p)).sum())
    assert found.item() == pytest.approx(truth, rel=1e-6)


def test_the_entropy_of_a_long_sequence_keeps_its_digits():
    for offset in (0.0, 60.0):
        inputs = make_inputs(Size((3000,), K=4, C=3), FLOAT32, "start-end")
        inputs["scores"] += offset
        with runs_on("cpu"):
            found = entropy(**inputs)
            wide = {k: x.double() if x.is_floating_point() else x for k, x in inputs.items()}
            exact = entropy(**wide)
        (truth,) = long_double_entropies(inputs)
        assert found.item() == pytest.approx(truth, rel=1e-6)
        assert exact.item() == pytest.approx(truth, rel=1e-12)


@for_each_backend
def test_a_count_of_compositions_has_its_closed_form(backend):
    # one label, every duration, no scores: each of 2 ** (T - 1) segmentations is equally likely
    T = 700
    zeros = [torch.zeros(n, 1, device=device_of(backend)) for n in (1, T)]
    with runs_on(backend):
        found = entropy(torch.zeros(1, T, 1, device=device_of(backend)), *zeros)
    assert found.item() == pytest.approx((T - 1) * np.log(2.0), rel=1e-6)


# Derivatives


@for_each_backend
@pytest.mark.parametrize("flags", ["boundary", "per-duration", "all", "impossible"])
def test_the_entropy_passes_gradcheck_and_gradgradcheck(backend, flags):
    if device_of(backend) != "cpu":
        pytest.skip("enumeration judges these gradients on other devices")
    function, arguments = function_of_finite_terms(make_inputs(SMALL, flags=flags), entropy)
    with runs_on(backend):
        assert torch.autograd.gradcheck(function, arguments, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, arguments, fast_mode=True)


def test_a_backend_without_tangents_says_so():
    inputs = make_inputs(SIZE)
    assert explain(**inputs, op="tangent").chosen is not None
    with pytest.raises(UnsupportedError, match="triton: "):
        entropy(**inputs, backend="triton")


# The semiring of dual numbers


def test_the_tangent_semiring_keeps_the_laws():
    semiring, draw = TangentSemiring(), torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(2, 4, generator=draw, dtype=FLOAT64) for _ in range(3))
    a[:, 0] = torch.tensor([-torch.inf, 0.0])

    def plus(x, y):
        return semiring.sum(torch.stack((x, y), -1), dim=-1)

    torch.testing.assert_close(plus(a, b), plus(b, a))
    torch.testing.assert_close(plus(plus(a, b), c), plus(a, plus(b, c)))
    torch.testing.assert_close(
        semiring.times(a, plus(b, c)), plus(semiring.times(a, b), semiring.times(a, c))
    )
    zero = torch.tensor(semiring.zero, dtype=FLOAT64)[:, None].expand_as(a)
    torch.testing.assert_close(plus(a, zero), a)
    torch.testing.assert_close(semiring.times(a, zero), zero)


def test_the_log_partition_beside_the_entropy_is_the_same():
    inputs = with_grad(make_inputs(SIZE, flags="forbidden"))
    p = Potentials(**inputs).canonical()
    direction = p.map_terms(lambda x: torch.where(x == -torch.inf, 0.0, torch.ones_like(x)))
    value, slope = dispatch.tangent(p, direction, "cpu")
    truth = log_partition(**inputs, backend="cpu")
    assert_close("log_partition", FLOAT64, value, truth)
    grads = gradients_of(truth, inputs, torch.ones_like(truth))
    assert slope.sum().item() == pytest.approx(sum(g.sum() for g in grads.values()).item())
