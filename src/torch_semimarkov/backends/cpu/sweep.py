"""The messages of one direction, tile by tile: linear where that is proven, else exact.

From left to right or, with the positions mirrored and the transition transposed, from right to
left. The messages of a tile are relative to a number of powers of two (an integer, so that sums of
scales are exact at any length) and, inside the tile, to gamma a position.
"""

from __future__ import annotations

import math

import numpy as np

from torch_semimarkov.backends.cpu.compile import part, small
from torch_semimarkov.backends.cpu.elementary import exp, finite_or_zero, larger, log, smaller
from torch_semimarkov.backends.cpu.exact import log_total, reopen, solve_exactly
from torch_semimarkov.backends.cpu.plan import TILE, S, fill
from torch_semimarkov.backends.cpu.tile import (
    ENTER_LOW,
    LOG2,
    fill_factors,
    growth_of,
    harmless,
    history,
    load_some,
    powers_in,
    product,
    solve,
)
from torch_semimarkov.backends.cpu.vector import (
    any_of,
    load,
    spread,
    store,
    where,
)
from torch_semimarkov.backends.cpu.vector_types import LANES, LINEAR

# Below this a log has no place in the linear domain; above that it is no number there.
VANISHING, HUGE = -184.0, 600.0
# A tile begins no more powers of two below 1, however much the last one grew.
MOST_BELOW = 240


@part
def begin(work, state, plan):
    """Start a sequence: nothing is open, and the first labels are entered."""
    for i in range(S.LINEAR):
        state[i] = 0
    fill(work, plan.window, plan.logs, 0.0)
    top = largest(plan.first, work, plan)
    if np.isfinite(top):
        state[S.EXPONENT] = powers_in(top)
    store_entry(plan.first, state[S.EXPONENT], work, state, plan)


@small
def largest(row, work, plan):
    """The largest of a row of labels."""
    top = -np.inf
    for c in range(plan.labels):
        top = max(top, work[row + c])
    return top


@part
def store_entry(logs, exponent, work, state, plan):
    """A row of logs less some powers of two as the entry of a tile, and as Q[0] if it fits."""
    state[S.ROUGH], state[S.AFTER_EXACT] = 0, 1
    for v in range(0, plan.C, LANES):
        row = load(work, logs + v) - spread(exponent * LOG2)
        store(work, plan.entry + v, row)
        store(work, plan.Q + v, exp(row))
        if any_of(finite_or_zero(row) < spread(VANISHING)):
            state[S.ROUGH] = 1


@part
def take(n, mirrored, work, state, plan):
    """Messages of the next tile, whose n positions are loaded."""
    growth, beyond = growth_of(n, mirrored, work, plan)
    state[S.MIDDLE], state[S.BEYOND] = growth, beyond
    fine = state[S.LINEAR] == 1 and state[S.ROUGH] == 0
    if fine:
        fine = fill_factors(n, growth * LOG2 / n, work, plan)
    if fine:
        window = plan.window + (plan.K - 1) * LANES
        history(LINEAR, n, state[S.OPEN], window, plan.rows, work, plan)
        solve(LINEAR, n, window, plan.rows, work, plan)
        _measure_drift(False, work, state, plan)
        fine = harmless(n, work, state, plan)
        if not fine:
            _measure_drift(True, work, state, plan)
            fine = harmless(n, work, state, plan)
    state[S.EXACT], state[S.GROWTH] = 0, growth
    if not fine:
        take_exactly(n, work, state, plan)


@part
def take_exactly(n, work, state, plan):
    """The same in logs."""
    state[S.EXACT], state[S.GROWTH] = 1, 0
    for v in range(0, plan.C, LANES):
        entry = load(work, plan.entry + v)
        row = entry if state[S.AFTER_EXACT] else log(load(work, plan.Q + v))
        store(work, plan.Q + v, row)
    reopen(work, state, plan)
    solve_exactly(n, work, state, plan)


@part
def replay(n, kept, rows, info, tile, work, state, plan):
    """A tile from right to left whose P[1..n] are kept, as :func:`take` finds them."""
    growth, beyond = growth_of(n, True, work, plan)
    state[S.MIDDLE], state[S.BEYOND] = growth, beyond
    if kept[info + 3 * tile + 2] > 0.0:
        take_exactly(n, work, state, plan)
        return
    state[S.EXACT], state[S.GROWTH] = 0, growth
    fill_factors(n, growth * LOG2 / n, work, plan)
    # another exponent than when they were kept if a tile on the way is exact only now
    scale = spread(2.0 ** (kept[info + 3 * tile] - state[S.EXPONENT]))
    for j in range(n):
        row = (j + 1) * plan.C
        for v in range(0, plan.C, LANES):
            here = j * plan.C + v
            e = load(work, plan.Q + here) * load(work, plan.enter + here)
            store(work, plan.window + v * plan.rows + (plan.K - 1 + j) * LANES, e)
            at, count = rows + (tile * TILE + j) * plan.labels + v, plan.labels - v
            store(work, plan.P + row + v, load_some(kept, at, count) * scale)
        for v in range(plan.C // LANES):
            found = product(LINEAR, plan.P + row, plan.X, v, work, plan)
            store(work, plan.Q + row + v * LANES, found)


@part
def _entered(slot, v, work, state, plan):
    """1 for each of the labels in lanes v.. that was entered in a tile of the ring, else 0.

    An E of 0 in a tile that was proven, or of -inf in an exact one, is forbidden.
    """
    ring, raw = S.RING + 3 * slot, plan.raw + (slot * plan.C + v) * TILE
    nothing = spread(-np.inf if state[ring + 1] else 0.0)
    found = spread(0.0)
    for j in range(state[ring]):
        row = load(work, raw + j * LANES)
        found = larger(found, where(row > nothing, spread(1.0), spread(0.0)))
    return found


@part
def _open_tiles(state, plan):
    """How many of the last tiles the window still holds segments of."""
    left, tiles = state[S.OPEN], 0
    while left > 0:
        tiles += 1
        left -= state[S.RING + 3 * ((state[S.TILES] - tiles) % plan.slots)]
    return tiles


@part
def _measure_drift(closely, work, state, plan):
    """Lowest and highest log scale of the window, relative to the present one, by its label.

    ``low`` is the lowest scale of a tile that is there still. ``high`` is the highest one that
    anything in the window has been moved on from: a segment vanishes where its label falls behind,
    and matters again where the label catches up, in tiles in which it is not entered itself. If one
    looks ``closely``, only tiles in which the label was entered hold something. What lies before a
    forbidden score is 0, and is held no longer.
    """
    for v in range(0, plan.C, LANES):
        low, high, held, rough = spread(0.0), spread(0.0), spread(0.0), False
        for back in range(_open_tiles(state, plan), 0, -1):
            slot = (state[S.TILES] - back) % plan.slots
            ring, jump = S.RING + 3 * slot, load(work, plan.jumps + slot * plan.C + v)
            here = _entered(slot, v, work, state, plan) if closely else spread(1.0)
            low = where(here > spread(0.0), smaller(low, spread(0.0)), low) + jump
            high = larger(high, spread(0.0)) + jump
            held = where(jump > spread(-np.inf), larger(held, here), spread(0.0))
            low = where(held > spread(0.0), low, spread(0.0))
            high = where(held > spread(0.0), high, spread(0.0))
            if state[ring + 1]:  # its rows are relative to its end
                held = larger(held, here)
                low = where(here > spread(0.0), smaller(low, spread(0.0)), low)
            rough = rough or state[ring + 2] == 1
        store(work, plan.drift + v, spread(-np.inf) if rough else smaller(low, spread(0.0)))
        store(work, plan.drift + plan.C + v, larger(high, spread(0.0)))


@part
def advance(n, work, state, plan):
    """Close the tile: choose the next scale, and move the window on to it."""
    C, exact = plan.C, state[S.EXACT]
    more = _next_scale(largest(plan.P + n * C, work, plan), state)
    slot = state[S.TILES] % plan.slots
    ring = S.RING + 3 * slot
    state[ring], state[ring + 1], state[ring + 2] = n, exact, 0
    for v in range(C // LANES):
        jump = load(work, plan.jump + v * LANES)
        if exact:
            jump = spread(0.0)
            for j in range(n):
                jump = jump + load(work, plan.scores + j * C + v * LANES)
        jump = jump - spread(more * LOG2)
        store(work, plan.jumps + slot * C + v * LANES, jump)
        raw = plan.raw + (slot * C + v * LANES) * TILE
        if exact:
            _shift_logs(v, n, raw, jump, more, ring, work, state, plan)
        else:
            _shift(v, n, raw, jump, work, state, plan)
    state[S.OPEN] = min(plan.K - 1, state[S.OPEN] + n)
    state[S.TILES] += 1
    state[S.EXPONENT] += state[S.GROWTH] + more
    if exact:
        store_entry(plan.Q + n * C, more, work, state, plan)
        return
    state[S.ROUGH], state[S.AFTER_EXACT] = 0, 0
    rough = False
    for v in range(0, C, LANES):
        row = load(work, plan.Q + n * C + v)
        entry = row * spread(math.ldexp(1.0, -more))
        store(work, plan.Q + v, entry)
        rough |= any_of(where(row > spread(0.0), entry, spread(1.0)) < spread(ENTER_LOW))
    if rough:
        for v in range(n * C, (n + 1) * C, LANES):
            store(work, plan.Q + v, log(load(work, plan.Q + v)))
        store_entry(plan.Q + n * C, more, work, state, plan)


@part
def _next_scale(top, state):
    """Powers of two by which the scale moves on after the largest P of the tile.

    The next tile begins below 1 by half of what E of this one grew: by what P did, and by what the
    worst label lost against the middle one. So it ends as far above.
    """
    if not np.isfinite(top) or (top <= 0.0 and not state[S.EXACT]):
        return 0
    if state[S.EXACT]:
        more = powers_in(top)
        grown = more + state[S.BELOW] - state[S.MIDDLE]
    else:
        more = math.frexp(top)[1] - 1
        grown = more + state[S.BELOW]
    state[S.BELOW] = min(max((grown + state[S.BEYOND]) // 2, 0), MOST_BELOW)
    return more + state[S.BELOW]


@part
def _shift(v, n, raw, jump, work, state, plan):
    """Keep block v of the tile's E in the ring, and move the window by n rows to the next scale."""
    base, at = plan.window + v * plan.rows * LANES, plan.K - 1
    for j in range(n):
        store(work, raw + j * LANES, load(work, base + (at + j) * LANES))
    ratio = exp(jump)
    for r in range(max(0, at - state[S.OPEN] - n), at):
        store(work, base + r * LANES, load(work, base + (r + n) * LANES) * ratio)


@part
def _shift_logs(v, n, raw, jump, more, ring, work, state, plan):
    """The same after an exact tile, whose new rows are logs; notes if one of them vanishes.

    Nothing bounds its jump. Beyond what ``exp`` has, what is possible becomes inf, so that no tile
    is proven while it is in the window.
    """
    base, at = plan.window + v * plan.rows * LANES, plan.K - 1
    ratio = exp(jump)
    beyond = where(jump > spread(HUGE), spread(np.inf), spread(0.0))
    for r in range(max(0, at - state[S.OPEN] - n), max(0, at - n)):
        e = load(work, base + (r + n) * LANES)
        moved = e * ratio
        store(work, base + r * LANES, where(e > spread(0.0), larger(moved, beyond), moved))
    for j in range(n):
        row = load(work, plan.logs + (v * plan.rows + at + j) * LANES) - spread(more * LOG2)
        store(work, raw + j * LANES, row)
        if any_of(finite_or_zero(row) < spread(VANISHING)):
            state[ring + 2] = 1
        if at + j >= n:
            e = where(row > spread(HUGE), spread(np.inf), exp(row))
            store(work, base + (at + j - n) * LANES, e)


@part
def log_partition_of(n, work, state, plan):
    """After the last tile, the log partition as a number of powers of two and the rest."""
    if not state[S.EXACT]:
        for v in range(0, plan.C, LANES):
            row = plan.P + n * plan.C + v
            store(work, row, log(load(work, row)))
    rest = log_total(plan.P + n * plan.C, work, plan)
    return state[S.EXPONENT] + state[S.GROWTH], rest
