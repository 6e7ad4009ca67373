"""Calls of a compiled backend that nothing watches: its kernels, with autograd right around them.

The registered ops of ``library`` are for whoever has to see a call as one op, such as torch.compile
and fake tensors. Their wrappers cost more than the kernels of a small call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.dispatch.registry import compiled, reference
from torch_semimarkov.errors import UnsupportedError
from torch_semimarkov.potentials import TERMS, Potentials

_PLAIN = {Tensor, torch.nn.Parameter, type(None)}
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


def assemble(tensors: Sequence[Tensor | None]) -> Potentials:
    """Potentials from their ``fields()``."""
    scores, transition, duration_bias, *others, lengths = tensors
    return Potentials(scores, transition, duration_bias, lengths, *others)  # type: ignore[arg-type]


def unwatched(tensors: Iterable[Tensor | None]) -> bool:
    """True unless a trace, a transform, a mode or a tensor subclass must see the call as an op."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack():
        return False
    return _PLAIN.issuperset(map(type, tensors))


def cast_to(dtype: torch.dtype, x: Tensor) -> Tensor:
    """``x.to(dtype)``; by numpy where that is possible, which costs a third of it."""
    if dtype == x.dtype:
        return x
    if dtype not in _NUMPY or x.requires_grad or x.device.type != "cpu":
        return x.to(dtype)
    with np.errstate(over="ignore"):  # what is too large becomes inf, as torch has it
        return torch.from_numpy(x.numpy().astype(_NUMPY[dtype]))


class LogPartition(torch.autograd.Function):
    """``apply(*p.fields(), (p, backend, semiring, interval, dtype))``: (B,) of a dtype."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, (p, backend, semiring, interval, dtype) = arguments
        value, kept = backend.forward(p, semiring, True, interval)
        ctx.backend, ctx.semiring, ctx.interval = backend.NAME, semiring, interval
        ctx.save_for_backward(*tensors, value, kept)
        return cast_to(dtype, value)

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        return (*gradient(ctx, weight), None, None)


def gradient(ctx: Any, weight: Tensor) -> list[Tensor | None]:
    """Gradients of ``(weight * log_partition).sum()``, one a term, None if it is absent.

    Gradients that are differentiated again are those of ``tangent.Gradient``, or of the reference's
    composite text where the backend has no second derivatives.
    """
    if ctx.semiring != "log":
        raise UnsupportedError(f"this op has a gradient for semiring='log', not {ctx.semiring!r}")
    *tensors, value, kept = ctx.saved_tensors
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        from torch_semimarkov.dispatch.tangent import Gradient, has_tangent

        if has_tangent(ctx.backend, assemble(tensors)):
            weight = weight.to(value.dtype)
            return list(Gradient.apply(*tensors, weight, value, kept, ctx.backend))
        needed = ctx.needs_input_grad[: len(TERMS)]
        p, weight = assemble(tensors), weight.to(value.dtype)
        return reference().differentiable_gradient(p, weight, needed, ctx.interval)
    return lean_gradient(ctx.backend, tensors, (value, kept, weight))


def lean_gradient(
    backend: str, tensors: Sequence[Tensor | None], results: tuple[Tensor, Tensor, Tensor]
) -> list[Tensor | None]:
    """What the backward of ``backend`` gives: one gradient a term, None if it is absent.

    Args:
        backend: name of a compiled backend.
        tensors: canonical potentials, as ``Potentials.fields`` gives them.
        results: value and messages of its forward, and the upstream gradient.
    """
    terms = tensors[: len(TERMS)]
    value, kept, weight = results
    if unwatched((*tensors, *results)):
        weight = cast_to(value.dtype, weight)
        found = compiled(backend).backward(assemble(tensors), value, kept, weight)
        return [None if x is None else found[name] for name, x in zip(TERMS, terms, strict=True)]
    from torch_semimarkov.dispatch.library import log_partition_backward_op

    grads = log_partition_backward_op(*tensors, value, kept, weight.to(value.dtype), backend)
    return [None if x is None else grad for x, grad in zip(terms, grads, strict=True)]
