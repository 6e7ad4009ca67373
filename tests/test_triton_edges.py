"""The Triton kernels over explicit edges: against enumeration and the reference; they compile."""

import os

import pytest
import torch
from edge_cases import LARGER, SIZES, EdgeOracle, make_edges, spoil_padding
from factory import upstream
from tolerances import FLOAT32, FLOAT64, assert_close

from torch_semimarkov.functional.edges import edge_log_partition
from torch_semimarkov.potentials import EdgePotentials

pytest.importorskip("triton")
from torch_semimarkov.backends.triton import edge_kept_shape, edges

INTERPRETED = bool(os.environ.get("TRITON_INTERPRET"))
DEVICE = "cpu" if INTERPRETED else "cuda"
runs = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()), reason="needs TRITON_INTERPRET=1 or a GPU"
)
for_each_semiring = pytest.mark.parametrize("semiring", ["log", "max"])
for_each_dtype = pytest.mark.parametrize("dtype", [FLOAT64, FLOAT32], ids=["float64", "float32"])


def run(edge, lengths, semiring):
    """Value and gradient straight from the kernels."""
    p = EdgePotentials(edge.to(DEVICE), lengths).canonical()
    weight = upstream(len(edge), device=DEVICE)
    value, kept = edges.forward(p, semiring, True)
    assert kept.shape == edge_kept_shape(p, True)
    return value.cpu(), edges.backward(p, semiring, kept, weight).cpu()


@runs
@for_each_semiring
@for_each_dtype
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_values_and_gradients_are_those_of_enumeration(size, dtype, semiring):
    edge, lengths = make_edges(size, dtype)
    value, gradient = run(spoil_padding(edge, lengths), lengths, semiring)
    judges = [EdgeOracle(edge[b], int(lengths[b])) for b in range(len(edge))]
    assert_close("log_partition", dtype, value, [judge.value(semiring) for judge in judges])
    truth = torch.stack([judge.gradient(semiring) for judge in judges])
    assert gradient.dtype == dtype
    weight = upstream(len(edge))[:, None, None, None, None]
    assert_close("gradient", dtype, gradient, truth * weight)


@runs
@for_each_semiring
@for_each_dtype
@pytest.mark.parametrize("size", LARGER.values(), ids=LARGER)
def test_values_and_gradients_are_those_of_the_reference(size, dtype, semiring):
    edge, lengths = make_edges(size, dtype)
    value, gradient = run(edge, lengths, semiring)
    leaf = edge.double().requires_grad_()
    truth = edge_log_partition(leaf, lengths, semiring=semiring, backend="reference")
    (wanted,) = torch.autograd.grad(truth, leaf, upstream(len(edge)))
    assert_close("log_partition", dtype, value, truth)
    assert_close("gradient", dtype, gradient, wanted)


@runs
def test_sources_and_durations_are_taken_in_several_tiles(monkeypatch):
    monkeypatch.setattr(edges, "TILE", 64)
    monkeypatch.setattr(edges, "TILE_BACK", 32)
    edge, lengths = make_edges((2, 12, 5, 9, (13, 7)))
    assert edges.tile_sizes(EdgePotentials(edge), edges.TILE) == (1, 16, 4)
    assert edges.tile_sizes(EdgePotentials(edge), edges.TILE_BACK) == (1, 16, 2)
    for semiring in ("log", "max"):
        value, gradient = run(edge, lengths, semiring)
        leaf = edge.clone().requires_grad_()
        truth = edge_log_partition(leaf, lengths, semiring=semiring, backend="reference")
        (wanted,) = torch.autograd.grad(truth, leaf, upstream(2))
        assert_close("log_partition", FLOAT64, value, truth)
        assert_close("gradient", FLOAT64, gradient, wanted)


@runs
@for_each_semiring
def test_a_sequence_without_any_segmentation_has_no_gradient(semiring):
    edge, lengths = make_edges(SIZES["linear chain"])
    edge[1, 2] = -torch.inf
    value, gradient = run(edge, lengths, semiring)
    assert value[1] == -torch.inf and value[0] > -torch.inf
    assert not gradient[1].any() and gradient[0].any()


@runs
@for_each_semiring
def test_nan_reaches_the_value(semiring):
    edge, lengths = make_edges(SIZES["linear chain"], forbid=0.0)
    edge[1, 2, 0, 1, 2] = torch.nan
    value, _ = run(edge, lengths, semiring)
    assert value[1].isnan() and value[0].isfinite()


@runs
@for_each_semiring
def test_the_same_call_twice_gives_the_same_bits(semiring):
    edge, lengths = make_edges(LARGER["nine labels"], FLOAT32)
    first, second = (run(edge, lengths, semiring) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# Without a GPU


KERNELS = {
    "edge_log_scan": ("*f", "*i64", "*fp64", "*fp64", "i32", "i32", "i32"),
    "edge_max_scan": ("*f", "*i64", "*fp64", "*fp64", "i32", "i32", "i32"),
    "edge_pull": ("*f", "*i64", "*fp64", "*fp64", "*fp64", "*f", "i32", "i32", "i32"),
    "edge_trace": ("*f", "*i64", "*fp64", "*fp64", "*f", "i32", "i32", "i32"),
}
TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes the place of the compiler")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("kind", ["fp32", "fp64"])
@pytest.mark.parametrize("C", [5, 24, 64])
def test_every_kernel_compiles_without_a_gpu(monkeypatch, target, name, kind, C):
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # or Triton 3.9 warns that it will change
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(edges, name)
    lanes = edges.TILE if name.endswith("scan") else edges.TILE_BACK
    p = EdgePotentials(torch.empty(1, 100, 100, C, C, device="meta"))
    BD, BC, BS = edges.tile_sizes(p, lanes)
    sizes = {"BD": BD, "BC": BC, "BS": BS}
    constants = {x: size for x, size in sizes.items() if x in kernel.arg_names}
    types = [x.replace("*f", f"*{kind}") if x == "*f" else x for x in KERNELS[name]]
    signature = dict(zip(kernel.arg_names, types, strict=False))
    signature.update(dict.fromkeys(constants, "constexpr"))
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    options = {"num_warps": edges.WARPS}
    compiled = triton.compile(source, target=GPUTarget(*TARGETS[target]), options=options)
    assert compiled.metadata.shared <= 64 * 1024
