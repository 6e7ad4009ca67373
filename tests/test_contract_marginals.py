"""Contract of marginals: probabilities and expected counts, by enumeration."""

import numpy as np
import pytest
import torch
from factory import (
    SIZES,
    device_of,
    for_each_backend,
    for_each_dtype,
    for_each_flags,
    for_each_size,
    make_inputs,
    oracles,
    outside_of,
    runs_on,
    tensors,
    with_grad,
    with_padding,
)
from tolerances import assert_close

from torch_semimarkov.functional import log_partition, marginals

SUMMED = ("transitions", "durations", "beyond")


def enumerated(size, dtype, flags, name):
    parts = [found.marginals()[name] for found in oracles(size, dtype, flags)]
    if name in SUMMED:
        return torch.from_numpy(np.sum(parts, axis=0))
    padded = torch.zeros(size.B, size.T, *parts[0].shape[1:], dtype=torch.float64)
    for b, part in enumerate(parts):
        padded[b, : len(part)] = torch.from_numpy(part)
    return padded


@for_each_backend
@for_each_size
@for_each_dtype
@for_each_flags
def test_every_marginal_is_the_enumerated_one(backend, size, dtype, flags):
    inputs = make_inputs(size, dtype, flags, device=device_of(backend))
    with runs_on(backend):
        found = marginals(**inputs)
    for name in ("labels", "starts", "ends", "boundaries", *SUMMED):
        value = getattr(found, name)
        assert value.dtype == torch.promote_types(dtype, torch.float32)
        assert not value.requires_grad
        assert_close("marginals", dtype, value, enumerated(size, dtype, flags, name))
    truth = [one.log_partition for one in oracles(size, dtype, flags)]
    assert_close("log_partition", dtype, found.log_partition, truth)


@for_each_backend
@for_each_size
@for_each_flags
def test_they_are_consistent_with_one_another(backend, size, flags):
    inputs = make_inputs(size, flags=flags, device=device_of(backend))
    with runs_on(backend):
        found = marginals(**inputs)
    inside = torch.arange(size.T, device=device_of(backend)) < inputs["lengths"][:, None]
    possible = (found.log_partition > -torch.inf).double()
    number = found.starts.sum((1, 2))
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(found.labels.sum(-1), inside * possible[:, None], **close)
    torch.testing.assert_close(found.ends.sum((1, 2)), number, **close)
    torch.testing.assert_close(found.durations.sum(), number.sum(), **close)
    torch.testing.assert_close(found.transitions.sum(), (number - possible).sum(), **close)
    torch.testing.assert_close(found.boundaries[:, 0], possible, **close)
    for value in (found.labels, found.starts, found.ends):
        assert value.min() >= -1e-12
        assert value.max() <= 1 + 1e-12


@for_each_backend
@for_each_flags
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_padding_never_reaches_the_marginals(backend, flags, dtype):
    size = SIZES[4]
    inputs = make_inputs(size, dtype, flags, device=device_of(backend))
    with runs_on(backend):
        clean, found = marginals(**inputs), marginals(**with_padding(inputs, torch.nan))
    for name in clean._fields:
        assert torch.equal(getattr(found, name), getattr(clean, name)), name
    for name in ("labels", "starts", "ends", "boundaries"):
        assert (getattr(found, name)[outside_of(inputs)] == 0).all(), name


@for_each_backend
@pytest.mark.parametrize("flags", ["plain", "all", "all-tail"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("leaves", [False, True])
def test_they_need_no_gradient_mode(backend, flags, mode, leaves):
    inputs = make_inputs(flags=flags, device=device_of(backend))
    with runs_on(backend):
        expected = marginals(**inputs)
        with mode():
            fresh = with_grad(inputs) if leaves else {n: x.clone() for n, x in inputs.items()}
            found = marginals(**fresh)
    for name in expected._fields:
        assert not getattr(found, name).requires_grad
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@for_each_backend
def test_the_graph_around_them_is_left_alone(backend):
    inputs = with_grad(make_inputs(flags="boundary", device=device_of(backend)))
    with runs_on(backend), torch.no_grad():
        marginals(**inputs)
    assert all(x.grad is None for x in tensors(inputs).values())


@pytest.mark.parametrize("flags", ["plain", "boundary", "all", "tail", "all-tail"])
def test_they_are_differentiable_and_the_derivative_is_the_covariance(flags):
    inputs = make_inputs(flags=flags)
    leaf = inputs["duration_bias"].clone().requires_grad_()

    def probability(bias):
        found = marginals(**{**inputs, "duration_bias": bias}, backend="reference")
        return found.labels[0, 1, 0]

    (slope,) = torch.autograd.grad(probability(leaf), leaf)
    step = torch.zeros_like(leaf)
    step[0, 0] = 1e-6
    difference = probability(leaf.detach() + step) - probability(leaf.detach() - step)
    assert slope[0, 0].item() == pytest.approx(difference.item() / 2e-6, rel=1e-5, abs=1e-8)


def test_the_log_partition_of_differentiable_marginals_is_differentiable():
    inputs = with_grad(make_inputs())
    (through,) = torch.autograd.grad(marginals(**inputs).log_partition.sum(), inputs["scores"])
    (direct,) = torch.autograd.grad(log_partition(**inputs).sum(), inputs["scores"])
    assert_close("gradient", torch.float64, through, direct)
