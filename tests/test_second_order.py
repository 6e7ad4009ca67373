"""Second derivatives on compiled backends: kernels of their own, judged by the reference's."""

from unittest import mock

import pytest
import torch
from factory import (
    FLAGS,
    LARGER_SIZES,
    SIZE,
    SIZES,
    Size,
    device_of,
    make_inputs,
    runs_on,
    tensors,
    upstream,
    with_grad,
)
from tolerances import FLOAT32, FLOAT64, assert_close
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from torch_semimarkov import Potentials, entropy, log_partition, marginals
from torch_semimarkov.backends import reference
from torch_semimarkov.dispatch import tangent_library

BACKEND = "cpu"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")


def without_reference():
    """A block in which the reference's derivatives must not be asked for."""

    def refuse(*_, **__):
        raise AssertionError("a detour through the reference")

    return mock.patch.multiple(
        reference, differentiable_gradient=refuse, tangent=refuse, log_partition=refuse
    )


def curvature(inputs, backend, weight):
    """Second derivatives in every term and in the upstream gradient, along fixed directions."""
    leaves = list(tensors(inputs).values())
    weight = weight.clone().requires_grad_()
    value = log_partition(**inputs, backend=backend)
    first = torch.autograd.grad(value, leaves, weight, create_graph=True)
    draw = torch.Generator().manual_seed(1)
    directions = [torch.randn(x.shape, generator=draw).to(x) for x in first]
    return torch.autograd.grad(first, [*leaves, weight], directions, materialize_grads=True)


# The reference takes seconds, and gigabytes, for large tables by duration.
CASES = [(size, flags) for size in SIZES for flags in FLAGS if flags != "all-tail"]
CASES += [(size, "boundary") for size in LARGER_SIZES] + [(LARGER_SIZES[0], "forbidden")]
CASES += [(size, "tail") for size in (*LARGER_SIZES, Size((60, 31), K=1, C=9))]
CASES += [(Size((40, 13), K=12, C=9), "all")]


@pytest.mark.parametrize(("size", "flags"), CASES, ids=str)
def test_the_second_derivative_is_the_references_without_asking_it(size, flags):
    inputs = make_inputs(size, flags=flags)
    inputs["scores"] -= 1.0
    weight = upstream(size.B)
    truth = curvature(with_grad(inputs), "reference", weight)
    with without_reference():
        found = curvature(with_grad(inputs), BACKEND, weight)
    for value, expected in zip(found, truth, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", ["steep", "sparse", "no tail of a label"])
def test_with_a_tail_the_second_derivative_of_hostile_scores_is_the_references(case):
    size = Size((300, 211), K=7, C=5)
    inputs = make_inputs(size, flags="tail")
    draw = torch.Generator().manual_seed(0)
    if case == "steep":
        inputs["scores"] *= 40
        inputs["start_scores"] -= 60
    if case == "sparse":
        for name in ("scores", "start_scores", "end_scores"):
            holes = torch.rand(inputs[name].shape, generator=draw) < 0.2
            holes[..., -1] = False
            inputs[name][holes] = -torch.inf
        inputs["duration_bias"][2, 0] = inputs["duration_bias"][-1, 1] = -torch.inf
    inputs["tail"] = torch.tensor([-0.01, 0.3, -2.0, -0.2, -torch.inf]).double()
    truth = curvature(with_grad(inputs), "reference", upstream(size.B))
    with without_reference():
        found = curvature(with_grad(inputs), BACKEND, upstream(size.B))
    for value, expected in zip(found, truth, strict=True):
        scale = expected.abs().max().item()
        torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-9 * max(scale, 1.0))


def test_the_entropy_with_a_tail_has_the_gradient_of_a_very_large_number_of_durations():
    inputs = with_grad(make_inputs(Size((50, 33), K=4, C=3), flags="tail"))
    p = Potentials(**inputs).canonical().without_tail()
    weight = upstream(2)
    with without_reference():
        found = entropy(**inputs, backend=BACKEND)
        grads = torch.autograd.grad(found, list(tensors(inputs).values()), weight)
    large = entropy(**dict(p.terms()), lengths=p.lengths, backend=BACKEND)
    truth = torch.autograd.grad(large, list(tensors(inputs).values()), weight)
    assert_close("entropy", FLOAT64, found, large)
    for value, expected in zip(grads, truth, strict=True):
        assert_close("gradient", FLOAT64, value, expected)


@pytest.mark.parametrize("dtype", [FLOAT32, torch.bfloat16])
@pytest.mark.parametrize("interval", [None, 2])
def test_second_derivatives_come_in_the_type_of_their_term(dtype, interval):
    inputs = with_grad(make_inputs(SIZE, dtype, "boundary"))
    leaves = list(tensors(inputs).values())
    with without_reference():
        value = log_partition(**inputs, backend=BACKEND, checkpoint_interval=interval)
        first = torch.autograd.grad(value.sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(x.square().sum() for x in first), leaves)
    wide = with_grad({k: x.detach().to(FLOAT64) if x.is_floating_point() else x
                      for k, x in inputs.items()})  # fmt: skip
    leaves = list(tensors(wide).values())
    value = log_partition(**wide, backend="reference")
    first = torch.autograd.grad(value.sum(), leaves, create_graph=True)
    truth = torch.autograd.grad(sum(x.square().sum() for x in first), leaves)
    for found, expected in zip(second, truth, strict=True):
        assert found.dtype == dtype
        tolerance = 1e-4 if dtype == FLOAT32 else 0.1
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("flags", ["plain", "boundary", "forbidden", "impossible", "tail"])
def test_marginals_with_a_gradient_stay_on_the_backend(flags):
    results = []
    for backend in ("reference", BACKEND):
        inputs = with_grad(make_inputs(SIZE, flags=flags))
        leaves = list(tensors(inputs).values())

        def surprise(inputs=inputs, backend=backend):
            with runs_on(backend):
                found = marginals(**inputs)
            total = found.labels.square().sum() + found.boundaries.square().sum()
            return total + found.transitions.square().sum() + found.durations.square().sum()

        if backend == BACKEND:
            with without_reference():
                results.append(torch.autograd.grad(surprise(), leaves))
        else:
            results.append(torch.autograd.grad(surprise(), leaves))
    for truth, found in zip(*results, strict=True):
        assert_close("second derivative", FLOAT64, found, truth)


def test_entropy_and_its_gradient_do_not_ask_the_reference():
    inputs = with_grad(make_inputs(SIZE, flags="boundary"))
    with without_reference():
        entropy(**inputs, backend=BACKEND).sum().backward()
    assert all(x.grad.isfinite().all() for x in tensors(inputs).values())


def test_third_derivatives_are_the_references():
    results = []
    for backend in ("reference", BACKEND):
        inputs = with_grad(make_inputs(SIZES[3], flags="start-end"))
        leaves = list(tensors(inputs).values())
        value = log_partition(**inputs, backend=backend).sum()
        for _ in range(2):
            grads = torch.autograd.grad(value, leaves, create_graph=True)
            value = sum(x.square().sum() for x in grads)
        results.append(torch.autograd.grad(value, leaves))
    for truth, found in zip(*results, strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-8)


def test_only_what_requires_a_gradient_gets_a_second_one():
    inputs = make_inputs(SIZE, flags="boundary")
    leaf = inputs["duration_bias"].requires_grad_()
    value = log_partition(**inputs, backend=BACKEND).sum()
    (first,) = torch.autograd.grad(value, leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), leaf)
    assert second.any()
    assert all(x.grad is None for x in tensors(inputs).values())


def test_marginals_of_a_batch_on_a_gpu_keep_their_second_derivative():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    inputs = with_grad(make_inputs(SIZE, device=device_of("triton")))
    found = marginals(**inputs)
    (grad,) = torch.autograd.grad(found.labels[0, 0, 0], inputs["scores"])
    assert grad.isfinite().all()


# The registered ops


def tangent_arguments(flags, grad=False):
    inputs = make_inputs(SIZE, flags=flags)
    p = Potentials(**(with_grad(inputs) if grad else inputs)).canonical()
    direction = make_inputs(SIZE, flags=flags.replace("forbidden", "start-end"), seed=2)
    shift = p.map_terms(lambda x: torch.where(x == -torch.inf, 0.0, x.detach().cos()))
    assert set(tensors(direction)) == {name for name, _ in p.terms()}
    return [*p.fields(), *shift.fields()[:-1]]


@pytest.mark.parametrize("flags", ["plain", "boundary", "forbidden", "impossible", "tail"])
@pytest.mark.parametrize("grad", [False, True])
def test_the_tangent_op_passes_opcheck(flags, grad):
    arguments = (*tangent_arguments(flags, grad), BACKEND, grad)
    torch.library.opcheck(tangent_library.tangent_op, arguments)


@pytest.mark.parametrize("flags", ["plain", "boundary", "forbidden", "impossible", "tail"])
@pytest.mark.parametrize("keep", [False, True])
def test_the_tangent_backward_op_passes_opcheck(flags, keep):
    flat = tangent_arguments(flags)
    _, _, kept = tangent_library.tangent_op(*flat, BACKEND, keep)
    arguments = (*flat, kept, torch.stack((upstream(3), upstream(3).flip(0))), BACKEND)
    torch.library.opcheck(tangent_library.tangent_backward_op, arguments)


@pytest.mark.parametrize("flags", ["plain", "boundary", "forbidden"])
def test_the_entropy_compiles_in_one_graph_forward_and_backward(flags):
    torch.compiler.reset()
    results = []
    for compiled in (True, False):
        inputs = with_grad(make_inputs(SIZE, flags=flags))

        def loss(**terms):
            return entropy(**terms, backend=BACKEND) * upstream(3)

        function = loss
        if compiled:
            function = torch.compile(loss, fullgraph=True, backend="aot_eager")
        value = function(**inputs)
        value.sum().backward()
        results.append((value, [x.grad for x in tensors(inputs).values()]))
    torch.compiler.reset()
    assert_close("entropy", FLOAT64, results[0][0], results[1][0])
    for found, truth in zip(results[0][1], results[1][1], strict=True):
        assert_close("gradient", FLOAT64, found, truth)


def test_fake_tensors_get_an_entropy_without_a_kernel():
    with FakeTensorMode() as mode:
        inputs = {name: mode.from_tensor(x) for name, x in make_inputs(SIZE).items()}
        value = entropy(**inputs, backend=BACKEND, validate_args=False)
    assert isinstance(value, FakeTensor) and value.shape == (3,)
