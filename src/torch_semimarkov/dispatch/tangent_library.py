"""The registered ops of the tangent of the log partition: fake tensors, autograd, torch.compile."""

from __future__ import annotations

from typing import Any, List  # noqa: UP035

import torch
from torch import Tensor

from torch_semimarkov.dispatch.registry import compiled
from torch_semimarkov.dispatch.tangent import Weights, both, tangent_gradient
from torch_semimarkov.potentials import TERMS

_TENSORS = 2 * len(TERMS) + 1


@torch.library.custom_op("torch_semimarkov::tangent", mutates_args=())
def tangent_op(
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    start: Tensor | None,
    end: Tensor | None,
    start_scores: Tensor | None,
    end_scores: Tensor | None,
    tail: Tensor | None,
    lengths: Tensor,
    scores_shift: Tensor,
    transition_shift: Tensor,
    duration_bias_shift: Tensor,
    start_shift: Tensor | None,
    end_shift: Tensor | None,
    start_scores_shift: Tensor | None,
    end_scores_shift: Tensor | None,
    tail_shift: Tensor | None,
    backend: str,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log partition and slope (B,) float64, and the messages kept for the backward."""
    tensors = (
        scores, transition, duration_bias, start, end, start_scores, end_scores, tail, lengths,
        scores_shift, transition_shift, duration_bias_shift, start_shift, end_shift,
        start_scores_shift, end_scores_shift, tail_shift,
    )  # fmt: skip
    return compiled(backend).tangent(*both(tensors), keep)


@tangent_op.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, backend, keep = arguments
    p, _ = both(tensors)
    shape = compiled(backend).tangent_kept_shape(p, keep)
    value, slope, kept = (
        torch.empty(size, dtype=torch.float64, device=p.device) for size in ((p.B,), (p.B,), shape)
    )
    return value, slope, kept


@torch.library.custom_op("torch_semimarkov::tangent_backward", mutates_args=())
def tangent_backward_op(
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    start: Tensor | None,
    end: Tensor | None,
    start_scores: Tensor | None,
    end_scores: Tensor | None,
    tail: Tensor | None,
    lengths: Tensor,
    scores_shift: Tensor,
    transition_shift: Tensor,
    duration_bias_shift: Tensor,
    start_shift: Tensor | None,
    end_shift: Tensor | None,
    start_scores_shift: Tensor | None,
    end_scores_shift: Tensor | None,
    tail_shift: Tensor | None,
    kept: Tensor,
    weights: Tensor,
    backend: str,
) -> List[Tensor]:  # noqa: UP006 - torch 2.6 reads no list[Tensor] as a result
    """Gradients of the sum of value and slope, weighed by (2, B); terms, then shifts, or empty."""
    tensors = (
        scores, transition, duration_bias, start, end, start_scores, end_scores, tail, lengths,
        scores_shift, transition_shift, duration_bias_shift, start_shift, end_shift,
        start_scores_shift, end_scores_shift, tail_shift,
    )  # fmt: skip
    grads = compiled(backend).tangent_backward(*both(tensors), kept, *weights.unbind())
    nothing = scores.new_empty(0)
    return [each[n] if n in each else nothing.clone() for each in grads for n in TERMS]


@tangent_backward_op.register_fake
def _(*arguments: Any) -> list[Tensor]:
    found = []
    for each in both(arguments[:_TENSORS]):
        present = dict(each.terms())
        for name in TERMS:
            like = present.get(name)
            found.append(arguments[0].new_empty(0) if like is None else torch.empty_like(like))
    return found


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, backend, _ = inputs
    ctx.backend = backend
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*tensors, output[2])


def _backward(ctx: Any, value: Tensor, slope: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*tangent_gradient(ctx, Weights(value, slope)), None, None)


tangent_op.register_autograd(_backward, setup_context=_save_for_backward)
