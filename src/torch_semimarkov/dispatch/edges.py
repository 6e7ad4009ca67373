"""One call on explicit edge potentials in, one backend out; autograd right around its kernels."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from torch_semimarkov.dispatch.direct import cast_to, unwatched
from torch_semimarkov.dispatch.registry import (
    CompiledBackend,
    CompositeBackend,
    compiled,
    reference,
)
from torch_semimarkov.dispatch.select import choose
from torch_semimarkov.potentials import EdgePotentials
from torch_semimarkov.semirings import Semiring, as_semiring, by_name

EDGE_OP = "edge_log_partition"
# What only composite backends have: operators multiplied pair by pair, and two models side by side.
EDGE_TREE_OP, EDGE_PAIR_OP = "edge_tree", "edge_pair"


def edge_log_partition(
    p: EdgePotentials,
    semiring: str | Semiring = "log",
    backend: str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The semiring total of canonical edge potentials, float64 or of ``dtype``.

    (B,) from a compiled backend; a composite one gives what the semiring is made for.
    """
    name = semiring if isinstance(semiring, str) else semiring.name
    chosen = choose(EDGE_OP, p, name, backend)
    if chosen.COMPOSITE:
        algebra, plain = as_semiring(semiring), cast(CompositeBackend, chosen)
        value = plain.edge_log_partition(p.edge, p.lengths, algebra)
        return value if dtype is None else value.to(dtype)
    keep = torch.is_grad_enabled() and p.edge.requires_grad
    kernels, dtype = cast(CompiledBackend, chosen), dtype or torch.float64
    if not unwatched((p.edge, p.lengths)):
        from torch_semimarkov.dispatch.edge_library import edge_log_partition_op

        return edge_log_partition_op(p.edge, p.lengths, name, chosen.NAME, keep)[0].to(dtype)
    if keep:
        return EdgeLogPartition.apply(p.edge, p.lengths, (kernels, name, dtype))
    return cast_to(dtype, kernels.edge_forward(p, name, False)[0])


def edge_composite(
    potentials: tuple[EdgePotentials, ...],
    semiring: Semiring,
    tree: bool,
    backend: str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The semiring total of canonical edge potentials, by a tree or of two models, of ``dtype``."""
    op = EDGE_TREE_OP if tree else EDGE_PAIR_OP
    chosen = cast(CompositeBackend, choose(op, potentials[0], semiring.name, backend))
    edges, lengths = tuple(p.edge for p in potentials), potentials[0].lengths
    value = chosen.edge_log_partition(edges, cast(Tensor, lengths), semiring, tree)
    return value if dtype is None else value.to(dtype)


class EdgeLogPartition(torch.autograd.Function):
    """``apply(edge, lengths, (backend, semiring, dtype))``: (B,) of a dtype."""

    @staticmethod
    def forward(ctx: Any, edge: Tensor, lengths: Tensor, options: tuple[Any, ...]) -> Tensor:
        backend, semiring, dtype = options
        value, kept = backend.edge_forward(EdgePotentials(edge, lengths), semiring, True)
        ctx.backend, ctx.semiring = backend.NAME, semiring
        ctx.save_for_backward(edge, lengths, value, kept)
        return cast_to(dtype, value)

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        return edge_gradient(ctx, weight), None, None


def edge_gradient(ctx: Any, weight: Tensor) -> Tensor:
    """Gradient of ``(weight * total).sum()`` in the edges.

    One that is differentiated again comes from the reference's composite text.
    """
    edge, lengths, value, kept = ctx.saved_tensors
    weight = weight.to(value.dtype)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        total = reference().edge_log_partition(edge, lengths, by_name(ctx.semiring))
        (found,) = torch.autograd.grad(total, edge, weight.to(total.dtype), create_graph=True)
        return found
    if unwatched((edge, lengths, value, kept, weight)):
        p = EdgePotentials(edge, lengths)
        return compiled(ctx.backend).edge_backward(p, ctx.semiring, kept, weight)
    from torch_semimarkov.dispatch.edge_library import edge_backward_op

    return edge_backward_op(edge, lengths, kept, weight, ctx.semiring, ctx.backend)
