"""Kernels of the linear scan y[t] = gates[t] y[t-1] + inputs[t]: columns, or eight rows in turn.

Shifted, the gate of the position before is used, and the last state is the last y times the last
gate: the adjoint of the scan that is not shifted. Arrays are flat; float32 runs in float64.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, part, small
from torch_semimarkov.backends.cpu.scan_kernels import TOGETHER
from torch_semimarkov.backends.cpu.team import in_team


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


@part
def _panels(gates, inputs, y, initial, final, lengths, sizes, way, low, high):
    """Scan the panels from ``low`` on and before ``high``."""
    T, inner, width, outer_gates, step_gates, outer, step = sizes
    reverse, shifted = way
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


@compiled
def linear_columns(gates, inputs, y, initial, final, lengths, span, sizes, way):
    """Scan panels of neighbouring columns, those of all outer indices.

    Args:
        gates, inputs, y: flat; position t of outer index o starts at o * outer + t * step.
        initial, final: flat (outer, inner), the state before and after.
        lengths: (outer,) int64.
        span: the panels, and who goes through them.
        sizes: T, inner, the width of a panel, and outer and step of gates and of inputs.
        way: reverse, shifted.
    """
    in_team(_panels, (gates, inputs, y, initial, final, lengths, sizes, way), span)


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


@part
def _groups(gates, inputs, y, states, starts, lengths, steps, shifted, first, last):
    """Scan the groups of eight rows from ``first`` on and before ``last``."""
    for group in range(first, last):
        low, high = group * TOGETHER, min(group * TOGETHER + TOGETHER, len(states))
        longest = 0
        for r in range(low, high):
            longest = max(longest, lengths[r])
        for k in range(longest):
            for r in range(low, high):
                if k < lengths[r]:
                    at = np.uint64(k)
                    gate = gates[starts[r, 0] + at * steps[0]]
                    value = inputs[starts[r, 1] + at * steps[1]]
                    value, states[r] = step(states[r], gate, value, shifted)
                    y[starts[r, 2] + at * steps[2]] = value


@compiled
def linear_rows(gates, inputs, y, states, starts, lengths, span, steps, shifted):
    """Scan rows of any stride, eight in turn.

    Args:
        gates, inputs, y: flat.
        states: (rows,), before and after.
        starts: (rows, 3) uint64, where the scan of each row starts in each of the three.
        lengths: (rows,) int64, how many positions each has.
        span: groups of eight rows, and who goes through them.
        steps: (3,) uint64, from one position to the next in each, modulo 2 ** 64.
        shifted: use the gate of the position before.
    """
    in_team(_groups, (gates, inputs, y, states, starts, lengths, steps, shifted), span)
