"""The registered ops through which compiled backends run: fake tensors, autograd, torch.compile."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from torch_semimarkov.dispatch.registry import CompiledBackend, CompositeBackend, load
from torch_semimarkov.errors import UnsupportedError
from torch_semimarkov.potentials import TERMS, Potentials

_INPUTS = (*TERMS, "lengths")


def _compiled(name: str) -> CompiledBackend:
    return cast(CompiledBackend, load(name))


def _assemble(tensors: tuple[Tensor | None, ...] | list[Tensor | None]) -> Potentials:
    return Potentials(**dict(zip(_INPUTS, tensors, strict=True)))  # type: ignore[arg-type]


def flatten(p: Potentials) -> list[Tensor | None]:
    """The tensors of the potentials in the order in which the ops take them."""
    return [getattr(p, name) for name in _INPUTS]


@torch.library.custom_op("torch_semimarkov::log_partition", mutates_args=())
def log_partition_op(
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    start: Tensor | None,
    end: Tensor | None,
    start_scores: Tensor | None,
    end_scores: Tensor | None,
    lengths: Tensor,
    semiring: str,
    backend: str,
    keep: bool,
    checkpoint_interval: int | None,
) -> tuple[Tensor, Tensor]:
    """The semiring total (B,) float64, and the messages kept for the backward."""
    tensors = (scores, transition, duration_bias, start, end, start_scores, end_scores, lengths)
    p = _assemble(tensors)
    return _compiled(backend).forward(p, semiring, keep, checkpoint_interval)


@log_partition_op.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    *tensors, _semiring, backend, keep, checkpoint_interval = arguments
    p = _assemble(tensors)
    shape = _compiled(backend).kept_shape(p, keep, checkpoint_interval)
    return _wide(p, p.B), _wide(p, *shape)


@torch.library.custom_op("torch_semimarkov::log_partition_backward", mutates_args=())
def log_partition_backward_op(
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    start: Tensor | None,
    end: Tensor | None,
    start_scores: Tensor | None,
    end_scores: Tensor | None,
    lengths: Tensor,
    value: Tensor,
    kept: Tensor,
    weight: Tensor,
    backend: str,
) -> list[Tensor]:
    """Gradients of ``(weight * log_partition).sum()``, one a term; empty if it is absent."""
    tensors = (scores, transition, duration_bias, start, end, start_scores, end_scores, lengths)
    p = _assemble(tensors)
    grads = _compiled(backend).backward(p, value, kept, weight)
    present = dict(p.terms())
    return [grads[name] if name in present else scores.new_empty(0) for name in TERMS]


@log_partition_backward_op.register_fake
def _(*arguments: Any) -> list[Tensor]:
    p = _assemble(arguments[: len(_INPUTS)])
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
    lengths: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (B,) float64, a table (3, B, T) of starts, ends and labels, and counts (B,)."""
    tensors = (scores, transition, duration_bias, start, end, start_scores, end_scores, lengths)
    return _compiled(backend).viterbi(_assemble(tensors))


@viterbi_op.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    p = _assemble(arguments[: len(_INPUTS)])
    table = torch.empty(3, p.B, p.T, dtype=torch.int64, device=p.device)
    return _wide(p, p.B), table, torch.empty(p.B, dtype=torch.int64, device=p.device)


def _wide(p: Potentials, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64, device=p.device)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, semiring, backend, _, interval = inputs
    ctx.semiring, ctx.backend, ctx.interval = semiring, backend, interval
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, *output)


def _differentiable(ctx: Any, tensors: list[Tensor | None], weight: Tensor) -> list[Any]:
    """Gradients that are differentiated again come from the reference's composite text."""
    reference = cast(CompositeBackend, load("reference"))
    needed = ctx.needs_input_grad[: len(TERMS)]
    p = _assemble(tensors)
    return reference.differentiable_gradient(p, weight, needed, ctx.interval)


def _backward(ctx: Any, weight: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    if ctx.semiring != "log":
        raise UnsupportedError(f"this op has a gradient for semiring='log', not {ctx.semiring!r}")
    *tensors, value, kept = ctx.saved_tensors
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return (*_differentiable(ctx, tensors, weight), None, None, None, None, None)
    grads = log_partition_backward_op(*tensors, value, kept, weight, ctx.backend)
    present = [tensor is not None for tensor in tensors[: len(TERMS)]]
    terms = [grad if there else None for grad, there in zip(grads, present, strict=True)]
    return (*terms, None, None, None, None, None)


log_partition_op.register_autograd(_backward, setup_context=_save_for_backward)
