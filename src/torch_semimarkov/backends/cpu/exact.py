"""One tile of positions in the log domain, exact whatever the scores: labels in the lanes.

Where the linear domain cannot prove its result, its tile is done again by this recurrence. Each
open segment is a row of its log score so far; a position adds its scores to all rows and sums them,
with their duration bias, into P. Nothing is subtracted, so that -inf needs no guard but one.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import part
from torch_semimarkov.backends.cpu.elementary import exp, finite_or_zero, larger, log
from torch_semimarkov.backends.cpu.plan import TILE, S
from torch_semimarkov.backends.cpu.vector import (
    load,
    spread,
    spread_from,
    store,
)
from torch_semimarkov.backends.cpu.vector_types import LANES


@part
def sum_of_sources(P, move, v, work, plan):
    """Block v of log sum over source labels of exp(P[source] + transition[source, :])."""
    table = move + v * plan.C * LANES
    top = spread(-np.inf)
    for c in range(plan.labels):
        top = larger(top, spread_from(work, P + c) + load(work, table + c * LANES))
    base = finite_or_zero(top)
    total = spread(0.0)
    for c in range(plan.labels):
        total = total + exp(spread_from(work, P + c) + load(work, table + c * LANES) - base)
    return log(total) + base


@part
def sum_of_open(at, count, v, work, plan):
    """Block v of log sum over ``count`` open segments, the newest, of duration 1, at row ``at``."""
    bias = plan.bias + (v * plan.depth + 1) * LANES
    top = spread(-np.inf)
    for d in range(count):
        top = larger(top, load(work, at - d * LANES) + load(work, bias + d * LANES))
    base = finite_or_zero(top)
    total = spread(0.0)
    for d in range(count):
        row = load(work, at - d * LANES) + load(work, bias + d * LANES)
        total = total + exp(row - base)
    return log(total) + base


@part
def open_segment(j, v, work, state, plan):
    """Begin segments at position j and take its scores into all open rows of block v.

    Returns the place of the newest row and the number of rows that a segment may last.
    """
    here = j * plan.C + v * LANES
    newest = plan.logs + (v * plan.rows + plan.K - 1 + j) * LANES
    store(work, newest, load(work, plan.Q + here) + load(work, plan.opens + here))
    score = load(work, plan.scores + here)
    alive = min(plan.K, state[S.OPEN] + j + 1)
    for d in range(alive):
        at = newest - d * LANES
        store(work, at, load(work, at) + score)
    return newest, alive


@part
def solve_exactly(n, work, state, plan):
    """The positions of the tile; Q[0] is given, P[1..n] and Q[1..n] are found, all as logs."""
    for j in range(n):
        row = (j + 1) * plan.C
        for v in range(plan.C // LANES):
            newest, alive = open_segment(j, v, work, state, plan)
            message = sum_of_open(newest, alive, v, work, plan)
            message = message + load(work, plan.closes + j * plan.C + v * LANES)
            store(work, plan.P + row + v * LANES, message)
        for v in range(plan.C // LANES):
            found = sum_of_sources(plan.P + row, plan.move, v, work, plan)
            store(work, plan.Q + row + v * LANES, found)


@part
def reopen(work, state, plan):
    """Fill ``logs`` with the segments that are open at the start of the tile, relative to it.

    ``raw`` keeps what each tile added: E relative to its own scale, or logs relative to its end if
    it was exact. ``jumps`` are the log ratios of the scales of one tile and the next.
    """
    for v in range(plan.C // LANES):
        scale = spread(0.0)
        row, left = plan.logs + (v * plan.rows + plan.K - 2) * LANES, state[S.OPEN]
        for back in range(1, plan.slots):
            slot = (state[S.TILES] - back) % plan.slots
            ring = S.RING + 3 * slot
            jump = load(work, plan.jumps + slot * plan.C + v * LANES)
            count = min(left, state[ring]) if left > 0 else 0
            raw = plan.raw + (slot * plan.C + v * LANES) * TILE + state[ring] * LANES
            for _ in range(count):
                raw -= LANES
                value = load(work, raw)
                exact = state[ring + 1]
                value = value + scale if exact else log(value) + (scale + jump)
                store(work, row, value)
                row -= LANES
            left -= count
            scale = scale + jump


@part
def log_total(P, work, plan):
    """log sum over the last label of exp(P + last), of a row of logs."""
    top = -np.inf
    for c in range(plan.labels):
        value = work[P + c] + work[plan.last + c]
        if value > top or np.isnan(value):
            top = value
    if not np.isfinite(top):
        return top
    total = 0.0
    for c in range(plan.labels):
        total += np.exp(work[P + c] + work[plan.last + c] - top)
    return np.log(total) + top
