"""Scans of neighbouring rows by blocks of eight positions: the rows become lanes of vectors.

What is left of them, and a lone row, is scanned eight positions at a time.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, inlined, part, small
from torch_semimarkov.backends.cpu.scan_kernels import TOGETHER, combine
from torch_semimarkov.backends.cpu.scan_lanes import (
    ask_for_block,
    first_lane,
    load_block,
    moved,
    places_of,
    prefix,
    scan_block,
    spread_last,
    step_block,
    store_block,
)
from torch_semimarkov.backends.cpu.scan_linear import one_linear_row
from torch_semimarkov.backends.cpu.team import in_team
from torch_semimarkov.backends.cpu.vector import load, spread, store
from torch_semimarkov.backends.cpu.vector_types import LANES

# Positions of the longest rows whose next rows are fetched ahead: longer ones leave the caches.
_SHORT = 1024


@small
def joint_of(lengths, low, high):
    """Positions that eight rows have in common, in whole blocks; 0 if there are fewer rows."""
    if high - low < TOGETHER:
        return 0
    joint = lengths[low]
    for r in range(low + 1, high):
        joint = min(joint, lengths[r])
    return joint - joint % LANES


@inlined
def _blocks(op, x, y, places, state, count, reverse, exclusive):
    """Scan ``count`` positions of eight rows from a state; the last two are constants.

    A block is loaded and another one stored while the one between is scanned, each step of which
    waits for the last. In reverse, the same place of the next rows is fetched: machines that see
    a forward scan coming do not see short rows read from their ends.
    """
    source, target, later = places
    step = -LANES if reverse else LANES
    at = 1 - LANES if reverse else 0
    found, state = scan_block(op, state, load_block(x, source, at), reverse, exclusive)
    for _ in range(count // LANES - 1):
        block = load_block(x, source, at + step)
        if reverse:
            ask_for_block(x, later, at)
        store_block(y, target, at, found)
        found, state = scan_block(op, state, block, reverse, exclusive)
        at += step
    store_block(y, target, at, found)
    return state


@inlined
def _eights(op, x, y, source, target, state, count, reverse, exclusive):
    """Scan ``count`` positions of one row from a state; the last two are constants."""
    carried = spread(state)
    for k in range(0, count, LANES):
        at = 1 - LANES - k if reverse else k
        found = prefix(op, load(x, source + at), reverse)
        here = moved(op, found, reverse) if exclusive else found
        store(y, target + at, combine(op, carried, here))
        carried = combine(op, carried, spread_last(found, reverse))
    return first_lane(carried)


@part
def _row(op, x, y, state, source, target, count, way):
    """Scan a row from a state, eight positions at a time; the state after it."""
    reverse, exclusive = way
    whole = count - count % LANES
    if reverse and exclusive:
        state = _eights(op, x, y, source, target, state, whole, True, True)
    elif reverse:
        state = _eights(op, x, y, source, target, state, whole, True, False)
    elif exclusive:
        state = _eights(op, x, y, source, target, state, whole, False, True)
    else:
        state = _eights(op, x, y, source, target, state, whole, False, False)
    for k in range(whole, count):
        at = -k if reverse else k
        before = state
        state = combine(op, state, np.float64(x[source + at]))
        y[target + at] = before if exclusive else state
    return state


@part
def _groups(op, x, y, states, starts, lengths, reverse, exclusive, first, last):
    """Scan the groups of eight rows from ``first`` on and before ``last``."""
    step = np.uint64(-1) if reverse else np.uint64(1)
    for group in range(first, last):
        low = group * TOGETHER
        high = min(low + TOGETHER, len(states))
        joint = joint_of(lengths, low, high)
        if joint > 0:
            later = min(high, len(states) - TOGETHER) if joint <= _SHORT else low
            source, target = places_of(starts, low, 0), places_of(starts, low, 1)
            places = source, target, places_of(starts, later, 0)
            state = load(states, low)
            if reverse and exclusive:
                state = _blocks(op, x, y, places, state, joint, True, True)
            elif reverse:
                state = _blocks(op, x, y, places, state, joint, True, False)
            elif exclusive:
                state = _blocks(op, x, y, places, state, joint, False, True)
            else:
                state = _blocks(op, x, y, places, state, joint, False, False)
            store(states, low, state)
        for r in range(low, high):
            states[r] = _row(
                op, x, y, states[r], np.int64(starts[r, 0] + np.uint64(joint) * step),
                np.int64(starts[r, 1] + np.uint64(joint) * step), lengths[r] - joint,
                (reverse, exclusive),
            )  # fmt: skip


@compiled
def rows_by_blocks(op, x, y, states, starts, lengths, span, reverse, exclusive):
    """Scan rows whose positions are neighbours, in groups of eight.

    Args:
        op: one of OPS that has a form on vectors.
        x, y: flat.
        states: (rows,) float64, before and after.
        starts: (rows, 2) uint64, where the scan of each row starts in ``x`` and in ``y``.
        lengths: (rows,) int64, how many positions each has.
        span: the groups, and who goes through them.
        reverse: the scan goes to lower addresses.
        exclusive: write the state before each position.
    """
    in_team(_groups, (op, x, y, states, starts, lengths, reverse, exclusive), span)


@inlined
def _linear_blocks(gates, inputs, y, places, state, count, reverse, shifted):
    """Scan ``count`` positions of eight rows from a state; the last two are constants."""
    a, b, c = places
    for k in range(0, count, LANES):
        at = 1 - LANES - k if reverse else k
        gate, value = load_block(gates, a, at), load_block(inputs, b, at)
        found, state = step_block(state, gate, value, reverse, shifted)
        store_block(y, c, at, found)
    return state


@part
def _linear_groups(gates, inputs, y, states, starts, lengths, reverse, shifted, first, last):
    """Scan the groups of eight rows from ``first`` on and before ``last``."""
    step = np.uint64(-1) if reverse else np.uint64(1)
    for group in range(first, last):
        low = group * TOGETHER
        high = min(low + TOGETHER, len(states))
        joint = joint_of(lengths, low, high)
        if joint > 0:
            a, b, c = (
                places_of(starts, low, 0),
                places_of(starts, low, 1),
                places_of(starts, low, 2),
            )
            state = load(states, low)
            if reverse and shifted:
                state = _linear_blocks(gates, inputs, y, (a, b, c), state, joint, True, True)
            elif reverse:
                state = _linear_blocks(gates, inputs, y, (a, b, c), state, joint, True, False)
            elif shifted:
                state = _linear_blocks(gates, inputs, y, (a, b, c), state, joint, False, True)
            else:
                state = _linear_blocks(gates, inputs, y, (a, b, c), state, joint, False, False)
            store(states, low, state)
        done = np.uint64(joint)
        for r in range(low, high):
            rest = lengths[r] - joint
            begin = (
                starts[r, 0] + done * step,
                starts[r, 1] + done * step,
                starts[r, 2] + done * step,
            )
            states[r] = one_linear_row(
                gates, inputs, y, states[r], begin, rest, (step, step, step), shifted
            )


@compiled
def linear_rows_by_blocks(gates, inputs, y, states, starts, lengths, span, reverse, shifted):
    """Linear scan of rows whose positions are neighbours, in groups of eight.

    Args:
        gates, inputs, y: flat, of floating point.
        states: (rows,) float64, before and after.
        starts: (rows, 3) uint64, where the scan of each row starts in each of the three.
        lengths: (rows,) int64, how many positions each has.
        span: the groups, and who goes through them.
        reverse: the scan goes to lower addresses.
        shifted: use the gate of the position before.
    """
    arguments = (gates, inputs, y, states, starts, lengths, reverse, shifted)
    in_team(_linear_groups, arguments, span)


@part
def _totals(op, x, states, starts, lengths, reverse, first, last):
    """Combine all positions of the rows of the groups from ``first`` on and before ``last``."""
    lanes_of_one = np.empty(LANES)
    for r in range(first * TOGETHER, min(last * TOGETHER, len(states))):
        n, neutral = lengths[r], states[r]
        begin = np.int64(starts[r, 0])
        if reverse:
            begin = begin - n + 1
        whole = n - n % LANES
        state = spread(neutral)
        for k in range(0, whole, LANES):
            state = combine(op, state, load(x, begin + k))
        store(lanes_of_one, 0, state)
        total = neutral
        for lane in range(LANES):
            total = combine(op, total, lanes_of_one[lane])
        for k in range(whole, n):
            total = combine(op, total, np.float64(x[np.uint64(begin + k)]))
        states[r] = total


@compiled
def totals_by_blocks(op, x, states, starts, lengths, span, reverse):
    """Combine all positions of each row into ``states``, eight positions at a time.

    Args:
        op: one of OPS that has a form on vectors; all of them commute.
        x: flat.
        states: (rows,) float64, the neutral element before.
        starts: (rows, 2) uint64, where the scan of each row starts in ``x``.
        lengths: (rows,) int64, how many positions each has.
        span: groups of eight rows, and who goes through them.
        reverse: the scan goes to lower addresses.
    """
    in_team(_totals, (op, x, states, starts, lengths, reverse), span)
