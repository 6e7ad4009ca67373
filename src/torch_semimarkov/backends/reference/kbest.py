"""The k best segmentations: the scan in the k-max semiring, and its choices, followed back.

An element is the list of the k best scores of a node, best first. A sum merges the lists of its
alternatives and remembers, for each score that stays, the alternative and the place in its list. So
every place in a list is one segmentation, and no two places are the same one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov.backends.reference.scan import prepare, scan, total
from torch_semimarkov.backends.reference.viterbi import left_aligned
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.segments import PAD, Segments
from torch_semimarkov.semirings import KMaxSemiring
from torch_semimarkov.semirings.base import from_the_end


class _Recorder(KMaxSemiring):
    """A k-max semiring that remembers what won, as ``alternative * k + place in its list``."""

    def __init__(self, k: int) -> None:
        super().__init__(k)
        self.choices: list[Tensor] = []

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """Every score of ``a`` and the only one of ``b``: the scan multiplies by plain scores."""
        return a + b[:1]

    def sum(self, x: Tensor, dim: int) -> Tensor:
        rows = x.movedim(0, -1).movedim(from_the_end(dim, x) - 1, -2).flatten(-2)
        # Stable, so that of equal scores the first alternative wins, as in viterbi.
        best = rows.sort(dim=-1, descending=True, stable=True)
        self.choices.append(best.indices[..., : self.k].movedim(-1, 0))
        return best.values[..., : self.k].movedim(-1, 0)


def kbest(potentials: Potentials, k: int) -> tuple[Tensor, Segments]:
    """Scores (k, B), best first, and the segmentations (k, B), all of them different.

    The first is that of :func:`viterbi`. Where a sequence has fewer than k, the rest get score -inf
    and no segments.

    Source: Huang and Chiang, Better k-best parsing, IWPT 2005, algorithm 1.
    """
    with torch.no_grad():
        p = prepare(potentials.without_tail())
        recorder = _Recorder(k)
        score = total(p, recorder, scan(p, recorder).alpha)
        return score, _follow(p, k, score == -torch.inf, recorder.choices)


def _follow(p: Potentials, k: int, dead: Tensor, choices: list[Tensor]) -> Segments:
    """Walk back from the ends of all k B segmentations side by side; ``dead`` is (k, B)."""
    source, duration = _by_position(p, choices)
    row = torch.arange(p.B, device=p.device).expand(k, p.B)
    label, place = _split(choices[-1], k)
    end = torch.where(dead, 0, p.lengths)
    walked: list[Tensor] = []
    while bool((end > 0).any()):
        active = end > 0
        last = (end - 1).clamp(min=0)
        d, place = _split(duration[place, row, last, label], k)
        start = end - 1 - d
        walked.append(torch.where(active, torch.stack((start, end, label)), PAD))
        if p.per_duration:
            chosen = source[place, row, last, d, label]
        else:
            chosen = source[place, row, start.clamp(min=0), label]
        before, place_before = _split(chosen, k)
        active = active & (start > 0)
        label = torch.where(active, before, label)
        place = torch.where(active, place_before, 0)
        end = torch.where(active, start, 0)
    if not walked:
        walked.append(torch.full((3, k, p.B), PAD, device=p.device))
    found = left_aligned(torch.stack(walked[::-1], dim=-1).flatten(1, 2))
    parts = (found.starts, found.ends, found.labels, found.counts)
    return Segments(*(x.unflatten(0, (k, p.B)) for x in parts))


def _by_position(p: Potentials, choices: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Winning sources (k, B, T, C) or (k, B, T, K, C), and durations - 1 (k, B, T, C)."""
    *others, _ = choices
    if p.per_duration:
        source, duration = others[0::2], others[1::2]
    else:  # nothing is summed before the first position
        duration = [others[0], *others[2::2]]
        source = [others[0], *others[1::2]]
    return torch.stack(source, dim=2), torch.stack(duration, dim=2)


def _split(chosen: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The alternative and the place in its list."""
    return chosen // k, chosen % k
