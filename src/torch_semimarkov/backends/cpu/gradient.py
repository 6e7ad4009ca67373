"""The gradient of the log partition: the right-to-left sweep and the combining pass on its way."""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.combine import clear_sums, combine, positions, write_sums
from torch_semimarkov.backends.cpu.compile import compiled, inlined, part
from torch_semimarkov.backends.cpu.left import load_exact, load_linear
from torch_semimarkov.backends.cpu.messages import keep, restore_snapshot, tiles_of
from torch_semimarkov.backends.cpu.partition import load_left_tile, load_right_tile
from torch_semimarkov.backends.cpu.plan import TILE, S, fill, fill_tables, make_work
from torch_semimarkov.backends.cpu.sweep import advance, begin, replay, take, take_exactly
from torch_semimarkov.backends.cpu.tile import LOG2, store_labels
from torch_semimarkov.backends.cpu.vector import (
    load,
)
from torch_semimarkov.backends.cpu.vector_types import LANES

# The log of a scale beyond which it and a message are not multiplied.
FAR = 620.0


@part
def store_tile(grads, at, n, work, plan):
    """Write the tile's gradients in the type of the terms; those not asked for are empty."""
    scores, opens, closes = grads
    end = at + n * plan.labels
    for i in range(n):
        there = at + i * plan.labels
        for v in range(0, plan.C, LANES):
            here, count = (n - 1 - i) * plan.C + v, plan.labels - v
            store_labels(scores, there + v, count, end, load(work, plan.labels_out + here))
            if len(opens):
                starts, ends = load(work, plan.closes_out + here), load(work, plan.opens_out + here)
                store_labels(opens, there + v, count, end, starts)
                store_labels(closes, there + v, count, end, ends)


@part
def load_left(kept, rows, info, tile, n, total, weight, work, state, plan, other, left):
    """The left-to-right rows of a tile; its messages become exact where scales are far apart."""
    exponent, rest = total
    powers = kept[info + 3 * tile] + state[S.EXPONENT] - exponent
    log_scale = (powers + state[S.GROWTH]) * LOG2 - rest
    if not state[S.EXACT] and abs(log_scale) > FAR:
        take_exactly(n, work, state, plan)
        log_scale = powers * LOG2 - rest
    if state[S.EXACT]:
        load_exact(kept, rows, info, tile, n, log_scale, other, left)
    else:
        growth = state[S.GROWTH]
        load_linear(kept, rows, info, tile, n, growth, log_scale, weight, other, left)


@part
def refill(terms, origin, L, kept, layout, stretch, buffer, other, left_state, left):
    """Do a stretch of the left-to-right sweep again, and keep its messages in ``buffer``.

    Before them, unless it is the first stretch, come those of the tile before. Returns the tile
    with which the buffer begins.
    """
    first = stretch * layout.stretch
    info = (layout.stretch + 1) * TILE * left.labels
    before = 0 if stretch == 0 else first - 1
    n = TILE
    if stretch == 0:
        begin(other, left_state, left)
    else:
        restore_snapshot(kept, (stretch - 1) * layout.snapshot, other, left_state, left)
        keep(buffer, 0, info, 0, n, other, left_state, left)
    for tile in range(first, min(first + layout.stretch, tiles_of(L))):
        if tile > 0:
            advance(n, other, left_state, left)
        n = load_left_tile(terms, origin, tile, L, other, left)
        take(n, False, other, left_state, left)
        keep(buffer, 0, info, tile - before, n, other, left_state, left)
    return before


@inlined
def sweep_right(
    terms, grads, origin, L, kept, layout, buffer, tiles_wanted, weight, work, state, plan, other,
    left_state, left,
):  # fmt: skip
    """The right-to-left sweep of a sequence, which adds up the gradient of the wanted tiles.

    It ends with the first of them; those after the last only lead up to them.
    """
    low, high = tiles_wanted
    begin(work, state, plan)
    fill(work, plan.inside, plan.inside + plan.C, 0.0)
    tiles, n, present = tiles_of(L), min(TILE, L), -1
    rows, info, before, messages = layout.rows, layout.info, 0, kept
    total = kept[len(kept) - 2], kept[len(kept) - 1]
    for tile in range(tiles - 1, low - 1, -1):
        if tile < tiles - 1:
            advance(n, work, state, plan)
        n = load_right_tile(terms, origin, tile, L, work, plan)
        if tile >= layout.half:
            replay(n, kept, layout.right_rows, layout.right_info, tile, work, state, plan)
        else:
            take(n, True, work, state, plan)
        if layout.stretch and tile // layout.stretch != present:
            present = tile // layout.stretch
            before = refill(
                terms, origin, L, kept, layout, present, buffer, other, left_state, left
            )
            rows, info, messages = 0, (layout.stretch + 1) * TILE * left.labels, buffer
        load_left(
            messages, rows, info, tile - before, n, total, weight, work, state, plan, other, left
        )
        if tile >= high:
            positions(n, weight, state[S.EXACT] == 1, work, plan, other, left)
            continue
        combine(n, weight, tile == 0, work, state, plan, other, left)
        store_tile(grads, origin + tile * TILE * plan.labels, n, work, plan)
        for c in range(plan.labels):
            if tile == tiles - 1:
                work[plan.ends + c] += work[plan.opens_out + c]
            if tile == 0:
                work[plan.starts + c] += work[plan.closes_out + (n - 1) * plan.C + c]


@part
def clear(grads, begin, end):
    """Zeros from ``begin`` on, in each gradient that is asked for."""
    for grad in grads:
        for i in range(begin, min(end, len(grad))):
            grad[i] = 0.0


@compiled
def backward(terms, shared, sizes, lengths, items, layout, kept, weight, grads, sums, done):
    """Gradients of some items, which fill one row of ``sums`` each; those of ``done`` are there.

    Item g holds every len(sums)-th sequence from g on. If right-to-left messages are kept, the two
    items are the right and the left half of the only sequence.
    """
    T, K, C, labels = sizes
    boundaries = int(len(terms[1]) > 0)
    work, plan, state = make_work(K, C, labels, boundaries, 0)
    other, left, left_state = make_work(K, C, labels, boundaries, 0)
    fill_tables(work, state, plan, shared, True)
    fill_tables(other, left_state, left, shared, False)
    buffer = np.empty((layout.stretch + 1) * (TILE * labels + 3) if layout.stretch else 0)
    halved = layout.half < tiles_of(T)
    for item in items:
        clear_sums(work, plan)
        step = 1 if halved else len(sums)
        for b in range(0 if halved else item, len(lengths), step):
            if done[b]:
                continue
            origin, L, messages = b * T * labels, lengths[b], kept[b]
            wanted = 0, tiles_of(L)
            if halved:
                half = min(layout.half, tiles_of(L))
                wanted = (half, tiles_of(L)) if item == 0 else (0, half)
            if messages[len(messages) - 1] == -np.inf:
                clear(grads, origin, origin + T * labels)
            else:
                clear(grads, origin + L * labels, origin + T * labels)
                sweep_right(
                    terms, grads, origin, L, messages, layout, buffer, wanted, weight[b], work,
                    state, plan, other, left_state, left,
                )  # fmt: skip
        write_sums(sums[item], labels, work, plan, other, left)
