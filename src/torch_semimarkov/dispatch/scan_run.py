"""Scans with their derivatives: the adjoint of a scan is a linear scan the other way.

For y[t] = f(y[t-1], x[t]) with a = df/dy[t-1] and c = df/dx[t], the adjoint is
m[t] = a[t+1] m[t+1] + dy[t], dx[t] = c[t] m[t], and a[0] m[0] for the initial value: the scan that
is shifted. Its own adjoint is the one that is not shifted, so derivatives of every order are scans.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torch_semimarkov.dispatch.direct import unwatched
from torch_semimarkov.dispatch.scan_ops import associative_scan_op, linear_scan_op, wide
from torch_semimarkov.dispatch.scans import choose


def associative_scan(x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    """The scan of (outer, T, inner) and its last value (outer, inner), differentiable.

    The arguments are those of the op. Where nothing has to see the op, its kernel is called itself:
    the op's wrappers cost more than the kernel of a small call.
    """
    op, reverse, exclusive, initial, lengths, backend = options
    tensors = x, initial, lengths
    if not _traced(tensors) and torch.is_grad_enabled() and any(map(_needs_grad, tensors)):
        return _Associative.apply(x, *options)
    if not unwatched(tensors) or _has_tangent(tensors):
        return associative_scan_op(x, *options)
    kernels = choose(op, x, reverse, backend)
    return kernels.associative_scan(x, op, reverse, exclusive, initial, lengths)


def linear_scan(gates: Tensor, inputs: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    """The states (outer, T, inner) and the last one (outer, inner), differentiable."""
    reverse, shifted, initial, lengths, backend = options
    tensors = gates, inputs, initial, lengths
    if not _traced(tensors) and torch.is_grad_enabled() and any(map(_needs_grad, tensors)):
        return _Linear.apply(gates, inputs, *options)
    if not unwatched(tensors) or _has_tangent(tensors):
        return linear_scan_op(gates, inputs, *options)
    kernels = choose("linear", inputs, reverse, backend)
    return kernels.linear_scan(gates, inputs, reverse, shifted, initial, lengths)


def _traced(tensors: tuple[Tensor | None, ...]) -> bool:
    """Something other than a transform of torch.func has to see the op."""
    if not torch._C._are_functorch_transforms_active():
        return not unwatched(tensors)
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0


def _has_tangent(tensors: tuple[Tensor | None, ...]) -> bool:
    """A tensor is differentiated in forward mode, which the op refuses."""
    if torch.autograd.forward_ad._current_level < 0:
        return False
    unpack = torch.autograd.forward_ad.unpack_dual
    return any(x is not None and unpack(x).tangent is not None for x in tensors)


def _needs_grad(x: Tensor | None) -> bool:
    return x is not None and x.requires_grad


def _inside(x: Tensor, lengths: Tensor) -> Tensor:
    return torch.arange(x.shape[1], device=x.device)[:, None] < lengths[:, None, None]


def _masked(x: Tensor, lengths: Tensor | None) -> Tensor:
    return x if lengths is None else torch.where(_inside(x, lengths), x, 0)


def before(x: Tensor, first: Tensor, reverse: bool, lengths: Tensor | None) -> Tensor:
    """The neighbour of each position that a scan visits before it; ``first`` for the first one."""
    edge = first[:, None]
    if not reverse:
        return torch.cat([edge, x], 1)[:, :-1]
    moved = torch.cat([x, edge], 1)[:, 1:]
    if lengths is None:
        return moved
    last = torch.arange(x.shape[1], device=x.device)[:, None] == lengths[:, None, None] - 1
    return torch.where(last, edge, moved)


def _at_first(x: Tensor, reverse: bool, lengths: Tensor | None) -> Tensor:
    """(outer, inner). The position that a scan visits first; 0 where there is none."""
    if x.shape[1] == 0:
        return x.sum(1)
    if lengths is None:
        return x[:, -1 if reverse else 0]
    at = torch.where(lengths > 0, lengths - 1, 0) if reverse else torch.zeros_like(lengths)
    value = x.take_along_dim(at[:, None, None], 1)[:, 0]
    return torch.where(lengths[:, None] > 0, value, 0)


# Derivatives of one step, from x[t], y[t-1] and y[t]: that for y[t-1], and that for x[t]


def _step_of_mul(x: Tensor, previous: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x, previous


def _step_of_extreme(x: Tensor, previous: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of equal values the latest counts, and a NaN counts, as in torch.cummax."""
    taken = (x == y) | x.isnan()
    return (~taken).to(x.dtype), taken.to(x.dtype)


def _step_of_logaddexp(x: Tensor, previous: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return _weight(previous, y), _weight(x, y)


def _weight(part: Tensor, total: Tensor) -> Tensor:
    """exp(part - total); 0 for a part of -inf, 1 for one of +inf."""
    both = part == total
    difference = torch.where(both, 0, part) - torch.where(both, 0, total)
    return torch.where(both & (part == -torch.inf), 0, difference.exp())


_STEPS: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "mul": _step_of_mul,
    "max": _step_of_extreme,
    "min": _step_of_extreme,
    "logaddexp": _step_of_logaddexp,
}
_NEUTRAL = {"mul": 1.0, "max": -torch.inf, "min": torch.inf, "logaddexp": -torch.inf}


def _keep_associative(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, ctx.op, ctx.reverse, ctx.exclusive, initial, lengths, ctx.backend = inputs
    ctx.has_initial = initial is not None
    if ctx.op == "add":
        ctx.save_for_backward(lengths)
    else:
        ctx.save_for_backward(lengths, x, initial, *output)


def _associative_backward(ctx: Any, grad: Tensor, grad_final: Tensor) -> tuple[Any, ...]:
    lengths, *kept = ctx.saved_tensors
    other = not ctx.reverse
    if ctx.op == "add":
        options = ("add", other, ctx.exclusive, grad_final, lengths, ctx.backend)
        found, first = associative_scan(grad, *options)
    else:
        found, first = _adjoint(ctx, grad, grad_final, lengths, kept)
    nothing = None, None, None
    return found, *nothing, first if ctx.has_initial else None, None, None


def _adjoint(
    ctx: Any, grad: Tensor, grad_final: Tensor, lengths: Tensor | None, kept: list[Any]
) -> tuple[Tensor, Tensor]:
    """Gradients for ``x`` and for the initial value of every op but add."""
    x, initial, y, final = kept
    dtype = wide(x.dtype)
    x, y, grad = (_masked(tensor, lengths).to(dtype) for tensor in (x, y, grad))
    if initial is None:
        initial = torch.full_like(final, _NEUTRAL[ctx.op])
    at_first: Tensor | float = 0.0
    if ctx.exclusive:
        previous, y = y, before(y, final, not ctx.reverse, lengths)
        at_first = _at_first(grad, ctx.reverse, lengths)
        grad = before(grad, torch.zeros_like(final), not ctx.reverse, lengths)
    else:
        previous = before(y, initial, ctx.reverse, lengths)
    gate, share = (step.conj().resolve_conj() for step in _STEPS[ctx.op](x, previous, y))
    options = (not ctx.reverse, True, grad_final, lengths, ctx.backend)
    adjoint, first = linear_scan(gate, grad, *options)
    found = _masked(share * adjoint, lengths)
    return found.to(kept[0].dtype), first + at_first


def _keep_linear(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    gates, _, ctx.reverse, ctx.shifted, initial, lengths, ctx.backend = inputs
    ctx.has_initial = initial is not None
    ctx.save_for_backward(gates, initial, lengths, *output)


def _linear_backward(ctx: Any, grad: Tensor, grad_final: Tensor) -> tuple[Any, ...]:
    gates, initial, lengths, y, final = ctx.saved_tensors
    dtype, other = gates.dtype, not ctx.reverse
    options = (other, not ctx.shifted, grad_final, lengths, ctx.backend)
    adjoint, first = linear_scan(gates.conj().resolve_conj(), grad, *options)
    to_gates = None
    if ctx.needs_input_grad[0]:
        if initial is None:
            initial = torch.zeros_like(final)
        state = y if ctx.shifted else before(y.to(initial.dtype), initial, ctx.reverse, lengths)
        after = before(adjoint.to(initial.dtype), grad_final, other, lengths)
        product = state.conj() * (after if ctx.shifted else adjoint)
        to_gates = _masked(product, lengths).to(dtype)
    return to_gates, adjoint, None, None, first if ctx.has_initial else None, None, None


associative_scan_op.register_autograd(_associative_backward, setup_context=_keep_associative)
linear_scan_op.register_autograd(_linear_backward, setup_context=_keep_linear)


class _Associative(torch.autograd.Function):
    """The op of the same arguments for autograd and torch.func, without its wrappers."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        return associative_scan(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _keep_associative(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return _associative_backward(ctx, *grads)


class _Linear(torch.autograd.Function):
    """The op of the same arguments for autograd and torch.func, without its wrappers."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        return linear_scan(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _keep_linear(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return _linear_backward(ctx, *grads)
