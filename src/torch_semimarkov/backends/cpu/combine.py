"""The combining pass of one tile: what it adds to every gradient, from the messages of both sides.

``work`` belongs to the right-to-left sweep, in whose mirrored order the positions come; ``other``
to the left-to-right one, whose rows ``left.py`` has loaded.
"""

from __future__ import annotations

from torch_semimarkov.backends.cpu.compile import part
from torch_semimarkov.backends.cpu.elementary import exp
from torch_semimarkov.backends.cpu.exact import open_segment, reopen
from torch_semimarkov.backends.cpu.plan import S
from torch_semimarkov.backends.cpu.tile import convolve
from torch_semimarkov.backends.cpu.vector import (
    load,
    load_rows,
    multiply_add,
    repeat,
    spread,
    spread_each,
    spread_from,
    store,
)
from torch_semimarkov.backends.cpu.vector_types import LANES, LINEAR, ROWS


@part
def positions(n, weight, exact, work, plan, other, left):
    """Posterior of starts, ends and labels at the tile's positions, times the weight."""
    for v in range(0, plan.C, LANES):
        inside = load(work, plan.inside + v)
        for j in range(n):
            here = j * plan.C + v
            P, Q = load(other, left.left_p + here), load(other, left.left_q + here)
            beta, V = load(work, plan.Q + here), load(work, plan.P + here + plan.C)
            if exact:
                end, start = exp(P + beta) * spread(weight), exp(Q + V) * spread(weight)
            else:
                end, start = P * beta, Q * V
            inside = inside + end
            store(work, plan.labels_out + here, inside)
            store(work, plan.closes_out + here, start)
            store(work, plan.opens_out + here, end)
            inside = inside - start
        store(work, plan.inside + v, inside)


@part
def moves(n, work, plan, other, left):
    """Add the expected transitions into the tile's starts, but for the factor X."""
    C = plan.C
    for v in range(C // LANES):
        for c in range(0, plan.labels, ROWS):
            at = plan.moves + (v * C + c) * LANES
            total = load_rows(work, at)
            for j in range(1, n + 1):
                V = repeat(load(work, plan.P + j * C + v * LANES))
                total = multiply_add(spread_each(other, left.left_p + j * C + c), V, total)
            store(work, at, total)


@part
def durations(n, open_rows, work, plan, other, left):
    """Add the expected segments that start in the tile by duration, but for the factor D."""
    C, K = plan.C, plan.K
    longest = min(K, open_rows + n)
    for v in range(C // LANES):
        for j in range(n):
            here = j * C + v * LANES
            row = load(other, left.left_q + here) * load(work, plan.leave + here)
            store(other, left.sums + j * LANES, row)
        window = plan.window + (v * plan.rows + K - 1) * LANES
        for d in range(K - (K - longest) // ROWS * ROWS, 0, -ROWS):
            total = convolve(
                LINEAR, n, other, left.sums, work, window + (1 - d) * LANES, LANES
            )  # fmt: skip
            at = plan.durations + (v * (K + ROWS) + K - d) * LANES
            store(work, at, load_rows(work, at) + total)


@part
def exact_moves(n, weight, work, plan, other, left):
    """Add the expected transitions into the starts of an exact tile."""
    C = plan.C
    for v in range(C // LANES):
        for j in range(1, n + 1):
            V = load(work, plan.P + j * C + v * LANES)
            for c in range(plan.labels):
                table = (v * C + c) * LANES
                pair = spread_from(other, left.left_p + j * C + c) + load(other, left.move + table)
                total = load(work, plan.exact_moves + table) + exp(pair + V) * spread(weight)
                store(work, plan.exact_moves + table, total)


@part
def exact_durations(n, weight, work, state, plan, other, left):
    """Add the expected segments that start in an exact tile by duration."""
    C, K = plan.C, plan.K
    reopen(work, state, plan)
    for j in range(n):
        for v in range(C // LANES):
            newest, alive = open_segment(j, v, work, state, plan)
            here = j * C + v * LANES
            rest = load(other, left.left_q + here) + load(work, plan.closes + here)
            for d in range(1, alive + 1):
                bias = load(work, plan.bias + (v * plan.depth + d) * LANES)
                row = load(work, newest - (d - 1) * LANES) + bias + rest
                at = plan.exact_durations + (v * (K + ROWS) + K - d) * LANES
                store(work, at, load(work, at) + exp(row) * spread(weight))


@part
def combine(n, weight, first_tile, work, state, plan, other, left):
    """Everything that a tile adds to the gradient."""
    exact = state[S.EXACT] == 1
    positions(n, weight, exact, work, plan, other, left)
    # the first boundary of the sequence is a start and no transition
    boundaries = n - 1 if first_tile else n
    if exact:
        exact_moves(boundaries, weight, work, plan, other, left)
        exact_durations(n, weight, work, state, plan, other, left)
    else:
        moves(boundaries, work, plan, other, left)
        durations(n, state[S.OPEN], work, plan, other, left)


@part
def write_sums(sums, labels, work, plan, other, left):
    """Expected counts of a group: transitions, durations, starts and ends, one after the other."""
    C, K = plan.C, plan.K
    for c in range(labels):
        block, lane = c // LANES, c % LANES
        for source in range(labels):
            table = (block * C + source) * LANES + lane
            count = work[plan.exact_moves + table]
            if other[left.X + table] > 0.0:
                count += work[plan.moves + table] * other[left.X + table]
            sums[source * labels + c] = count
        for d in range(1, K + 1):
            at = (block * (K + ROWS) + K - d) * LANES + lane
            factor = work[plan.D + (block * plan.depth + d) * LANES + lane]
            count = work[plan.exact_durations + at]
            if factor > 0.0:
                count += work[plan.durations + at] * factor
            sums[(labels + d - 1) * labels + c] = count
        sums[(labels + K) * labels + c] = work[plan.starts + c]
        sums[(labels + K + 1) * labels + c] = work[plan.ends + c]


@part
def clear_sums(work, plan):
    """Start to sum expected counts."""
    for i in range(plan.moves, plan.size):
        work[i] = 0.0
