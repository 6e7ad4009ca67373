"""The combining pass: every gradient of the log partition from the messages of two scans.

Each gradient is a posterior expectation. ``alpha`` and ``entering`` come from the scan of the
sequence, ``beta`` and ``V`` from the scan of the reversed one. Plain torch without autograd; the
compiled backends do the same sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov.backends.reference.scan import Messages, flip, reverse, scan
from torch_semimarkov.potentials import TERMS, Potentials
from torch_semimarkov.semirings import LogSemiring

_CHUNK = 1 << 22


def expectations(
    p: Potentials, left: Messages, log_partition: Tensor, weight: Tensor
) -> dict[str, Tensor]:
    """Weighted posterior expectations, by the name of the term they are the gradient of.

    Args:
        p: prepared potentials with (C, C) transitions.
        left: messages of the left-to-right scan of ``p``.
        log_partition: (B,). -inf for a sequence without any segmentation, which gets zeros.
        weight: (B,). Upstream gradient of each sequence's log partition.
    """
    right = scan(reverse(p), LogSemiring())
    inside = p.inside()[..., None]
    beta = torch.where(inside, flip(p, right.entering), -torch.inf)
    V = torch.where(inside, flip(p, right.alpha), -torch.inf)
    norm = torch.where(log_partition == -torch.inf, torch.inf, log_partition)[:, None, None]
    ends = (left.alpha + beta - norm).exp() * weight[:, None, None]
    starts = (left.entering + V - norm).exp() * weight[:, None, None]
    ended_before = ends.cumsum(1) - ends
    last = ends[torch.arange(p.B, device=p.device), p.lengths - 1]
    result = {
        "scores": starts.cumsum(1) - ended_before,
        "transition": _transitions(p, left.alpha, V - norm, weight),
        "duration_bias": _durations(p, left.entering, beta - norm, weight),
        "start": starts[:, 0].sum(0),
        "end": last.sum(0),
        "start_scores": starts,
        "end_scores": ends,
        "tail": p.scores.new_zeros(p.C),
    }
    if left.open is not None:
        leaving = p.duration_bias[-1] + p.end_scores + beta - norm
        counts = _beyond(p, left.open, leaving, weight)
        result["duration_bias"][-1], result["tail"] = counts
    result["scores"] = torch.where(inside, result["scores"], 0.0)
    return {name: result[name] for name in TERMS}


def _transitions(p: Potentials, alpha: Tensor, V: Tensor, weight: Tensor) -> Tensor:
    """(C, C). Expected number of transitions; ``V`` is already relative to the log partition."""
    counts = torch.zeros_like(p.transition)
    stretch = max(1, _CHUNK // (p.B * p.C * p.C))
    for first in range(1, p.T, stretch):
        stop = min(first + stretch, p.T)
        left, right = alpha[:, first - 1 : stop - 1, :, None], V[:, first:stop, None, :]
        pairs = (left + p.transition + right).exp().sum(1)
        counts += (pairs * weight[:, None, None]).sum(0)
    return counts


def _durations(p: Potentials, entering: Tensor, beta: Tensor, weight: Tensor) -> Tensor:
    """(K, C). Expected number of segments; ``beta`` is already relative to the log partition."""
    leaving = p.end_scores + beta
    open_score = entering + p.start_scores
    rows = []
    for d in range(1, p.K + 1):
        open_score = open_score[:, : p.T - d + 1] + p.scores[:, d - 1 :]
        segments = (open_score + p.duration_bias[d - 1] + leaving[:, d - 1 :]).exp().sum(1)
        rows.append((segments * weight[:, None]).sum(0))
    return torch.stack(rows)


def _beyond(p: Potentials, open: Tensor, leaving: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Expected number of segments of K or more positions, and of their positions beyond K; (C,).

    ``leaving`` (B, T, C) is what follows a segment of K or more positions that ends, relative to
    the log partition.
    """
    longer = p.scores + p.tail
    closing = leaving.clone()
    for t in range(p.T - 2, -1, -1):
        closing[:, t] = torch.logaddexp(closing[:, t], longer[:, t + 1] + closing[:, t + 1])
    weight = weight[:, None, None]
    segments = (open + leaving).exp() * weight
    positions = (open[:, :-1] + longer[:, 1:] + closing[:, 1:]).exp() * weight
    return segments.sum((0, 1)), positions.sum((0, 1))
