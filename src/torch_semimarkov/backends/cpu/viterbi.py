"""The best segmentation of one sequence: the same ring in the max semiring, with back-pointers."""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.scan import open_segment, take_in
from torch_semimarkov.backends.cpu.vector import LANES, beats, compiled, load, spread, store, where


@compiled
def best_source(alpha, transition, v, sources, C, choice):
    """Lanes v.. of the best alpha[source] + transition[source, :]; the lowest label wins ties."""
    top, chosen = spread(-np.inf), spread(0.0)
    for c in range(sources):
        value = spread(alpha[c]) + load(transition, c * C + v)
        better = beats(value, top)
        top, chosen = where(better, value, top), where(better, spread(float(c)), chosen)
    store(choice, v, chosen)
    return top


@compiled
def best_row(ring, bias, v, rows, C, choice):
    """Lanes v.. of the best open segment; the shortest wins ties."""
    top, chosen = spread(-np.inf), spread(0.0)
    for d in range(rows):
        value = load(ring, d * C + v) + load(bias, d * C + v)
        better = beats(value, top)
        top, chosen = where(better, value, top), where(better, spread(float(d)), chosen)
    store(choice, v, chosen)
    return top


@compiled
def decode(terms, shared, end, sizes, ring, table):
    """Best score of one sequence, its segments in ``table`` (3, T), and their number.

    ``terms``, ``shared``, ``sizes`` and ``ring`` as for the scan.
    """
    scores, start_scores, end_scores = terms
    transition, bias, start = shared
    L, K, C, labels = sizes
    boundaries = len(start_scores) > 0
    alpha, choice = np.empty(C), np.empty(C)
    sources = np.empty((L, labels), dtype=np.int32)
    lasts = np.empty((L, labels), dtype=np.int32)
    newest = 2 * K
    for t in range(L):
        newest = open_segment(ring, newest, K, C)
        rows = min(K, t + 1)
        window = ring[newest * C :]
        for v in range(0, C, LANES):
            first = load(start, v)
            if t > 0:
                first = best_source(alpha, transition, v, labels, C, choice)
            if boundaries:
                first = first + load(start_scores, t * C + v)
            store(window, v, first)
        if t > 0:
            for c in range(labels):
                sources[t, c] = int(choice[c])
        for v in range(0, C, LANES):
            take_in(window, scores[t * C :], v, rows, C)
            message = best_row(window, bias, v, rows, C, choice)
            if boundaries:
                message = message + load(end_scores, t * C + v)
            store(alpha, v, message)
        for c in range(labels):
            lasts[t, c] = int(choice[c])
    return follow_back(alpha, end, sources, lasts, table)


@compiled
def follow_back(alpha, end, sources, lasts, table):
    """Walk back from the best last label; the segments go to ``table`` in their order."""
    L, labels = lasts.shape
    label, score = 0, -np.inf
    for c in range(labels):
        if not alpha[c] + end[c] <= score:
            label, score = c, alpha[c] + end[c]
    if score == -np.inf:
        return score, 0
    count, stop = 0, L
    while stop > 0:
        begin = stop - 1 - lasts[stop - 1, label]
        count += 1
        table[0, L - count], table[1, L - count], table[2, L - count] = begin, stop, label
        if begin > 0:
            label = sources[begin, label]
        stop = begin
    for i in range(count):
        table[:, i] = table[:, L - count + i]
    table[:, count:] = -1
    return score, count
