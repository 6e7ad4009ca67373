"""Memory and grids of the kernels that split the history of a tile over programs; see ``split``.

Nothing here waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov.backends.triton.split import history_kernel, tile_kernel
from torch_semimarkov.backends.triton.split_gradient import starts_kernel, tile_gradient_kernel
from torch_semimarkov.backends.triton.variants import (
    HISTORY_POSITIONS,
    HISTORY_WARPS,
    STARTS_ENTRIES,
    Variant,
    up,
)
from torch_semimarkov.potentials import Potentials


def sizes(p: Potentials, v: Variant) -> tuple[int, int]:
    """Numbers of the scores' type that a scan has in memory: starts, made even, and sums."""
    starts = up(p.B * (v.K_PAD + 2) * p.C, 2)
    wide = 1 if p.scores.dtype == torch.float64 else 2
    return starts, wide * p.B * (v.K_PAD // v.tile) * p.C


def splits_of(p: Potentials, v: Variant) -> int:
    """Tiles before one that have starts of segments that can reach into it."""
    return (p.K - 2 + v.tile) // v.tile


def tile_tables(p: Potentials, v: Variant, tables: Tensor) -> Tensor:
    """The tables of the durations that fit into a tile."""
    near, far = v.tile * v.C_PAD, v.K_PAD * v.C_PAD
    return torch.cat([tables[:near], tables[far:]])


class Scan:
    """A scan over some positions: memory of its own, which may start as a kept state."""

    def __init__(self, p: Potentials, v: Variant, tables: Tensor, lengths: Tensor) -> None:
        self.p, self.v, self.tables, self.lengths = p, v, tables, lengths
        self.near = tile_tables(p, v, tables)
        self.memory = torch.empty(sum(sizes(p, v)), dtype=p.scores.dtype, device=p.device)
        self.starts = self.memory[: sizes(p, v)[0]]
        self.sums = self.memory[len(self.starts) :].view(torch.float64)

    def run(
        self, semiring: str, value: Tensor, rows: Tensor | None, best: Tensor | None,
        span: tuple[int, int, int],
    ) -> None:  # fmt: skip
        """Scan a span (first, stop, rows kept): the history of a tile, then the tile."""
        p, v, (first, stop, ROWS) = self.p, self.v, span
        splits, choices = splits_of(p, v), best is not None
        size = 1 + choices, p.B, splits, v.tile, p.C
        parts = torch.empty(size, dtype=p.scores.dtype, device=p.device)
        for at in range(first, stop, v.tile):
            if at:
                history_kernel[p.B, splits, v.tile // HISTORY_POSITIONS](
                    self.tables, self.lengths, self.starts, self.sums, None, parts, p.C, at, ROWS,
                    TILE=v.tile, POSITIONS=HISTORY_POSITIONS, RING=v.K_PAD // v.tile,
                    K_PAD=v.K_PAD, C_PAD=v.C_PAD, IS_MAX=semiring == "max", CHOICES=choices,
                    num_warps=HISTORY_WARPS, num_stages=1,
                )  # fmt: skip
            tile_kernel[(p.B,)](
                p.scores, p.start_scores, p.end_scores, self.near, self.lengths, value, rows,
                self.starts, self.sums, parts, best, p.T, p.K, p.C, at, ROWS, TILE=v.tile,
                K_PAD=v.K_PAD, C_PAD=v.C_PAD, IS_MAX=semiring == "max", num_warps=v.scan_warps,
                num_stages=1,
            )  # fmt: skip


class Gradient:
    """The combining pass, from right to left over any number of spans."""

    def __init__(
        self, p: Potentials, v: Variant, tables: Tensor, lengths: Tensor, weight: Tensor
    ) -> None:
        self.p, self.v, self.tables, self.lengths = p, v, tables, lengths
        self.near = tile_tables(p, v, tables)
        self.ring = v.K_PAD // v.tile + 1
        self.counts = 2 * self.ring * v.tile * v.C_PAD
        rows, dtype, device = self.ring * v.tile, p.scores.dtype, p.device
        self.starts = torch.empty(p.B, rows + 2, p.C, dtype=torch.float64, device=device)
        self.sums = torch.empty(p.B, self.ring, p.C, dtype=torch.float64, device=device)
        state = p.B, rows + self.ring + 2 * v.tile + 1, p.C
        self.state = torch.empty(state, dtype=dtype, device=device)
        parts = p.B, splits_of(p, v), v.tile, p.C
        self.parts = torch.empty(parts, dtype=dtype, device=device)
        work = p.B, self.counts + (p.C + 2) * p.C + 1
        self.work = torch.zeros(work, dtype=torch.float64, device=device)
        self.work[:, -1] = weight

    def run(self, rows: Tensor, out: dict[str, Tensor], span: tuple[int, int, int]) -> None:
        """Run it over a span (first, stop, rows kept); the last positions come first."""
        p, v, (first, stop, ROWS) = self.p, self.v, span
        splits = splits_of(p, v)
        last = up(stop, v.tile)
        if stop == p.T:
            self._starts(rows, last, ROWS)
        for at in range(last - v.tile, first - 1, -v.tile):
            if at:
                history_kernel[p.B, splits, v.tile // HISTORY_POSITIONS](
                    self.tables, self.lengths, self.starts, self.sums, rows, self.parts, p.C, at,
                    ROWS, TILE=v.tile, POSITIONS=HISTORY_POSITIONS, RING=self.ring, K_PAD=v.K_PAD,
                    C_PAD=v.C_PAD, IS_MAX=False, CHOICES=False, num_warps=HISTORY_WARPS,
                    num_stages=1,
                )  # fmt: skip
            tile_gradient_kernel[(p.B,)](
                p.scores, self.near, self.lengths, rows, self.starts, self.sums, self.parts,
                self.state, self.work, out["scores"], out.get("start_scores"),
                out.get("end_scores"), p.T, p.K, p.C, at, ROWS, TILE=v.tile, K_PAD=v.K_PAD,
                C_PAD=v.C_PAD, num_warps=v.gradient_warps, num_stages=1,
            )  # fmt: skip
            if at:
                self._starts(rows, at, ROWS)

    def _starts(self, rows: Tensor, at: int, ROWS: int) -> None:
        p, v = self.p, self.v
        labels = min(v.C_PAD, max(STARTS_ENTRIES // v.tile, 1))
        starts_kernel[p.B, splits_of(p, v) + 1, v.C_PAD // labels](
            p.scores, p.start_scores, self.tables, self.lengths, rows, self.starts, self.sums,
            self.state, self.work, p.T, p.C, at, ROWS, TILE=v.tile, LABELS=labels, K_PAD=v.K_PAD,
            C_PAD=v.C_PAD, num_warps=HISTORY_WARPS, num_stages=1,
        )  # fmt: skip

    def totals(self) -> tuple[Tensor, Tensor]:
        """Expected counts over all sequences: of durations (K_PAD, C_PAD), and of the rest."""
        v = self.v
        found = self.work.sum(0)
        # a program has the durations of two tiles, the second of which is the next one's first
        halves = found[: self.counts].view(self.ring, 2, v.tile, v.C_PAD)
        durations = halves[:-1, 1] + halves[1:, 0]
        return durations.reshape(v.K_PAD, v.C_PAD), found[self.counts : -1]
