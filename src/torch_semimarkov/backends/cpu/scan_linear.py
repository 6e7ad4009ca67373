"""Kernels of the linear scan y[t] = gates[t] y[t-1] + inputs[t]: columns, or eight rows in turn.

Shifted, the gate of the position before is used, and the last state is the last y times the last
gate: the adjoint of the scan that is not shifted. Arrays are flat; float32 runs in float64.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, small
from torch_semimarkov.backends.cpu.scan_kernels import TOGETHER


@small
def step_row(state, gates, inputs, y):
    """One position of neighbouring columns."""
    for i in range(len(state)):
        value = gates[i] * state[i] + inputs[i]
        state[i] = value
        y[i] = value


@small
def step_row_shifted(state, gates, inputs, y):
    """One position of neighbouring columns of the shifted scan."""
    for i in range(len(state)):
        value = state[i] + inputs[i]
        state[i] = value * gates[i]
        y[i] = value


@compiled
def linear_columns(gates, inputs, y, initial, final, lengths, items, sizes, way):
    """Scan panels of neighbouring columns; ``items`` numbers the panels of all outer indices.

    Args:
        gates, inputs, y: flat; position t of outer index o starts at o * outer + t * step.
        initial, final: flat (outer, inner), the state before and after.
        lengths: (outer,) int64.
        items: numbers of panels.
        sizes: T, inner, the width of a panel, and outer and step of gates and of inputs.
        way: reverse, shifted.
    """
    T, inner, width, outer_gates, step_gates, outer, step = sizes
    reverse, shifted = way
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
            gate = o * outer_gates + t * step_gates + first
            source, target = o * outer + t * step + first, (o * T + t) * inner + first
            g, u = gates[gate : gate + count], inputs[source : source + count]
            result = y[target : target + count]
            if shifted:
                step_row_shifted(state, g, u, result)
            else:
                step_row(state, g, u, result)
        for i in range(count):
            final[at + i] = state[i]


@small
def step(state, gate, value, shifted):
    """The next y and the state after it."""
    if shifted:
        value = state + value
        return value, value * gate
    value = gate * state + value
    return value, value


@small
def one_linear_row(gates, inputs, y, state, places, count, steps, shifted):
    """Scan ``count`` positions of a row from a state; the state after them."""
    for k in range(count):
        at = np.uint64(k)
        gate = gates[places[0] + at * steps[0]]
        value = inputs[places[1] + at * steps[1]]
        value, state = step(state, gate, value, shifted)
        y[places[2] + at * steps[2]] = value
    return state


@small
def four_linear_rows(gates, inputs, y, states, starts, count, steps, shifted):
    """Scan ``count`` positions of four rows in turn; their states are updated."""
    s0, s1, s2, s3 = states[0], states[1], states[2], states[3]
    a0, a1, a2, a3 = starts[0, 0], starts[1, 0], starts[2, 0], starts[3, 0]
    b0, b1, b2, b3 = starts[0, 1], starts[1, 1], starts[2, 1], starts[3, 1]
    c0, c1, c2, c3 = starts[0, 2], starts[1, 2], starts[2, 2], starts[3, 2]
    for k in range(count):
        at = np.uint64(k)
        i, j, m = at * steps[0], at * steps[1], at * steps[2]
        y[c0 + m], s0 = step(s0, gates[a0 + i], inputs[b0 + j], shifted)
        y[c1 + m], s1 = step(s1, gates[a1 + i], inputs[b1 + j], shifted)
        y[c2 + m], s2 = step(s2, gates[a2 + i], inputs[b2 + j], shifted)
        y[c3 + m], s3 = step(s3, gates[a3 + i], inputs[b3 + j], shifted)
    states[0], states[1], states[2], states[3] = s0, s1, s2, s3


@compiled
def linear_rows(gates, inputs, y, states, starts, lengths, items, steps, shifted):
    """Scan groups of rows of any stride; ``items`` numbers the groups of eight.

    Args:
        gates, inputs, y: flat.
        states: (rows,), before and after.
        starts: (rows, 3) uint64, where the scan of each row starts in each of the three.
        lengths: (rows,) int64, how many positions each has.
        items: numbers of groups.
        steps: (3,) uint64, from one position to the next in each, modulo 2 ** 64.
        shifted: use the gate of the position before.
    """
    for item in items:
        low, end = item * TOGETHER, min(item * TOGETHER + TOGETHER, len(states))
        while low < end:
            high = min(low + 4, end)
            joint = 0
            if high - low == 4:
                joint = min(lengths[low], lengths[low + 1], lengths[low + 2], lengths[low + 3])
                group, places = states[low:high], starts[low:high]
                four_linear_rows(gates, inputs, y, group, places, joint, steps, shifted)
            for r in range(low, high):
                places = starts[r : r + 1]
                rest = places[0] + np.uint64(joint) * steps
                states[r] = one_linear_row(
                    gates, inputs, y, states[r], rest, lengths[r] - joint, steps, shifted
                )
            low = high
