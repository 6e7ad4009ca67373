"""Associative and linear scans on the CPU: how a call becomes flat arrays, panels and threads."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.backends.cpu.pages import empty
from torch_semimarkov.backends.cpu.scan_blocks import (
    linear_rows_by_blocks,
    rows_by_blocks,
    totals_by_blocks,
)
from torch_semimarkov.backends.cpu.scan_kernels import OPS, TOGETHER, columns, rows, totals
from torch_semimarkov.backends.cpu.scan_linear import linear_columns, linear_rows
from torch_semimarkov.backends.cpu.team import Span, split

NAME = "cpu"

# Kernels compute in the second type.
_TYPES = {
    torch.float32: np.float64,
    torch.float64: np.float64,
    torch.int64: np.int64,
    torch.complex64: np.complex128,
    torch.complex128: np.complex128,
}
_COMPLEX = (torch.complex64, torch.complex128)
# More values than there are.
_NEVER = 1 << 62
# Ops that have a form on vectors.
BY_BLOCKS = ("add", "mul", "max", "min")
_HALF_TYPES = (torch.float16, torch.bfloat16)
# Columns from which on they are scanned side by side, and the width of a panel of them: narrower
# ones touch a new page of memory at every position, and a wider one's state leaves the cache.
_SIDE_BY_SIDE, _PANEL = 16, 2048
# Columns of the narrowest panel that a thread gets to itself.
_NARROW = 128
# Values from which on fewer rows than a thread scans in turn are cut into blocks of positions.
_CUT = 200_000
# Positions of such a block.
_BLOCK = 8192


def reasons_against(op: str, x: Tensor) -> list[str]:
    """Why this backend cannot run a scan; empty if it can."""
    reasons = []
    if x.device.type != "cpu":
        reasons.append(f"needs CPU tensors, got {x.device}")
    if x.dtype not in _TYPES and x.dtype not in _HALF_TYPES:
        reasons.append(f"has no kernel for {str(x.dtype)[6:]}")
    if x.dtype.is_complex and op == "mul":
        reasons.append("has no kernel for op='mul' of complex numbers")
    return reasons


def slower(op: str, x: Tensor, reverse: bool) -> str:
    """Why the next backend is the better choice for this call; empty if none is."""
    worth = _worth(op, x, reverse)
    if x.numel() >= worth:
        return ""
    found = f"below {worth:,} values" if worth < _NEVER else "along short or lone strided rows"
    return f"torch's own scan is faster {found}; see docs/performance.md"


def _worth(op: str, x: Tensor, reverse: bool) -> int:
    """Number of values from which on the kernels beat torch, which must flip to go in reverse.

    Measured for one thread, estimated for two; docs/performance.md has the figures.
    """
    outer, _, inner = x.shape
    columns = inner * (2 if x.dtype.is_complex else 1)
    if op == "linear":
        return 0
    if op == "logaddexp":
        return 10_000
    if columns >= (_SIDE_BY_SIDE if x.dtype == torch.int64 else 4 * _SIDE_BY_SIDE):
        return 50_000
    if x.dtype == torch.int64:
        return _NEVER
    alone = torch.get_num_threads() == 1
    if columns > 1:
        if columns < 4 or (outer == 1 and not alone):
            return 300_000 if reverse else _NEVER
        return 100_000 if reverse else 200_000
    if outer < TOGETHER:
        return 500_000 if reverse else 2_000_000
    return 130_000 if alone else 250_000


def associative_scan(
    x: Tensor,
    op: str,
    reverse: bool,
    exclusive: bool,
    initial: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The scan of (outer, T, inner) in its type, and its last value in the accumulator's."""
    result = x.dtype
    x = x.detach().float() if result in _HALF_TYPES else x.detach()
    if x.dtype.is_complex:
        parts = torch.view_as_real(x.resolve_conj().resolve_neg()).flatten(2)
        first = None if initial is None else torch.view_as_real(initial.resolve_conj()).flatten(1)
        y, final = associative_scan(parts, op, reverse, exclusive, first, lengths)
        return tuple(torch.view_as_complex(part.unflatten(-1, (-1, 2))) for part in (y, final))
    x = _with_unit_stride(x)
    y, state = _result(x, lengths), _state(x, initial, _neutral(op, x.dtype))
    if x.numel():
        scan = _scan_columns if _side_by_side(op, x) else _scan_rows
        scan(OPS[op], x, y, state, _counts(x, lengths), (reverse, exclusive))
    final = torch.from_numpy(state).to(x.dtype)
    return (y if y.dtype == result else y.to(result)), final


def _side_by_side(op: str, x: Tensor) -> bool:
    """Whether columns are scanned beside each other, not one by one."""
    lanes = op in BY_BLOCKS and x.dtype.is_floating_point
    return x.shape[2] >= (2 if lanes else _SIDE_BY_SIDE)


def linear_scan(
    gates: Tensor,
    inputs: Tensor,
    reverse: bool,
    shifted: bool,
    initial: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The states (outer, T, inner) in the type of the inputs, and the last one."""
    result = inputs.dtype
    if result in _HALF_TYPES:
        gates, inputs = gates.float(), inputs.float()
    gates, inputs = (_with_unit_stride(x.detach()) for x in (gates, inputs))
    y, state = _result(inputs, lengths), _state(inputs, initial, 0)
    if inputs.numel():
        scan = _linear_columns if inputs.shape[2] >= _SIDE_BY_SIDE else _linear_rows
        scan(gates, inputs, y, state, _counts(inputs, lengths), (reverse, shifted))
    return y.to(result), torch.from_numpy(state).to(inputs.dtype)


# Columns side by side

Way = tuple[bool, bool]


def _scan_columns(
    op: Any, x: Tensor, y: Tensor, state: np.ndarray, counts: np.ndarray, way: Way
) -> None:
    outer, T, inner = x.shape
    sizes = T, inner, x.stride(0), x.stride(1), _width(outer, inner)
    source, target, flat = _flat(x), _flat(y), state.reshape(-1)

    def task(span: Span) -> None:
        columns(op, source, target, flat, flat, counts, span, sizes, way)

    split(task, outer * -(-inner // sizes[-1]), x.numel())


def _width(outer: int, inner: int) -> int:
    """Columns of a panel: so few that every thread has one, if they are worth the way."""
    parts = -(-torch.get_num_threads() // max(outer, 1))
    wanted = -(-inner // (TOGETHER * parts)) * TOGETHER
    return min(inner, _PANEL, max(wanted, _NARROW))


def _linear_columns(
    gates: Tensor, inputs: Tensor, y: Tensor, state: np.ndarray, counts: np.ndarray, way: Way
) -> None:
    outer, T, inner = inputs.shape
    strides = gates.stride(0), gates.stride(1), inputs.stride(0), inputs.stride(1)
    sizes = T, inner, _width(outer, inner), *strides
    arrays, flat = [_flat(x) for x in (gates, inputs, y)], state.reshape(-1)

    def task(span: Span) -> None:
        linear_columns(*arrays, flat, flat, counts, span, sizes, way)

    split(task, outer * -(-inner // sizes[2]), inputs.numel())


# Rows in turn


def _scan_rows(
    op: Any, x: Tensor, y: Tensor, state: np.ndarray, counts: np.ndarray, way: Way
) -> None:
    reverse, exclusive = way
    _, T, inner = x.shape
    states, lengths = state.reshape(-1), np.repeat(counts, inner)
    starts, steps = _places((x, y), lengths, reverse)
    alone = T < 2 * TOGETHER * TOGETHER if op.name == "logaddexp" else x.numel() < _CUT
    if len(states) >= TOGETHER or alone:
        _each_row(op, x, y, states, starts, lengths, steps, exclusive)
        return
    size = min(_BLOCK, -(-T // TOGETHER))
    blocks = -(-T // size)
    offset = np.arange(blocks) * size
    parts = np.clip(lengths[:, None] - offset, 0, size).reshape(-1)
    moved = offset.astype(np.uint64)[:, None] * steps
    places = (starts[:, None] + moved).reshape(-1, 2)
    neutral = _neutral(op.name, x.dtype)
    sums = np.full((len(states), blocks), neutral, states.dtype)
    source, each = _flat(x), sums.reshape(-1)

    def task(span: Span) -> None:
        if _by_blocks(op, x, y, each):
            totals_by_blocks(op, source, each, places, parts, span, reverse)
            return
        totals(op, source, each, places, parts, span, steps[0])

    split(task, -(-len(each) // TOGETHER), x.numel())
    for row in range(len(states)):
        one = torch.from_numpy(sums[row]).reshape(1, blocks, 1)
        first = torch.from_numpy(states[row : row + 1]).reshape(1, 1)
        before, last = associative_scan(one, op.name, False, True, first, None)
        sums[row], states[row] = before.numpy().reshape(-1), last.item()
    _each_row(op, x, y, each, places, parts, steps, exclusive)


def _by_blocks(op: Any, x: Tensor, y: Tensor, states: np.ndarray) -> bool:
    """Whether the positions of rows are neighbours, and the op has a form on vectors."""
    neighbours = x.stride(1) == 1 and y.stride(1) == 1
    return neighbours and op.name in BY_BLOCKS and states.dtype == np.float64


def _each_row(
    op: Any,
    x: Tensor,
    y: Tensor,
    states: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    steps: np.ndarray,
    exclusive: bool,
) -> None:
    source, target = _flat(x), _flat(y)
    reverse = bool(steps[0] >> np.uint64(63))
    by_blocks = _by_blocks(op, x, y, states)

    def task(span: Span) -> None:
        arrays = states, starts, lengths, span
        if by_blocks:
            rows_by_blocks(op, source, target, *arrays, reverse, exclusive)
            return
        rows(op, source, target, *arrays, steps, exclusive)

    split(task, -(-len(states) // TOGETHER), x.numel())


def _linear_rows(
    gates: Tensor, inputs: Tensor, y: Tensor, state: np.ndarray, counts: np.ndarray, way: Way
) -> None:
    reverse, shifted = way
    states, lengths = state.reshape(-1), np.repeat(counts, inputs.shape[2])
    starts, steps = _places((gates, inputs, y), lengths, reverse)
    arrays = [_flat(x) for x in (gates, inputs, y)]
    neighbours = all(x.stride(1) == 1 for x in (gates, inputs, y))
    by_blocks = neighbours and states.dtype == np.float64

    def task(span: Span) -> None:
        if by_blocks:
            linear_rows_by_blocks(*arrays, states, starts, lengths, span, reverse, shifted)
            return
        linear_rows(*arrays, states, starts, lengths, span, steps, shifted)

    split(task, -(-len(states) // TOGETHER), inputs.numel())


def _places(
    tensors: tuple[Tensor, ...], lengths: np.ndarray, reverse: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Where the scan of each row starts in each tensor, and its steps, modulo 2 ** 64."""
    outer, T, inner = tensors[0].shape
    strides = tuple(x.stride()[:2] for x in tensors)
    if not reverse:
        return _places_at(0, outer, inner, strides)
    if (lengths == T).all():
        starts, steps = _places_at(T - 1, outer, inner, strides)
        return starts, np.uint64(0) - steps
    starts, steps = _places_at(0, outer, inner, strides)
    return starts + (lengths[:, None] - 1).astype(np.uint64) * steps, np.uint64(0) - steps


@lru_cache(maxsize=8)
def _places_at(
    t: int, outer: int, inner: int, strides: tuple[tuple[int, ...], ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Where position t of each row is in each tensor, and the steps; not to be written to."""
    steps = np.array([step for _, step in strides], np.int64)
    starts = np.empty((outer, inner, len(strides)), np.int64)
    each = np.arange(outer)[:, None]
    for i, (stride, step) in enumerate(strides):
        starts[:, :, i] = each * stride + t * step
    if inner > 1:
        starts += np.arange(inner)[:, None]
    return starts.reshape(-1, len(strides)).view(np.uint64), steps.view(np.uint64)


# From tensors to flat arrays


def _with_unit_stride(x: Tensor) -> Tensor:
    """The tensor itself if columns are neighbours in memory, else a copy."""
    x = x.resolve_conj().resolve_neg()
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def _flat(x: Tensor) -> np.ndarray:
    """Everything from the first element to the last, as one flat array."""
    span = 1 + sum((size - 1) * step for size, step in zip(x.shape, x.stride(), strict=True))
    return x.as_strided((span,), (1,)).numpy()


def _result(x: Tensor, lengths: Tensor | None) -> Tensor:
    return empty(x.shape, x.dtype) if lengths is None else torch.zeros(x.shape, dtype=x.dtype)


def _state(x: Tensor, initial: Tensor | None, neutral: float) -> np.ndarray:
    """(outer, inner) in the type that kernels compute in."""
    kind = _TYPES[x.dtype]
    if initial is None:
        return np.full((x.shape[0], x.shape[2]), neutral, kind)
    initial = initial.detach().resolve_conj().resolve_neg()
    return np.array(initial.numpy(), kind, order="C")


def _counts(x: Tensor, lengths: Tensor | None) -> np.ndarray:
    if lengths is None:
        return np.full(x.shape[0], x.shape[1], np.int64)
    return np.ascontiguousarray(lengths.numpy(), np.int64)


def _neutral(op: str, dtype: torch.dtype) -> float:
    if op in ("add", "mul"):
        return int(op == "mul")
    if dtype == torch.int64:
        return torch.iinfo(dtype).max if op == "min" else torch.iinfo(dtype).min
    return np.inf if op == "min" else -np.inf
