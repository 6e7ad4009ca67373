"""The log partition of models with a tail, and its gradient, over lists of open segments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.backends.cpu.arguments import cells_of, sequence_of, terms_of
from torch_semimarkov.backends.cpu.live import sum_chunk
from torch_semimarkov.backends.cpu.live_gradient import gradient_of
from torch_semimarkov.backends.cpu.steps import Stepper
from torch_semimarkov.backends.cpu.sums import GROUPS
from torch_semimarkov.backends.cpu.threads import run
from torch_semimarkov.potentials import Potentials


def kept_shape(p: Potentials, keep: bool) -> tuple[int, ...]:
    """Alpha and two parts of a normaliser at each position, and two of the log partition."""
    return (p.B, p.T * (p.C + 2) + 2) if keep else (1, 0)


def forward(p: Potentials, keep: bool) -> tuple[Tensor, Tensor]:
    """The log partition (B,) float64, and the messages for the backward."""
    kept, value = np.empty(kept_shape(p, keep)), np.empty(p.B)
    stepper, terms = Stepper(p, "log"), terms_of(p)

    def task(b: int, L: int) -> None:
        state = stepper.begin()
        messages = kept[b] if keep else kept[0]
        sizes = L, stepper.K, stepper.depth, stepper.C, stepper.W
        mine, room = sequence_of(terms, b), stepper.room()
        sum_chunk(mine, stepper.shared, sizes, state, room, messages[:-2])
        alpha, norm = state[4][: stepper.C] + stepper.end, state[6]
        top = alpha.max()
        rest = top if top == -np.inf else top + np.log(np.exp(alpha - top).sum())
        value[b] = norm[0] + (norm[1] + rest)
        if keep:
            messages[-2:] = norm[0], norm[1] + rest

    _each(p, task)
    return torch.from_numpy(value), torch.from_numpy(kept)


def backward(p: Potentials, kept: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Gradients of ``(weight * value).sum()`` by term, in the terms' types."""
    terms, kind = terms_of(p), p.scores.detach().numpy().dtype
    left, right = Stepper(p, "log"), Stepper(reversed_terms(p), "log")
    names = ["scores"]
    if p.start_scores is not None or p.end_scores is not None:
        names += ["start_scores", "end_scores"]
    found = {name: np.zeros(p.scores.shape, kind) for name in names}
    C, W, depth, groups = left.C, left.W, left.depth, min(p.B, GROUPS)
    rows = [[np.zeros(n) for n in (C * W, C * depth, C, C, C)] for _ in range(groups)]
    messages, weights = kept.numpy(), weight.detach().to(torch.float64).numpy()
    nothing = np.empty(0, kind)

    def task(b: int, L: int) -> None:
        if messages[b, -1] == -np.inf:
            return
        grads = [grad[b].reshape(-1) for grad in found.values()]
        flat = tuple(grads + [nothing] * (3 - len(grads)))
        before = np.full(W, -np.inf), np.zeros(C)
        sizes = L, right.K, depth, C, W
        gradient_of(
            sequence_of(terms, b), right.shared, (left.shared[3], left.shared[0], *before), sizes,
            right.begin(), right.room(), messages[b], weights[b], flat, tuple(rows[b % groups]),
        )  # fmt: skip

    _each(p, task, groups)
    moves, durations, start, end, tail = (sum(parts) for parts in zip(*rows, strict=True))
    found |= {
        "transition": moves.reshape(C, W)[:, :C],
        "duration_bias": durations.reshape(C, depth)[:, depth - p.K :].T[::-1],
        "start": start,
        "end": end,
        "tail": tail,
    }
    with np.errstate(over="ignore"):  # what is too large becomes inf, as torch has it
        arrays = {name: np.array(found[name], kind, order="C") for name, _ in p.terms()}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _each(p: Potentials, task: Callable[[int, int], None], groups: int | None = None) -> None:
    """Call ``task`` with each sequence and its length; those of a group in one thread."""
    lengths = cast(Tensor, p.lengths).tolist()
    count = groups or p.B

    def group(g: int) -> None:
        for b in range(g, p.B, count):
            task(b, lengths[b])

    run(group, count, cells_of(p, p.K))


def reversed_terms(p: Potentials) -> Potentials:
    """The shared terms read from right to left."""
    return replace(p, transition=p.transition.T, start=p.end, end=p.start)
