"""The recurrence from left to right, in plain torch: the text that every other backend is read by.

A segment that is still open at position t is a row of a ring: row d-1 holds the score, up to t, of
everything that ends in a segment which started d positions ago. Each step shifts the ring by one
row, adds the scores of the position to all of it, and sums the rows, with their duration bias, into
``alpha``: the score of all segmentations of the first t positions whose last label is c. Nothing is
ever subtracted, so -inf needs no guard here. Where durations have a tail, the last row is never
shifted out: it keeps every segment of K or more positions, one tail longer at each step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from torch_semimarkov.potentials import Potentials
from torch_semimarkov.semirings import Semiring, filled

State = tuple[Tensor, ...]


class Terms(NamedTuple):
    """Every term lifted into a semiring, whose components come first (none for plain numbers).

    scores, start_scores, end_scores: (..., B, T, C). transition: (..., 1, C, C), or
    (..., 1, K, C, C). duration_bias: (..., 1, K, C). start, end: (..., 1, C). tail: (..., 1, C), or
    None where there is none.
    """

    scores: Tensor
    transition: Tensor
    duration_bias: Tensor
    start: Tensor
    end: Tensor
    start_scores: Tensor
    end_scores: Tensor
    tail: Tensor | None


Step = Callable[[Terms, Semiring, State, int], tuple[State, Tensor]]


class Messages(NamedTuple):
    """What the scan of one direction leaves behind.

    alpha: (..., B, T, C). ``alpha[..., t-1, c]``: all segmentations of the first t positions whose
        last segment ends there with label c. Components of the semiring come first.
    entering: (..., B, T, C). ``entering[..., s, c]``: all segmentations of the first s positions,
        and the transition into a segment labelled c. For (K, C, C) transitions (..., B, T, K, C):
        ``entering[..., t, d-1, c]`` is that into one of d positions whose last is t.
    open: (..., B, T, C), with a tail only. ``open[..., t-1, c]``: all segmentations of the first
        positions, and a segment labelled c of K or more positions so far that position t-1 is in,
        without its duration bias.
    """

    alpha: Tensor
    entering: Tensor
    open: Tensor | None = None


def prepare(potentials: Potentials, neutral: float = 0.0) -> Potentials:
    """Float64 terms with a neutral score where one is missing or is padding, and K at most T."""
    p = potentials
    wide = torch.float32 if p.device.type == "mps" else torch.float64
    inside = p.inside()[..., None]
    no_label = p.scores.new_full((p.C,), neutral, dtype=wide)
    no_position = no_label.expand(p.B, p.T, p.C)

    def at_positions(x: Tensor | None) -> Tensor:
        return no_position if x is None else torch.where(inside, x.to(wide), neutral)

    transition = p.transition[: p.T] if p.per_duration else p.transition
    return Potentials(
        scores=at_positions(p.scores),
        transition=transition.to(wide),
        duration_bias=p.duration_bias[: p.T].to(wide),
        lengths=p.lengths,
        start=no_label if p.start is None else p.start.to(wide),
        end=no_label if p.end is None else p.end.to(wide),
        start_scores=at_positions(p.start_scores),
        end_scores=at_positions(p.end_scores),
        tail=None if p.tail is None else p.tail.to(wide),
    )


def scan(
    p: Potentials,
    semiring: Semiring,
    checkpoint_interval: int | None = None,
    others: tuple[Potentials, ...] = (),
) -> Messages:
    """Run the recurrence over prepared potentials.

    Args:
        p: from :func:`prepare`.
        semiring: how scores are lifted, multiplied along a segmentation, and summed.
        checkpoint_interval: keep the state only every so many positions for the backward of
            autograd, which then runs each stretch once more; default keeps everything.
        others: what else the semiring lifts, beside ``p`` and prepared like it.
    """
    terms = lift(semiring, p, *others)
    blank = filled(semiring.zero, (p.B, p.K, p.C), p.scores)
    state: State = (blank, blank if p.per_duration else blank[..., 0, :])
    if p.per_duration and terms.tail is not None:
        state = (*state, blank[..., 0, :])
    stretch = checkpoint_interval or p.T
    collected: list[list[Tensor]] = []
    for first in range(0, p.T, stretch):
        arguments = (terms, semiring, state, first, min(first + stretch, p.T))
        if checkpoint_interval is not None and torch.is_grad_enabled():
            state, *messages = checkpoint(_run, *arguments, use_reentrant=False)
        else:
            state, *messages = _run(*arguments)
        collected.append(messages)
    return Messages(
        *(torch.cat(parts, dim=_time(semiring)) for parts in zip(*collected, strict=True))
    )


def total(p: Potentials, semiring: Semiring, alpha: Tensor, *others: Potentials) -> Tensor:
    """(..., B). Sum over the last label at each sequence's own length."""
    end = lift(semiring, p, *others).end
    last = alpha[..., torch.arange(p.B, device=p.device), p.lengths - 1, :]
    return semiring.sum(semiring.times(last, end), dim=-1)


def lift(semiring: Semiring, *models: Potentials) -> Terms:
    """The terms of prepared potentials, or of the two that a semiring compares, as elements."""
    tails = _tails(models, semiring)
    return Terms(
        scores=semiring.lift(*(p.scores for p in models)),
        transition=semiring.lift(*(p.transition[None] for p in models)),
        duration_bias=semiring.lift(*(p.duration_bias[None] for p in models)),
        start=semiring.lift(*(p.start[None] for p in models)),
        end=semiring.lift(*(p.end[None] for p in models)),
        start_scores=semiring.lift(*(p.start_scores for p in models)),
        end_scores=semiring.lift(*(p.end_scores for p in models)),
        tail=None if tails is None else semiring.lift(*tails),
    )


def _tails(models: tuple[Potentials, ...], semiring: Semiring) -> list[Tensor] | None:
    """(1, C) of each model, one without a tail forbidding it where another has one; else None."""
    if all(p.tail is None for p in models):
        return None
    none = torch.full_like(models[0].start, semiring.forbidden)
    return [(none if p.tail is None else p.tail)[None] for p in models]


def reverse(p: Potentials) -> Potentials:
    """The same segmentations read from right to left; for (C, C) transitions."""
    return replace(
        p,
        scores=flip(p, p.scores),
        transition=p.transition.T,
        start=p.end,
        end=p.start,
        start_scores=flip(p, p.end_scores),
        end_scores=flip(p, p.start_scores),
    )


def flip(p: Potentials, x: Tensor) -> Tensor:
    """Reverse (B, T, C) over each sequence's own length; the padding holds copies of its start."""
    index = p.lengths[:, None] - 1 - torch.arange(p.T, device=p.device)
    return x.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, p.C))


def _time(semiring: Semiring) -> int:
    """The axis of positions in a tensor of messages."""
    return len(semiring.components) + 1


def _run(
    terms: Terms, semiring: Semiring, state: State, first: int, stop: int
) -> tuple[State | Tensor, ...]:
    per_duration = terms.transition.dim() > terms.duration_bias.dim()
    step: Step = _per_duration_step if per_duration else _factored_step
    messages = []
    for t in range(first, stop):
        state, entering = step(terms, semiring, state, t)
        alpha = state[1][..., 0, :] if per_duration else state[1]
        kept = () if terms.tail is None else (state[2] if per_duration else state[0][..., -1, :],)
        messages.append((alpha, entering, *kept))
    time = _time(semiring)
    return state, *(torch.stack(parts, dim=time) for parts in zip(*messages, strict=True))


def _with_tail(terms: Terms, semiring: Semiring, fresh: Tensor, before: Tensor, t: int) -> Tensor:
    """(..., C). What is K positions old at position t, and what was so ``before`` and goes on."""
    held = semiring.times(semiring.times(before, terms.tail), terms.scores[..., t, :])
    return semiring.sum(torch.stack((fresh, held), dim=-2), dim=-2)


def _factored_step(terms: Terms, semiring: Semiring, state: State, t: int) -> tuple[State, Tensor]:
    """Take in position t: the sum over source labels is done once, whatever the duration."""
    ring, alpha = state
    times = semiring.times
    if t == 0:
        entering = terms.start.expand_as(alpha)
    else:
        entering = semiring.sum(times(alpha[..., None], terms.transition), dim=-2)
    fresh = times(entering, terms.start_scores[..., t, :])
    before = ring[..., -1, :]
    ring = torch.cat((fresh[..., None, :], ring[..., :-1, :]), dim=-2)
    ring = times(ring, terms.scores[..., t, None, :])
    if terms.tail is not None:
        last = _with_tail(terms, semiring, ring[..., -1, :], before, t)
        ring = torch.cat((ring[..., :-1, :], last[..., None, :]), dim=-2)
    ended = semiring.sum(times(ring, terms.duration_bias), dim=-2)
    return (ring, times(ended, terms.end_scores[..., t, :])), entering


def _per_duration_step(
    terms: Terms, semiring: Semiring, state: State, t: int
) -> tuple[State, Tensor]:
    """Take in position t: the transition depends on the duration, so sources stay apart.

    Row d-1 of ``content`` is the score of the segment's own positions, row d-1 of ``source`` is
    alpha where that segment started. With a tail, ``beyond`` holds what is K or more positions old,
    the transition into it included.
    """
    content, source, *beyond = state
    times = semiring.times
    fresh = terms.start_scores[..., t, None, :]
    content = torch.cat((fresh, content[..., :-1, :]), dim=-2)
    content = times(content, terms.scores[..., t, None, :])
    entering = semiring.sum(times(source[..., None], terms.transition), dim=-2)
    from_start = torch.arange(source.shape[-2], device=source.device) == t
    entering = torch.where(from_start[:, None], terms.start[..., None, :], entering)
    ring = times(entering, content)
    if terms.tail is not None:
        beyond = [_with_tail(terms, semiring, ring[..., -1, :], beyond[0], t)]
        ring = torch.cat((ring[..., :-1, :], beyond[0][..., None, :]), dim=-2)
    ended = semiring.sum(times(ring, terms.duration_bias), dim=-2)
    alpha = times(ended, terms.end_scores[..., t, :])
    source = torch.cat((alpha[..., None, :], source[..., :-1, :]), dim=-2)
    return (content, source, *beyond), entering
