"""The derivative of the log partition in a direction, and with it every second derivative.

``tangent`` gives log Z and its derivative in a direction of the terms. The gradient of that is the
product of the Hessian of log Z with the direction, which is what a second backward asks for. Both
are ops of the compiled backends; third derivatives are those of the reference's composite text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_semimarkov.dispatch.direct import assemble, lean_gradient, unwatched
from torch_semimarkov.dispatch.registry import CompiledBackend, compiled, load, reference
from torch_semimarkov.potentials import TERMS, Potentials

TANGENT_OP = "tangent"
_FIELDS = len(TERMS) + 1
Tensors = Sequence[Tensor | None]


class Weights(NamedTuple):
    """Upstream gradients of a log partition and of its slope, (B,) float64 each."""

    value: Tensor
    slope: Tensor


def compiled_tangent(
    p: Potentials, direction: Potentials, backend: CompiledBackend, interval: int | None
) -> tuple[Tensor, Tensor]:
    """(B,) float64 twice: log partition and slope, both differentiable in terms and direction.

    Potentials and direction are canonical float64; with an ``interval`` nothing is kept for the
    backward, which runs the forward once more.
    """
    tensors = (*p.fields(), *direction.fields()[:-1])
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    if keep and unwatched(tensors):
        return Tangent.apply(*tensors, backend, interval)  # type: ignore[no-any-return]
    value, slope, _ = run_forward(backend.NAME, tensors, keep and interval is None)
    return value, slope


class Tangent(torch.autograd.Function):
    """``apply(*p.fields(), *direction terms, backend, interval)``: log partition and slope."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        *tensors, backend, interval = arguments
        p, direction = both(tensors)
        value, slope, kept = backend.tangent(p, direction, interval is None)
        ctx.backend = backend.NAME
        ctx.save_for_backward(*tensors, kept)
        return value, slope

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (*tangent_gradient(ctx, Weights(*upstream)), None, None)


def tangent_gradient(ctx: Any, weights: Weights) -> list[Tensor | None]:
    """Gradients of ``(weights.value * value + weights.slope * slope).sum()``.

    One for each tensor of the call; None where it is absent. Gradients that are differentiated
    again come from the reference.
    """
    *tensors, kept = ctx.saved_tensors
    needed = ctx.needs_input_grad[: len(tensors)]
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _composite_gradient(tensors, weights, needed)
    first, second = run_backward(ctx.backend, tensors, kept, weights)
    found = [*first, None, *second]
    return [x if need else None for x, need in zip(found, needed, strict=True)]


def _composite_gradient(
    tensors: Tensors, weights: Weights, needed: Sequence[bool]
) -> list[Tensor | None]:
    """The same by autograd through the reference, for further derivatives."""
    tensors = _apart(tensors)
    value, slope = reference().tangent(*both(tensors), None)
    wanted = [x for x, need in zip(tensors, needed, strict=True) if need]
    found: Any = torch.autograd.grad(
        (value, slope), wanted, tuple(weights), create_graph=True, materialize_grads=True
    )
    left = iter(found)
    return [next(left) if need else None for need in needed]


def run_forward(backend: str, tensors: Tensors, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Log partition, slope, and what the backward needs."""
    if unwatched(tensors):
        return compiled(backend).tangent(*both(tensors), keep)
    from torch_semimarkov.dispatch.tangent_library import tangent_op

    return tangent_op(*tensors, backend, keep)  # type: ignore[no-any-return]


def run_backward(
    backend: str, tensors: Tensors, kept: Tensor, weights: Weights
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """What the backward of a tangent gives for the terms and for their direction."""
    if unwatched((*tensors, kept, *weights)):
        grads = compiled(backend).tangent_backward(*both(tensors), kept, *weights)
        first, second = ([found.get(name) for name in TERMS] for found in grads)
        return first, second
    from torch_semimarkov.dispatch.tangent_library import tangent_backward_op

    grads = tangent_backward_op(*tensors, kept, torch.stack(weights), backend)
    present = [x is not None for x in tensors[: len(TERMS)]]
    parts = grads[: len(TERMS)], grads[len(TERMS) :]
    first, second = (
        [grad if here else None for grad, here in zip(part, present, strict=True)] for part in parts
    )
    return first, second


def both(tensors: Tensors) -> tuple[Potentials, Potentials]:
    """Potentials and their direction, from the fields of one and the terms of the other."""
    return assemble(tensors[:_FIELDS]), assemble([*tensors[_FIELDS:], tensors[_FIELDS - 1]])


# The gradient of the log partition, as a function that can itself be differentiated


class Gradient(torch.autograd.Function):
    """``apply(*p.fields(), weight, value, kept, backend)``: one gradient a term, or None."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor | None, ...]:
        *tensors, weight, value, kept, backend = arguments
        ctx.backend = backend
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, weight)
        return tuple(lean_gradient(backend, tensors, (value, kept, weight)))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad[: len(tensors) + 1]
        if torch.is_grad_enabled():
            found = _composite_second(tensors, weight, upstream, needed)
        else:
            found = _second(ctx.backend, tensors, weight, upstream)
        kept = [x if need else None for x, need in zip(found, needed, strict=True)]
        return (*kept, None, None, None)


def has_tangent(backend: str, p: Potentials) -> bool:
    """True if a backend offers the second derivatives of its log partition."""
    return not load(backend).reasons_against(TANGENT_OP, p, "log")


def _second(
    backend: str, tensors: Tensors, weight: Tensor, upstream: Tensors
) -> list[Tensor | None]:
    """Gradients, of each term, the lengths and the weight, of the expectations times ``upstream``.

    The weighted expectations times a direction are the weighted slope in that direction.
    """
    wide = _with_direction(assemble(tensors), upstream)
    _, slope, kept = run_forward(backend, wide, True)
    weights = Weights(torch.zeros_like(slope), weight.to(slope.dtype))
    first, _ = run_backward(backend, wide, kept, weights)
    pairs = zip(first, tensors[: len(TERMS)], strict=True)
    grads = [None if grad is None or x is None else grad.to(x.dtype) for grad, x in pairs]
    return [*grads, None, slope.to(weight.dtype)]


def _apart(tensors: Tensors) -> list[Tensor | None]:
    """The same tensors as inputs of their own: what else depends on the old ones is left out.

    A direction is often made from the terms, and its part of a gradient is not theirs.
    """
    return [None if x is None else x.view_as(x) for x in tensors]


def _composite_second(
    tensors: Tensors, weight: Tensor, upstream: Tensors, needed: Sequence[bool]
) -> list[Tensor | None]:
    """The same by autograd through the reference, for third derivatives."""
    tensors = _apart(tensors)
    _, slope = reference().tangent(*both(_with_direction(assemble(tensors), upstream)), None)
    wanted = [x for x, need in zip(tensors, needed, strict=False) if need]
    found: Any = torch.autograd.grad(
        slope, wanted, weight.to(slope.dtype), create_graph=True, materialize_grads=True
    )
    left = iter(found)
    grads = [next(left) if need else None for need in needed[: len(tensors)]]
    return [*grads, slope.to(weight.dtype)]


def _with_direction(p: Potentials, upstream: Tensors) -> list[Tensor | None]:
    """Float64 fields, and directions for their terms that are 0 where nothing is possible."""

    def shift(x: Tensor, u: Tensor | None) -> Tensor:
        if u is None:
            return torch.zeros_like(x, dtype=torch.float64)
        return torch.where(x == -torch.inf, 0.0, u.to(torch.float64)).contiguous()

    pairs = zip(p.fields()[:-1], upstream, strict=True)
    shifts = [None if x is None else shift(x, u) for x, u in pairs]
    return [*p.map_terms(lambda x: x.to(torch.float64)).fields(), *shifts]
