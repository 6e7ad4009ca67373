"""The registered ops of explicit edge potentials: fake tensors, autograd, torch.compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torch_semimarkov.dispatch.edges import edge_gradient
from torch_semimarkov.dispatch.registry import compiled
from torch_semimarkov.potentials import EdgePotentials


@torch.library.custom_op("torch_semimarkov::edge_log_partition", mutates_args=())
def edge_log_partition_op(
    edge: Tensor, lengths: Tensor, semiring: str, backend: str, keep: bool
) -> tuple[Tensor, Tensor]:
    """The semiring total (B,) float64, and the messages kept for the backward."""
    return compiled(backend).edge_forward(EdgePotentials(edge, lengths), semiring, keep)


@edge_log_partition_op.register_fake
def _(
    edge: Tensor, lengths: Tensor, semiring: str, backend: str, keep: bool
) -> tuple[Tensor, Tensor]:
    p = EdgePotentials(edge, lengths)
    shape = compiled(backend).edge_kept_shape(p, keep)
    return (
        edge.new_empty(p.B, dtype=torch.float64),
        edge.new_empty(shape, dtype=torch.float64),
    )


@torch.library.custom_op("torch_semimarkov::edge_log_partition_backward", mutates_args=())
def edge_backward_op(
    edge: Tensor, lengths: Tensor, kept: Tensor, weight: Tensor, semiring: str, backend: str
) -> Tensor:
    """Gradient of ``(weight * total).sum()`` in the edges."""
    p = EdgePotentials(edge, lengths)
    return compiled(backend).edge_backward(p, semiring, kept, weight)


@edge_backward_op.register_fake
def _(edge: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(edge)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    edge, lengths, semiring, backend, _ = inputs
    ctx.semiring, ctx.backend = semiring, backend
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(edge, lengths, *output)


def _backward(ctx: Any, weight: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return edge_gradient(ctx, weight), None, None, None, None


edge_log_partition_op.register_autograd(_backward, setup_context=_save_for_backward)
