"""The registered ops through which compiled backends run: fake tensors, autograd, torch.compile."""

from __future__ import annotations

from typing import Any, List  # noqa: UP035

import torch
from torch import Tensor

from torch_semimarkov.dispatch.direct import assemble, gradient
from torch_semimarkov.dispatch.registry import compiled
from torch_semimarkov.potentials import TERMS, Potentials

_TENSORS = len(TERMS) + 1


@torch.library.custom_op("torch_semimarkov::log_partition", mutates_args=())
def log_partition_op(
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    start: Tensor | None,
    end: Tensor | None,
    start_scores: Tensor | None,
    end_scores: Tensor | None,
    tail: Tensor | None,
    lengths: Tensor,
    semiring: str,
    backend: str,
    keep: bool,
    checkpoint_interval: int | None,
) -> tuple[Tensor, Tensor]:
    """The semiring total (B,) float64, and the messages kept for the backward."""
    shared = (transition, duration_bias, start, end)
    tensors = (scores, *shared, start_scores, end_scores, tail, lengths)
    p = assemble(tensors)
    return compiled(backend).forward(p, semiring, keep, checkpoint_interval)


@log_partition_op.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    *tensors, _semiring, backend, keep, checkpoint_interval = arguments
    p = assemble(tensors)
    shape = compiled(backend).kept_shape(p, keep, checkpoint_interval)
    return _float64(p, p.B), _float64(p, *shape)


@torch.library.custom_op("torch_semimarkov::log_partition_backward", mutates_args=())
def log_partition_backward_op(
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    start: Tensor | None,
    end: Tensor | None,
    start_scores: Tensor | None,
    end_scores: Tensor | None,
    tail: Tensor | None,
    lengths: Tensor,
    value: Tensor,
    kept: Tensor,
    weight: Tensor,
    backend: str,
) -> List[Tensor]:  # noqa: UP006 - torch 2.6 reads no list[Tensor] as a result
    """Gradients of ``(weight * log_partition).sum()``, one a term; empty if it is absent."""
    shared = (transition, duration_bias, start, end)
    tensors = (scores, *shared, start_scores, end_scores, tail, lengths)
    p = assemble(tensors)
    grads = compiled(backend).backward(p, value, kept, weight)
    present = dict(p.terms())
    return [grads[name] if name in present else scores.new_empty(0) for name in TERMS]


@log_partition_backward_op.register_fake
def _(*arguments: Any) -> list[Tensor]:
    p = assemble(arguments[:_TENSORS])
    present = dict(p.terms())
    return [
        torch.empty_like(present[name]) if name in present else p.scores.new_empty(0)
        for name in TERMS
    ]


@torch.library.custom_op("torch_semimarkov::viterbi", mutates_args=())
def viterbi_op(
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    start: Tensor | None,
    end: Tensor | None,
    start_scores: Tensor | None,
    end_scores: Tensor | None,
    tail: Tensor | None,
    lengths: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (B,) float64, a table (3, B, T) of starts, ends and labels, and counts (B,)."""
    shared = (transition, duration_bias, start, end)
    tensors = (scores, *shared, start_scores, end_scores, tail, lengths)
    return compiled(backend).viterbi(assemble(tensors))


@viterbi_op.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    p = assemble(arguments[:_TENSORS])
    table = torch.empty(3, p.B, p.T, dtype=torch.int64, device=p.device)
    return _float64(p, p.B), table, torch.empty(p.B, dtype=torch.int64, device=p.device)


def _float64(p: Potentials, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64, device=p.device)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, semiring, backend, _, interval = inputs
    ctx.semiring, ctx.backend, ctx.interval = semiring, backend, interval
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, weight: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*gradient(ctx, weight), None, None, None, None, None)


log_partition_op.register_autograd(_backward, setup_context=_save_for_backward)
