"""What the forward keeps of each sequence for the backward, in one flat float64 row.

By default the rows P of all positions, without the padding of the labels and relative to the scales
of their tiles, and three numbers a tile: its exponent, the exponent at its end, and 1 if its rows
are logs. A lone long sequence has the same of its right half from right to left as well, since a
second core finds it meanwhile. With checkpoints, in place of all that, the whole state of the sweep
once a stretch of tiles. The row ends with the tiles of a stretch and the log partition: a number of
powers of two and the rest.
"""

from __future__ import annotations

from typing import NamedTuple

from torch_semimarkov.backends.cpu.compile import part, small
from torch_semimarkov.backends.cpu.plan import TILE, S, make_plan
from torch_semimarkov.backends.cpu.tile import store_labels
from torch_semimarkov.backends.cpu.vector import (
    load,
)
from torch_semimarkov.backends.cpu.vector_types import LANES, padded

# Positions from which on a lone sequence is worth two cores.
LONG = 256


class Layout(NamedTuple):
    """Places in a kept row.

    rows, info: where the rows and the numbers of tile 0 lie.
    right_rows, right_info: the same of the other direction, as if it had a tile 0.
    half: the first tile that has them.
    stretch: tiles from one checkpoint to the next; 0 without checkpoints.
    snapshot: numbers of a checkpoint.
    size: numbers in all.
    """

    rows: int
    info: int
    right_rows: int
    right_info: int
    half: int
    stretch: int
    snapshot: int
    size: int


def layout_of(B: int, T: int, K: int, labels: int, interval: int | None) -> Layout:
    """The layout for a batch of this size; ``interval`` is that of the checkpoints."""
    tiles = -(-T // TILE)
    info = T * labels
    if interval is not None:
        plan = make_plan.py_func(K, padded(labels), labels, 1, 0)
        stretch = -(-interval // TILE)
        snapshot = plan.left_p - plan.scores + S.RING + 3 * plan.slots
        count = (tiles - 1) // stretch  # the first stretch needs none
        return Layout(0, info, 0, 0, tiles, stretch, snapshot, count * snapshot + 3)
    end = info + 3 * tiles
    # about a half: in all no more than three times the scores in float32 have room for
    room = -(-(info + 12 * tiles + 6) // (2 * TILE * labels + 6))
    half = room if B == 1 and T >= LONG else tiles
    right_rows = end - half * TILE * labels
    right_info = right_rows + info - 3 * half
    size = right_info + 3 * tiles + 3 if half < tiles else end + 3
    return Layout(0, info, right_rows, right_info, half, 0, 0, size)


@small
def tiles_of(L):
    """Number of tiles of L positions."""
    return (L + TILE - 1) // TILE


@part
def keep(kept, rows, info, tile, n, work, state, plan):
    """Store P[1..n] of a tile and its three numbers."""
    end = rows + (tile * TILE + n) * plan.labels
    for j in range(n):
        to = rows + (tile * TILE + j) * plan.labels
        for v in range(0, plan.C, LANES):
            row = load(work, plan.P + (j + 1) * plan.C + v)
            store_labels(kept, to + v, plan.labels - v, end, row)
    at = info + 3 * tile
    kept[at] = state[S.EXPONENT]
    kept[at + 1] = state[S.EXPONENT] + state[S.GROWTH]
    kept[at + 2] = state[S.EXACT]


@part
def take_snapshot(kept, at, work, state, plan):
    """Store all that the sweep goes on from."""
    size = plan.left_p - plan.scores
    for i in range(size):
        kept[at + i] = work[plan.scores + i]
    for i in range(len(state)):
        kept[at + size + i] = state[i]


@part
def restore_snapshot(kept, at, work, state, plan):
    """Go back to a snapshot."""
    size = plan.left_p - plan.scores
    for i in range(size):
        work[plan.scores + i] = kept[at + i]
    for i in range(len(state)):
        state[i] = int(kept[at + size + i])
