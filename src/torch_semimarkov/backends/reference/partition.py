"""The log partition with its gradients: the composite text, and a first derivative that is lean.

The composite function is plain torch and differentiable to any order, but autograd keeps O(T K C)
for it. A first derivative needs only the messages of two scans, so it runs the combining pass; the
composite comes in where a derivative is itself differentiated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torch_semimarkov.backends.reference.expectations import expectations
from torch_semimarkov.backends.reference.scan import Messages, prepare, scan, total
from torch_semimarkov.potentials import TERMS, Potentials
from torch_semimarkov.semirings import Semiring, TangentSemiring, as_semiring, by_name


def composite(
    potentials: Potentials,
    semiring: Semiring,
    checkpoint_interval: int | None = None,
    other: Potentials | None = None,
) -> Tensor:
    """(B,) float64, or what the semiring's ``lower`` makes of the total, in plain torch.

    ``other`` is the second model of a semiring that compares two of the same sizes.
    """
    models = (potentials,) if other is None else (potentials, other)
    p, *rest = (prepare(model, semiring.neutral) for model in models)
    messages = scan(p, semiring, checkpoint_interval, tuple(rest))
    return semiring.lower(total(p, semiring, messages.alpha, *rest))


def log_partition(
    potentials: Potentials,
    semiring: str | Semiring = "log",
    checkpoint_interval: int | None = None,
) -> Tensor:
    """(B,) float64. The semiring total, with a lean first derivative where there is one."""
    algebra = as_semiring(semiring)
    lean = algebra.name == "log" and not potentials.per_duration and not _transformed()
    if lean and torch.is_grad_enabled() and any(x.requires_grad for _, x in potentials.terms()):
        tensors = [getattr(potentials, name) for name in TERMS]
        return _LogPartition.apply(checkpoint_interval, potentials.lengths, *tensors)
    return composite(potentials, algebra, checkpoint_interval)


def tangent(
    potentials: Potentials, direction: Potentials, checkpoint_interval: int | None = None
) -> tuple[Tensor, Tensor]:
    """(B,) float64 twice: the log partition, and its derivative in a direction of the terms.

    Differentiable to any order in both. ``direction`` has the terms of the potentials, and is
    finite; what it holds where a score is -inf has no effect.
    """
    value, slope = composite(potentials, TangentSemiring(), checkpoint_interval, direction)
    # Where T = 1 nothing reads the transition; sums of nothing give it a gradient of zeros.
    terms = [x for model in (potentials, direction) for _, x in model.terms()]
    return value, slope + sum(x[..., :0].sum() for x in terms)


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, interval: int | None, lengths: Tensor, *tensors: Tensor | None) -> Tensor:
        potentials = _assemble(lengths, tensors)
        p = prepare(potentials)
        messages = scan(p, by_name("log"))
        value = total(p, by_name("log"), messages.alpha)
        kept = (value, *messages) if interval is None else ()
        ctx.interval = interval
        ctx.save_for_backward(lengths, *tensors, *kept)
        return value

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        lengths, *rest = ctx.saved_tensors
        tensors, kept = rest[: len(TERMS)], rest[len(TERMS) :]
        if torch.is_grad_enabled():
            needed = ctx.needs_input_grad[2:]
            potentials = _assemble(lengths, tensors)
            grads = differentiable_gradient(potentials, weight, needed, ctx.interval)
        else:
            grads = _lean_gradient(lengths, tensors, kept, weight)
        return (None, None, *grads)


def _lean_gradient(
    lengths: Tensor, tensors: list[Tensor | None], kept: list[Tensor], weight: Tensor
) -> list[Tensor | None]:
    potentials = _assemble(lengths, tensors)
    p = prepare(potentials)
    if kept:
        value, messages = kept[0], Messages(*kept[1:])
    else:
        messages = scan(p, by_name("log"))
        value = total(p, by_name("log"), messages.alpha)
    expected = expectations(p, messages, value, weight)
    grads: list[Tensor | None] = []
    for name, tensor in zip(TERMS, tensors, strict=True):
        grad = expected[name]
        if tensor is not None and name == "duration_bias":
            grad = torch.cat((grad, grad.new_zeros(tensor.shape[0] - grad.shape[0], p.C)))
        grads.append(None if tensor is None else grad.to(tensor.dtype))
    return grads


def differentiable_gradient(
    potentials: Potentials,
    weight: Tensor,
    needed: Sequence[bool],
    checkpoint_interval: int | None = None,
) -> list[Tensor | None]:
    """Gradients of ``(weight * log_partition).sum()`` that can be differentiated again.

    One for each term in their order; None where it is not ``needed``.
    """
    tensors = [getattr(potentials, name) for name in TERMS]
    wanted = [x for x, need in zip(tensors, needed, strict=True) if need]
    value = composite(potentials, by_name("log"), checkpoint_interval)
    found = iter(
        torch.autograd.grad(value, wanted, weight, create_graph=True, materialize_grads=True)
    )
    return [next(found) if need else None for need in needed]


def _assemble(lengths: Tensor, tensors: Any) -> Potentials:
    return Potentials(lengths=lengths, **dict(zip(TERMS, tensors, strict=True)))


def _transformed() -> bool:
    """True under torch.func transforms, which differentiate the composite text themselves."""
    return torch._C._are_functorch_transforms_active()
