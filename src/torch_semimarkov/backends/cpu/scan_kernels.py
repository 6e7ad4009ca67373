"""Kernels of the associative scans: columns side by side, or eight rows in turn.

Arrays are flat. Sums of float32 run in float64, so that they need no compensation. The op is a type
of its own, and each has its own code: a branch on it in the inner loop would cost more than it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import NativeValue, overload, unbox

from torch_semimarkov.backends.cpu.compile import compiled, part, small
from torch_semimarkov.backends.cpu.team import in_team
from torch_semimarkov.backends.cpu.vector import beats, load, load_part, store, store_part, where
from torch_semimarkov.backends.cpu.vector_types import LANES, Algebra, AlgebraType, Vector

OPS = {name: Algebra(name) for name in ("add", "mul", "max", "min", "logaddexp")}
# Rows that one thread scans in turn, so that no addition waits for the one before it.
TOGETHER = 8


@unbox(AlgebraType)
def _op_given_to_a_kernel(kind: Any, value: Any, c: Any) -> NativeValue:
    return NativeValue(c.context.get_dummy_value())


def _logaddexp(op, a, x):
    top, low = (a, x) if a > x else (x, a)
    if a != a or x != x:
        return a + x
    return top if low == top and math.isinf(top) else top + math.log1p(math.exp(low - top))


# Of equal values the latest is kept, and NaN is never lost: as torch.cummax has it.
_COMBINE = {
    "add": lambda op, a, x: a + x,
    "mul": lambda op, a, x: a * x,
    "max": lambda op, a, x: x if x >= a or x != x else a,
    "min": lambda op, a, x: x if x <= a or x != x else a,
    "logaddexp": _logaddexp,
}
# The same on vectors of lanes; ``beats`` is true where either is NaN.
_COMBINE_LANES = {
    "add": lambda op, a, x: a + x,
    "mul": lambda op, a, x: a * x,
    "max": lambda op, a, x: where(beats(a, a), a, where(beats(x, a), x, a)),
    "min": lambda op, a, x: where(beats(a, a), a, where(beats(a, x), x, a)),
}


def combine(op, a, x):
    """What is known of all positions so far, and one more."""
    raise NotImplementedError("kernels only")


@overload(combine)
def _combine_of(op, a, x):
    return (_COMBINE_LANES if isinstance(a, Vector) else _COMBINE)[op.algebra]


def take_row(op, state, x, y, source, target, backwards, exclusive):
    """Combine a row of columns into their states, and write the states after it or before it."""
    raise NotImplementedError("kernels only")


def _take_numbers(op, state, x, y, source, target, backwards, exclusive):
    row, result = x[source : source + len(state)], y[target : target + len(state)]
    if exclusive:
        for i in range(len(state)):
            value = state[i]
            result[i] = value
            state[i] = combine(op, value, row[i])
    else:
        for i in range(len(state)):
            value = combine(op, state[i], row[i])
            state[i] = value
            result[i] = value


def _take_lanes(op, state, x, y, source, target, backwards, exclusive):
    """By addresses that only rise or only fall, so that the machine reads ahead of them."""
    count = len(state)
    whole = count - count % LANES
    for k in range(0, whole, LANES):
        i = whole - LANES - k if backwards else k
        before = load(state, i)
        after = combine(op, before, load(x, source + i))
        store(state, i, after)
        store(y, target + i, before if exclusive else after)
    if whole < count:
        before = load_part(state, whole, count - whole)
        after = combine(op, before, load_part(x, source + whole, count - whole))
        store_part(state, whole, count - whole, after)
        store_part(y, target + whole, count - whole, before if exclusive else after)


@overload(take_row)
def _take_row_of(op, state, x, y, source, target, backwards, exclusive):
    by_lanes = state.dtype == types.float64 and op.algebra in _COMBINE_LANES
    return _take_lanes if by_lanes else _take_numbers


def take_rows(op, state, x, y, places, steps, count, way):
    """Combine ``count`` rows of columns into their states, one after another."""
    raise NotImplementedError("kernels only")


@small
def _each_row(op, state, x, y, places, steps, count, way):
    source, target = places
    for _ in range(count):
        take_row(op, state, x, y, source, target, way[0], way[1])
        source, target = source + steps[0], target + steps[1]


def _few_lanes(op, state, x, y, places, steps, count, way):
    """Rows of no more columns than one vector has lanes keep it in a register."""
    if len(state) > LANES:
        _each_row(op, state, x, y, places, steps, count, way)
        return
    source, target = places
    width = len(state)
    value = load_part(state, 0, width)
    for _ in range(count):
        after = combine(op, value, load_part(x, source, width))
        store_part(y, target, width, value if way[1] else after)
        value = after
        source, target = source + steps[0], target + steps[1]
    store_part(state, 0, width, value)


@overload(take_rows)
def _take_rows_of(op, state, x, y, places, steps, count, way):
    by_lanes = state.dtype == types.float64 and op.algebra in _COMBINE_LANES
    if by_lanes:
        return _few_lanes
    return lambda op, state, x, y, places, steps, count, way: _each_row(
        op, state, x, y, places, steps, count, way
    )


@part
def _panels(op, x, y, initial, final, lengths, sizes, way, low, high):
    """Scan the panels from ``low`` on and before ``high``."""
    T, inner, outer, step, width = sizes
    panels = (inner + width - 1) // width
    whole = np.empty(width, initial.dtype)
    for item in range(low, high):
        o, first = item // panels, item % panels * width
        count = min(width, inner - first)
        at = o * inner + first
        state = whole[:count]
        for i in range(count):
            state[i] = initial[at + i]
        n = lengths[o]
        t = n - 1 if way[0] else 0
        places = o * outer + t * step + first, (o * T + t) * inner + first
        steps = (-step, -inner) if way[0] else (step, inner)
        take_rows(op, state, x, y, places, steps, n, way)
        for i in range(count):
            final[at + i] = state[i]


@compiled
def columns(op, x, y, initial, final, lengths, span, sizes, way):
    """Scan panels of neighbouring columns, those of all outer indices.

    Args:
        op: one of OPS.
        x, y: flat; position t of outer index o starts at o * outer + t * step of ``x``.
        initial, final: flat (outer, inner), the state before and after.
        lengths: (outer,) int64.
        span: the panels, and who goes through them.
        sizes: T, inner, outer, step, and the width of a panel.
        way: reverse, exclusive.
    """
    in_team(_panels, (op, x, y, initial, final, lengths, sizes, way), span)


@small
def one_row(op, x, y, state, source, target, count, steps, exclusive):
    """Scan ``count`` positions of a row from a state; the state after them."""
    for k in range(count):
        at = np.uint64(k)
        before = state
        state = combine(op, state, x[source + at * steps[0]])
        y[target + at * steps[1]] = before if exclusive else state
    return state


@part
def _groups(op, x, y, states, starts, lengths, steps, exclusive, first, last):
    """Scan the groups of eight rows from ``first`` on and before ``last``."""
    for group in range(first, last):
        low, high = group * TOGETHER, min(group * TOGETHER + TOGETHER, len(states))
        joint = lengths[low:high].min()
        for k in range(joint):
            at = np.uint64(k)
            for r in range(low, high):
                before = states[r]
                states[r] = combine(op, before, x[starts[r, 0] + at * steps[0]])
                y[starts[r, 1] + at * steps[1]] = before if exclusive else states[r]
        done = np.uint64(joint)
        for r in range(low, high):
            states[r] = one_row(
                op, x, y, states[r], starts[r, 0] + done * steps[0],
                starts[r, 1] + done * steps[1], lengths[r] - joint, steps, exclusive,
            )  # fmt: skip


@compiled
def rows(op, x, y, states, starts, lengths, span, steps, exclusive):
    """Scan rows of any stride, eight in turn.

    Args:
        op: one of OPS.
        x, y: flat.
        states: (rows,), before and after.
        starts: (rows, 2) uint64, where the scan of each row starts in ``x`` and in ``y``.
        lengths: (rows,) int64, how many positions each has.
        span: groups of eight rows, and who goes through them.
        steps: (2,) uint64, from one position to the next in ``x`` and in ``y``, modulo 2 ** 64.
        exclusive: write the state before each position.
    """
    in_team(_groups, (op, x, y, states, starts, lengths, steps, exclusive), span)


@part
def _totals(op, x, states, starts, lengths, step, first, last):
    """Combine all positions of the rows of the groups from ``first`` on and before ``last``."""
    for group in range(first, last):
        low, high = group * TOGETHER, min(group * TOGETHER + TOGETHER, len(states))
        longest = 0
        for r in range(low, high):
            longest = max(longest, lengths[r])
        for k in range(longest):
            for r in range(low, high):
                if k < lengths[r]:
                    states[r] = combine(op, states[r], x[starts[r, 0] + np.uint64(k) * step])


@compiled
def totals(op, x, states, starts, lengths, span, step):
    """Combine all positions of each row, eight rows in turn, into ``states``."""
    in_team(_totals, (op, x, states, starts, lengths, step), span)
