"""Which form of the kernels runs: one table, by the numbers of durations and labels alone.

Neither B nor T is asked, so a sequence's bits do not depend on what else is in its batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from torch_semimarkov.potentials import Potentials

# Entries of the larger of two tiles, durations by labels and (64 at most) labels by labels ->
# sequences in a program, warps of the scan, warps of the gradient, positions of a tile whose
# history several programs sum (0: one program scans a sequence). Float64 counts twice.
TABLE = (
    (64, 4, 1, 1, 0),
    (256, 2, 1, 2, 0),
    (1024, 1, 2, 4, 0),
    (4096, 1, 4, 8, 0),
    (8192, 1, 8, 16, 64),
    (1 << 20, 1, 16, 16, 64),
)
MOST_LABELS = 256
# Entries at most with a tail, where no split makes the tile smaller.
MOST_ENTRIES = 1 << 15
# Shared memory of a program at most, as the compiler reports it, rounded up.
SHARED_BYTES = 48 * 1024
# Of a split: entries of a tile of positions and labels, and positions of one at least; warps of a
# tile's scan, of one with more entries, of its gradient; warps of the history, and positions or
# entries of one of its programs.
TILE_ENTRIES, SHORTEST_TILE = 2048, 16
TILE_WARPS, WIDE_TILE_WARPS, TILE_GRADIENT_WARPS = 4, 8, 8
HISTORY_WARPS, HISTORY_POSITIONS, STARTS_ENTRIES = 4, 8, 512


@dataclass(frozen=True)
class Variant:
    """Sizes of a kernel's tile, and how many warps work on it.

    Args:
        sequences: in one program.
        K_PAD, C_PAD: durations and labels padded to powers of two.
        scan_warps, gradient_warps: warps of a program.
        tile: positions whose history is split over programs; 0 if one scans a sequence.
        tail: whether long segments are one more number a label; their history is not split.
    """

    sequences: int
    K_PAD: int
    C_PAD: int
    scan_warps: int
    gradient_warps: int
    tile: int = 0
    tail: bool = False

    def __str__(self) -> str:
        split = f", history of {self.tile} positions split over programs" if self.tile else ""
        tail = ", with a tail" if self.tail else ""
        return (
            f"tile {self.tile or self.K_PAD} x {self.C_PAD} in registers, sequences per program "
            f"{self.sequences}, warps {self.scan_warps} and {self.gradient_warps}{split}{tail}"
        )


def up(size: int, step: int) -> int:
    """The smallest multiple of ``step`` that is not below ``size``."""
    return (size + step - 1) // step * step


def power_of_two(size: int) -> int:
    """The smallest power of two that is not below ``size``."""
    power = 1
    while power < size:
        power *= 2
    return power


def entries_of(p: Potentials) -> int:
    """Entries of the larger of two tiles, as the table counts them."""
    K_PAD, C_PAD = power_of_two(p.K), power_of_two(p.C)
    wide = 2 if p.compute_dtype == torch.float64 else 1
    return max(K_PAD, min(C_PAD, 64)) * C_PAD * wide


def size_problem(p: Potentials) -> str:
    """Why there is no form for (C, C) transitions and so many durations; empty if there is."""
    most, tail = (TABLE[-1][0], "") if p.tail is None else (MOST_ENTRIES, " with a tail")
    if entries_of(p) <= most:
        return ""
    return (
        f"takes at most {most} durations times labels{tail}, each rounded up to a power of two "
        f"(float64 counts twice), got K = {p.K} and C = {p.C}; take fewer durations"
    )


def variant_of(p: Potentials) -> Variant:
    """The form in which potentials run."""
    K_PAD, C_PAD = power_of_two(p.K), power_of_two(p.C)
    entries = entries_of(p)
    _, *numbers = next(row for row in TABLE if entries <= row[0])
    sequences, scan_warps, gradient_warps, longest = numbers
    tile, tail = min(longest, max(TILE_ENTRIES // C_PAD, SHORTEST_TILE)), p.tail is not None
    if 2 * tile > K_PAD or tail:
        tile = 0
    if tile:
        scan_warps = WIDE_TILE_WARPS if tile * C_PAD > TILE_ENTRIES else TILE_WARPS
        gradient_warps = TILE_GRADIENT_WARPS
    return Variant(sequences, K_PAD, C_PAD, scan_warps, gradient_warps, tile, tail)
