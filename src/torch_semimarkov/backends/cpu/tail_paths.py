"""Calls of the compiled CPU backend for models with a tail: samples, and left-to-right messages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.backends.cpu.live_calls import _sequence, _terms_of
from torch_semimarkov.backends.cpu.paths import table_of
from torch_semimarkov.backends.cpu.steps import Arrays, Stepper
from torch_semimarkov.backends.cpu.tail_sample import filter_long, walk_long
from torch_semimarkov.backends.cpu.threads import run
from torch_semimarkov.potentials import Potentials

# Samples of a sequence that one task draws.
_TOGETHER = 256


def sample(p: Potentials, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """A table (3, num_samples, B, N) and counts (num_samples, B), of every sequence from one pass.

    A sequence without any possible segmentation has counts of 0.
    """
    B, work = p.B, p.T * p.B * (p.K + p.C + 20) * p.C
    walks: list[Callable[..., np.ndarray] | None] = [None] * B
    stepper, terms = Stepper(p, "log"), _terms_of(p)
    lengths = cast(Tensor, p.lengths).tolist()

    def forward(b: int) -> None:
        L = lengths[b]
        mine = tuple(x[: L * p.C] for x in _sequence(terms, b))
        rows, norms = _filtered(stepper, mine, L, False)
        if (rows[0, -p.C :] + stepper.end).max() > -np.inf:
            sizes = L, p.K, stepper.depth, p.C, stepper.W
            walks[b] = partial(
                walk_long, mine, stepper.shared, stepper.end, sizes, rows, norms, seed, (b, B)
            )  # fmt: skip

    run(forward, B, work)
    counts, together = np.zeros((B, num_samples), np.int64), min(_TOGETHER, num_samples)
    firsts = range(0, num_samples, together)
    parts = [[np.empty((3, 0), np.int64)] * len(firsts) for _ in range(B)]

    def backward(task: int) -> None:
        b, i = divmod(task, len(firsts))
        samples = np.arange(firsts[i], min(firsts[i] + together, num_samples))
        step = walks[b]
        if step is not None:
            parts[b][i] = step(samples, counts[b, samples[0] : samples[-1] + 1])

    run(backward, B * len(firsts), num_samples * work // max(1, p.C))
    table = table_of([np.concatenate(part, axis=1) for part in parts], counts)
    return table, torch.from_numpy(counts.T.copy())


def messages(p: Potentials) -> tuple[Tensor, Tensor]:
    """``alpha`` and ``entering``, (B, T, C) float64; -inf past the lengths. (C, C) transitions."""
    alpha, entering = np.full((2, p.B, p.T, p.C), -np.inf)
    stepper, terms = Stepper(p, "log"), _terms_of(p)
    lengths = cast(Tensor, p.lengths).tolist()

    def task(b: int) -> None:
        L = lengths[b]
        rows, norms = _filtered(stepper, _sequence(terms, b), L, True)
        if (rows[0, -p.C :] + stepper.end).max() > -np.inf:
            norm = norms.sum(1)[:, None]
            alpha[b, :L] = rows[0].reshape(L, p.C) + norm[1:]
            entering[b, :L] = rows[1].reshape(L, p.C) + norm[:-1]

    run(task, p.B, p.T * p.B * (p.K + p.C + 20) * p.C)
    return torch.from_numpy(alpha), torch.from_numpy(entering)


def _filtered(stepper: Stepper, terms: Arrays, L: int, whole: bool) -> Arrays:
    """What the pass over a sequence keeps: rows and normalisers."""
    rows, norms = np.empty((4, L * stepper.C)), np.zeros((L + 1, 2))
    sizes = L, stepper.K, stepper.depth, stepper.C, stepper.W
    state, room = stepper.begin(), stepper.room()
    filter_long(terms, stepper.shared, sizes, state, room, rows, norms, whole)
    return rows, norms
