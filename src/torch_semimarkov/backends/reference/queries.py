"""What questions about the posterior need beside gradients: messages, and max-marginals."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov.backends.reference.scan import prepare, scan
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

    From right to left: at position t, ``whole`` (B, K, C) is the best score with a segment that
    starts there, by its duration; the best of those of more than j positions covers t + j. With a
    tail, the last row is of K positions or more, and what it covers beyond K is found at each of
    those positions, of all segments that are so old.
    """
    with torch.no_grad():
        p = prepare(potentials)
        left = scan(p, MaxSemiring())
        labels, starts, ends = (torch.full_like(p.scores, -torch.inf) for _ in range(3))
        rest = p.scores.new_full((p.B, p.K, p.C), -torch.inf)
        row = torch.arange(p.K, device=p.device)
        after = long = closing = rest[:, 0]
        for t in reversed(range(p.T)):
            after = torch.where((t == p.lengths - 1)[:, None], p.end, after)
            ends[:, t] = left.alpha[:, t] + after
            closed, score = p.end_scores[:, t] + after, p.scores[:, t]
            rest = torch.cat((closed[:, None], rest[:, :-1]), 1) + score[:, None]
            rows = rest
            if p.tail is not None:
                long = torch.maximum(rest[:, -1], score + p.tail + long)
                rows = torch.cat((rest[:, :-1], long[:, None]), 1)
                on = p.scores[:, t + 1] + p.tail + closing if t + 1 < p.T else closing
                closing = torch.maximum(p.duration_bias[-1] + closed, on)
                _take_in(labels, t, (left.open[:, t] + closing)[:, None])  # type: ignore[index]
            onward = p.start_scores[:, t, None] + p.duration_bias + rows
            if p.per_duration:
                entering = left.entering[:, (t + row).clamp(max=p.T - 1), row]
            else:
                entering = left.entering[:, t, None]
            whole = entering + onward
            starts[:, t] = whole.amax(1)
            _take_in(labels, t, whole.flip(1).cummax(1).values.flip(1))
            after = _before(p, onward)
        return labels, starts, ends


def _take_in(labels: Tensor, t: int, rows: Tensor) -> None:
    """Raise the best scores of the positions from t on to these rows; those past T are left out."""
    here = labels[:, t : t + rows.shape[1]]
    torch.maximum(here, rows[:, : here.shape[1]], out=here)


def _before(p: Potentials, onward: Tensor) -> Tensor:
    """(B, C). The best by the label of what ended, of segments ``onward`` (B, K, C) from there."""
    if p.per_duration:
        return (p.transition + onward[:, :, None]).amax((1, 3))
    return (p.transition + onward.amax(1)[:, None]).amax(2)
