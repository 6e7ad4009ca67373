"""Eight sequences abreast, one in each lane, where labels and durations are few.

A vector of labels wastes its padding and waits for the position before; a vector of sequences does
neither. The recurrence is that of ``tile.py``, position by position: each open segment is a row
of its score so far, so nothing is divided. Every position is relative to a power of two next
to its best score, the messages are relative to one that moves on from tile to tile; both are whole
numbers, so their sums are exact at any length.

The sequences end together: lane l begins ``late[l]`` positions after the longest one. Right to left
is the same text on mirrored positions. A sequence whose numbers leave their bounds is not calm, and
is done again by the kernels for a single sequence.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from torch_semimarkov.backends.cpu.compile import part, small
from torch_semimarkov.backends.cpu.elementary import (
    exp,
    exponent,
    larger,
    power_of_two,
    rounded,
    smaller,
)
from torch_semimarkov.backends.cpu.plan import TILE, fill
from torch_semimarkov.backends.cpu.tile import LOG2
from torch_semimarkov.backends.cpu.vector import (
    beats,
    load,
    multiply_add,
    spread,
    spread_from,
    store,
    transpose,
    where,
)
from torch_semimarkov.backends.cpu.vector_types import LANES

# Few sequences leave lanes idle; many labels or durations fill the vectors of one sequence.
FEWEST, MOST_LABELS, MOST_DURATIONS = 4, 16, 16
# A factor of a table or of a position lies between exp(-41) and exp(41), or is 0.
FACTOR = 41.0
# A message does between these, or is 0: four positions, at whose end the open segments are looked
# at, take it down by at most 2 ** -480, and a table's factors by 2 ** -120 more.
LOW, HIGH = 2.0**-300, 2.0**300
LOOK = 4


class Plan(NamedTuple):
    """Sizes, and the place of each part in a flat float64 array.

    Tables, of a direction: ``X``, exponentials of the transition, a row a destination; ``D``, those
    of the duration bias, a row a label; ``first`` and ``last``, those of the labels where the
    direction begins and ends.
    Of the tile, eight lanes each: ``factors``, ``opens``, ``closes`` of (position, label), ``P``
    and ``Q`` as in tile.py, P with the row before the tile; ``ring``, the open segments of (label,
    duration).
    Eight lanes: ``scale``, the powers of two that the messages are relative to; ``grown``, those of
    the positions; ``low`` and ``high``, the smallest message that is not 0, and the largest;
    ``least``, the smallest log factor.
    For the gradient, eight lanes each: ``kept``, rows P of the other direction, ``labels_out``,
    ``opens_out``, ``closes_out`` of the tile; ``inside``, the running position marginal; sums
    ``moves``, ``durations``, ``starts``, ``ends``.
    """

    K: int
    C: int
    boundaries: int
    X: int
    D: int
    first: int
    last: int
    factors: int
    opens: int
    closes: int
    P: int
    Q: int
    ring: int
    scale: int
    grown: int
    low: int
    high: int
    least: int
    kept: int
    labels_out: int
    opens_out: int
    closes_out: int
    inside: int
    moves: int
    durations: int
    starts: int
    ends: int
    size: int


@part
def make_plan(K, C, boundaries, at):
    """The plan of an array whose parts begin at ``at``."""
    row = C * LANES
    tile = TILE * row
    factors = at + C * C + C * K + 2 * C
    factors += (at - factors) % LANES
    opens = factors + tile
    closes = opens + tile
    P = closes + tile
    Q = P + tile + row
    ring = Q + tile
    scale = ring + K * row
    kept = scale + 5 * LANES
    labels_out = kept + tile + row
    inside = labels_out + 3 * tile
    moves = inside + row
    durations = moves + C * row
    starts = durations + K * row
    return Plan(
        K, C, boundaries, at, at + C * C, at + C * C + C * K, at + C * C + C * K + C, factors,
        opens, closes, P, Q, ring, scale, scale + LANES, scale + 2 * LANES, scale + 3 * LANES,
        scale + 4 * LANES, kept, labels_out, labels_out + tile, labels_out + 2 * tile, inside,
        moves, durations, starts, starts + row, starts + 2 * row,
    )  # fmt: skip


@part
def make_work(K, C, boundaries):
    """The array and its plan; the parts begin on a cache line."""
    size = make_plan(K, C, boundaries, 0).size
    work = np.empty(size + 2 * LANES)
    fill(work, 0, size + 2 * LANES, 0.0)
    return work, make_plan(K, C, boundaries, (-work.ctypes.data % 64) // 8)


@part
def fill_tables(work, plan, shared, reverse):
    """Tables of a direction from the terms that all sequences share, flat or empty.

    Returns False if one of them has no place in the linear domain.
    """
    transition, duration_bias, start, end = shared
    first, last = (end, start) if reverse else (start, end)
    C, most = plan.C, 0.0
    for c in range(C):
        for source in range(C):
            entry = c * C + source if reverse else source * C + c
            most = max(most, _put(work, plan.X + c * C + source, transition[entry]))
        for d in range(plan.K):
            most = max(most, _put(work, plan.D + c * plan.K + d, duration_bias[d * C + c]))
        most = max(most, _put(work, plan.first + c, first[c] if len(first) else 0.0))
        most = max(most, _put(work, plan.last + c, last[c] if len(last) else 0.0))
    return most <= FACTOR


@small
def _put(work, at, value):
    """Store an exponential; returns the size of what was finite."""
    work[at] = np.exp(value)
    return abs(value) if value > -np.inf else 0.0


@part
def begin(work, plan):
    """Start a group of sequences: nothing is open."""
    fill(work, plan.P, plan.P + plan.C * LANES, 0.0)
    fill(work, plan.ring, plan.scale, 0.0)
    for part_of_state in (plan.scale, plan.grown, plan.least):
        store(work, part_of_state, spread(0.0))
    store(work, plan.low, spread(1.0))
    store(work, plan.high, spread(0.0))


@part
def load_lanes(array, origins, late, first, n, mirrored, to, work, plan):
    """A tile of (position, label) rows of a term, a lane a sequence; 0 before one begins."""
    C = plan.C
    for j in range(n):
        position = first + (n - 1 - j if mirrored else j)
        for c in range(0, C - C % LANES, LANES):
            here = to + (j * C + c) * LANES
            store_rows(
                work, here,
                transpose((
                    _labels(array, origins, late, 0, position, c, C),
                    _labels(array, origins, late, 1, position, c, C),
                    _labels(array, origins, late, 2, position, c, C),
                    _labels(array, origins, late, 3, position, c, C),
                    _labels(array, origins, late, 4, position, c, C),
                    _labels(array, origins, late, 5, position, c, C),
                    _labels(array, origins, late, 6, position, c, C),
                    _labels(array, origins, late, 7, position, c, C),
                )),
            )  # fmt: skip
        for lane in range(LANES):
            there = origins[lane] + (position - late[lane]) * C
            for c in range(C - C % LANES, C):
                inside = position >= late[lane]
                work[to + (j * C + c) * LANES + lane] = array[there + c] if inside else 0.0


@small
def _labels(array, origins, late, lane, position, c, C):
    """Eight labels of one sequence at a position."""
    at = origins[lane] + (position - late[lane]) * C + c
    return load(array, at) if position >= late[lane] else spread(0.0)


@small
def load_transposed(work, at):
    """Eight vectors that lie one after the other, lanes and vectors exchanged."""
    return transpose((
        load(work, at), load(work, at + LANES), load(work, at + 2 * LANES),
        load(work, at + 3 * LANES), load(work, at + 4 * LANES), load(work, at + 5 * LANES),
        load(work, at + 6 * LANES), load(work, at + 7 * LANES),
    ))  # fmt: skip


@small
def store_rows(work, at, rows):
    """Store eight vectors one after the other."""
    for i in range(LANES):
        store(work, at + i * LANES, rows[i])


@part
def load_factors(terms, origins, late, first, n, mirrored, work, plan):
    """The factors of a tile's positions, each relative to a power of two."""
    scores, opens, closes = terms
    load_lanes(scores, origins, late, first, n, mirrored, plan.factors, work, plan)
    least = load(work, plan.least)
    for j in range(n):
        row, best = plan.factors + j * plan.C * LANES, spread(-np.inf)
        for c in range(plan.C):
            best = larger(best, load(work, row + c * LANES))
        power = rounded(best * spread(1.0 / LOG2))
        store(work, plan.grown, load(work, plan.grown) + power)
        for c in range(plan.C):
            x = load(work, row + c * LANES) - power * spread(LOG2)
            least = smaller(least, where(x > spread(-np.inf), x, spread(0.0)))
            store(work, row + c * LANES, exp(x))
    store(work, plan.least, least)
    if plan.boundaries:
        if mirrored:
            opens, closes = closes, opens
        load_lanes(opens, origins, late, first, n, mirrored, plan.opens, work, plan)
        load_lanes(closes, origins, late, first, n, mirrored, plan.closes, work, plan)
        _exponentials(plan.opens, n, work, plan)
        _exponentials(plan.closes, n, work, plan)


@part
def _exponentials(at, n, work, plan):
    least = load(work, plan.least)
    for i in range(at, at + n * plan.C * LANES, LANES):
        x = load(work, i)
        size = larger(x, spread(0.0) - x)
        least = smaller(least, where(x > spread(-np.inf), spread(0.0) - size, spread(0.0)))
        store(work, i, exp(x))
    store(work, plan.least, least)


@part
def enter(P, tables, X, to, work, C):
    """All ways to enter a segment after the row at P; X lies in the tables of a direction."""
    for c in range(C):
        total = spread(0.0)
        for source in range(C):
            row = load(work, P + source * LANES)
            total = multiply_add(row, spread_from(tables, X + c * C + source), total)
        store(work, to + c * LANES, total)


@part
def begin_lanes(j, lanes, at, work, plan):
    """Where a sequence begins at row j of the tile, its labels are entered for the first time."""
    for lane in range(LANES):
        if lanes[lane] == at:
            for c in range(plan.C):
                work[plan.Q + (j * plan.C + c) * LANES + lane] = work[plan.first + c]


@part
def step(j, work, plan):
    """P[j + 1] from Q[j]: every open segment takes in the position, and all may end with it."""
    K = plan.K
    low, high = load(work, plan.low), load(work, plan.high)
    for c in range(plan.C):
        here, ring, D = (j * plan.C + c) * LANES, plan.ring + c * K * LANES, plan.D + c * K
        factor, total = load(work, plan.factors + here), spread(0.0)
        for d in range(K - 1, 0, -1):
            row = load(work, ring + (d - 1) * LANES) * factor
            store(work, ring + d * LANES, row)
            total = multiply_add(row, spread_from(work, D + d), total)
        row = load(work, plan.Q + here) * factor
        if plan.boundaries:
            row = row * load(work, plan.opens + here)
        store(work, ring, row)
        total = multiply_add(row, spread_from(work, D), total)
        if plan.boundaries:
            total = total * load(work, plan.closes + here)
        store(work, plan.P + here + plan.C * LANES, total)
        low, high = _bounds(total, low, high)
    if j % LOOK == LOOK - 1:
        for i in range(plan.ring, plan.scale, LANES):
            low, high = _bounds(load(work, i), low, high)
    store(work, plan.low, low)
    store(work, plan.high, high)


@small
def _bounds(x, low, high):
    return smaller(low, where(x > spread(0.0), x, spread(1.0))), larger(high, x)


@part
def advance(n, work, plan):
    """Go on to the next tile: the last row of P becomes its first, and all get a new scale."""
    best, last = spread(0.0), plan.P + n * plan.C * LANES
    for i in range(last, last + plan.C * LANES, LANES):
        best = larger(best, load(work, i))
    powers = exponent(best)
    ratio = power_of_two(spread(0.0) - powers)
    store(work, plan.scale, load(work, plan.scale) + powers)
    low, high = load(work, plan.low), load(work, plan.high)
    for i in range(plan.ring, plan.scale, LANES):
        low, high = _bounds(load(work, i), low, high)
        store(work, i, load(work, i) * ratio)
    for i in range(0, plan.C * LANES, LANES):
        store(work, plan.P + i, load(work, last + i) * ratio)
    store(work, plan.low, low)
    store(work, plan.high, high)


@part
def calm_lanes(work, plan):
    """1 in the lanes in which every number stayed in its bounds, else 0."""
    calm = where(load(work, plan.low) < spread(LOW), spread(0.0), spread(1.0))
    calm = where(beats(load(work, plan.high), spread(HIGH)), spread(0.0), calm)
    return where(load(work, plan.least) < spread(-FACTOR), spread(0.0), calm)
