"""Memory and grids of the kernels; nothing here waits for the device.

What is kept for the backward, as a flat float64 tensor whose shape tells which it is:
(1, size): every position's messages, 3 C + 1 numbers of the scores' type, 5 C + 1 with a tail;
(groups, size, 1): the state of the scan before each group of stretches, K C + 3 C numbers a
sequence, K C + 5 C with a tail, made an even number; of a split scan, its memory (see ``split``).
There are as many stretches in a group as groups, so that the backward, which scans a group once
more for the states before its stretches and then each stretch for its messages, has few of both:
two groups' worth of states, and the messages of two stretches, are in memory at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov.backends.triton import launch_split
from torch_semimarkov.backends.triton.decode import table_kernel, traceback_kernel
from torch_semimarkov.backends.triton.gradient import FLUSH, gradient_kernel
from torch_semimarkov.backends.triton.scan import scan_kernel
from torch_semimarkov.backends.triton.variants import Variant, up, variant_of
from torch_semimarkov.potentials import PER_POSITION, Potentials
from torch_semimarkov.segments import PAD

_WIDTH = 128


def whole_stretch(positions: int, variant: Variant) -> int:
    """Positions of a stretch, so many at least: the tile and what it reaches, and whole bases."""
    return up(max(positions, variant.K_PAD + variant.tile), max(FLUSH.value, variant.tile))


def stretch_of(T: int, groups: int, variant: Variant) -> int:
    """Positions of each stretch, if so many groups have as many stretches each."""
    return whole_stretch((T + groups * groups - 1) // (groups * groups), variant)


def per_label(p: Potentials) -> int:
    """Numbers a label that are kept of a position, and of a state beside its ring."""
    return 3 if p.tail is None else 5


def kept_shape(p: Potentials, keep: bool, interval: int | None) -> tuple[int, ...]:
    """See the head of this file; (1, 0) without a gradient to come."""
    if not keep:
        return 1, 0
    half = 1 if p.scores.dtype == torch.float64 else 2
    if interval is None:
        return 1, up(p.B * p.T * (per_label(p) * p.C + 1), half) // half
    variant = variant_of(p)
    stretch = whole_stretch(interval, variant)
    states = up(p.B, variant.sequences) * up((p.K + per_label(p)) * p.C, 2)
    if variant.tile:
        states = sum(launch_split.sizes(p, variant))
    groups = 1
    while groups * groups * stretch < p.T:
        groups += 1
    return groups, states // half, 1


class Run:
    """The kernels of one call, over canonical potentials with (C, C) transitions."""

    def __init__(self, p: Potentials) -> None:
        self.p, self.variant = p, variant_of(p)
        self.programs = up(p.B, self.variant.sequences) // self.variant.sequences
        self.lengths = self.padded(p.lengths)  # type: ignore[arg-type]
        nothing = p.scores.new_zeros(p.C)
        ends = [nothing if x is None else x for x in (p.start, p.end)]
        missing = 0, self.variant.C_PAD - p.C, 0, self.variant.K_PAD - p.K
        bias, self.tail = p.duration_bias.detach(), None
        if p.tail is not None:
            self.tail = torch.cat([bias[-1], p.tail.detach()])
            # what has K positions is among the long segments, which are no row of the tile
            bias, missing = bias[:-1], (*missing[:3], missing[3] + 1)
        bias = torch.nn.functional.pad(bias, missing, value=-torch.inf)
        self.tables = torch.cat([x.detach().reshape(-1) for x in (bias, p.transition, *ends)])

    def padded(self, x: Tensor) -> Tensor:
        """(programs * sequences,). Zeros for the sequences that are not there."""
        missing = self.programs * self.variant.sequences - self.p.B
        return torch.nn.functional.pad(x, (0, missing)) if missing else x

    def empty(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Memory on the device."""
        return torch.empty(shape, dtype=dtype, device=self.p.device)

    def scan(
        self,
        semiring: str,
        value: Tensor,
        rows: Tensor | None = None,
        state: Tensor | None = None,
        best: Tensor | None = None,
        span: tuple[int, int, int] | None = None,
    ) -> None:
        """Scan a span (first, stop, rows kept), default all positions."""
        p, v = self.p, self.variant
        first, stop, ROWS = span or (0, p.T, p.T)
        if v.tile:
            scan = launch_split.Scan(p, v, self.tables, self.lengths)
            if state is not None:
                # no kernel writes what no sequence has, and two calls must agree in that too
                scan.memory.copy_(state[0]) if first else scan.memory.zero_()
            scan.run(semiring, value, rows, best, (first, stop, ROWS))
            if state is not None and rows is None and len(state) > 1:
                state[1].copy_(scan.memory)
            return
        scan_kernel[(self.programs,)](
            p.scores, p.start_scores, p.end_scores, self.tables, self.lengths, value, self.tail,
            rows, state, best, p.T, p.K, p.C, first, stop, ROWS, N=v.sequences, K_PAD=v.K_PAD,
            C_PAD=v.C_PAD, IS_MAX=semiring == "max", num_warps=v.scan_warps, num_stages=1,
        )  # fmt: skip


def forward(
    p: Potentials, semiring: str, keep: bool, interval: int | None
) -> tuple[Tensor, Tensor]:
    """The total (B,) float64, and what is kept for the backward."""
    run, dtype = Run(p), p.scores.dtype
    # no kernel writes what belongs to padding, and two calls must agree in that too
    value, kept = run.empty(p.B), run.empty(*kept_shape(p, keep, interval)).zero_()
    if not keep or semiring == "max":
        run.scan(semiring, value)
        return value, kept
    if interval is None:
        run.scan(semiring, value, kept.view(-1).view(dtype))
        return value, kept
    group = len(kept) * stretch_of(p.T, len(kept), run.variant)
    states = kept.view(len(kept), -1).view(dtype)
    for first in range(0, p.T, group):
        span = first, min(first + group, p.T), 1
        run.scan(semiring, value, state=states[first // group :], span=span)
    return value, kept


class Gradient:
    """The combining pass of one program a sequence, from right to left over any number of spans."""

    def __init__(self, run: Run, weight: Tensor) -> None:
        self.run_of, self.weight = run, run.padded(weight)
        p, v = run.p, run.variant
        self.tile, self.rest = v.K_PAD * v.C_PAD, (p.C + 2) * p.C
        sequences, labels = len(self.weight), 2 if p.tail is None else 4
        self.sums = run.empty(sequences, 2 * self.tile + self.rest + labels * p.C).zero_()
        self.counts = run.empty(2, sequences, self.tile, dtype=p.scores.dtype).zero_()

    def run(self, rows: Tensor, out: dict[str, Tensor], span: tuple[int, int, int]) -> None:
        """Run it over a span (first, stop, rows kept); the last positions come first."""
        run, p, v, (first, stop, ROWS) = self.run_of, self.run_of.p, self.run_of.variant, span
        gradient_kernel[(run.programs,)](
            p.scores, p.start_scores, run.tables, run.lengths, self.weight, rows, self.sums,
            self.counts, out["scores"], out.get("start_scores"), out.get("end_scores"), p.T,
            None if p.tail is None else p.K, p.C, first, stop, ROWS, N=v.sequences, K_PAD=v.K_PAD,
            C_PAD=v.C_PAD, num_warps=v.gradient_warps, num_stages=1,
        )  # fmt: skip

    def totals(self) -> tuple[Tensor, Tensor]:
        """Expected counts over all sequences: of durations (K_PAD, C_PAD), and of the rest."""
        p, v = self.run_of.p, self.run_of.variant
        counts = self.sums[: p.B, : self.tile + self.rest].sum(0)
        durations, rest = counts[: self.tile].view(v.K_PAD, v.C_PAD), counts[self.tile :]
        if p.tail is not None:
            rest = torch.cat([rest, self.sums[: p.B, -p.C :].sum(0)])
        return durations, rest


def backward(p: Potentials, value: Tensor, kept: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Gradients of ``(weight * value).sum()`` by term, in the terms' types."""
    run, dtype = Run(p), p.scores.dtype
    present = dict(p.terms())
    names = [name for name in PER_POSITION if name in present]
    found = {name: torch.zeros_like(present[name]) for name in names}
    weight = weight.detach().to(torch.float64).contiguous()
    gradient: Gradient | launch_split.Gradient
    if run.variant.tile:
        gradient = launch_split.Gradient(p, run.variant, run.tables, run.lengths, weight)
    else:
        gradient = Gradient(run, weight)
    if kept.dim() == 2:
        gradient.run(kept.view(-1).view(dtype), found, (0, p.T, p.T))
    else:
        _by_stretches(run, kept, gradient, found)
    durations, rest = (x.to(dtype) for x in gradient.totals())
    moves, labels = rest[: p.C * p.C], rest[p.C * p.C :].view(-1, p.C)
    bias = durations[: p.K, : p.C]
    shared = {"transition": moves, "duration_bias": bias}
    shared |= dict(zip(("start", "end", "tail"), labels, strict=False))
    for name in shared.keys() & present.keys():
        found[name] = shared[name].reshape(present[name].shape).clone()
    return found


def _by_stretches(
    run: Run, kept: Tensor, gradient: Gradient | launch_split.Gradient, out: dict[str, Tensor]
) -> None:
    """Scan each stretch once more, the one before it too, and combine it."""
    p, dtype, groups = run.p, run.p.scores.dtype, len(kept)
    stretch = stretch_of(p.T, groups, run.variant)
    ROWS = min(2 * stretch, p.T)
    rows = run.empty(p.B, ROWS, per_label(p) * p.C + 1, dtype=dtype)
    unused = run.empty(p.B)
    coarse = kept.view(groups, -1).view(dtype)
    states = coarse if groups == 1 else torch.empty_like(coarse)
    last = (p.T - 1) // stretch
    for j in range(last, -1, -1):
        span = j * stretch, min((j + 1) * stretch, p.T), ROWS
        for again in (j, j - 1) if j == last else (j - 1,):
            if again < 0:
                continue
            if groups > 1 and (again == last or (again + 1) % groups == 0):
                _states_of_group(run, coarse[again // groups], states, again)
            mine = again * stretch, min((again + 1) * stretch, p.T), ROWS
            run.scan("log", unused, rows, states[again % groups :], None, mine)
        gradient.run(rows, out, span)


def _states_of_group(run: Run, coarse: Tensor, states: Tensor, last: int) -> None:
    """The states before each stretch of a group up to ``last``, from the one before the group."""
    groups, unused = len(states), run.empty(run.p.B)
    stretch = stretch_of(run.p.T, groups, run.variant)
    states[0].copy_(coarse)
    for j in range(last // groups * groups, last):
        span = j * stretch, (j + 1) * stretch, 1
        run.scan("log", unused, state=states[j % groups :], span=span)


def viterbi(p: Potentials) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (B,) float64, a (3, B, T) int64 table of starts, ends and labels, counts (B,)."""
    run, (B, T, C) = Run(p), p.scores.shape
    value, count = run.empty(B), run.empty(B, dtype=torch.int64)
    best = run.empty(B, T, 2 * C, dtype=torch.int32)
    run.scan("max", value, best=best)
    walked = run.empty(B, T, 2, dtype=torch.int32)
    traceback_kernel[(B,)](best, value, p.lengths, walked, count, T, C, num_warps=1)
    table = run.empty(3, B, T, dtype=torch.int64)
    grid = (B, up(T, _WIDTH) // _WIDTH)
    table_kernel[grid](walked, count, table, B, T, PAD=PAD, WIDTH=_WIDTH, num_warps=4)
    return value, table, count
