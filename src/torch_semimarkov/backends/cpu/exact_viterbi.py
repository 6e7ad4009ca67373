"""The best segmentation where scores may be forbidden: open segments row by row, and what won."""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import part, small
from torch_semimarkov.backends.cpu.elementary import larger
from torch_semimarkov.backends.cpu.exact import open_segment
from torch_semimarkov.backends.cpu.messages import tiles_of
from torch_semimarkov.backends.cpu.plan import TILE, S
from torch_semimarkov.backends.cpu.tile import load_tile
from torch_semimarkov.backends.cpu.vector import (
    beats,
    load,
    spread,
    spread_from,
    store,
    where,
)
from torch_semimarkov.backends.cpu.vector_types import LANES


@small
def slack(value):
    """What rounding may do to numbers of this size: less does not break a tie."""
    return 2e-15 * (1.0 + value)


@small
def near_to(top):
    """What rounding alone may keep from the largest, lane by lane."""
    size = larger(top, spread(0.0) - top)
    return top - spread(2e-15) * (spread(1.0) + size)


@part
def best_of_sources(P, v, work, plan):
    """Block v of the best P[source] + transition[source, :], and the lowest such source."""
    table = plan.move + v * plan.C * LANES
    top, chosen = spread(-np.inf), spread(0.0)
    for c in range(plan.labels):
        value = spread_from(work, P + c) + load(work, table + c * LANES)
        top = where(beats(value, top), value, top)
    near = near_to(top)
    for c in range(plan.labels - 1, -1, -1):
        worse = beats(near, spread_from(work, P + c) + load(work, table + c * LANES))
        chosen = where(worse, chosen, spread(float(c)))
    return top, chosen


@part
def best_of_open(newest, alive, v, work, plan):
    """Block v of the best open segment, and the shortest that gives it."""
    bias = plan.bias + v * plan.depth * LANES
    top, chosen = spread(-np.inf), spread(1.0)
    for d in range(1, alive + 1):
        value = load(work, newest - (d - 1) * LANES) + load(work, bias + d * LANES)
        top = where(beats(value, top), value, top)
    near = near_to(top)
    for d in range(alive, 0, -1):
        value = load(work, newest - (d - 1) * LANES) + load(work, bias + d * LANES)
        chosen = where(beats(near, value), chosen, spread(float(d)))
    return top, chosen


@part
def solve_best(n, done, choices, work, state, plan):
    """The positions of a tile; ``choices`` takes the winning durations and sources."""
    C = plan.C
    for j in range(n):
        to = (done + j) * C
        for v in range(C // LANES):
            here = j * C + v * LANES
            newest, alive = open_segment(j, v, work, state, plan)
            message, duration = best_of_open(newest, alive, v, work, plan)
            store(work, plan.P + v * LANES, message + load(work, plan.closes + here))
            _store_choice(choices[0], to + v * LANES, duration, work, plan)
        for v in range(C // LANES):
            row, source = best_of_sources(plan.P, v, work, plan)
            store(work, plan.Q + (j + 1) * C + v * LANES, row)
            _store_choice(choices[1], to + v * LANES, source, work, plan)


@part
def _store_choice(choices, to, lanes, work, plan):
    store(work, plan.drift, lanes)
    for i in range(LANES):
        choices[to + i] = int(work[plan.drift + i])


@part
def best_last(P, work, plan):
    """The best last label, the lowest of equal ones, and the score."""
    label, score = 0, -np.inf
    for c in range(plan.labels):
        value = work[P + c] + work[plan.last + c]
        if not value <= score:
            label, score = c, value
    return label, score


@part
def shift_tile(n, work, state, plan):
    """Make the last open rows of a tile of n positions the first of the next one."""
    C, K = plan.C, plan.K
    for v in range(C // LANES):
        block = plan.logs + v * plan.rows * LANES
        for i in range(block, block + (K - 1) * LANES):
            work[i] = work[i + n * LANES]
        store(work, plan.Q + v * LANES, load(work, plan.Q + n * C + v * LANES))
    state[S.OPEN] = min(K - 1, state[S.OPEN] + n)


@part
def decode_exactly(terms, at, L, work, state, plan, table):
    """Best score of one sequence, its segments at the end of ``table``, and their number."""
    C = plan.C
    choices = np.empty((2, L * C), np.int32)
    state[S.OPEN] = 0
    for c in range(C):
        work[plan.Q + c] = work[plan.first + c]
    for tile in range(tiles_of(L)):
        done = tile * TILE
        n = min(TILE, L - done)
        load_tile(terms, at + done * plan.labels, plan.labels, n, work, plan)
        solve_best(n, done, choices, work, state, plan)
        shift_tile(n, work, state, plan)
    label, score = best_last(plan.P, work, plan)
    count, stop = 0, 0 if score == -np.inf else L
    while stop > 0:
        begin = stop - choices[0, (stop - 1) * C + label]
        count += 1
        table[0, L - count], table[1, L - count], table[2, L - count] = begin, stop, label
        if begin > 0:
            label = choices[1, (begin - 1) * C + label]
        stop = begin
    return score, count
