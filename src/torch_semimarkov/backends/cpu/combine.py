"""The combining pass of one sequence: every gradient from the messages of the two scans."""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.vector import LANES, compiled, exp, load, spread, store


@compiled
def positions(left, right, sizes, total, weight, starts, ends, labels):
    """Posterior of starts, ends and labels at every position, times ``weight``.

    ``left`` and ``right`` are (alpha, entering, norms) of the two directions; position p of the
    sequence is position L-1-p of the right one.
    """
    L, _, C, _ = sizes
    alpha, entering, norms = left
    V, beta, right_norms = right
    for v in range(0, C, LANES):
        inside = spread(0.0)
        for p in range(L):
            here, there = p * C + v, (L - 1 - p) * C + v
            norm = spread((norms[p] - total) + right_norms[L - 1 - p])
            start = exp(load(entering, here) + load(V, there) + norm) * spread(weight)
            end = exp(load(alpha, here) + load(beta, there) + norm) * spread(weight)
            inside = inside + start
            store(starts, here, start)
            store(ends, here, end)
            store(labels, here, inside)
            inside = inside - end


@compiled
def transitions(left, right, sizes, total, weight, transition, counts):
    """Add the expected number of transitions, times ``weight``, to ``counts``."""
    L, _, C, labels = sizes
    alpha, _, norms = left
    V, _, right_norms = right
    for p in range(1, L):
        norm = (norms[p - 1] - total) + right_norms[L - 1 - p]
        for c in range(labels):
            before = alpha[(p - 1) * C + c] + norm
            if before == -np.inf:
                continue
            for v in range(0, C, LANES):
                pair = spread(before) + load(transition, c * C + v) + load(V, (L - 1 - p) * C + v)
                at = c * C + v
                store(counts, at, load(counts, at) + exp(pair) * spread(weight))


@compiled
def durations(left, right, terms, sizes, total, weight, bias, counts):
    """Add the expected number of segments of each duration, times ``weight``, to ``counts``."""
    L, K, C, _ = sizes
    _, entering, norms = left
    _, beta, right_norms = right
    scores, start_scores, end_scores = terms
    boundaries = len(start_scores) > 0
    for p in range(L):
        for v in range(0, C, LANES):
            score = load(entering, p * C + v) + spread(norms[p] - total)
            if boundaries:
                score = score + load(start_scores, p * C + v)
            for d in range(min(K, L - p)):
                q = p + d
                score = score + load(scores, q * C + v)
                rest = load(beta, (L - 1 - q) * C + v) + spread(right_norms[L - 1 - q])
                if boundaries:
                    rest = rest + load(end_scores, q * C + v)
                at = d * C + v
                segment = exp(score + load(bias, at) + rest) * spread(weight)
                store(counts, at, load(counts, at) + segment)
