"""Entry points of the log partition: forward and backward over groups of sequences."""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.combine import clear_sums, combine, write_sums
from torch_semimarkov.backends.cpu.compile import compiled, inlined, part
from torch_semimarkov.backends.cpu.left import load_exact, load_linear
from torch_semimarkov.backends.cpu.messages import keep, tiles_of
from torch_semimarkov.backends.cpu.plan import TILE, S, fill, fill_tables, make_work
from torch_semimarkov.backends.cpu.sweep import (
    advance,
    begin,
    log_partition_of,
    take,
    take_exactly,
)
from torch_semimarkov.backends.cpu.tile import LOG2, load_tile
from torch_semimarkov.backends.cpu.vector import LANES, load, store_part

# Powers of two beyond which a scale and a message are not multiplied.
FAR = 900


@inlined
def sweep_left(terms, at, L, kept, rows, work, state, plan):
    """The left-to-right sweep of one sequence from ``at`` on; keeps its messages if there is room.

    Returns its log partition as a number of powers of two and the rest.
    """
    begin(work, state, plan)
    n = min(TILE, L)
    for tile in range(tiles_of(L)):
        if tile > 0:
            advance(n, work, state, plan)
        n = min(TILE, L - tile * TILE)
        load_tile(terms, at + tile * TILE * plan.labels, plan.labels, n, work, plan)
        take(n, False, work, state, plan)
        if len(kept):
            keep(kept, rows, tile, n, work, state, plan)
    return log_partition_of(n, work, state, plan)


@compiled
def forward(terms, shared, sizes, lengths, group, kept, value):
    """log partition of the sequences in ``group``; their messages if ``kept`` has room for them."""
    T, K, C, labels = sizes
    work, plan, state = make_work(K, C, labels, int(len(terms[1]) > 0), 0)
    fill_tables(work, state, plan, shared, False)
    for b in group:
        messages = kept[b] if kept.size else kept[0]
        exponent, rest = sweep_left(
            terms, b * T * labels, lengths[b], messages, T * labels, work, state, plan
        )
        value[b] = exponent * LOG2 + rest
        if len(messages):
            messages[len(messages) - 2], messages[len(messages) - 1] = exponent, rest


@part
def store_tile(grads, at, step, n, work, plan):
    """Write the tile's gradients in the type of the terms; those not asked for are empty."""
    scores, opens, closes = grads
    for j in range(n):
        for v in range(0, plan.C, LANES):
            here, there, count = j * plan.C + v, at + j * step + v, plan.labels - v
            store_part(scores, there, count, load(work, plan.labels_out + here))
            if len(opens):
                store_part(opens, there, count, load(work, plan.closes_out + here))
                store_part(closes, there, count, load(work, plan.opens_out + here))


@part
def load_left(kept, rows, tile, n, weight, work, state, plan, other, left):
    """The left-to-right rows of a tile; its messages become exact where scales are far apart."""
    end = len(kept) - 2
    powers = kept[rows + 3 * tile] + state[S.EXPONENT] + state[S.GROWTH] - kept[end]
    if not state[S.EXACT] and abs(powers) > FAR:
        take_exactly(n, work, state, plan)
        powers = kept[rows + 3 * tile] + state[S.EXPONENT] - kept[end]
    log_scale = powers * LOG2 - kept[end + 1]
    if state[S.EXACT]:
        load_exact(kept, rows, tile, n, log_scale, other, left)
    else:
        load_linear(kept, rows, tile, n, state[S.GROWTH], log_scale, weight, other, left)


@inlined
def sweep_right(terms, grads, at, L, kept, rows, weight, work, state, plan, other, left):
    """The right-to-left sweep of one sequence, which adds up its gradient on the way."""
    begin(work, state, plan)
    fill(work, plan.inside, plan.moves, 0.0)
    tiles = tiles_of(L)
    n, step = 0, -plan.labels
    for tile in range(tiles - 1, -1, -1):
        if tile < tiles - 1:
            advance(n, work, state, plan)
        n = min(TILE, L - tile * TILE)
        last = at + (tile * TILE + n - 1) * plan.labels
        load_tile((terms[0], terms[2], terms[1]), last, step, n, work, plan)
        take(n, True, work, state, plan)
        load_left(kept, rows, tile, n, weight, work, state, plan, other, left)
        combine(n, weight, tile == 0, work, state, plan, other, left)
        store_tile(grads, last, step, n, work, plan)
        for c in range(plan.labels):
            if tile == tiles - 1:
                work[plan.ends + c] += work[plan.opens_out + c]
            if tile == 0:
                work[plan.starts + c] += work[plan.closes_out + (n - 1) * plan.C + c]


@compiled
def backward(terms, shared, sizes, lengths, groups, kept, weight, grads, sums):
    """Gradients of the sequences of some groups; group g holds every len(sums)-th from g on."""
    T, K, C, labels = sizes
    boundaries = int(len(terms[1]) > 0)
    work, plan, state = make_work(K, C, labels, boundaries, 0)
    other, left, left_state = make_work(K, C, labels, boundaries, 0)
    fill_tables(work, state, plan, shared, True)
    fill_tables(other, left_state, left, shared, False)
    for g in groups:
        clear_sums(work, plan)
        for b in range(g, len(lengths), len(sums)):
            at, L = b * T * labels, lengths[b]
            messages = kept[b]
            if messages[len(messages) - 1] == -np.inf:
                L = 0
            for grad in grads:
                for i in range(at + L * labels, min(at + T * labels, len(grad))):
                    grad[i] = 0.0
            if L > 0:
                sweep_right(
                    terms, grads, at, L, messages, T * labels, weight[b], work, state, plan,
                    other, left,
                )  # fmt: skip
        write_sums(sums[g], labels, work, plan, other, left)
