"""What the forward keeps of each sequence for the backward, in one flat float64 row.

The rows P of all positions, without the padding of the labels, relative to the scales of their
tiles; then three numbers a tile: its exponent, the exponent at its end, and 1 if its rows are logs;
then the log partition as a number of powers of two and the rest.
"""

from __future__ import annotations

from torch_semimarkov.backends.cpu.compile import part
from torch_semimarkov.backends.cpu.plan import TILE, S
from torch_semimarkov.backends.cpu.vector import LANES, load, store, store_part


@part
def tiles_of(L):
    """Number of tiles of L positions."""
    return (L + TILE - 1) // TILE


def kept_size(T: int, labels: int) -> int:
    """Numbers kept of a sequence of T positions."""
    return T * labels + 3 * (-(-T // TILE)) + 2


@part
def keep(kept, rows, tile, n, work, state, plan):
    """Store P[1..n] of a tile and its exponents; ``kept`` begins with ``rows`` numbers of P."""
    for j in range(n):
        to = (tile * TILE + j) * plan.labels
        for v in range(0, plan.C, LANES):
            row, count = load(work, plan.P + (j + 1) * plan.C + v), plan.labels - v
            if count >= LANES:
                store(kept, to + v, row)
            else:
                store_part(kept, to + v, count, row)
    info = rows + 3 * tile
    kept[info] = state[S.EXPONENT]
    kept[info + 1] = state[S.EXPONENT] + state[S.GROWTH]
    kept[info + 2] = state[S.EXACT]
