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


def carried(gates: Tensor, inputs: Tensor, reverse: bool) -> Tensor:
    """(B, T, C). See :func:`dispatch.queries.carried`."""
    found, last = list(inputs.unbind(1)), inputs.shape[1] - 1
    steps = range(last - 1, -1, -1) if reverse else range(1, last + 1)
    for t in steps:
        before, gate = (t + 1, t + 1) if reverse else (t - 1, t)
        found[t] = torch.logaddexp(found[t], gates[:, gate] + found[before])
    return torch.stack(found, 1)


def max_marginals(potentials: Potentials) -> tuple[Tensor, Tensor, Tensor]:
    """Best scores (B, T, C) float64 with a label at, a start at and an end at each position.

    A segment that covers position t is a prefix up to t, whose score is the best over its start,
    and the rest of it, whose score ``rest`` is carried from right to left with its age at t. With a
    tail, what is K or more positions old at t is one prefix more.
    """
    with torch.no_grad():
        p = prepare(potentials)
        left, right = scan(p, MaxSemiring()), scan(reverse(p), MaxSemiring())
        inside = p.inside()[..., None]
        beta = torch.where(inside, flip(p, right.entering), -torch.inf)
        V = torch.where(inside, flip(p, right.alpha), -torch.inf)
        closing = None if left.open is None else _closing(p, beta)
        labels = _covering(p, left.entering, beta, closing)
        if left.open is not None:
            labels = torch.where(inside, torch.maximum(labels, left.open + closing), -torch.inf)
        starts = torch.where(inside, left.entering + V, -torch.inf)
        ends = torch.where(inside, left.alpha + beta, -torch.inf)
        return labels, starts, ends


def _closing(p: Potentials, beta: Tensor) -> Tensor:
    """(B, T, C). The best that follows a segment of K or more positions at t; it may go on."""
    best = p.duration_bias[-1] + p.end_scores + beta
    longer = p.scores + p.tail
    for t in range(p.T - 2, -1, -1):
        best[:, t] = torch.maximum(best[:, t], longer[:, t + 1] + best[:, t + 1])
    return best


def _covering(p: Potentials, entering: Tensor, beta: Tensor, closing: Tensor | None) -> Tensor:
    """(B, T, C). The best score of a segmentation whose segment at position t has label c.

    With ``closing``, a segment that is K positions old may go on.
    """
    blank = p.scores.new_full((p.B, p.K, p.C), -torch.inf)
    prefixes = _open_prefixes(p, entering)
    rest, best = blank, []
    last = blank[:, :1]
    for t in reversed(range(p.T)):
        here = p.duration_bias + (p.end_scores[:, t] + beta[:, t])[:, None]
        if closing is not None:
            here = torch.cat((here[:, :-1], closing[:, t, None]), 1)
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
