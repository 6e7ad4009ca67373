"""The best segmentation: the scan in the max semiring, and the choices it made, followed back."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov.backends.reference.scan import prepare, scan, total
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.segments import PAD, Segments
from torch_semimarkov.semirings import MaxSemiring


class _Recorder(MaxSemiring):
    """A max semiring that remembers which alternative won, in the order of the sums."""

    def __init__(self) -> None:
        self.choices: list[Tensor] = []

    def sum(self, x: Tensor, dim: int) -> Tensor:
        best = x.max(dim)
        self.choices.append(best.indices)
        return best.values


def viterbi(potentials: Potentials) -> tuple[Tensor, Segments]:
    """Best score (B,) and segmentation of every sequence.

    Of equally good segmentations the one is taken that has, from its end, the lowest label, then
    the shortest segment, then the lowest label before it, and so on. A sequence without any
    possible segmentation gets score -inf and no segments.
    """
    with torch.no_grad():
        p = prepare(potentials)
        recorder = _Recorder()
        score = total(p, recorder, scan(p, recorder).alpha)
        source, duration, label = _choices(p, recorder)
        return score, _follow(p, score == -torch.inf, source, duration, label)


def _choices(p: Potentials, recorder: _Recorder) -> tuple[Tensor, Tensor, Tensor]:
    """Winning sources (B, T, C) or (B, T, K, C), durations - 1 (B, T, C) and last labels (B,)."""
    *choices, label = recorder.choices
    if not p.per_duration:  # the first position has no source
        choices = [choices[0], *choices]
    stride = 2 if p.tail is None else 3
    source, duration = (torch.stack(choices[i::stride], dim=1) for i in (0, stride - 1))
    if p.tail is not None:
        held = torch.stack(choices[1::stride], dim=1)
        duration = torch.where(duration == p.K - 1, duration + _run_lengths(held), duration)
    return source, duration, label


def _run_lengths(held: Tensor) -> Tensor:
    """(B, T, C). How many 1s of ``held`` in a row end at each position."""
    position = torch.arange(1, held.shape[1] + 1, device=held.device)[:, None]
    return position - torch.where(held == 0, position, 0).cummax(1).values


def _follow(
    p: Potentials, dead: Tensor, source: Tensor, duration: Tensor, label: Tensor
) -> Segments:
    """Walk every sequence back from its end, all of them side by side."""
    row = torch.arange(p.B, device=p.device)
    end = torch.where(dead, 0, p.lengths)
    walked: list[Tensor] = []
    while bool((end > 0).any()):
        active = end > 0
        last = (end - 1).clamp(min=0)
        d = duration[row, last, label]
        start = end - 1 - d
        walked.append(torch.where(active, torch.stack((start, end, label)), PAD))
        if p.per_duration:
            row_used = d.clamp(max=p.K - 1)
            before = source[row, last - d + row_used, row_used, label]
        else:
            before = source[row, start.clamp(min=0), label]
        label = torch.where(active & (start > 0), before, label)
        end = torch.where(active, start, 0)
    if not walked:
        walked.append(torch.full((3, p.B), PAD, device=p.device))
    return left_aligned(torch.stack(walked[::-1], dim=-1))


def left_aligned(table: Tensor) -> Segments:
    """Segments from a (3, B, N) table whose padding comes first."""
    counts = (table[0] != PAD).sum(-1)
    N = table.shape[-1]
    index = torch.arange(N, device=table.device) + (N - counts)[:, None]
    moved = table.gather(-1, index.clamp(max=N - 1).expand_as(table))
    padding = torch.arange(N, device=table.device) >= counts[:, None]
    starts, ends, labels = torch.where(padding, PAD, moved)
    return Segments(starts, ends, labels, counts)
