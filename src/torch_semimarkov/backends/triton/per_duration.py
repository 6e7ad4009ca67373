"""Calls of the Triton backend for (K, C, C) transitions: one program a sequence.

The kernels work on a window of rows: all of them, or a stretch of positions at a time with the K
rows before it (and after it, on the way back), which is how memory stays bounded.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from torch_semimarkov.backends.triton.per_duration_count import BLOCK, count_first, count_pairs
from torch_semimarkov.backends.triton.per_duration_pull import close, pull, spread
from torch_semimarkov.backends.triton.per_duration_scan import scan, trace
from torch_semimarkov.potentials import Potentials

# Lanes of a tile of (durations, sources, labels), half as many in float64; lanes of a thread.
TILE, LANES_PER_THREAD = 4096, 16
# Sums that are counted side by side, so that a small table still uses the card.
PROGRAMS = 512


def kept_shape(
    potentials: Potentials, keep: bool, checkpoint_interval: int | None
) -> tuple[int, ...]:
    """Alpha and prefixes at every position, or the K last ones before each stretch, or nothing."""
    p = potentials
    if not keep:
        return (0,)
    if checkpoint_interval is None:
        return (p.B, p.T + 1, 2, p.C)
    K = min(p.K, p.T)
    stretch = _stretch(p.T, K, checkpoint_interval)
    return (p.B, -(-p.T // stretch) - 1, K, 2, p.C)


def forward(
    potentials: Potentials, semiring: str, keep: bool, checkpoint_interval: int | None
) -> tuple[Tensor, Tensor]:
    """The total (B,) float64, and the messages for the backward."""
    call, shape = _Call(potentials), kept_shape(potentials, keep, checkpoint_interval)
    kept = torch.zeros(shape, dtype=torch.float64, device=call.device)
    if len(shape) == 4 and semiring == "log":
        call.scan(kept, 0, call.p.T)
        return call.value(), kept
    if len(shape) == 5:
        stretch, saved = _stretch_of(call.p.T, shape[1] + 1), kept
    else:
        stretch, saved = _stretch(call.p.T, call.K, None), None
    rows = call.rows(stretch)
    for first in range(0, call.p.T, stretch):
        if first > 0:
            rows[:, : call.K].copy_(rows[:, stretch:])
            if saved is not None:
                saved[:, first // stretch - 1] = rows[:, : call.K]
        back = call.back(stretch) if semiring == "max" else None
        call.scan(rows, first, min(first + stretch, call.p.T), back)
    return call.value(), kept


def backward(
    potentials: Potentials, value: Tensor, kept: Tensor, weight: Tensor
) -> dict[str, Tensor]:
    """Gradients of ``(weight * value).sum()`` by term, in the terms' types."""
    call = _Call(potentials)
    found = _Gradients(call, weight)
    if kept.dim() == 4:
        flow = call.flow(call.p.T + 1)
        found.take(kept, flow, 0, call.p.T)
        return found.by_name(kept, flow)
    stretch, K = _stretch_of(call.p.T, kept.shape[1] + 1), call.K
    rows, flow = call.rows(stretch, after=K), call.flow(stretch + 2 * K)
    for first in reversed(range(0, call.p.T, stretch)):
        for window in (rows, flow):
            # the rows from ``stop`` on, which were those from ``first`` on
            window[:, stretch + K - 1 :].copy_(window[:, K - 1 : 2 * K].clone())
        if first > 0:
            rows[:, :K] = kept[:, first // stretch - 1]
        else:
            rows[:, K - 1].zero_()
        stop = min(first + stretch, call.p.T)
        call.scan(rows, first, stop)
        found.take(rows, flow, first, stop)
    return found.by_name(rows, flow)


def viterbi(potentials: Potentials) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (B,) float64, a (3, B, T) int64 table of starts, ends and labels, counts (B,)."""
    call, p = _Call(potentials), potentials
    rows = torch.zeros(p.B, p.T + 1, 2, p.C, dtype=torch.float64, device=call.device)
    back = call.back(p.T)
    call.scan(rows, 0, p.T, back)
    table = torch.full((3, p.B, p.T), -1, dtype=torch.int64, device=call.device)
    counts = torch.empty(p.B, dtype=torch.int64, device=call.device)
    trace[(p.B,)](
        rows, call.edges, p.lengths, call.total, back, table, counts, p.B, p.T, p.C, BC=call.BC,
        num_warps=1,
    )  # fmt: skip
    return call.value(), table, counts


class _Call:
    """One call: its sizes, the tiles of its kernels, and the terms in the order they take them."""

    def __init__(self, p: Potentials) -> None:
        self.p, self.device, self.K = p, p.device, min(p.K, p.T)
        nothing = p.scores.new_zeros(p.C)
        ends = (nothing if x is None else x for x in (p.start, p.end))
        self.edges = torch.stack(tuple(ends)).detach()
        self.lengths: Tensor = p.lengths  # type: ignore[assignment]
        self.per_position = (p.start_scores, p.end_scores)
        self.tables = (p.transition, p.duration_bias)
        self.BC = triton.next_power_of_2(p.C)
        self.BS = min(self.BC, 8)
        tile = TILE // 2 if p.scores.dtype == torch.float64 else TILE
        self.BD = min(triton.next_power_of_2(self.K), tile // (self.BC * self.BS))
        lanes = self.BD * self.BS * self.BC
        self.num_warps = max(1, min(8, lanes * (TILE // tile) // (32 * LANES_PER_THREAD)))
        # rows of the window that lie before the first row of a stretch
        self.before = 0
        self.total = torch.zeros(p.B, 2, dtype=torch.float64, device=self.device)

    @property
    def blocks(self) -> dict[str, int]:
        """Sizes of a tile, and the warps that share it."""
        return {"BD": self.BD, "BS": self.BS, "BC": self.BC, "num_warps": self.num_warps}

    def rows(self, stretch: int, after: int = 0) -> Tensor:
        """A window for a stretch of positions, with the rows before it and some after it."""
        self.before = self.K - 1
        shape = self.p.B, self.K + stretch + after, 2, self.p.C
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def flow(self, count: int) -> Tensor:
        """A window of posteriors."""
        return self.p.scores.new_zeros(self.p.B, count, 4, self.p.C)

    def back(self, count: int) -> Tensor:
        """Room for the choices of the max semiring."""
        return torch.empty(self.p.B, count, self.p.C, dtype=torch.int32, device=self.device)

    def value(self) -> Tensor:
        """(B,). What the scans of the call found."""
        return self.total[:, 0].contiguous()

    def scan(self, rows: Tensor, first: int, stop: int, back: Tensor | None = None) -> None:
        """Fill the rows ``first + 1`` to ``stop``."""
        p = self.p
        scan[(p.B,)](
            p.scores, *self.per_position, *self.tables, self.edges, p.lengths, rows, self.total,
            back, first, stop, self.before, rows.shape[1], p.T, self.K, p.C,
            **self.blocks,
        )  # fmt: skip


class _Gradients:
    """Gradients that are filled stretch by stretch, from the last one to the first."""

    def __init__(self, call: _Call, weight: Tensor) -> None:
        p = call.p
        self.call, self.weight = call, weight.to(torch.float64).contiguous()
        tiles = call.K * -(-p.C // call.BS)
        items = p.B * -(-p.T // BLOCK.value)
        parts = max(1, min(PROGRAMS // tiles, items))
        self.pairs = self.weight.new_zeros(parts, call.K, p.C, p.C)
        self.inside = self.weight.new_zeros(p.B, p.C)
        self.last = self.weight.new_zeros(p.B, p.C)
        self.scores, self.starts, self.ends = (
            None if x is None else torch.empty_like(x) for x in (p.scores, *call.per_position)
        )

    def take(self, rows: Tensor, flow: Tensor, first: int, stop: int) -> None:
        """Add what the segments that start from ``first + 1`` to ``stop`` give; rows are known."""
        call, p = self.call, self.call.p
        where = first, stop, call.before, rows.shape[1]
        sizes = p.T, call.K, p.C
        close[(p.B * (stop - first),)](
            p.scores, *call.per_position, *call.tables, call.edges, p.lengths, rows, flow,
            *where, *sizes, **call.blocks,
        )  # fmt: skip
        pull[(p.B,)](
            *call.per_position, *call.tables, call.edges, p.lengths, self.weight, rows, flow,
            *where, *sizes, **call.blocks,
        )  # fmt: skip
        count_pairs[(call.K * -(-p.C // call.BS), len(self.pairs))](
            *call.per_position, *call.tables, p.lengths, rows, flow, self.pairs,
            *where, p.B, *sizes, **call.blocks,
        )  # fmt: skip
        spread[(p.B,)](
            p.lengths, flow, self.inside, self.scores, self.starts, self.ends,
            *where, p.T, p.C, BT=max(1, min(BLOCK.value // 4, 512 // call.BC)), BC=call.BC,
        )  # fmt: skip
        self._take_ends(flow, first, stop)

    def _take_ends(self, flow: Tensor, first: int, stop: int) -> None:
        """Note the posterior of the last labels, of sequences that end in this stretch."""
        call, L = self.call, self.call.lengths
        row = (L - first + call.before).clamp(0, flow.shape[1] - 1)
        found = flow[torch.arange(len(flow), device=flow.device), row, 0]
        here = (first < L) & (stop >= L)
        self.last += torch.where(here[:, None], found, 0.0)

    def by_name(self, rows: Tensor, flow: Tensor) -> dict[str, Tensor]:
        """The gradients of the terms that are present; the windows hold the first stretch."""
        call, p = self.call, self.call.p
        first = torch.empty(call.K, p.C, dtype=torch.float64, device=call.device)
        count_first[(-(-call.K // call.BD),)](
            *call.per_position, p.duration_bias, call.edges, p.lengths, rows, flow, first,
            call.before, rows.shape[1], p.B, p.T, call.K, p.C, BD=call.BD, BC=call.BC,
        )  # fmt: skip
        pairs = self.pairs.sum(0)
        found = {
            "scores": self.scores,
            "transition": _padded(pairs, p.K),
            "duration_bias": _padded(pairs.sum(1) + first, p.K),
            "start": first.sum(0),
            "end": self.last.sum(0),
            "start_scores": self.starts,
            "end_scores": self.ends,
        }
        return {name: found[name].to(x.dtype) for name, x in p.terms()}  # type: ignore[union-attr]


def _padded(counts: Tensor, K: int) -> Tensor:
    """Counts by duration with zeros for the durations that no sequence is long enough for."""
    missing = counts.new_zeros(K - len(counts), *counts.shape[1:])
    return torch.cat((counts, missing))


def _stretch(T: int, K: int, interval: int | None) -> int:
    """Positions from one checkpoint to the next: about ``interval``, and enough for K rows each."""
    wanted = max(interval or 4 * BLOCK.value, 4 * K)
    blocks = -(-T // BLOCK.value)
    count = -(-blocks // -(-wanted // BLOCK.value))
    return _stretch_of(T, count)


def _stretch_of(T: int, count: int) -> int:
    """Positions of each of ``count`` stretches, in whole blocks."""
    blocks = -(-T // BLOCK.value)
    return -(-blocks // count) * BLOCK.value
