"""Samples: the scan that keeps every position, then a walk for each sample of each sequence.

The host waits for the device once, for the most segments that a sample has: the table is as wide.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov.backends.triton import launch, per_duration
from torch_semimarkov.backends.triton.variants import power_of_two
from torch_semimarkov.backends.triton.walk import walk_kernel, walk_pairs_kernel
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.segments import PAD

# Entries of a program's tile at most, of samples by durations or labels, and of its durations; with
# (K, C, C) transitions of samples by durations by sources. A program is one warp, so no draw waits.
ENTRIES, LANES = 128, 128
PAIR_ENTRIES, PAIR_LANES, SOURCES = 128, 32, 4


class Walks:
    """The walks of all samples of canonical potentials, over the messages of one scan."""

    def __init__(self, p: Potentials, num_samples: int, seed: int) -> None:
        self.p, self.seed, self.K = p, seed, min(p.K, p.T)
        part = per_duration if p.per_duration else launch
        self.value, kept = part.forward(p, "log", True, None)
        self.rows = kept if p.per_duration else kept.view(-1).view(p.scores.dtype)
        self.counts = torch.empty(num_samples, p.B, dtype=torch.int64, device=p.device)
        if p.per_duration:
            nothing = p.scores.new_zeros(p.C)
            ends = [nothing if x is None else x.detach() for x in (p.start, p.end)]
            into = p.transition.detach()[: self.K].permute(2, 0, 1)
            self.tables = torch.cat([x.reshape(-1) for x in (into, *ends)])

    def count(self) -> Tensor:
        """Segments of each sample (num_samples, B) int64; 0 where no segmentation is possible."""
        self._walk(self.counts, 0)
        return self.counts

    def table(self, N: int) -> Tensor:
        """(3, num_samples, B, N) int64: starts, ends and labels, once the segments are counted."""
        shape = (3, *self.counts.shape, N)
        table = torch.full(shape, PAD, dtype=torch.int64, device=self.p.device)
        self._walk(table, N)
        return table

    def _walk(self, table: Tensor, N: int) -> None:
        p, C_PAD, S = self.p, power_of_two(self.p.C), len(self.counts)
        lanes = min(PAIR_LANES if p.per_duration else LANES, power_of_two(self.K))
        terms = p.scores, p.start_scores, p.duration_bias
        state = p.lengths, self.value, self.rows, self.counts, table, self.seed
        sizes = p.B, S, p.T, self.K, p.C, N
        if p.per_duration:
            sources = min(C_PAD, SOURCES)
            samples = max(1, PAIR_ENTRIES // max(lanes * sources, C_PAD))
            walk_pairs_kernel[(p.B * -(-S // samples),)](
                *terms, self.tables, *state, *sizes, SAMPLES=samples, LANES=lanes,
                SOURCES=sources, C_PAD=C_PAD, num_warps=1, num_stages=1,
            )  # fmt: skip
            return
        samples = max(1, ENTRIES // max(lanes, C_PAD))
        walk_kernel[(p.B * -(-S // samples),)](
            *terms, p.transition, p.end, *state, *sizes, SAMPLES=samples, LANES=lanes,
            C_PAD=C_PAD, num_warps=1, num_stages=1,
        )  # fmt: skip


def sample(p: Potentials, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """A table (3, num_samples, B, N) int64 of starts, ends and labels, and counts."""
    walks = Walks(p, num_samples, seed)
    counts = walks.count()
    return walks.table(max(1, int(counts.max()))), counts
