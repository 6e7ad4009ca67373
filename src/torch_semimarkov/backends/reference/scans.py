"""Associative scans in plain torch, on any device and in any type: (outer, T, inner) tensors."""

from __future__ import annotations

import torch
from torch import Tensor

NAME = "reference"

_SCANS = {
    "add": torch.cumsum,
    "mul": torch.cumprod,
    "max": lambda x, dim: torch.cummax(x, dim).values,
    "min": lambda x, dim: torch.cummin(x, dim).values,
    "logaddexp": torch.logcumsumexp,
}


def reasons_against(op: str, x: Tensor) -> list[str]:
    """Why this backend cannot run a scan; it can run every one."""
    return []


def slower(op: str, x: Tensor, reverse: bool) -> str:
    """Why another backend is the better choice for this call; empty if none is."""
    return ""


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type in which a scan accumulates: float32 for half types, else the type itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def identity(op: str, dtype: torch.dtype) -> float | int | bool:
    """The number that changes nothing: 0, 1, or the lowest or highest there is."""
    if op in ("add", "mul"):
        return int(op == "mul")
    if dtype.is_floating_point:
        return torch.inf if op == "min" else -torch.inf
    if dtype == torch.bool:
        return op == "min"
    return torch.iinfo(dtype).max if op == "min" else torch.iinfo(dtype).min


def inside(x: Tensor, lengths: Tensor) -> Tensor:
    """(outer, T, 1) bool. True at the positions before each length."""
    return torch.arange(x.shape[1], device=x.device)[:, None] < lengths[:, None, None]


def associative_scan(
    x: Tensor,
    op: str,
    reverse: bool,
    exclusive: bool,
    initial: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The scan in the type of ``x``, and its last value (outer, inner) in the accumulator's."""
    neutral = identity(op, x.dtype)
    work = x.to(accumulator(x.dtype))
    if lengths is not None:
        work = torch.where(inside(x, lengths), work, neutral)
    work = work.flip(1) if reverse else work
    if initial is None and not exclusive and x.shape[1]:
        y = _SCANS[op](work, dim=1)
        final = y[:, -1].clone()
    else:
        if initial is None:
            initial = work.new_full((x.shape[0], x.shape[2]), neutral)
        total = _SCANS[op](torch.cat([initial[:, None], work], 1), dim=1)
        final = total[:, -1].clone()
        y = total[:, :-1] if exclusive else total[:, 1:]
    y = (y.flip(1) if reverse else y).to(x.dtype)
    if lengths is not None:
        y = torch.where(inside(x, lengths), y, 0)
    return y.contiguous(), final


def linear_scan(
    gates: Tensor,
    inputs: Tensor,
    reverse: bool,
    shifted: bool,
    initial: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """y[t] = gates[t] y[t-1] + inputs[t], or with the gate before it; and the last state.

    Args:
        gates: (outer, T, inner).
        inputs: (outer, T, inner) of the same type.
        reverse: run from the last position to the first.
        shifted: y[t] = gates[t-1] y[t-1] + inputs[t]; the last state is then the last y times the
            last gate. This is the adjoint of the scan that is not shifted, run the other way.
        initial: (outer, inner) in the accumulator's type, the state before the first position.
        lengths: (outer,) int. Positions past a length are left out and hold zeros.
    """
    O, T, I = inputs.shape  # noqa: E741
    wide = accumulator(inputs.dtype)
    state = torch.zeros(O, I, dtype=wide, device=inputs.device)
    if initial is not None:
        state = state + initial
    y = torch.zeros(O, T, I, dtype=inputs.dtype, device=inputs.device)
    use = None if lengths is None else inside(inputs, lengths)
    for t in reversed(range(T)) if reverse else range(T):
        gate, value = gates[:, t].to(wide), inputs[:, t].to(wide)
        here = state + value if shifted else gate * state + value
        after = here * gate if shifted else here
        if use is None:
            y[:, t], state = here, after
        else:
            y[:, t] = torch.where(use[:, t], here, 0)
            state = torch.where(use[:, t], after, state)
    return y, state
