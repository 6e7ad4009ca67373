"""Kernels of the associative scans: columns side by side, or eight rows in turn.

Arrays are flat. Sums of float32 run in float64, so that they need no compensation. The op is a type
of its own, and each has its own code: a branch on it in the inner loop would cost more than it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba.extending import NativeValue, overload, unbox

from torch_semimarkov.backends.cpu.compile import compiled, small
from torch_semimarkov.backends.cpu.vector import beats, where
from torch_semimarkov.backends.cpu.vector_types import Algebra, AlgebraType, Vector

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


@small
def take_row(op, state, x, y):
    """Combine a row into the state, and write the state."""
    for i in range(len(state)):
        value = combine(op, state[i], x[i])
        state[i] = value
        y[i] = value


@small
def take_row_after(op, state, x, y):
    """Write the state, and combine a row into it."""
    for i in range(len(state)):
        value = state[i]
        y[i] = value
        state[i] = combine(op, value, x[i])


@compiled
def columns(op, x, y, initial, final, lengths, items, sizes, way):
    """Scan panels of neighbouring columns; ``items`` numbers the panels of all outer indices.

    Args:
        op: one of OPS.
        x, y: flat; position t of outer index o starts at o * outer + t * step of ``x``.
        initial, final: flat (outer, inner), the state before and after.
        lengths: (outer,) int64.
        items: numbers of panels.
        sizes: T, inner, outer, step, and the width of a panel.
        way: reverse, exclusive.
    """
    T, inner, outer, step, width = sizes
    reverse, exclusive = way
    panels = (inner + width - 1) // width
    whole = np.empty(width, initial.dtype)
    for item in items:
        o, first = item // panels, item % panels * width
        count = min(width, inner - first)
        at = o * inner + first
        state = whole[:count]
        for i in range(count):
            state[i] = initial[at + i]
        n = lengths[o]
        for k in range(n):
            t = n - 1 - k if reverse else k
            source, target = o * outer + t * step + first, (o * T + t) * inner + first
            row, result = x[source : source + count], y[target : target + count]
            if exclusive:
                take_row_after(op, state, row, result)
            else:
                take_row(op, state, row, result)
        for i in range(count):
            final[at + i] = state[i]


@small
def one_row(op, x, y, state, source, target, count, steps, exclusive):
    """Scan ``count`` positions of a row from a state; the state after them."""
    for k in range(count):
        at = np.uint64(k)
        before = state
        state = combine(op, state, x[source + at * steps[0]])
        y[target + at * steps[1]] = before if exclusive else state
    return state


@small
def eight_rows(op, x, y, states, starts, count, steps, exclusive):
    """Scan ``count`` positions of eight rows in turn; their states are updated."""
    s0, s1, s2, s3, s4, s5, s6, s7 = (
        states[0], states[1], states[2], states[3], states[4], states[5], states[6], states[7],
    )  # fmt: skip
    a0, a1, a2, a3 = starts[0, 0], starts[1, 0], starts[2, 0], starts[3, 0]
    a4, a5, a6, a7 = starts[4, 0], starts[5, 0], starts[6, 0], starts[7, 0]
    b0, b1, b2, b3 = starts[0, 1], starts[1, 1], starts[2, 1], starts[3, 1]
    b4, b5, b6, b7 = starts[4, 1], starts[5, 1], starts[6, 1], starts[7, 1]
    for k in range(count):
        i, j = np.uint64(k) * steps[0], np.uint64(k) * steps[1]
        n0, n1 = combine(op, s0, x[a0 + i]), combine(op, s1, x[a1 + i])
        n2, n3 = combine(op, s2, x[a2 + i]), combine(op, s3, x[a3 + i])
        n4, n5 = combine(op, s4, x[a4 + i]), combine(op, s5, x[a5 + i])
        n6, n7 = combine(op, s6, x[a6 + i]), combine(op, s7, x[a7 + i])
        y[b0 + j], y[b1 + j] = (s0, s1) if exclusive else (n0, n1)
        y[b2 + j], y[b3 + j] = (s2, s3) if exclusive else (n2, n3)
        y[b4 + j], y[b5 + j] = (s4, s5) if exclusive else (n4, n5)
        y[b6 + j], y[b7 + j] = (s6, s7) if exclusive else (n6, n7)
        s0, s1, s2, s3, s4, s5, s6, s7 = n0, n1, n2, n3, n4, n5, n6, n7
    for r, state in enumerate((s0, s1, s2, s3, s4, s5, s6, s7)):
        states[r] = state


@compiled
def rows(op, x, y, states, starts, lengths, items, steps, exclusive):
    """Scan groups of eight rows of any stride; ``items`` numbers the groups.

    Args:
        op: one of OPS.
        x, y: flat.
        states: (rows,), before and after.
        starts: (rows, 2) uint64, where the scan of each row starts in ``x`` and in ``y``.
        lengths: (rows,) int64, how many positions each has.
        items: numbers of groups.
        steps: (2,) uint64, from one position to the next in ``x`` and in ``y``, modulo 2 ** 64.
        exclusive: write the state before each position.
    """
    for item in items:
        low = item * TOGETHER
        high = min(low + TOGETHER, len(states))
        joint = 0
        if high - low == TOGETHER:
            joint = lengths[low]
            for r in range(low + 1, high):
                joint = min(joint, lengths[r])
            group, places = states[low:high], starts[low:high]
            eight_rows(op, x, y, group, places, joint, steps, exclusive)
        done = np.uint64(joint)
        for r in range(low, high):
            states[r] = one_row(
                op, x, y, states[r], starts[r, 0] + done * steps[0],
                starts[r, 1] + done * steps[1], lengths[r] - joint, steps, exclusive,
            )  # fmt: skip


@compiled
def totals(op, x, states, starts, lengths, items, step):
    """Combine all positions of each row, eight rows in turn, into ``states``."""
    for item in items:
        low = item * TOGETHER
        high = min(low + TOGETHER, len(states))
        longest = 0
        for r in range(low, high):
            longest = max(longest, lengths[r])
        for k in range(longest):
            for r in range(low, high):
                if k < lengths[r]:
                    states[r] = combine(op, states[r], x[starts[r, 0] + np.uint64(k) * step])
