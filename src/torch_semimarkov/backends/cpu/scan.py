"""The recurrence of one sequence in the log domain, exact whatever the scores: labels in the lanes.

A ring holds, for every segment still open, its score so far: the row of the segment that started d
positions ago, newest first. Each position adds its scores to all rows and sums them, with their
duration bias, into alpha. Scores are kept relative to a normaliser that follows alpha, so that no
large absolute value costs digits. All arrays are flat float64, their label axis padded to whole
vectors; a padded lane holds -inf.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from torch_semimarkov.backends.cpu.vector import (
    LANES,
    compiled,
    exp,
    larger,
    load,
    log,
    spread,
    store,
    where,
)

FOLLOW = 64


@njit(inline="always")
def finite_or_zero(x):
    """Guard of the one subtraction that could be -inf - -inf."""
    return where(x > spread(-np.inf), x, spread(0.0))


@compiled
def sum_of_sources(alpha, transition, v, sources, C):
    """Lanes v.. of log sum over source labels of exp(alpha[source] + transition[source, :])."""
    top = spread(-np.inf)
    for c in range(sources):
        top = larger(top, spread(alpha[c]) + load(transition, c * C + v))
    base = finite_or_zero(top)
    total = spread(0.0)
    for c in range(sources):
        total = total + exp(spread(alpha[c]) + load(transition, c * C + v) - base)
    return log(total) + base


@compiled
def sum_of_rows(ring, bias, v, rows, C):
    """Lanes v.. of log sum over open segments of exp(ring[d] + bias[d])."""
    top = spread(-np.inf)
    for d in range(rows):
        top = larger(top, load(ring, d * C + v) + load(bias, d * C + v))
    base = finite_or_zero(top)
    total = spread(0.0)
    for d in range(rows):
        total = total + exp(load(ring, d * C + v) + load(bias, d * C + v) - base)
    return log(total) + base


@compiled
def take_in(ring, scores, v, rows, C):
    """Add the scores of a position to every open segment."""
    here = load(scores, v)
    for d in range(rows):
        store(ring, d * C + v, load(ring, d * C + v) + here)


@compiled
def open_segment(ring, newest, K, C):
    """Row of a new segment in a ring of 2 K rows, whose window moves down and starts over."""
    if newest == 0:
        ring[(K + 1) * C : 2 * K * C] = ring[: (K - 1) * C]
        newest = K + 1
    return newest - 1


@compiled
def scan(terms, shared, sizes, ring, messages):
    """Messages of one direction: alpha and entering (L, C), relative to norms (L,).

    ``terms`` are scores, start_scores and end_scores of the sequence; ``shared`` are transition,
    bias and start; ``sizes`` is (L, K, C, labels): positions, longest duration, labels padded and
    not padded. Fills ``messages``; ``alpha[t]`` is about segmentations that end after position t.
    """
    scores, start_scores, end_scores = terms
    transition, bias, start = shared
    alpha, entering, norms = messages
    L, K, C, labels = sizes
    boundaries = len(start_scores) > 0
    newest, norm = 2 * K, 0.0
    for t in range(L):
        newest = open_segment(ring, newest, K, C)
        rows = min(K, t + 1)
        window = ring[newest * C :]
        for v in range(0, C, LANES):
            first = load(start, v)
            if t > 0:
                first = sum_of_sources(alpha[(t - 1) * C :], transition, v, labels, C)
                first = first - spread(norm - norms[t - 1])
            store(entering, t * C + v, first)
            if boundaries:
                first = first + load(start_scores, t * C + v)
            store(window, v, first)
            take_in(window, scores[t * C :], v, rows, C)
            message = sum_of_rows(window, bias, v, rows, C)
            if boundaries:
                message = message + load(end_scores, t * C + v)
            store(alpha, t * C + v, message)
        norms[t] = norm
        if t % FOLLOW == FOLLOW - 1:
            norm += follow(window, alpha[t * C : t * C + labels], rows * C)


@compiled
def follow(window, alpha, size):
    """Take the largest alpha out of the open segments; returns it (0 if there is none)."""
    top = alpha.max()
    if not np.isfinite(top):
        return 0.0
    window[:size] -= top
    return top


@compiled
def total_of(alpha, end, labels):
    """log sum over the last label of exp(alpha + end)."""
    top = -np.inf
    for c in range(labels):
        top = max(top, alpha[c] + end[c])
    if not np.isfinite(top):
        return top
    total = 0.0
    for c in range(labels):
        total += np.exp(alpha[c] + end[c] - top)
    return np.log(total) + top
