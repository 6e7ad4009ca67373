"""What questions about the posterior need beside gradients: messages, and max-marginals."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from torch_semimarkov.backends.reference.scan import flip, prepare, reverse, scan
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.semirings import LogSemiring, MaxSemiring


def messages(potentials: Potentials) -> tuple[Tensor, Tensor]:
    """The left-to-right messages ``alpha`` and ``entering`` in float64; see ``scan.Messages``."""
    with torch.no_grad():
        found = scan(prepare(potentials), LogSemiring())
        return found.alpha, found.entering


def max_marginals(potentials: Potentials) -> tuple[Tensor, Tensor, Tensor]:
    """Best scores (B, T, C) float64 with a label at, a start at and an end at each position.

    A segment that covers position t is a prefix up to t, whose score is the best over its start,
    and the rest of it, whose score ``rest`` is carried from right to left with its age at t.
    """
    with torch.no_grad():
        p = prepare(potentials.without_tail())
        left, right = scan(p, MaxSemiring()), scan(reverse(p), MaxSemiring())
        inside = p.inside()[..., None]
        beta = torch.where(inside, flip(p, right.entering), -torch.inf)
        V = torch.where(inside, flip(p, right.alpha), -torch.inf)
        labels = _covering(p, left.entering, beta)
        starts = torch.where(inside, left.entering + V, -torch.inf)
        ends = torch.where(inside, left.alpha + beta, -torch.inf)
        return labels, starts, ends


def _covering(p: Potentials, entering: Tensor, beta: Tensor) -> Tensor:
    """(B, T, C). The best score of a segmentation whose segment at position t has label c."""
    blank = p.scores.new_full((p.B, p.K, p.C), -torch.inf)
    prefixes = _open_prefixes(p, entering)
    rest, best = blank, []
    last = blank[:, :1]
    for t in reversed(range(p.T)):
        here = p.duration_bias + (p.end_scores[:, t] + beta[:, t])[:, None]
        if t + 1 < p.T:
            on = p.scores[:, t + 1, None] + torch.cat((rest[:, 1:], last), 1)
            here = torch.maximum(here, torch.where((t + 1 < p.lengths)[:, None, None], on, here))
        rest = torch.where((t < p.lengths)[:, None, None], here, blank)
        best.append((prefixes(t) + rest).amax(1))
    return torch.stack(best[::-1], 1)


def _open_prefixes(p: Potentials, entering: Tensor) -> Callable[[int], Tensor]:
    """A function of t: (B, K, C), the best up to t of what started j positions before it."""
    opened = entering + p.start_scores
    forbidden = p.scores == -torch.inf
    sums = torch.where(forbidden, 0.0, p.scores).cumsum(1)
    holes = forbidden.long().cumsum(1)
    before = sums - torch.where(forbidden, 0.0, p.scores)
    holes_before = holes - forbidden.long()

    def at(t: int) -> Tensor:
        s = t - torch.arange(p.K, device=p.device)
        valid, s = (s >= 0)[:, None], s.clamp(min=0)
        content = sums[:, t, None] - before[:, s]
        clear = (holes[:, t, None] == holes_before[:, s]) & valid
        return torch.where(clear, opened[:, s] + content, -torch.inf)

    return at
