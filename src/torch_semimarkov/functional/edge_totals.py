"""Totals and marginals of explicit edge potentials, in any semiring and by either scan."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torch_semimarkov import dispatch
from torch_semimarkov.errors import ShapeError, UnsupportedError
from torch_semimarkov.functional.edges import edge_log_partition, gather_edges
from torch_semimarkov.functional.exact import EDGE_MEMORY
from torch_semimarkov.functional.inputs import wants_validation
from torch_semimarkov.potentials import EdgePotentials
from torch_semimarkov.semirings import Semiring, as_semiring

SCANS = ("linear", "tree")
Edges = Tensor | tuple[Tensor, ...]


def edge_total(
    edge: Edges,
    lengths: Tensor | None = None,
    *,
    semiring: str | type | Semiring = "log",
    scan: str = "linear",
    backend: str | None = None,
    memory_limit: float = EDGE_MEMORY,
    validate_args: bool | None = None,
) -> Tensor:
    """The total of a semiring over all segmentations of explicit edges.

    Args:
        edge: (B, N-1, K, C, C) float, ``edge[b, start, d-1, destination, source]``; a pair of them
            for semirings that compare two models.
        lengths: (B,) int, 1 <= lengths <= N: positions plus one; default N.
        semiring: a name, a class or an object of ``semirings``.
        scan: "linear" walks along the sequence, O(T K C^2) work in T steps, on every backend;
            "tree" multiplies operators pair by pair, O(T (K C)^3) work in log2 T steps, on the
            reference backend. Both give the same value and gradient.
        backend: a name from ``available_backends()``; default the first that can run the call.
        memory_limit: bytes from which on the tree is refused.
        validate_args: check lengths and values; default on CPU only.

    Returns:
        (B,) in the type of the edges (half types: float32), (k, B) for KMax.

    Raises:
        ShapeError: arguments that do not fit together, or values that the semiring does not take.
        UnsupportedError: an unknown semiring or scan, a backend that lacks it, or a tree that would
            not fit in memory.

    Source: Goodman, Semiring parsing, Computational Linguistics 1999.

    Two positions, one label, durations 1 and 2, all edges 0: two segmentations, so log 2.

    >>> edge_total(torch.zeros(1, 2, 2, 1, 1), semiring="entropy", scan="tree")
    tensor([0.6931])
    """
    algebra = as_semiring(semiring)
    potentials = _gathered(edge, lengths, algebra, validate_args)
    if scan not in SCANS:
        raise UnsupportedError(f"scan must be 'linear' or 'tree', got {scan!r}")
    if scan == "linear" and algebra.arguments == 1:
        p = potentials[0]
        return edge_log_partition(
            p.edge, p.lengths, semiring=algebra, backend=backend, validate_args=validate_args
        )
    tree = scan == "tree"
    if tree:
        _refuse_large_tree(potentials[0], algebra, memory_limit)
    dtype = potentials[0].compute_dtype
    value = dispatch.edge_composite(potentials, algebra, tree, backend, dtype)
    if wants_validation(validate_args, value.device) and not bool((value < torch.inf).all()):
        for p in potentials:
            p.check_values()
    return value


def edge_marginals(
    edge: Edges,
    lengths: Tensor | None = None,
    *,
    semiring: str | type | Semiring = "log",
    scan: str = "linear",
    backend: str | None = None,
    memory_limit: float = EDGE_MEMORY,
    validate_args: bool | None = None,
) -> Edges:
    """The gradient of the total in every edge.

    Edge marginals in the log semiring, the indicator of the best segmentation in max, of each of
    the k best in KMax, of a sample in Sampled; differentiable if the edges require a gradient.

    Args:
        edge, lengths, semiring, scan, backend, memory_limit, validate_args: as in
            :func:`edge_total`.

    Returns:
        (B, N-1, K, C, C) in the type of the edges (half types: float32), (k, B, N-1, K, C, C) for
        KMax, and a pair where the semiring compares two models. 0 past a length.

    Raises:
        ShapeError, UnsupportedError: as :func:`edge_total`.

    >>> edge_marginals(torch.zeros(1, 2, 2, 1, 1))[0, :, :, 0, 0]
    tensor([[0.5000, 0.5000],
            [0.5000, 0.0000]])
    """
    algebra = as_semiring(semiring)
    potentials = _gathered(edge, lengths, algebra, validate_args)
    differentiable = torch.is_grad_enabled() and any(p.edge.requires_grad for p in potentials)
    with torch.inference_mode(False), torch.enable_grad():
        leaves = tuple(_leaf(p.edge, differentiable) for p in potentials)
        given = None if lengths is None or not lengths.is_inference() else lengths.clone()
        value = edge_total(
            leaves if len(leaves) > 1 else leaves[0], lengths if given is None else given,
            semiring=algebra, scan=scan, backend=backend, memory_limit=memory_limit,
            validate_args=validate_args,
        )  # fmt: skip
        rows = value if value.dim() == 2 else value[None]
        found = [_gradient(row, leaves, differentiable) for row in rows]
    columns = tuple(
        torch.stack(grads) if value.dim() == 2 else grads[0] for grads in zip(*found, strict=True)
    )
    return columns if len(columns) > 1 else columns[0]


def _gradient(row: Tensor, leaves: tuple[Tensor, ...], differentiable: bool) -> tuple[Tensor, ...]:
    return torch.autograd.grad(
        row.sum(), leaves, create_graph=differentiable, retain_graph=True, materialize_grads=True
    )


def _leaf(edge: Tensor, differentiable: bool) -> Tensor:
    """Edges that require a gradient, and that autograd may keep."""
    if differentiable and edge.requires_grad:
        return edge
    return (edge.clone() if edge.is_inference() else edge).detach().requires_grad_()


def _gathered(
    edge: Edges, lengths: Tensor | None, algebra: Semiring, validate_args: bool | None
) -> tuple[EdgePotentials, ...]:
    """Canonical edge potentials, as many as the semiring takes, all of one shape."""
    edges = tuple(edge) if isinstance(edge, tuple | list) else (edge,)
    if len(edges) != algebra.arguments:
        wanted = "a pair of edge tensors" if algebra.arguments > 1 else "one edge tensor"
        raise ShapeError(f"semiring {algebra.name!r} takes {wanted}, got {len(edges)}")
    potentials = tuple(gather_edges(each, lengths, validate_args) for each in edges)
    shapes = [tuple(p.edge.shape) for p in potentials]
    if len({*shapes, *shapes[:1]}) > 1:
        raise ShapeError(f"both edge tensors must have the same shape, got {shapes}")
    if algebra.forbidden == 0.0 and wants_validation(validate_args, potentials[0].device):
        _refuse_negative(potentials[0], algebra)
    return potentials


def _refuse_negative(p: EdgePotentials, algebra: Semiring) -> None:
    position = torch.arange(p.T, device=p.device)
    end = position[:, None] + torch.arange(1, p.K + 1, device=p.device)
    inside = end < p.lengths[:, None, None]  # type: ignore[index]
    bad = ((p.edge.detach() < 0) & inside[..., None, None]).nonzero()
    if len(bad):
        b, s, row, destination, source = bad[0].tolist()
        raise ShapeError(
            f"edge must hold weights >= 0 in semiring {algebra.name!r}, got "
            f"{float(p.edge[b, s, row, destination, source])} at sequence {b}, start {s}, duration "
            f"{row + 1}, destination {destination}, source {source}; exponentiate scores in nats, "
            "or use semiring 'log'"
        )


def _refuse_large_tree(p: EdgePotentials, algebra: Semiring, limit: float) -> None:
    """A tree's largest tensor holds the products of all first pairs of operators."""
    n, numbers = p.K * p.C, math.prod(algebra.components)
    products = numbers**2 if algebra.name == "kmax" else numbers
    size = 8 * p.B * max((p.T + 1) // 2 * products * n**3, p.T * numbers * n**2)
    if size > limit:
        raise UnsupportedError(
            f"scan='tree' needs {size:,} bytes for B = {p.B}, N-1 = {p.T}, K C = {n} in semiring "
            f"{algebra.name!r}, more than memory_limit = {limit:,.0f} bytes; use scan='linear', or "
            "raise the limit"
        )
