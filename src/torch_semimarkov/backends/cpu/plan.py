"""Where everything lies that a sweep works on: one flat float64 array, and the plan of its parts.

The tables that all sequences share come first. They and the window are in blocks of eight labels:
row r of block v begins at ``(v * rows + r) * 8``, so that neighbouring rows of a block are
neighbours in memory. What belongs to one position has its C labels in a row. C is the number of
labels padded to whole vectors; a padded lane is forbidden everywhere.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from torch_semimarkov.backends.cpu.compile import part
from torch_semimarkov.backends.cpu.elementary import exp
from torch_semimarkov.backends.cpu.vector import (
    load,
    store,
)
from torch_semimarkov.backends.cpu.vector_types import LANES, ROWS

TILE = 16
# exp of what lies between these bounds can be multiplied without a look at its size.
FAINT, STRONG = -138.0, 138.0


class State(NamedTuple):
    """Places of the integers of a sweep."""

    EXPONENT: int = 0  # powers of two that the messages of the tile are relative to
    GROWTH: int = 1  # and those that are taken out of it position by position
    OPEN: int = 2  # rows of the window that hold segments
    TILES: int = 3  # tiles done
    EXACT: int = 4  # the tile is in logs
    AFTER_EXACT: int = 5  # the entry of the tile is given in logs
    ROUGH: int = 6  # the entry of the tile has no linear form
    MIDDLE: int = 7  # powers of two by which the middle label grows in the tile
    BEYOND: int = 8  # and the best label beyond that, as much as the worst loses
    BELOW: int = 9  # powers of two below 1 at which the tile begins
    LINEAR: int = 10  # the tables have a linear form
    STRICT: int = 11  # an entry of them that is not forbidden may vanish in it
    RING: int = 12  # from here on the ring of tiles: positions, exact, rough of each


S = State()


class Plan(NamedTuple):
    """Sizes, and the place of each part in the flat array.

    Sizes: durations ``K``; labels padded, ``C``, and not padded, ``labels``; ``boundaries``, 1 if
    there are boundary scores; ``depth``, rows of ``bias`` and ``D``; ``rows``, those of the window;
    ``slots``, tiles of the ring; ``size``, of all.
    Tables: ``move``, log transition with a row a source, and ``X``, its exponential; ``bias``, log
    duration bias with row d for duration d, -inf for d < 1 and d > K, and ``D``, its exponential
    relative to the largest, ``shift``, of each label, with ``lift`` its exponential; ``first`` and
    ``last``, the log scores of the labels where the direction begins and ends; ``real``, 1 for a
    label and 0 for padding.
    The tile: ``scores``, ``opens``, ``closes`` of its positions; ``enter``, ``leave``, ``jump``,
    ``sums``, ``P``, ``Q`` as in tile.py, logs if it is exact; ``entry``, Q[0] in logs after an
    exact one.
    Before it: ``window``, E of the open segments in rows 0..K-2, then those of the tile; ``logs``,
    the same in logs, filled where a tile is exact; ``raw`` and ``jumps``, a ring of the last tiles;
    ``drift``, lowest and highest log scale of the window.
    For the gradient: ``left_p``, ``left_q``, rows of the other direction; ``labels_out``,
    ``opens_out``, ``closes_out`` of the tile; ``inside``, the running position marginal; sums over
    sequences of ``starts``, ``ends``, and of what ``moves`` times X and ``durations`` times D give,
    with row r for duration K - r; ``exact_moves`` and ``exact_durations`` have no factor to come.
    """

    K: int
    C: int
    labels: int
    boundaries: int
    depth: int
    rows: int
    slots: int
    move: int
    X: int
    bias: int
    D: int
    shift: int
    lift: int
    first: int
    last: int
    real: int
    scores: int
    opens: int
    closes: int
    enter: int
    leave: int
    jump: int
    sums: int
    P: int
    Q: int
    entry: int
    window: int
    logs: int
    raw: int
    jumps: int
    drift: int
    left_p: int
    left_q: int
    labels_out: int
    opens_out: int
    closes_out: int
    inside: int
    moves: int
    durations: int
    starts: int
    ends: int
    exact_moves: int
    exact_durations: int
    size: int


@part
def make_plan(K, C, labels, boundaries, at):
    """The plan of an array whose parts begin at ``at``."""
    depth, rows = K + ROWS + 1, K - 1 + TILE + ROWS
    slots = (K + TILE - 2) // TILE + 2
    tile, square, row = TILE * C, C * C, C
    move = at
    X = move + square
    bias = X + square
    D = bias + depth * C
    shift = D + depth * C
    lift = shift + row
    first = lift + row
    last = first + row
    real = last + row
    scores = real + row
    opens = scores + tile
    closes = opens + tile
    enter = closes + tile
    leave = enter + tile
    jump = leave + tile
    sums = jump + row
    P = sums + (TILE + ROWS) * C
    Q = P + tile + 2 * row
    entry = Q + tile + row
    window = entry + row
    logs = window + rows * C
    raw = logs + rows * C
    jumps = raw + slots * tile
    drift = jumps + slots * row
    left_p = drift + 2 * row
    left_q = left_p + tile + 2 * row
    labels_out = left_q + tile
    opens_out = labels_out + tile
    closes_out = opens_out + tile
    inside = closes_out + tile
    moves = inside + row
    durations = moves + square
    starts = durations + (K + ROWS) * C
    ends = starts + row
    exact_moves = ends + row
    exact_durations = exact_moves + square
    return Plan(
        K, C, labels, boundaries, depth, rows, slots, move, X, bias, D, shift, lift, first, last,
        real, scores, opens, closes, enter, leave, jump, sums, P, Q, entry, window, logs, raw,
        jumps, drift, left_p, left_q, labels_out, opens_out, closes_out, inside, moves, durations,
        starts, ends, exact_moves, exact_durations, exact_durations + (K + ROWS) * C,
    )  # fmt: skip


@part
def fill(work, begin, end, number):
    """Write a number to every place from ``begin`` on and before ``end``."""
    for i in range(begin, end):
        work[i] = number


@part
def make_work(K, C, labels, boundaries, more):
    """The array with room for ``more``, its plan and the integers; it begins on a cache line."""
    size = make_plan(K, C, labels, boundaries, 0).size
    work = np.empty(size + more + LANES)
    fill(work, 0, size + LANES, 0.0)
    plan = make_plan(K, C, labels, boundaries, (-work.ctypes.data % 64) // 8)
    return work, plan, np.zeros(S.RING + 3 * plan.slots, np.int64)


@part
def fill_tables(work, state, plan, shared, reverse):
    """Tables of a direction from the terms that all sequences share, flat or empty."""
    transition, duration_bias, start, end = shared
    K, C, labels, depth = plan.K, plan.C, plan.labels, plan.depth
    fill(work, plan.move, plan.X, -np.inf)
    fill(work, plan.bias, plan.D, -np.inf)
    fill(work, plan.first, plan.real, -np.inf)
    first, last = (end, start) if reverse else (start, end)
    low_bias = 0.0
    for c in range(labels):
        work[plan.real + c] = 1.0
        work[plan.first + c] = first[c] if len(first) else 0.0
        work[plan.last + c] = last[c] if len(last) else 0.0
        block, lane = c // LANES, c % LANES
        for source in range(labels):
            entry = c * labels + source if reverse else source * labels + c
            work[plan.move + (block * C + source) * LANES + lane] = transition[entry]
        # durations beyond the longest sequence count too, so that other sequences change no bit
        top, bottom = -np.inf, np.inf
        for d in range(len(duration_bias) // labels):
            value = duration_bias[d * labels + c]
            if d < K:
                work[plan.bias + (block * depth + d + 1) * LANES + lane] = value
            if value > -np.inf:
                top, bottom = max(top, value), min(bottom, value)
        work[plan.shift + c] = top if top > -np.inf else 0.0
        low_bias = min(low_bias, bottom - top) if top > -np.inf else low_bias
    _exponentials(low_bias, work, state, plan)


@part
def _exponentials(low_bias, work, state, plan):
    for v in range(0, plan.C, LANES):
        top = load(work, plan.shift + v)
        for r in range(plan.depth):
            at = v * plan.depth + r * LANES
            store(work, plan.D + at, load(work, plan.bias + at) - top)
    low, high = _bounds(work, plan.move, plan.X)
    low_shift, high_shift = _bounds(work, plan.shift, plan.lift)
    for source, to, end in (
        (plan.D, plan.D, plan.shift),
        (plan.move, plan.X, plan.bias),
        (plan.shift, plan.lift, plan.first),
    ):
        for i in range(0, end - to, LANES):
            store(work, to + i, exp(load(work, source + i)))
    state[S.LINEAR] = high < STRONG and high_shift < STRONG and low_shift > FAINT
    state[S.STRICT] = low < FAINT or low_bias < FAINT


@part
def _bounds(work, begin, end):
    """Smallest and largest of the entries that are not -inf, and 0."""
    low, high = 0.0, 0.0
    for i in range(begin, end):
        if work[i] > -np.inf:
            low, high = min(low, work[i]), max(high, work[i])
    return low, high
