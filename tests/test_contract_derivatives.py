"""Contract of higher derivatives and of checkpoints, judged by finite differences."""

import pytest
import torch
from factory import (
    SIZES,
    device_of,
    for_each_backend,
    function_of_finite_terms,
    gradients_of,
    make_inputs,
    oracles,
    runs_on,
    tensors,
    upstream,
    with_grad,
)
from tolerances import assert_close

from torch_semimarkov.functional import log_partition, marginals, segment_log_prob, viterbi

# Everything that changes the path through the code, on sizes where differences are quick.
SMALL = (SIZES[3], SIZES[7])
FLAGS = [
    "start-end",
    "boundary",
    "per-duration",
    "forbidden",
    "all",
    "tail",
    "all-tail",
    "impossible",
]
for_each_small_size = pytest.mark.parametrize("size", SMALL, ids=str)
for_each_flags = pytest.mark.parametrize("flags", FLAGS)
# Torch itself warns where it loads its rules of forward differentiation.
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


@for_each_backend
@for_each_small_size
@for_each_flags
def test_the_gradient_passes_gradcheck(backend, size, flags):
    function, arguments = function_of_finite_terms(make_inputs(size, flags=flags), log_partition)
    if device_of(backend) != "cpu":
        pytest.skip("enumeration judges these gradients on other devices")
    with runs_on(backend):
        assert torch.autograd.gradcheck(function, arguments, fast_mode=True)


@for_each_backend
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("checkpoint_interval", [None, 2])
def test_the_second_derivative_passes_gradgradcheck(backend, flags, checkpoint_interval):
    inputs = make_inputs(SIZES[3], flags=flags)
    function, arguments = function_of_finite_terms(
        inputs, log_partition, checkpoint_interval=checkpoint_interval
    )
    with runs_on(backend):
        assert torch.autograd.gradgradcheck(function, arguments, fast_mode=True)


@for_each_backend
@pytest.mark.parametrize("flags", ["boundary", "per-duration", "all"])
def test_the_gradient_of_the_best_score_passes_gradcheck(backend, flags):
    if device_of(backend) != "cpu":
        pytest.skip("enumeration judges these gradients on other devices")
    function, arguments = function_of_finite_terms(
        make_inputs(SIZES[3], flags=flags), log_partition, semiring="max"
    )
    with runs_on(backend):
        assert torch.autograd.gradcheck(function, arguments, fast_mode=True)


@for_each_backend
@pytest.mark.parametrize("flags", ["boundary", "per-duration"])
def test_the_gradient_of_a_loss_passes_gradcheck(backend, flags):
    inputs = make_inputs(SIZES[3], flags=flags, device=device_of(backend))
    gold = viterbi(**inputs).segments

    def loss(**terms):
        return -segment_log_prob(gold, **terms)

    function, arguments = function_of_finite_terms(inputs, loss)
    with runs_on(backend):
        assert torch.autograd.gradcheck(function, arguments, fast_mode=True)


def covariance_of_scores(found):
    """(L C, L C). Covariance of the position labels under the enumerated distribution."""
    L, C = found.sequence.scores.shape
    rows = torch.zeros(len(found.segmentations), L, C, dtype=torch.float64)
    for row, segmentation in enumerate(found.segmentations):
        for start, end, label in segmentation:
            rows[row, start:end, label] = 1.0
    probability = torch.from_numpy(found.probabilities())
    rows = rows.flatten(1)
    mean = probability @ rows
    return rows.T @ (probability[:, None] * rows) - mean[:, None] * mean


@pytest.mark.parametrize("flags", ["plain", "all"])
@pytest.mark.parametrize("checkpoint_interval", [None, 1, 3])
def test_the_hessian_of_the_scores_is_the_enumerated_covariance(flags, checkpoint_interval):
    inputs = make_inputs(SIZES[4], flags=flags)
    leaf = inputs["scores"].clone().requires_grad_()
    options = {"backend": "reference", "checkpoint_interval": checkpoint_interval}
    value = log_partition(**{**inputs, "scores": leaf}, **options)
    (gradient,) = torch.autograd.grad(value[0], leaf, create_graph=True)
    flat = gradient[0].flatten()
    rows = [torch.autograd.grad(entry, leaf, retain_graph=True)[0][0].flatten() for entry in flat]
    truth = covariance_of_scores(oracles(SIZES[4], torch.float64, flags)[0])
    assert_close("second derivative", torch.float64, torch.stack(rows), truth)


@forward_mode
@pytest.mark.parametrize("flags", ["plain", "boundary", "all"])
def test_torch_func_hessian_agrees_with_autograd(flags):
    inputs = make_inputs(SIZES[3], flags=flags)

    def total(duration_bias):
        return log_partition(
            **{**inputs, "duration_bias": duration_bias}, backend="reference"
        ).sum()

    through_func = torch.func.hessian(total)(inputs["duration_bias"])
    through_autograd = torch.autograd.functional.hessian(total, inputs["duration_bias"])
    assert_close("second derivative", torch.float64, through_func, through_autograd)


@forward_mode
@pytest.mark.parametrize("flags", ["plain", "boundary", "all"])
def test_torch_func_jvp_agrees_with_autograd(flags):
    inputs = make_inputs(SIZES[4], flags=flags)
    direction = torch.randn(inputs["scores"].shape, dtype=torch.float64)

    def value_of(scores):
        return log_partition(**{**inputs, "scores": scores}, backend="reference")

    value, slope = torch.func.jvp(value_of, (inputs["scores"],), (direction,))
    leaves = with_grad(inputs)
    gradient = gradients_of(log_partition(**leaves), leaves, torch.ones(3, dtype=torch.float64))
    assert_close("log_partition", torch.float64, value, log_partition(**inputs))
    truth = (gradient["scores"] * direction).sum((1, 2))
    assert_close("gradient", torch.float64, slope, truth)


def test_torch_func_grad_and_vmap_agree_with_a_loop():
    inputs = make_inputs(SIZES[3], flags="boundary")
    many = torch.randn(4, 2, 2, dtype=torch.float64)

    def total(transition):
        return log_partition(**{**inputs, "transition": transition}, backend="reference").sum()

    together = torch.func.vmap(torch.func.grad(total))(many)
    one_by_one = torch.stack([torch.func.grad(total)(each) for each in many])
    assert_close("gradient", torch.float64, together, one_by_one)


@forward_mode
@pytest.mark.parametrize("flags", ["boundary", "all"])
def test_forward_mode_alone_agrees_with_autograd(flags):
    inputs = make_inputs(SIZES[3], flags=flags)
    direction = torch.randn(inputs["scores"].shape, dtype=torch.float64)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(inputs["scores"], direction)
        value = log_partition(**{**inputs, "scores": dual}, backend="reference")
        slope = torch.autograd.forward_ad.unpack_dual(value).tangent
    leaves = with_grad(inputs)
    gradient = gradients_of(log_partition(**leaves), leaves, torch.ones(3, dtype=torch.float64))
    assert_close("gradient", torch.float64, slope, (gradient["scores"] * direction).sum((1, 2)))


# Checkpoints


@for_each_backend
@pytest.mark.parametrize("flags", ["plain", "boundary", "all", "impossible"])
@pytest.mark.parametrize("checkpoint_interval", [1, 2, 100])
def test_checkpoints_change_neither_value_nor_gradient(backend, flags, checkpoint_interval):
    size = SIZES[4]
    inputs = with_grad(make_inputs(size, flags=flags, device=device_of(backend)))
    weight = upstream(size.B, device=device_of(backend))
    with runs_on(backend):
        plain = log_partition(**inputs)
        value = log_partition(**inputs, checkpoint_interval=checkpoint_interval)
        expected = gradients_of(plain, inputs, weight)
        gradients = gradients_of(value, inputs, weight)
        marginal = marginals(**inputs, checkpoint_interval=checkpoint_interval)
    assert torch.equal(value, plain)
    for name in expected:
        assert_close("gradient", torch.float64, gradients[name], expected[name])
    assert torch.equal(marginal.log_partition, plain)


@pytest.mark.parametrize("flags", ["boundary", "all"])
def test_a_backward_through_a_backward_accumulates(flags):
    inputs = with_grad(make_inputs(SIZES[3], flags=flags))
    leaves = list(tensors(inputs).values())
    value = log_partition(**inputs, backend="reference")
    gradients = torch.autograd.grad(value.sum(), leaves, create_graph=True)
    penalty = sum(gradient.square().sum() for gradient in gradients)
    of_penalty = torch.autograd.grad(penalty, leaves, retain_graph=True)
    (value.sum() + penalty).backward()
    for leaf, first, second in zip(leaves, gradients, of_penalty, strict=True):
        assert second.any()
        assert_close("second derivative", torch.float64, leaf.grad, first + second)


@for_each_backend
def test_every_backend_gives_a_second_derivative_and_it_is_the_references(backend):
    seconds = []
    for name in (backend, "reference"):
        inputs = with_grad(make_inputs(SIZES[3], device=device_of(backend)))
        value = log_partition(**inputs, backend=name).sum()
        (gradient,) = torch.autograd.grad(value, inputs["scores"], create_graph=True)
        seconds += torch.autograd.grad(gradient.square().sum(), inputs["scores"])
    assert_close("second derivative", torch.float64, *seconds)
