"""Exact posterior samples: one scan forward, then every sample walks back from its end.

The walk needs only the messages of the scan. At each step it draws, for all samples and sequences
side by side, how long the segment is that ends here, and the label of the one before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov.backends.reference.scan import Messages, prepare, scan, total
from torch_semimarkov.backends.reference.viterbi import left_aligned
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.segments import PAD, Segments
from torch_semimarkov.semirings import LogSemiring

# Numbers that one step of a walk holds at a time; more samples walk in turns.
_CHUNK = 1 << 22


def sample(
    potentials: Potentials, num_samples: int, generator: torch.Generator | None = None
) -> Segments:
    """Segmentations (num_samples, B), each drawn with its probability; no gradient.

    A sequence without any possible segmentation gets no segments.

    Source: forward filtering, backward sampling; Chib, Calculating posterior distributions and
    modal estimates in Markov mixture models, J. Econometrics 75, 1996.
    """
    with torch.no_grad():
        p = prepare(potentials)
        messages = scan(p, LogSemiring())
        dead = total(p, LogSemiring(), messages.alpha) == -torch.inf
        together = max(1, _CHUNK // (p.B * max(p.K, p.C)))
        parts = []
        for first in range(0, num_samples, together):
            S = min(together, num_samples - first)
            parts.append(_walk(p, messages, dead.expand(S, p.B), generator))
        return _joined(parts, num_samples, p.B)


def _walk(
    p: Potentials, messages: Messages, dead: Tensor, generator: torch.Generator | None
) -> Segments:
    """(S * B) segmentations, drawn from their ends; ``dead`` is (S, B)."""
    row = torch.arange(p.B, device=p.device).expand(dead.shape)
    end = torch.where(dead, 0, p.lengths)
    label = _draw(messages.alpha[row, p.lengths - 1] + p.end, generator)
    walked = []
    while bool((end > 0).any()):
        active = end > 0
        d = 1 + _draw(_open_scores(p, messages, row, end.clamp(min=1), label), generator)
        into = p.transition[d - 1, :, label] if p.per_duration else p.transition.T[label]
        if messages.open is not None:
            further = _beyond(p, messages.open, (row, end.clamp(min=1) - 1, label), generator)
            d = torch.where(d == p.K, d + further, d)
        start = end - d
        walked.append(torch.where(active, torch.stack((start, end, label)), PAD))
        source = _draw(messages.alpha[row, (start - 1).clamp(min=0)] + into, generator)
        label = torch.where(active & (start > 0), source, label)
        end = torch.where(active, start, 0)
    if not walked:
        walked.append(torch.full((3, *dead.shape), PAD, device=p.device))
    return left_aligned(torch.stack(walked[::-1], dim=-1).flatten(1, 2))


def _open_scores(
    p: Potentials, messages: Messages, row: Tensor, end: Tensor, label: Tensor
) -> Tensor:
    """(S, B, K). Of the segment that ends before ``end``: its score and all before, by duration.

    What does not depend on the duration is left out.
    """
    d = torch.arange(1, p.K + 1, device=p.device)
    start = end[..., None] - d
    inside, start = start >= 0, start.clamp(min=0)
    row, label = row[..., None], label[..., None]
    if p.per_duration:
        entering = messages.entering[row, end[..., None] - 1, d - 1, label]
    else:
        entering = messages.entering[row, start, label]
    content = p.scores[row, start, label].cumsum(-1)
    score = entering + content + p.start_scores[row, start, label] + p.duration_bias[d - 1, label]
    score = torch.where(inside, score, -torch.inf)
    if messages.open is not None:
        beyond = messages.open[row, end[..., None] - 1, label] + p.duration_bias[-1, label]
        score = torch.cat((score[..., :-1], beyond), dim=-1)
    return score


def _beyond(
    p: Potentials,
    open: Tensor,
    at: tuple[Tensor, Tensor, Tensor],
    generator: torch.Generator | None,
) -> Tensor:
    """(S, B). Positions beyond K of segments of K or more, drawn given where they end, the label.

    How likely it is that a segment goes back at least so far falls with the distance, so one
    uniform number and a search by halves find it.
    """
    row, last, label = at
    longer = p.scores + p.tail
    blocked = longer == -torch.inf
    content = torch.where(blocked, 0.0, longer).cumsum(1)
    position = torch.arange(p.T, device=p.device)[:, None]
    # no segment goes back beyond a position that none is held at
    least = torch.where(blocked, position, 0).cummax(1).values[row, last, label]
    score = open - content
    point = torch.rand(last.shape, generator=generator, dtype=open.dtype, device=p.device)
    bound = score[row, last, label] + torch.log1p(-point)
    low, high = least, last
    while bool((low < high).any()):
        middle = (low + high) // 2
        reached = score[row, middle, label] >= bound
        low, high = torch.where(reached, low, middle + 1), torch.where(reached, middle, high)
    return last - low


def _draw(score: Tensor, generator: torch.Generator | None) -> Tensor:
    """(...). An index along the last axis of (..., n), drawn by ``exp(score)``.

    Where all scores are -inf the index means nothing.
    """
    best = score.amax(-1, keepdim=True)
    weights = (score - torch.where(best == -torch.inf, 0.0, best)).exp()
    sums = weights.cumsum(-1)
    shape = (*score.shape[:-1], 1)
    point = torch.rand(shape, generator=generator, dtype=score.dtype, device=score.device)
    # Entries of weight 0 are never taken: their sum is that of the entry before them.
    return (sums <= point * sums[..., -1:]).sum(-1).clamp(max=score.shape[-1] - 1)


def _joined(parts: list[Segments], S: int, B: int) -> Segments:
    """(S, B) segmentations from parts of (S' * B) with widths of their own."""
    N = max(part.starts.shape[-1] for part in parts)

    def join(name: str) -> Tensor:
        tables = [getattr(part, name) for part in parts]
        wide = [torch.nn.functional.pad(x, (0, N - x.shape[-1]), value=PAD) for x in tables]
        return torch.cat(wide).reshape(S, B, N)

    counts = torch.cat([part.counts for part in parts]).reshape(S, B)
    return Segments(join("starts"), join("ends"), join("labels"), counts)
