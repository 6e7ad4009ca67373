"""Kernels over explicit edge potentials: each edge is read once, where it lies.

    alpha[t, c] = log sum over d and sources c' of exp(alpha[t-d, c'] + edge[t-d, d-1, c, c'])

The sweep stands at a start s and takes the edges that leave it in the order of memory; what they
bring to s + d waits in a ring of K rows, as the largest exponent of each label and the sum relative
to it. Only alpha is kept, (T + 1) C numbers: the backward comes from the right, and the share of an
edge in the mass of its end is exp(alpha[s, c'] + edge - alpha[s+d, c]), at most 1. Scores are
relative to a normaliser that follows alpha in whole numbers, so that it is exact; in the max
semiring there is none, so that the way back finds the same numbers. Rows of alpha and of the ring
are padded to whole vectors with -inf.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, part
from torch_semimarkov.backends.cpu.elementary import exp, finite_or_zero, larger, smaller
from torch_semimarkov.backends.cpu.vector import (
    beats,
    largest_of_lanes,
    load,
    load_part,
    multiply_add,
    spread,
    spread_from,
    store,
    store_part,
    sum_of_lanes,
    where,
)
from torch_semimarkov.backends.cpu.vector_types import LANES


@part
def scores_from(edge, at, alpha, v, labels):
    """Eight sources of one label: alpha and the edge; -inf in lanes past the last source."""
    if v + LANES <= labels:
        return load(alpha, v) + load(edge, at + v)
    return load(alpha, v) + load_part(edge, at + v, labels - v)


@part
def log_sums(edge, at, alpha, labels, tops, totals):
    """For each label the largest of its sources' scores, and the sum relative to it."""
    for c in range(labels):
        row = at + c * labels
        top = spread(-np.inf)
        for v in range(0, labels, LANES):
            top = larger(top, scores_from(edge, row, alpha, v, labels))
        tops[c] = largest_of_lanes(top)
        base, total = finite_or_zero(spread_from(tops, c)), spread(0.0)
        for v in range(0, labels, LANES):
            total = total + exp(scores_from(edge, row, alpha, v, labels) - base)
        totals[c] = sum_of_lanes(total)


@part
def add_sums(tops, totals, ring_top, ring_total, at, C):
    """Add sums to those that wait in a row of the ring."""
    for v in range(0, C, LANES):
        old, new = load(ring_top, at + v), load(tops, v)
        top = larger(old, new)
        factor = exp(smaller(old, new) - finite_or_zero(top))
        before, more = load(ring_total, at + v), load(totals, v)
        total = where(
            new > old, multiply_add(before, factor, more), multiply_add(more, factor, before)
        )
        store(ring_top, at + v, top)
        store(ring_total, at + v, total)


@part
def take_row(ring_top, ring_total, at, alpha, labels):
    """Alpha from a row of the ring, which is then empty."""
    for c in range(labels):
        alpha[c] = ring_top[at + c] + np.log(ring_total[at + c])
        if ring_total[at + c] == 0.0:
            alpha[c] = -np.inf
        ring_top[at + c], ring_total[at + c] = -np.inf, 0.0


@part
def normalise(alpha, ring_top, size, labels):
    """Take a whole number off alpha and all that waits, so that alpha is near 0; returns it."""
    top = -np.inf
    for c in range(labels):
        top = max(top, alpha[c])
    step = np.rint(top) if np.isfinite(top) else 0.0
    if step != 0.0:
        for c in range(labels):
            alpha[c] -= step
        for i in range(size):
            ring_top[i] -= step
    return step


@part
def total_of(alpha, labels):
    """Log sum over the labels."""
    top = -np.inf
    for c in range(labels):
        if alpha[c] > top or np.isnan(alpha[c]):
            top = alpha[c]
    if not np.isfinite(top):
        return top
    total = 0.0
    for c in range(labels):
        total += np.exp(alpha[c] - top)
    return np.log(total) + top


@part
def keep_row(kept, alpha, t, C, norm):
    """Row t of the kept messages: alpha, and the normaliser it is relative to."""
    if len(kept) == 0:
        return
    for c in range(C):
        kept[t * (C + 1) + c] = alpha[c]
    kept[t * (C + 1) + C] = norm


@compiled
def log_forward(edge, sizes, lengths, items, kept, value):
    """Log partition of some sequences; fills their messages if ``kept`` has room.

    Args:
        edge: flat (B, T, K, labels, labels), destination before source.
        sizes: T, K, labels, C: positions, durations, labels, and labels padded to whole vectors.
        lengths: (B,). Positions of each sequence, 0..T.
        items: the sequences to do.
        kept: (B, (T + 1) (C + 1)) to fill, or (1, 0).
        value: (B,) to fill.
    """
    T, K, labels, C = sizes
    span = min(K, T)
    alpha, tops, totals = np.full(C, -np.inf), np.full(C, -np.inf), np.zeros(C)
    ring_top, ring_total = np.empty(span * C), np.empty(span * C)
    for b in items:
        L, norm = lengths[b], 0.0
        messages = kept[b] if kept.size else kept[0]
        ring_top[:], ring_total[:], alpha[:labels] = -np.inf, 0.0, 0.0
        keep_row(messages, alpha, 0, C, norm)
        for s in range(L):
            if s > 0:
                take_row(ring_top, ring_total, s % span * C, alpha, labels)
                norm += normalise(alpha, ring_top, span * C, labels)
                keep_row(messages, alpha, s, C, norm)
            for d in range(1, min(K, L - s) + 1):
                at = ((b * T + s) * K + d - 1) * labels * labels
                log_sums(edge, at, alpha, labels, tops, totals)
                add_sums(tops, totals, ring_top, ring_total, (s + d) % span * C, C)
        if L > 0:
            take_row(ring_top, ring_total, L % span * C, alpha, labels)
        keep_row(messages, alpha, L, C, norm)
        value[b] = total_of(alpha, labels) + norm


@part
def best_scores(edge, at, alpha, labels, ring_top, row):
    """Raise each label of a row of the ring to the best of its sources' scores; NaN stays."""
    for c in range(labels):
        top, bad = spread(ring_top[row + c]), spread(0.0)
        for v in range(0, labels, LANES):
            score = scores_from(edge, at + c * labels, alpha, v, labels)
            top = larger(top, score)
            bad = where(beats(score, spread(np.inf)), spread(np.nan), bad)
        ring_top[row + c] = largest_of_lanes(top) + sum_of_lanes(bad)


@compiled
def max_forward(edge, sizes, lengths, items, kept, value):
    """Score of the best segmentation of some sequences; arguments as for ``log_forward``."""
    T, K, labels, C = sizes
    span = min(K, T)
    alpha, ring_top = np.full(C, -np.inf), np.empty(span * C)
    for b in items:
        L = lengths[b]
        messages = kept[b] if kept.size else kept[0]
        ring_top[:], alpha[:labels] = -np.inf, 0.0
        keep_row(messages, alpha, 0, C, 0.0)
        for s in range(L + 1):
            row = s % span * C
            for c in range(labels if s > 0 else 0):
                alpha[c], ring_top[row + c] = ring_top[row + c], -np.inf
            keep_row(messages, alpha, s, C, 0.0)
            for d in range(1, min(K, L - s) + 1):
                at = ((b * T + s) * K + d - 1) * labels * labels
                best_scores(edge, at, alpha, labels, ring_top, (s + d) % span * C)
        best = -np.inf
        for c in range(labels):
            if alpha[c] > best or np.isnan(alpha[c]):
                best = alpha[c]
        value[b] = best


@part
def shares_of(edge, at, messages, mass, place, sizes, found, before):
    """Shares of the edges of one start and duration in the mass of their ends, to ``found``."""
    s, t = place
    _, _, labels, C = sizes
    alpha, end, step = s * (C + 1), t * (C + 1), messages[t * (C + 1) + C]
    step -= messages[s * (C + 1) + C]
    for v in range(0, labels, LANES):
        here, total = load(messages, alpha + v), load(before, v)
        count = min(LANES, labels - v)
        for c in range(labels):
            last, row = messages[end + c] + step, at + c * labels + v
            share = spread(0.0)
            if last > -np.inf and mass[t * C + c] != 0.0:
                if count == LANES:
                    score = here + load(edge, row)
                else:
                    score = here + load_part(edge, row, count)
                share = exp(score - spread(last)) * spread_from(mass, t * C + c)
            if count == LANES:
                store(found, row, share)
            else:
                store_part(found, row, count, share)
            total = total + share
        store(before, v, total)


@compiled
def log_backward(edge, sizes, lengths, items, kept, weight, found):
    """Edge marginals of some sequences, times ``weight``, from right to left.

    Args:
        edge, sizes, lengths, items: as for ``log_forward``.
        kept: what that filled.
        weight: (B,). Upstream gradient of the log partition.
        found: flat like ``edge``, to fill.
    """
    T, K, labels, C = sizes
    mass, before = np.empty((T + 1) * C), np.empty(C)
    block = labels * labels
    for b in items:
        L, messages = lengths[b], kept[b]
        total = total_of(messages[L * (C + 1) :], labels)
        for c in range(C):
            mass[L * C + c] = 0.0
            if c < labels and total != -np.inf:
                mass[L * C + c] = weight[b] * np.exp(messages[L * (C + 1) + c] - total)
        for s in range(L - 1, -1, -1):
            before[:] = 0.0
            ends = min(K, L - s)
            for d in range(1, ends + 1):
                at = ((b * T + s) * K + d - 1) * block
                shares_of(edge, at, messages, mass, (s, s + d), sizes, found, before)
            for i in range(((b * T + s) * K + ends) * block, (b * T + s + 1) * K * block):
                found[i] = 0.0
            for c in range(C):
                mass[s * C + c] = before[c]
        for i in range((b * T + L) * K * block, (b + 1) * T * K * block):
            found[i] = 0.0


@part
def step_back(edge, sizes, origin, messages, t, c):
    """Duration and source of the edge that gave alpha[t, c]; duration 0 if there is none."""
    _, K, labels, C = sizes
    for d in range(1, min(K, t) + 1):
        at = ((origin + t - d) * K + d - 1) * labels * labels + c * labels
        for source in range(labels):
            score = messages[(t - d) * (C + 1) + source] + np.float64(edge[at + source])
            if score == messages[t * (C + 1) + c]:
                return d, source
    return 0, 0


@compiled
def max_backward(edge, sizes, lengths, items, kept, weight, found):
    """Put ``weight`` on the edges of the best segmentation; ``found`` is full of 0.

    Of equal ones the lowest last label, then from the end the shortest segment and lowest source.
    """
    T, K, labels, C = sizes
    for b in items:
        t, messages, label = lengths[b], kept[b], 0
        for c in range(labels):
            if messages[t * (C + 1) + c] > messages[t * (C + 1) + label]:
                label = c
        possible = messages[t * (C + 1) + label] > -np.inf
        while t > 0 and possible:
            d, source = step_back(edge, sizes, b * T, messages, t, label)
            possible = d > 0
            if possible:
                t -= d
                at = ((b * T + t) * K + d - 1) * labels * labels + label * labels
                found[at + source] = weight[b]
                label = source
