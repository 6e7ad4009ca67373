"""Scans under autograd, torch.compile, opcheck, vmap, torch.func and autocast."""

import itertools

import pytest
import torch
from scan_cases import OPS, edge_of, make
from tolerances import assert_close

from torch_semimarkov.dispatch import scan_ops
from torch_semimarkov.scan import fused_associative_scan, linear_scan

pytest.importorskip("numba")
# What torch itself warns about where it traces.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
BACKENDS = ("cpu", "reference")
FLAGS = list(itertools.product([False, True], repeat=2))
LENGTHS = torch.tensor([4, 2])
for_each_backend = pytest.mark.parametrize("backend", BACKENDS)
for_each_op = pytest.mark.parametrize("op", OPS)


@for_each_backend
@for_each_op
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_first_and_second_derivatives_are_those_of_small_differences(backend, op, lengths):
    shape = (2, 4, 3) if backend == "reference" else (2, 4, 17)
    shape = shape if op == "logaddexp" else (2, 4, 3)
    x, initial = make(shape, op=op).requires_grad_(), edge_of(shape, 1).requires_grad_()
    for reverse, exclusive in FLAGS:

        def scan(x, initial, reverse=reverse, exclusive=exclusive):
            return fused_associative_scan(
                x, 1, reverse, op=op, exclusive=exclusive, initial=initial, lengths=lengths,
                return_final=True, backend=backend,
            )  # fmt: skip

        assert torch.autograd.gradcheck(scan, (x, initial), fast_mode=True)
        assert torch.autograd.gradgradcheck(scan, (x, initial), fast_mode=True)


@for_each_backend
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_derivatives_of_a_linear_scan_are_those_of_small_differences(backend, dtype, lengths):
    shape = (2, 4, 3)
    gates, inputs = make(shape, dtype, "mul").requires_grad_(), make(shape, dtype).requires_grad_()
    initial = edge_of(shape, 1, dtype).requires_grad_()
    for reverse in (False, True):

        def scan(gates, inputs, initial, reverse=reverse):
            return linear_scan(
                gates, inputs, 1, reverse, initial=initial, lengths=lengths, return_final=True,
                backend=backend,
            )  # fmt: skip

        assert torch.autograd.gradcheck(scan, (gates, inputs, initial), fast_mode=True)
        assert torch.autograd.gradgradcheck(scan, (gates, inputs, initial), fast_mode=True)


@for_each_backend
@pytest.mark.parametrize("op", ["mul", "max", "min"])
def test_the_gradient_at_zeros_ties_and_nan_is_that_of_torch(backend, op):
    truth = {"mul": torch.cumprod, "max": torch.cummax, "min": torch.cummin}[op]
    rows = [[2.0, 0.0, 3.0, 4.0], [0.0, 5.0, 0.0, 2.0], [1.0, 1.0, 2.0, 2.0]]
    if op != "mul":
        rows.append([1.0, torch.nan, 2.0, torch.nan])
    weights = torch.tensor([0.3, 0.5, 0.7, 1.1])
    grads = []
    for scan in (
        lambda x: fused_associative_scan(x, 1, op=op, backend=backend),
        lambda x: truth(x, 1) if op == "mul" else truth(x, 1).values,
    ):
        x = torch.tensor(rows, requires_grad=True)
        grads.append(torch.autograd.grad(scan(x), x, weights.expand(len(rows), 4))[0])
    assert_close("scan", torch.float32, *grads)


@for_each_backend
def test_padding_gets_no_gradient_and_gives_none(backend):
    for op in OPS:
        x = make((2, 4, 20), torch.float64, op)
        x[1, 2:] = torch.nan
        x.requires_grad_()
        y = fused_associative_scan(x, 1, op=op, lengths=LENGTHS, backend=backend)
        upstream = make((2, 4, 20))
        upstream[1, 2:] = torch.nan
        (grad,) = torch.autograd.grad(y, x, upstream)
        assert not grad[1, 2:].any()
        part = x.detach()[1:, :2].clone().requires_grad_()
        alone = fused_associative_scan(part, 1, op=op, backend=backend)
        (truth,) = torch.autograd.grad(alone, part, upstream[1:, :2])
        assert_close("scan", torch.float64, grad[1:, :2], truth)


@for_each_backend
def test_forbidden_and_endless_entries_of_logaddexp_have_finite_gradients(backend):
    inf = torch.inf
    x = torch.tensor([[-inf, -inf, 1.0, -inf, 2.0], [1.0, inf, 2.0, -inf, inf]], requires_grad=True)
    y = fused_associative_scan(x, 1, op="logaddexp", backend=backend)
    (grad,) = torch.autograd.grad(y[:, -1].sum(), x)
    assert grad.isfinite().all()
    assert grad[0, [0, 1, 3]].tolist() == [0.0, 0.0, 0.0]
    assert_close("scan", torch.float32, grad[0].sum(), torch.tensor(1.0))


# The registered ops


@for_each_backend
@for_each_op
@pytest.mark.parametrize("grad", [False, True])
def test_the_associative_op_passes_opcheck(backend, op, grad):
    x = make((2, 4, 3), torch.float64, op).requires_grad_(grad)
    for arguments in ((False, False, None, None), (True, True, torch.ones(2, 3).double(), LENGTHS)):
        torch.library.opcheck(scan_ops.associative_scan_op, (x, op, *arguments, backend))


@for_each_backend
@pytest.mark.parametrize("shifted", [False, True])
def test_the_linear_op_passes_opcheck(backend, shifted):
    gates, inputs = make((2, 4, 3), op="mul").requires_grad_(), make((2, 4, 3)).requires_grad_()
    for arguments in (
        (False, shifted, None, None),
        (True, shifted, torch.ones(2, 3).double(), LENGTHS),
    ):
        torch.library.opcheck(scan_ops.linear_scan_op, (gates, inputs, *arguments, backend))


def loss(x, gates):
    forward, backward = fused_associative_scan(x, 1, "both", op="logaddexp")
    states, last = linear_scan(gates, x, 1, return_final=True)
    product = fused_associative_scan(x, -1, op="mul", exclusive=True)
    return (forward * backward + states + product).sin().sum() + last.square().sum()


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiled_model_gives_what_the_eager_one_gives(dynamic):
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic)
    for shape in ((2, 5, 3), (3, 7, 4)):
        x, gates = make(shape).requires_grad_(), make(shape, seed=4).sigmoid().requires_grad_()
        found, truth = compiled(x, gates), loss(x, gates)
        assert_close("scan", torch.float64, found, truth)
        pairs = zip(
            torch.autograd.grad(found, (x, gates)), torch.autograd.grad(truth, (x, gates)),
            strict=True,
        )  # fmt: skip
        for value, other in pairs:
            assert_close("gradient", torch.float64, value, other)
    torch.compiler.reset()


@pytest.mark.parametrize("in_dim", [0, 1, -1])
def test_vmap_scans_each_item(in_dim):
    x = make((3, 4, 5, 2))
    for op in OPS:
        found = torch.vmap(lambda item, op=op: fused_associative_scan(item, 1, op=op), in_dim)(x)
        truth = [fused_associative_scan(item, 1, op=op) for item in x.unbind(in_dim)]
        assert torch.equal(found, torch.stack(truth))
    gates = make((3, 4, 5, 2), seed=5).sigmoid()
    found = torch.vmap(lambda g, u: linear_scan(g, u, 0), (in_dim, in_dim))(gates, x)
    pairs = zip(gates.unbind(in_dim), x.unbind(in_dim), strict=True)
    assert torch.equal(found, torch.stack([linear_scan(g, u, 0) for g, u in pairs]))


def test_vmap_takes_initial_values_and_lengths_of_each_item():
    x, initial, lengths = make((3, 2, 5)), make((3, 2)), torch.tensor([[1, 5], [2, 0], [4, 4]])

    def scan(x, initial, lengths):
        return fused_associative_scan(x, 1, initial=initial, lengths=lengths)

    found = torch.vmap(scan)(x, initial, lengths)
    truth = [scan(*items) for items in zip(x, initial, lengths, strict=True)]
    assert torch.equal(found, torch.stack(truth))


def test_torch_func_differentiates_each_item():
    x, gates = make((3, 5, 2)), make((3, 5, 2), seed=4).sigmoid()

    def one(x, g):
        return fused_associative_scan(x, 0, op="mul").sin().sum() + linear_scan(g, x, 0).sum()

    found = torch.vmap(torch.func.grad(one, (0, 1)))(x, gates)
    x.requires_grad_(), gates.requires_grad_()
    total = sum(one(*items) for items in zip(x, gates, strict=True))
    for value, truth in zip(found, torch.autograd.grad(total, (x, gates)), strict=True):
        assert_close("gradient", torch.float64, value, truth)


def test_autocast_scans_half_types_in_float32():
    x = torch.full((2, 300), 0.1, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert fused_associative_scan(x, 1).dtype == torch.float32
        assert linear_scan(x.float(), x, 1).dtype == torch.float32
        assert linear_scan(x, x, 1).dtype == torch.float32
        assert fused_associative_scan(x, 1, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert fused_associative_scan(x, 1).dtype == torch.bfloat16


@for_each_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_half_types_are_of_their_type(backend, dtype):
    x, gates = make((2, 9, 3), dtype).requires_grad_(), make((2, 9, 3), dtype, seed=4).sigmoid()
    gates = gates.detach().requires_grad_()
    y = linear_scan(gates, fused_associative_scan(x, 1, op="logaddexp", backend=backend), 1)
    found = torch.autograd.grad(y.float().sum(), (x, gates))
    wide = [tensor.detach().double().requires_grad_() for tensor in (x, gates)]
    y = linear_scan(wide[1], fused_associative_scan(wide[0], 1, op="logaddexp"), 1)
    for value, truth in zip(found, torch.autograd.grad(y.sum(), wide), strict=True):
        assert value.dtype == dtype
        # Each step rounds once to 8 or 11 bits.
        torch.testing.assert_close(value.double(), truth, rtol=0.05, atol=0.05)


def test_mixed_types_meet_in_their_common_type():
    gates, inputs = make((2, 5)).float().requires_grad_(), make((2, 5), torch.complex64)
    y = linear_scan(gates, inputs, 1)
    assert y.dtype == torch.complex64
    assert torch.autograd.grad(y.abs().sum(), gates)[0].dtype == torch.float32
