"""The log partition of sequences: the left-to-right sweep, which keeps what the backward needs."""

from __future__ import annotations

from torch_semimarkov.backends.cpu.compile import compiled, inlined, part
from torch_semimarkov.backends.cpu.messages import keep, take_snapshot, tiles_of
from torch_semimarkov.backends.cpu.plan import TILE, fill_tables, make_work
from torch_semimarkov.backends.cpu.sweep import advance, begin, log_partition_of, take
from torch_semimarkov.backends.cpu.tile import LOG2, load_tile


@part
def load_left_tile(terms, origin, tile, L, work, plan):
    """The terms of a tile in the order of the sequence; returns its number of positions."""
    n = min(TILE, L - tile * TILE)
    load_tile(terms, origin + tile * TILE * plan.labels, plan.labels, n, work, plan)
    return n


@part
def load_right_tile(terms, origin, tile, L, work, plan):
    """The terms of a tile in mirrored order, where starts are ends."""
    n = min(TILE, L - tile * TILE)
    last = origin + (tile * TILE + n - 1) * plan.labels
    load_tile((terms[0], terms[2], terms[1]), last, -plan.labels, n, work, plan)
    return n


@inlined
def sweep_left(terms, origin, L, kept, layout, work, state, plan):
    """The left-to-right sweep of a sequence; keeps its messages if there is room.

    Returns its log partition as a number of powers of two and the rest.
    """
    begin(work, state, plan)
    n = min(TILE, L)
    for tile in range(tiles_of(L)):
        if tile > 0:
            if len(kept) and layout.stretch and tile % layout.stretch == 0:
                at = (tile // layout.stretch - 1) * layout.snapshot
                take_snapshot(kept, at, work, state, plan)
            advance(n, work, state, plan)
        n = load_left_tile(terms, origin, tile, L, work, plan)
        take(n, False, work, state, plan)
        if len(kept) and not layout.stretch:
            keep(kept, layout.rows, layout.info, tile, n, work, state, plan)
    return log_partition_of(n, work, state, plan)


@inlined
def sweep_right_half(terms, origin, L, kept, layout, work, state, plan):
    """The right-to-left sweep over the tiles whose messages are kept."""
    begin(work, state, plan)
    tiles = tiles_of(L)
    n = min(TILE, L)
    for tile in range(tiles - 1, layout.half - 1, -1):
        if tile < tiles - 1:
            advance(n, work, state, plan)
        n = load_right_tile(terms, origin, tile, L, work, plan)
        take(n, True, work, state, plan)
        keep(kept, layout.right_rows, layout.right_info, tile, n, work, state, plan)


@compiled
def forward(terms, shared, sizes, lengths, items, layout, kept, value):
    """log partition of some sequences, and what the backward needs if ``kept`` has room for it.

    Item b is sequence b; the item after the last sequence is the right half of the only one.
    """
    T, K, C, labels = sizes
    work, plan, state = make_work(K, C, labels, int(len(terms[1]) > 0), 0)
    for item in items:
        right = item == len(lengths)
        fill_tables(work, state, plan, shared, right)
        b = 0 if right else item
        messages = kept[b] if kept.size else kept[0]
        if right:
            sweep_right_half(terms, 0, lengths[0], messages, layout, work, state, plan)
            continue
        exponent, rest = sweep_left(
            terms, b * T * labels, lengths[b], messages, layout, work, state, plan
        )
        value[b] = exponent * LOG2 + rest
        if len(messages):
            end = len(messages)
            messages[end - 3] = layout.stretch
            messages[end - 2], messages[end - 1] = exponent, rest
