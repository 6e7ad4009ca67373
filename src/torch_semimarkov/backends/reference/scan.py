"""The recurrence from left to right, in plain torch: the text that every other backend is read by.

A segment that is still open at position t is a row of a ring: row d-1 holds the score, up to t, of
everything that ends in a segment which started d positions ago. Each step shifts the ring by one
row, adds the scores of the position to all of it, and sums the rows, with their duration bias, into
``alpha``: the score of all segmentations of the first t positions whose last label is c. Nothing is
ever subtracted, so -inf needs no guard here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from torch_semimarkov.potentials import Potentials
from torch_semimarkov.semirings import Semiring

State = tuple[Tensor, ...]
Step = Callable[[Potentials, Semiring, State, int], tuple[State, Tensor]]


class Messages(NamedTuple):
    """What the scan of one direction leaves behind.

    alpha: (B, T, C). ``alpha[:, t-1, c]``: all segmentations of the first t positions whose last
        segment ends there with label c.
    entering: (B, T, C), or (B, T, K, C) for (K, C, C) transitions. ``entering[:, s, c]``: all
        segmentations of the first s positions, and the transition into a segment labelled c.
    """

    alpha: Tensor
    entering: Tensor


def prepare(potentials: Potentials) -> Potentials:
    """Float64 terms with zeros for the missing ones and for the padding, and K at most T."""
    p = potentials
    wide = torch.float32 if p.device.type == "mps" else torch.float64
    inside = p.inside()[..., None]
    zero_label = p.scores.new_zeros(p.C, dtype=wide)
    zero_position = zero_label.expand(p.B, p.T, p.C)

    def at_positions(x: Tensor | None) -> Tensor:
        return zero_position if x is None else torch.where(inside, x.to(wide), 0.0)

    transition = p.transition[: p.T] if p.per_duration else p.transition
    return Potentials(
        scores=at_positions(p.scores),
        transition=transition.to(wide),
        duration_bias=p.duration_bias[: p.T].to(wide),
        lengths=p.lengths,
        start=zero_label if p.start is None else p.start.to(wide),
        end=zero_label if p.end is None else p.end.to(wide),
        start_scores=at_positions(p.start_scores),
        end_scores=at_positions(p.end_scores),
    )


def scan(p: Potentials, semiring: Semiring, checkpoint_interval: int | None = None) -> Messages:
    """Run the recurrence over prepared potentials.

    Args:
        p: from :func:`prepare`.
        semiring: how alternatives are summed.
        checkpoint_interval: keep the state only every so many positions for the backward of
            autograd, which then runs each stretch once more; default keeps everything.
    """
    blank = torch.full((p.B, p.K, p.C), semiring.zero, dtype=p.scores.dtype, device=p.device)
    state: State = (blank, blank if p.per_duration else blank[:, 0])
    stretch = checkpoint_interval or p.T
    collected: list[Tensor] = []
    for first in range(0, p.T, stretch):
        arguments = (p, semiring, state, first, min(first + stretch, p.T))
        if checkpoint_interval is not None and torch.is_grad_enabled():
            state, *messages = checkpoint(_run, *arguments, use_reentrant=False)
        else:
            state, *messages = _run(*arguments)
        collected.append(messages)
    alpha, entering = (torch.cat(parts, dim=1) for parts in zip(*collected, strict=True))
    return Messages(alpha, entering)


def total(p: Potentials, semiring: Semiring, alpha: Tensor) -> Tensor:
    """(B,). Sum over the last label at each sequence's own length."""
    last = alpha[torch.arange(p.B, device=p.device), p.lengths - 1]
    return semiring.sum(last + p.end, dim=1)


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


def _run(
    p: Potentials, semiring: Semiring, state: State, first: int, stop: int
) -> tuple[State, Tensor, Tensor]:
    step: Step = _per_duration_step if p.per_duration else _factored_step
    alphas, enterings = [], []
    for t in range(first, stop):
        state, entering = step(p, semiring, state, t)
        alphas.append(state[1][:, 0] if p.per_duration else state[1])
        enterings.append(entering)
    return state, torch.stack(alphas, dim=1), torch.stack(enterings, dim=1)


def _factored_step(p: Potentials, semiring: Semiring, state: State, t: int) -> tuple[State, Tensor]:
    """Take in position t: the sum over source labels is done once, whatever the duration."""
    ring, alpha = state
    if t == 0:
        entering = p.start.expand(p.B, p.C)
    else:
        entering = semiring.sum(alpha[:, :, None] + p.transition, dim=1)
    fresh = entering + p.start_scores[:, t]
    ring = torch.cat((fresh[:, None], ring[:, :-1]), dim=1) + p.scores[:, t, None]
    alpha = semiring.sum(ring + p.duration_bias, dim=1) + p.end_scores[:, t]
    return (ring, alpha), entering


def _per_duration_step(
    p: Potentials, semiring: Semiring, state: State, t: int
) -> tuple[State, Tensor]:
    """Take in position t: the transition depends on the duration, so sources stay apart.

    Row d-1 of ``content`` is the score of the segment's own positions, row d-1 of ``source`` is
    alpha where that segment started.
    """
    content, source = state
    fresh = p.start_scores[:, t, None]
    content = torch.cat((fresh, content[:, :-1]), dim=1) + p.scores[:, t, None]
    entering = semiring.sum(source[..., None] + p.transition, dim=2)
    from_start = torch.arange(p.K, device=p.device) == t
    entering = torch.where(from_start[:, None], p.start, entering)
    alpha = semiring.sum(entering + content + p.duration_bias, dim=1) + p.end_scores[:, t]
    source = torch.cat((alpha[:, None], source[:, :-1]), dim=1)
    return (content, source), entering
