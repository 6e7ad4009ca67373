"""What the posterior says of single segments.

The probability that (start, end, label) is a segment is that of an end there, times the share that
this segment has in ``alpha``, the sum over all ways to end there. So one pass for the marginals and
the messages of one left-to-right scan answer any number of questions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torch_semimarkov import dispatch
from torch_semimarkov.functional.posterior import marginals
from torch_semimarkov.potentials import Potentials


class SegmentPosterior(NamedTuple):
    """What every question needs, in float64; sums are of the scores before each position."""

    p: Potentials
    alpha: Tensor
    entering: Tensor
    ends: Tensor
    sums: Tensor
    holes: Tensor


@torch.no_grad()
def posterior_of(p: Potentials, backend: str | None) -> SegmentPosterior:
    p = p.map_terms(Tensor.detach).without_tail()
    alpha, entering = dispatch.messages(p, backend)
    terms = {**dict(p.terms()), "lengths": p.lengths}
    ends = marginals(**terms, backend=backend, validate_args=False).ends  # type: ignore[arg-type]
    wide = alpha.dtype
    inside = p.inside()[..., None]
    p = p.map_terms(lambda x: x.to(wide))
    forbidden = (p.scores == -torch.inf) & inside
    finite = torch.where(forbidden | ~inside, 0.0, p.scores)
    sums, holes = (
        torch.nn.functional.pad(x.cumsum(1), (0, 0, 1, 0)) for x in (finite, forbidden.long())
    )
    return SegmentPosterior(p, alpha, entering, ends.to(wide), sums, holes)


def probability_of(
    q: SegmentPosterior, row: Tensor, start: Tensor, end: Tensor, label: Tensor
) -> Tensor:
    """Probability of segments inside their sequences; 0 of those longer than K."""
    p, last = q.p, end - 1
    d = end - start - 1
    longest = min(p.K, p.T)
    fits = (d >= 0) & (d < longest)
    d = d.clamp(min=0, max=longest - 1)
    score = q.entering[row, last, d, label] if p.per_duration else q.entering[row, start, label]
    score = score + p.duration_bias[d, label]
    score = score + q.sums[row, end, label] - q.sums[row, start, label]
    fits = fits & (q.holes[row, end, label] == q.holes[row, start, label])
    if p.start_scores is not None:
        score = score + p.start_scores[row, start, label]
    if p.end_scores is not None:
        score = score + p.end_scores[row, last, label]
    total = q.alpha[row, last, label]
    fits = fits & (total > -torch.inf)
    share = torch.where(fits, score - torch.where(fits, total, 0.0), -torch.inf).exp()
    return (q.ends[row, last, label] * share).clamp(0, 1)
