"""Calls of the Triton backend for the slope of the log partition: memory and grids.

What is kept is flat float64: the rows of the scan from the left, the sums of its blocks, and its
result; see ``tangent_scan``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov.backends.triton.tangent_combine import (
    tangent_durations_kernel,
    tangent_labels_kernel,
    tangent_pairs_kernel,
)
from torch_semimarkov.backends.triton.tangent_scan import tangent_scan_kernel
from torch_semimarkov.backends.triton.variants import power_of_two, up
from torch_semimarkov.potentials import Potentials

# Positions of a block, at most and at least; lanes of a tile, if it has no more than 128 labels.
LONGEST_BLOCK, SHORTEST_BLOCK, TILE = 64, 8, 1024
# Lanes of a warp: few, since each takes many registers.
LANES = 128
# Positions that a program takes at a time to count transitions.
POSITIONS = 64
# Programs with sums of their own, at most, and float64 numbers in all of those.
PROGRAMS, SUMS = 512, 1 << 23
Grads = dict[str, Tensor]
Kept = tuple[Tensor, Tensor, Tensor]


def tangent_kept_shape(p: Potentials, keep: bool) -> tuple[int, ...]:
    """See the head of this file; (0,) without a gradient to come."""
    return (sum(_sizes(p, _blocks(p))),) if keep else (0,)


def tangent(p: Potentials, direction: Potentials, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Log partition and its derivative in a direction, (B,) float64; and what the backward needs.

    Potentials and direction are canonical, float64, and have the same terms.
    """
    run = _Run(p, direction)
    kept = torch.zeros(tangent_kept_shape(p, keep), dtype=torch.float64, device=p.device)
    rows, sums, result = run.parts(kept) if keep else run.ring()
    run.scan(rows, sums, result)
    total, norm, slope, drift = result.view(p.B, 4).unbind(1)
    return total + norm, torch.where(total == -torch.inf, 0.0, slope + drift), kept


def tangent_backward(
    p: Potentials, direction: Potentials, kept: Tensor, weight: Tensor, slope_weight: Tensor
) -> tuple[Grads, Grads]:
    """Gradients of ``(weight * value + slope_weight * slope).sum()``: of terms, of directions."""
    run = _Run(p, direction)
    left = run.parts(kept if kept.numel() else run.empty(*tangent_kept_shape(p, True)))
    if not kept.numel():
        run.scan(*left)
    weights = torch.stack((weight, slope_weight)).to(torch.float64)
    return run.combine(left, weights)


class _Run:
    """The kernels of one call, over canonical float64 potentials with (C, C) transitions."""

    def __init__(self, p: Potentials, direction: Potentials) -> None:
        self.p, self.direction, self.K = p, direction, min(p.K, p.T)
        self.BC, self.BD, self.blocks = power_of_two(p.C), block_of(p), _blocks(p)
        self.warps = _warps(self.BD * self.BC, LANES)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Memory on the device."""
        return torch.empty(shape, dtype=dtype, device=self.p.device)

    def parts(self, kept: Tensor) -> Kept:
        """Rows, sums of blocks and result as parts of what is kept."""
        rows, sums, result = kept.split(_sizes(self.p, self.blocks))
        return rows, sums, result

    def ring(self) -> Kept:
        """The same, with rows for the segments that are open and no others."""
        sizes = _sizes(self.p, power_of_two((self.K - 1) // self.BD + 2))
        rows, sums, result = self.empty(sum(sizes)).split(sizes)
        return rows, sums, result

    def tables(self, p: Potentials, reverse: bool) -> list[Tensor]:
        """What all sequences share, in one piece: transition, bias, and both edges."""
        nothing = p.scores.new_zeros(p.C)
        edges = [nothing if x is None else x for x in (p.start, p.end)]
        terms = (p.transition.T, *edges[::-1]) if reverse else (p.transition, *edges)
        return [x.detach().reshape(-1) for x in (terms[0], p.duration_bias[: self.K], *terms[1:])]

    def both_tables(self, reverse: bool = False) -> Tensor:
        """Tables of the terms, then of their directions."""
        return torch.cat([*self.tables(self.p, reverse), *self.tables(self.direction, reverse)])

    def scan(
        self,
        rows: Tensor,
        sums: Tensor,
        result: Tensor,
        longest: Tensor | None = None,
        reverse: bool = False,
    ) -> None:
        """From left to right, or from right to left; ``longest`` is filled if it is there."""
        p, moved = self.p, self.direction
        per_position = [(x.start_scores, x.end_scores) for x in (p, moved)]
        (starts, ends), (moved_starts, moved_ends) = (
            pair[::-1] if reverse else pair for pair in per_position
        )
        ring = sums.numel() // (2 * p.B * p.C)
        mask = -1 if ring == self.blocks else ring - 1
        tangent_scan_kernel[(p.B,)](
            p.scores, starts, ends, moved.scores, moved_starts, moved_ends,
            self.both_tables(reverse), p.lengths, rows, sums, longest, result, p.T, self.K, p.C,
            ring, mask, BD=self.BD, BC=self.BC, REVERSED=reverse, num_warps=self.warps,
            num_stages=1,
        )  # fmt: skip

    def combine(self, left: Kept, weights: Tensor) -> tuple[Grads, Grads]:
        """The gradients, from what the scan from the left has found."""
        p, (rows, sums, result) = self.p, left
        right, unused, ignored = self.parts(self.empty(*tangent_kept_shape(p, True)))
        longest = self.empty(p.B, p.T, p.C, dtype=torch.int32)
        self.scan(right, unused, ignored, longest, reverse=True)
        tables = self.both_tables()
        # no kernel writes what belongs to padding
        starts, ends = (self.empty(2, p.B, p.T, p.C).zero_() for _ in range(2))
        labels = [torch.empty_like(p.scores) for _ in range(2)]

        SUB = min(self.BD, max(1, TILE // self.BC))
        items = p.B * self.blocks * (self.BD // SUB)
        durations = self.empty(_parts(items, self.K * p.C), 2, self.K, p.C).zero_()
        tangent_durations_kernel[(len(durations),)](
            tables, p.lengths, rows, right, sums, longest, result, weights, starts, durations, p.B,
            p.T, self.K, p.C, self.blocks, BD=self.BD, SUB=SUB, BC=self.BC,
            num_warps=_warps(SUB * self.BC, LANES), num_stages=1,
        )  # fmt: skip

        BS = min(self.BC, max(1, TILE // 2 // self.BC))
        items = p.B * (up(p.T, POSITIONS) // POSITIONS)
        moves = self.empty(_parts(items, p.C * p.C), 2, p.C, p.C)
        terms, directions = tables.chunk(2)
        tangent_pairs_kernel[(len(moves), up(p.C, BS) // BS)](
            terms, directions, terms[-p.C :], directions[-p.C :], p.lengths, rows, right, result,
            weights, ends, moves, p.B, p.T, p.C, self.blocks * self.BD, POSITIONS=POSITIONS, BS=BS,
            BC=self.BC, num_warps=_warps(BS * self.BC, LANES // 2), num_stages=1,
        )  # fmt: skip

        BT = max(8, TILE // self.BC)
        tangent_labels_kernel[(p.B, 2)](
            p.lengths, starts, ends, *labels, p.B, p.T, p.C, BT=BT, BC=self.BC,
            num_warps=_warps(BT * self.BC, 2 * LANES), num_stages=1,
        )  # fmt: skip
        shared = {"duration_bias": durations.sum(0), "transition": moves.sum(0)}
        return self._by_name(labels, starts, ends, shared)

    def _by_name(
        self, labels: list[Tensor], starts: Tensor, ends: Tensor, shared: Grads
    ) -> tuple[Grads, Grads]:
        """Gradients of the terms that are present, and of their directions."""
        p = self.p
        last = ends[:, torch.arange(p.B, device=p.device), p.lengths - 1]  # type: ignore[operator]
        bias = torch.nn.functional.pad(shared["duration_bias"], (0, 0, 0, p.K - self.K))
        grads: list[Grads] = []
        for i in range(2):
            found = {
                "transition": shared["transition"][i],
                "duration_bias": bias[i],
                "start": starts[i, :, 0].sum(0),
                "end": last[i].sum(0),
                "start_scores": starts[i],
                "end_scores": ends[i],
            }
            # one of two halves: results of an op must not share their memory
            mine = {name: found[name].clone() for name, _ in p.terms() if name in found}
            grads.append({"scores": labels[i], **mine})
        return grads[0], grads[1]


def block_of(p: Potentials) -> int:
    """Positions of a block."""
    most = min(LONGEST_BLOCK, max(16, power_of_two(p.K)))
    return max(SHORTEST_BLOCK, min(most, TILE // power_of_two(p.C)))


def _blocks(p: Potentials) -> int:
    """Blocks of the positions of a sequence."""
    return up(p.T, block_of(p)) // block_of(p)


def _sizes(p: Potentials, blocks: int) -> list[int]:
    """Numbers of all rows, of the sums of so many blocks, and of the results."""
    return [p.B * blocks * block_of(p) * (4 * p.C + 2), p.B * blocks * 2 * p.C, 4 * p.B]


def _parts(items: int, numbers: int) -> int:
    """Programs that share the work, each with so many sums of two kinds."""
    return max(1, min(items, PROGRAMS, max(SUMS // (2 * numbers), 32)))


def _warps(lanes: int, each: int) -> int:
    """Warps of a program with so many lanes."""
    return max(1, min(8, lanes // each))
