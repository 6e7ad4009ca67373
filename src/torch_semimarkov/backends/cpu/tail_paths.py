"""Calls of the compiled CPU backend for models with a tail: samples, and left-to-right messages."""

from __future__ import annotations

from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.backends.cpu.arguments import Arrays, cells_of, sequence_of, terms_of
from torch_semimarkov.backends.cpu.paths import Walk, draw_all
from torch_semimarkov.backends.cpu.steps import Stepper
from torch_semimarkov.backends.cpu.tail_sample import filter_long, walk_long
from torch_semimarkov.backends.cpu.threads import run
from torch_semimarkov.potentials import Potentials


def sample(p: Potentials, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """A table (3, num_samples, B, N) and counts (num_samples, B), of every sequence from one pass.

    A sequence without any possible segmentation has counts of 0.
    """
    stepper, terms = Stepper(p, "log"), terms_of(p)
    lengths = cast(Tensor, p.lengths).tolist()

    def prepare(b: int) -> Walk | None:
        L = lengths[b]
        mine = tuple(x[: L * p.C] for x in sequence_of(terms, b))
        rows, norms = _filtered(stepper, mine, L, False)
        if (rows[0, -p.C :] + stepper.end).max() == -np.inf:
            return None
        sizes, place = (L, p.K, stepper.depth, p.C, stepper.W), (b, p.B)
        tables = mine, stepper.shared, stepper.end, sizes, rows, norms, place
        return partial(walk_long, *tables)

    return draw_all(prepare, p, num_samples, seed)


def messages(p: Potentials) -> tuple[Tensor, Tensor]:
    """``alpha`` and ``entering``, (B, T, C) float64; -inf past the lengths. (C, C) transitions."""
    alpha, entering = np.full((2, p.B, p.T, p.C), -np.inf)
    stepper, terms = Stepper(p, "log"), terms_of(p)
    lengths = cast(Tensor, p.lengths).tolist()

    def task(b: int) -> None:
        L = lengths[b]
        rows, norms = _filtered(stepper, sequence_of(terms, b), L, True)
        if (rows[0, -p.C :] + stepper.end).max() > -np.inf:
            norm = norms.sum(1)[:, None]
            alpha[b, :L] = rows[0].reshape(L, p.C) + norm[1:]
            entering[b, :L] = rows[1].reshape(L, p.C) + norm[:-1]

    run(task, p.B, cells_of(p, p.K))
    return torch.from_numpy(alpha), torch.from_numpy(entering)


def _filtered(stepper: Stepper, terms: Arrays, L: int, whole: bool) -> Arrays:
    """What the pass over a sequence keeps: rows and normalisers."""
    rows, norms = np.empty((4, L * stepper.C)), np.zeros((L + 1, 2))
    sizes = L, stepper.K, stepper.depth, stepper.C, stepper.W
    state, room = stepper.begin(), stepper.room()
    filter_long(terms, stepper.shared, sizes, state, room, rows, norms, whole)
    return rows, norms
