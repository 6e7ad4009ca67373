"""Probabilities of segments, and of one segment that covers given positions.

The probability that (start, end, label) is a segment is that of an end there, times the share that
this segment has in ``alpha``, the sum over all ways to end there. With a tail, the segments of K
and more positions that cover something are few sums: those that are long already where it begins
to be covered, and those that become so on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor

from torch_semimarkov import dispatch
from torch_semimarkov.functional.posterior import marginals
from torch_semimarkov.potentials import Potentials

# Probabilities of segments that are held at a time.
_NUMBERS = 1 << 22


class Posterior(NamedTuple):
    """What every question needs, in float64.

    alpha, entering: messages of the scan from left to right.
    ends, labels: marginals.
    sums, holes: (B, T + 1, C), sums of the finite scores, and numbers of -inf, before a position.
    backend: the one that was asked for.
    """

    p: Potentials
    alpha: Tensor
    entering: Tensor
    ends: Tensor
    labels: Tensor
    sums: Tensor
    holes: Tensor
    backend: str | None

    @property
    def rows(self) -> int:
        """Durations with a row of their own; with a tail the last is that of all longer ones."""
        return min(self.p.K, self.p.T)


@torch.no_grad()
def posterior(p: Potentials, backend: str | None) -> Posterior:
    """Messages and marginals of canonical potentials."""
    p = p.map_terms(Tensor.detach)
    alpha, entering = dispatch.messages(p, backend)
    terms = {**dict(p.terms()), "lengths": p.lengths}
    found = marginals(**terms, backend=backend, validate_args=False)  # type: ignore[arg-type]
    wide = alpha.dtype
    inside = p.inside()[..., None]
    p = p.map_terms(lambda x: x.to(wide))
    forbidden = (p.scores == -torch.inf) & inside
    finite = torch.where(forbidden | ~inside, 0.0, p.scores)
    sums, holes = (
        torch.nn.functional.pad(x.cumsum(1), (0, 0, 1, 0)) for x in (finite, forbidden.long())
    )
    return Posterior(
        p, alpha, entering, found.ends.to(wide), found.labels.to(wide), sums, holes, backend
    )


def probability(q: Posterior, row: Tensor, start: Tensor, end: Tensor, label: Tensor) -> Tensor:
    """Probability of segments inside their sequences; 0 of those that are too long."""
    p, last = q.p, end - 1
    d = end - start - 1
    beyond = (d + 1 - q.rows).clamp(min=0)
    fits = d >= 0
    d = d.clamp(min=0, max=q.rows - 1)
    score = _entering(q, row, start, last, d, label, beyond > 0)
    score = score + p.duration_bias[d, label]
    if p.tail is None:
        fits = fits & (beyond == 0)
    else:
        score = score + torch.where(beyond > 0, beyond * p.tail[label], 0.0)
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


def _entering(
    q: Posterior,
    row: Tensor,
    start: Tensor,
    last: Tensor,
    d: Tensor,
    label: Tensor,
    long: Tensor,
) -> Tensor:
    """The message into segments; that of a ``long`` one, by duration, has to be found: O(C)."""
    p = q.p
    if not p.per_duration:
        return q.entering[row, start, label]
    found = q.entering[row, last, d, label]
    if p.tail is None:
        return found
    before = q.alpha[row, (start - 1).clamp(min=0)] + p.transition[-1].T[label]
    first = before.new_zeros(()) if p.start is None else p.start[label]
    return torch.where(long, torch.where(start > 0, before.logsumexp(-1), first), found)


def covering(q: Posterior, first: Tensor, stop: Tensor, rows: int) -> Tensor:
    """(B, M, rows, C). Probability that a segment of d positions covers all of [first, stop).

    O(rows^2 C) each: every pair of a start and an end has a probability of its own.
    """
    p = q.p
    found = q.alpha.new_zeros((*first.shape, rows, p.C))
    row = torch.arange(p.B, device=p.device)[:, None, None, None]
    label = torch.arange(p.C, device=p.device)
    duration = torch.arange(1, rows + 1, device=p.device)[:, None]
    lengths = p.lengths[:, None, None, None]  # type: ignore[index]
    first, stop = first[..., None, None], stop[..., None, None]
    for before in range(min(rows, p.T)):
        start = first - before
        end = start + duration
        valid = (start >= 0) & (end >= stop) & (end <= lengths)
        end = end.clamp(min=1).minimum(lengths)
        here = probability(q, row, start.clamp(min=0), end, label)
        found += torch.where(valid, here, 0.0)
    return found


def covered(q: Posterior, first: Tensor, stop: Tensor) -> Tensor:
    """(B, M). Probability that one segment covers all of [first, stop).

    O(K) each, and O(K C) for each of the K starts up to ``first``, which near ones share.
    """
    rows = q.rows if q.p.tail is None else q.rows - 1
    each = [_covered_by_short(q, b, first[b], stop[b], rows) for b in range(q.p.B)]
    short = torch.stack(each)
    if q.p.tail is None:
        return short
    return (short + _covered_by_long(q, first, stop)).clamp(0, 1)


def _covered_by_short(q: Posterior, b: int, first: Tensor, stop: Tensor, rows: int) -> Tensor:
    """(M,). The same of segments of ``rows`` positions or less, of sequence b.

    ``longer[s, d-1]`` is the probability that one of d positions or more starts at s.
    """
    p = q.p
    found = q.alpha.new_zeros(first.shape)
    if rows == 0:
        return found
    one = torch.ones_like(first)
    near = torch.zeros(p.T + 1, dtype=torch.int64, device=p.device)
    near.index_add_(0, (first - rows + 1).clamp(min=0), one).index_add_(0, first + 1, -one)
    starts = (near.cumsum(0) > 0).nonzero()[:, 0]
    of_durations = (_of_pairs if p.per_duration else _of_sums)(q, b, rows)
    for at in range(0, len(starts), block := max(1, _NUMBERS // (rows * p.C))):
        some = starts[at : at + block]
        longer = of_durations(some).flip(1).cumsum(1).flip(1)
        asked = ((first >= some[0]) & (first < some[-1] + rows)).nonzero()[:, 0]
        for before in range(rows):
            start = first[asked] - before
            least = stop[asked] - start
            valid = (start >= some[0]) & (start <= some[-1]) & (least <= rows)
            place = torch.searchsorted(some, start).clamp(max=len(some) - 1)
            found[asked] += torch.where(valid, longer[place, least.clamp(max=rows) - 1], 0.0)
    return found


def _of_pairs(q: Posterior, b: int, rows: int) -> Callable[[Tensor], Tensor]:
    """From n starts to (n, rows): the probability of a segment of d positions from each of them."""
    p = q.p
    row, label = torch.tensor(b, device=p.device), torch.arange(p.C, device=p.device)
    duration = torch.arange(1, rows + 1, device=p.device)[:, None]
    last = p.lengths[b]  # type: ignore[index]

    def found(starts: Tensor) -> Tensor:
        start = starts[:, None, None]
        here = probability(q, row, start, (start + duration).minimum(last), label)
        return torch.where(start + duration <= last, here, 0.0).sum(-1)

    return found


def _of_sums(q: Posterior, b: int, rows: int) -> Callable[[Tensor], Tensor]:
    """The same with (C, C) transitions, from sums of what the start, duration and end say."""
    p = q.p
    before, after = q.entering[b] - q.sums[b, :-1], _leaving(q)[b] + q.sums[b, 1:]
    if p.start_scores is not None:
        before = before + p.start_scores[b]
    after = torch.where(p.inside()[b, :, None], after, -torch.inf)
    after = torch.nn.functional.pad(after, (0, 0, 0, rows - 1), value=-torch.inf)
    by_duration, bias = after.unfold(0, rows, 1), p.duration_bias[:rows].T
    holes, some_hole = q.holes[b], bool((q.holes[b, -1] > 0).any())
    upto = torch.cat((holes[1:], holes[-1:].expand(rows - 1, -1))).unfold(0, rows, 1)

    def found(starts: Tensor) -> Tensor:
        score = by_duration[starts].add_(before[starts][:, :, None]).add_(bias)
        if some_hole:
            score.masked_fill_(upto[starts] != holes[starts][:, :, None], -torch.inf)
        return score.exp_().sum(1)

    return found


def _covered_by_long(q: Posterior, first: Tensor, stop: Tensor) -> Tensor:
    """(B, M). The same of segments of K and more positions.

    A segment has K positions at the last of its first K: at or after the last position of the
    window, and then all that it may become covers it; or before that, and then it is among those
    that are long at some position before the last one.
    """
    p, K = q.p, q.rows
    row = torch.arange(p.B, device=p.device)[:, None]
    inside = p.inside()[..., None]
    tail = cast(Tensor, p.tail)
    longer = torch.where(inside, p.scores + tail, -torch.inf)
    fresh = _of_length(q)
    open_before = dispatch.carried(p, longer, fresh, backend=q.backend)
    closing = _closing(q, longer)
    found = q.alpha.new_zeros(())
    lengths = p.lengths[:, None]  # type: ignore[index]
    for before in range(K):
        start = first - before
        valid = (start >= 0) & (start >= stop - K) & (start + K <= lengths)
        at = (start + K - 1).clamp(min=0).minimum(lengths - 1)
        score = (fresh[row, at] + closing[row, at]).exp().sum(-1)
        found = found + torch.where(valid, score, 0.0)
    at = torch.minimum(first + K - 1, stop - 2)
    valid, at = at >= K - 1, at.clamp(min=0)
    content = q.sums[row, stop] - q.sums[row, at + 1] + (stop - 1 - at)[..., None] * tail
    clear = (q.holes[row, stop] == q.holes[row, at + 1]) & valid[..., None]
    score = open_before[row, at] + content + closing[row, stop - 1]
    return found + torch.where(clear, score, -torch.inf).exp().sum(-1)


def _of_length(q: Posterior) -> Tensor:
    """(B, T, C). All up to position t, of which the last is the K-th of its segment, labelled c."""
    p, K = q.p, q.rows
    stop = p.T - K + 1
    into = q.entering[:, K - 1 :, K - 1] if p.per_duration else q.entering[:, :stop]
    if p.start_scores is not None:
        into = into + p.start_scores[:, :stop]
    score = into + q.sums[:, K:] - q.sums[:, :stop]
    clear = (q.holes[:, K:] == q.holes[:, :stop]) & p.inside()[:, K - 1 :, None]
    score = torch.where(clear, score, -torch.inf)
    return torch.nn.functional.pad(score, (0, 0, K - 1, 0), value=-torch.inf)


def _closing(q: Posterior, longer: Tensor) -> Tensor:
    """(B, T, C). What follows a segment of K or more positions at t, relative to all.

    It ends at t or later; what follows its end is the marginal of an end without what is before it.
    """
    leaving = q.p.duration_bias[q.rows - 1] + _leaving(q)
    return dispatch.carried(q.p, longer, leaving, reverse=True, backend=q.backend)


def _leaving(q: Posterior) -> Tensor:
    """(B, T, C). What follows a segment that ends at t, and its end score, relative to all."""
    possible = (q.ends > 0) & (q.alpha > -torch.inf)
    rest = torch.where(possible, q.ends, 1.0).log() - torch.where(possible, q.alpha, 0.0)
    if q.p.end_scores is not None:
        rest = rest + q.p.end_scores
    return torch.where(possible, rest, -torch.inf)
