"""Potentials as kernels take them: flat arrays, and how much work there is."""

from __future__ import annotations

import numpy as np
import torch

from torch_semimarkov.backends.cpu.vector_types import padded
from torch_semimarkov.potentials import Potentials

Arrays = tuple[np.ndarray, ...]
# What stands for a term that is absent.
NOTHING = {torch.float32: np.empty(0, np.float32), torch.float64: np.empty(0)}


def arguments_of(p: Potentials) -> tuple[Arrays, Arrays, tuple[int, int, int, int], np.ndarray]:
    """What kernels for (C, C) transitions take: terms, shared, sizes, lengths.

    Terms are scores, start_scores and end_scores, shared are transition, duration_bias, start and
    end; sizes are T, K of no more than T, labels padded and not padded.
    """
    nothing = NOTHING[p.scores.dtype]
    starts, ends = p.start_scores, p.end_scores
    if (starts is None) != (ends is None):
        starts = torch.zeros_like(p.scores) if starts is None else starts
        ends = torch.zeros_like(p.scores) if ends is None else ends
    flat = [
        nothing if x is None else x.detach().numpy().reshape(-1)
        for x in (p.scores, starts, ends, p.transition, p.duration_bias, p.start, p.end)
    ]
    sizes = (p.T, min(p.K, p.T), padded(p.C), p.C)
    return tuple(flat[:3]), tuple(flat[3:]), sizes, p.lengths.numpy()  # type: ignore[union-attr]


def terms_of(p: Potentials) -> Arrays:
    """The terms of positions, (B, T, C) or empty."""
    nothing = NOTHING[p.scores.dtype]
    terms = (p.scores, p.start_scores, p.end_scores)
    return tuple(nothing if x is None else x.detach().numpy() for x in terms)


def sequence_of(terms: Arrays, b: int) -> Arrays:
    """Those of sequence b, flat or empty."""
    return tuple(x[b].reshape(-1) if x.size else x for x in terms)


def cells_of(p: Potentials, K: int | None = None) -> int:
    """Cells of the recurrence, (K, C, C) transitions or not; a position costs some by itself.

    ``K`` is the number of durations that count, if that is not the longest that fits.
    """
    each = (min(p.K, p.T) if K is None else K) + p.C + 20
    return p.B * p.T * each * p.C * (p.C if p.per_duration else 1)
