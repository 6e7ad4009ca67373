"""The sweeps of eight sequences abreast: the log partition, and its gradient."""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.abreast import (
    advance,
    begin,
    begin_lanes,
    calm_lanes,
    enter,
    fill_tables,
    load_factors,
    load_lanes,
    load_transposed,
    make_work,
    step,
)
from torch_semimarkov.backends.cpu.compile import compiled, part
from torch_semimarkov.backends.cpu.elementary import log, power_of_two
from torch_semimarkov.backends.cpu.messages import tiles_of
from torch_semimarkov.backends.cpu.plan import TILE, fill
from torch_semimarkov.backends.cpu.tile import LOG2
from torch_semimarkov.backends.cpu.vector import (
    beats,
    load,
    multiply_add,
    spread,
    spread_from,
    store,
    sum_of_lanes,
    where,
)
from torch_semimarkov.backends.cpu.vector_types import LANES

# What stands in a kept row, in the place of the tiles of a stretch, if it was done abreast.
ABREAST = -1.0
# Powers of two within which the scales of the two directions may be apart.
APART = 900.0


@part
def find_lanes(group, T, C, lengths, kept, lanes):
    """Fill where the sequences of a group lie; returns how many there are and the longest.

    ``lanes`` has four rows: first number in a term, length, how much later than the longest it
    begins, and first number of what is kept. Lanes that are left over repeat the last sequence.
    """
    count = min(LANES, len(lengths) - group * LANES)
    longest = 0
    for lane in range(LANES):
        b = group * LANES + min(lane, count - 1)
        lanes[0, lane] = b * T * C
        lanes[1, lane] = lengths[b]
        lanes[3, lane] = b * kept.shape[1]
        longest = max(longest, lengths[b])
    for lane in range(LANES):
        lanes[2, lane] = longest - lanes[1, lane]
    return count, longest


@part
def keep(kept, layout, lanes, group, count, tile, n, work, plan):
    """Store the rows P of a tile and its scale with each sequence."""
    C, first = plan.C, tile * TILE
    for lane in range(count):
        b, late = group * LANES + lane, lanes[2, lane]
        kept[b, layout.info + tile] = work[plan.scale + lane]
        for j in range(max(0, late - first), n):
            there, here = (first + j - late) * C, plan.P + (j + 1) * C * LANES + lane
            for c in range(C):
                kept[b, there + c] = work[here + c * LANES]


@part
def finish(kept, value, calm, group, count, n, work, plan):
    """The log partitions of a group, and which of them hold."""
    total = spread(0.0)
    for c in range(plan.C):
        row = load(work, plan.P + (n * plan.C + c) * LANES)
        total = multiply_add(row, spread_from(work, plan.last + c), total)
    fine = where(beats(total, spread(0.0)), calm_lanes(work, plan), spread(0.0))
    rest = log(total)
    store(work, plan.Q, fine)
    store(work, plan.Q + LANES, rest)
    for lane in range(count):
        b, found = group * LANES + lane, work[plan.Q + LANES + lane]
        powers = work[plan.scale + lane] + work[plan.grown + lane]
        value[b] = powers * LOG2 + found
        calm[b] = work[plan.Q + lane] > 0.0 and np.isfinite(value[b])
        if kept.shape[1]:
            end = kept.shape[1]
            kept[b, end - 4] = work[plan.scale + lane]
            kept[b, end - 3], kept[b, end - 2], kept[b, end - 1] = ABREAST, powers, found


@compiled
def forward(terms, shared, sizes, lengths, items, layout, kept, value, calm):
    """log partition of groups of eight sequences, and what the backward needs if it has room."""
    T, K, _, C = sizes
    work, plan = make_work(K, C, int(len(terms[1]) > 0))
    lanes = np.empty((4, LANES), np.int64)
    if not fill_tables(work, plan, shared, False):
        return
    for group in items:
        count, longest = find_lanes(group, T, C, lengths, kept, lanes)
        begin(work, plan)
        n = 0
        for tile in range(tiles_of(longest)):
            if tile > 0:
                advance(n, work, plan)
            first = tile * TILE
            n = min(TILE, longest - first)
            load_factors(terms, lanes[0], lanes[2], first, n, False, work, plan)
            for j in range(n):
                row = j * C * LANES
                enter(plan.P + row, work, plan.X, plan.Q + row, work, C)
                begin_lanes(j, lanes[2], first + j, work, plan)
                step(j, work, plan)
            if kept.shape[1]:
                keep(kept, layout, lanes, group, count, tile, n, work, plan)
        finish(kept, value, calm, group, count, n, work, plan)


# The gradient


@part
def load_kept(kept, layout, lanes, group, count, tile, n, work, plan):
    """Rows P of the left-to-right sweep at a tile, mirrored, and after them the row before it."""
    load_lanes(kept.reshape(-1), lanes[3], lanes[2], tile * TILE - 1, n + 1, True, plan.kept,
               work, plan)  # fmt: skip
    if tile == 0:
        return
    for lane in range(LANES):
        b = group * LANES + min(lane, count - 1)
        ratio = 2.0 ** (kept[b, layout.info + tile - 1] - kept[b, layout.info + tile])
        for c in range(plan.C):
            work[plan.kept + (n * plan.C + c) * LANES + lane] *= ratio


@part
def scales_of(kept, layout, group, count, tile, weight, work, plan):
    """What makes posteriors, times the upstream weights, of products of the two directions.

    Lanes whose scales are too far apart get a message beyond all bounds, so that they are not calm.
    """
    end = kept.shape[1]
    at = plan.Q
    for lane in range(LANES):
        b = group * LANES + min(lane, count - 1)
        powers = kept[b, layout.info + tile] + work[plan.scale + lane] - kept[b, end - 4]
        if not abs(powers) < APART:
            work[plan.high + lane] = np.inf
            powers = 0.0
        usable = lane < count and kept[b, end - 3] == ABREAST
        work[at + lane] = powers
        work[at + LANES + lane] = weight[b] * np.exp(-kept[b, end - 1]) if usable else 0.0
    return power_of_two(load(work, at)) * load(work, at + LANES)


@part
def close_segments(i, begins, scale, work, plan):
    """Segments that end with position i of the tile, and the position marginals there.

    If the sweep ``begins`` there, they end the sequences.
    """
    for c in range(plan.C):
        here = (i * plan.C + c) * LANES
        ends = load(work, plan.kept + here) * load(work, plan.Q + here) * scale
        inside = load(work, plan.inside + c * LANES) + ends
        store(work, plan.inside + c * LANES, inside)
        store(work, plan.closes_out + here, ends)
        store(work, plan.labels_out + here, inside)
        if begins:
            store(work, plan.ends + c * LANES, ends)


@part
def open_segments(i, scale, work, plan):
    """Segments that start at position i, whose ways in from the left lie in ``opens_out``.

    Adds up where they start, from which label they come, and how long they are.
    """
    C, K = plan.C, plan.K
    before = plan.kept + (i + 1) * C * LANES
    for c in range(C):
        here = (i * C + c) * LANES
        V = load(work, plan.P + here + C * LANES) * scale
        entering = load(work, plan.opens_out + here)
        starts = entering * V
        store(work, plan.opens_out + here, starts)
        inside = plan.inside + c * LANES
        store(work, inside, load(work, inside) - starts)
        moves = plan.moves + c * C * LANES
        for source in range(C):
            at = moves + source * LANES
            row = load(work, before + source * LANES)
            store(work, at, multiply_add(row, V, load(work, at)))
        if plan.boundaries:  # from right to left these are the start scores
            entering = entering * load(work, plan.closes + here)
        entering, ring = entering * scale, plan.ring + c * K * LANES
        durations = plan.durations + c * K * LANES
        for d in range(0, K * LANES, LANES):
            total = load(work, durations + d)
            store(work, durations + d, multiply_add(entering, load(work, ring + d), total))


@part
def turn_lanes(i, lanes, position, other, left, work, plan):
    """Where a sequence begins, its ways in from the left are its first labels."""
    for lane in range(LANES):
        if lanes[2, lane] == position:
            for c in range(plan.C):
                work[plan.opens_out + (i * plan.C + c) * LANES + lane] = other[left.first + c]


@part
def leave_lanes(i, lanes, position, work, plan):
    """After its first position a sequence has no messages from the right."""
    for lane in range(LANES):
        if lanes[2, lane] == position:
            for c in range(plan.C):
                here = (i * plan.C + c) * LANES + lane
                work[plan.starts + c * LANES + lane] = work[plan.opens_out + here]
                work[plan.P + here + plan.C * LANES] = 0.0
                for d in range(plan.K):
                    work[plan.ring + (c * plan.K + d) * LANES + lane] = 0.0


@part
def store_lanes(grad, at, lanes, count, first, n, work, plan):
    """Write a tile of mirrored (position, label) rows to a gradient, in its type."""
    C = plan.C
    for i in range(n):
        position = first + n - 1 - i
        for c in range(0, C - C % LANES, LANES):
            rows = load_transposed(work, at + (i * C + c) * LANES)
            for lane in range(LANES):
                if lane < count and position >= lanes[2, lane]:
                    there = lanes[0, lane] + (position - lanes[2, lane]) * C + c
                    store(grad, there, rows[lane])
        for lane in range(count):
            if position >= lanes[2, lane]:
                there = lanes[0, lane] + (position - lanes[2, lane]) * C
                for c in range(C - C % LANES, C):
                    grad[there + c] = work[at + (i * C + c) * LANES + lane]


@part
def write_sums(sums, kept, group, count, calm, other, left, work, plan):
    """Sums over the calm sequences of a group: transitions, durations, starts, ends."""
    C, K = plan.C, plan.K
    store(work, plan.Q, calm_lanes(work, plan))
    for lane in range(LANES):
        b = group * LANES + min(lane, count - 1)
        fine = lane < count and kept[b, kept.shape[1] - 3] == ABREAST and work[plan.Q + lane] > 0.0
        work[plan.Q + lane] = 1.0 if fine else 0.0
        if lane < count:
            calm[b] = fine
    fine = load(work, plan.Q)
    for c in range(C):
        for source in range(C):
            row = load(work, plan.moves + (c * C + source) * LANES)
            sums[source, c] += masked_sum(row, fine) * other[left.X + c * C + source]
        for d in range(K):
            row = load(work, plan.durations + (c * K + d) * LANES)
            sums[C + d, c] += masked_sum(row, fine) * work[plan.D + c * K + d]
        sums[C + K, c] += masked_sum(load(work, plan.starts + c * LANES), fine)
        sums[C + K + 1, c] += masked_sum(load(work, plan.ends + c * LANES), fine)


@part
def masked_sum(row, fine):
    """The sum of the lanes that are fine; the others may hold anything."""
    return sum_of_lanes(where(fine > spread(0.0), row, spread(0.0)))


@part
def clear(grads, T, lanes, count, C):
    """Zeros behind the end of each sequence, in each gradient that is asked for."""
    for grad in grads:
        if len(grad):
            for lane in range(count):
                for i in range(lanes[0, lane] + lanes[1, lane] * C, lanes[0, lane] + T * C):
                    grad[i] = 0.0


@part
def combine(i, begins, position, lanes, scale, other, left, work, plan):
    """One position of the right-to-left sweep, and what its segments add to the gradient."""
    C = plan.C
    row = i * C * LANES
    enter(plan.P + row, work, plan.X, plan.Q + row, work, C)
    if begins:
        for c in range(C):
            store(work, plan.Q + row + c * LANES, spread_from(work, plan.first + c))
    close_segments(i, begins, scale, work, plan)
    step(i, work, plan)
    enter(plan.kept + row + C * LANES, other, left.X, plan.opens_out + row, work, C)
    turn_lanes(i, lanes, position, other, left, work, plan)
    open_segments(i, scale, work, plan)
    leave_lanes(i, lanes, position, work, plan)


@compiled
def backward(terms, shared, sizes, lengths, items, layout, kept, weight, grads, sums, calm):
    """Gradients of groups of eight sequences; each adds to its own row of ``sums``.

    Writes to ``calm`` which of them hold: those done abreast that stayed calm from both sides.
    """
    T, K, _, C = sizes
    boundaries = int(len(terms[1]) > 0)
    work, plan = make_work(K, C, boundaries)
    other, left = make_work(K, C, boundaries)
    fill_tables(work, plan, shared, True)
    fill_tables(other, left, shared, False)
    lanes = np.empty((4, LANES), np.int64)
    for group in items:
        count, longest = find_lanes(group, T, C, lengths, kept, lanes)
        clear(grads, T, lanes, count, C)
        begin(work, plan)
        fill(work, plan.inside, plan.size, 0.0)
        tiles, n = tiles_of(longest), 0
        for tile in range(tiles - 1, -1, -1):
            first = tile * TILE
            if tile < tiles - 1:
                advance(n, work, plan)
            n = min(TILE, longest - first)
            load_factors(terms, lanes[0], lanes[2], first, n, True, work, plan)
            load_kept(kept, layout, lanes, group, count, tile, n, work, plan)
            scale = scales_of(kept, layout, group, count, tile, weight, work, plan)
            for i in range(n):
                begins = first + n - 1 - i == longest - 1
                combine(i, begins, first + n - 1 - i, lanes, scale, other, left, work, plan)
            store_lanes(grads[0], plan.labels_out, lanes, count, first, n, work, plan)
            if boundaries:
                store_lanes(grads[1], plan.opens_out, lanes, count, first, n, work, plan)
                store_lanes(grads[2], plan.closes_out, lanes, count, first, n, work, plan)
        write_sums(sums[group], kept, group, count, calm, other, left, work, plan)
