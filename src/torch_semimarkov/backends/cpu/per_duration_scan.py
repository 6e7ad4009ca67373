"""The recurrence for (K, C, C) transitions, from left to right: one pass of O(T K C^2).

    alpha[t] = log sum over d and sources of exp(alpha[t-d, source] + transition[d-1, source]
               + bias[d-1] + content(t-d, t)) + end_scores[t-1]

A ring holds one row for every place where a segment may have started, newest first; its score so
far goes to ``opened``. The sum over sources is a product of exponentials: alpha relative to its
largest label, and the transition relative to its largest source, which ``bound`` adds to the bias.
So the largest term of a sum is at most 1, and what underflowed is below 1e-307. Where a sum is not
far above that, it is done anew in the log domain. All scores are relative to a normaliser that
follows alpha in whole numbers, so that it is exact. Arrays are flat float64. A row of the tables
and rings has its labels padded to whole vectors; a padded lane holds -inf, or 0 for a factor. What
belongs to positions is not padded.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, part
from torch_semimarkov.backends.cpu.elementary import exp, finite_or_zero, larger, log
from torch_semimarkov.backends.cpu.vector import (
    any_of,
    beats,
    load,
    multiply_add,
    spread,
    spread_from,
    store,
    where,
)
from torch_semimarkov.backends.cpu.vector_types import LANES

SAFE = 1e-250


@part
def slot_of(newest, d, K):
    """Row of the segment that started d positions before the newest one."""
    slot = newest + d
    return slot - K if slot >= K else slot


@part
def copy(source, first, target, at, count):
    """Copy ``count`` numbers; an array expression would take seconds to compile."""
    for c in range(count):
        target[at + c] = source[first + c]


@part
def largest_of(x, count):
    """The largest of the first numbers, or NaN if there is one."""
    top = -np.inf
    for c in range(count):
        if x[c] > top or np.isnan(x[c]):
            top = x[c]
    return top


@part
def open_row(start_scores, p, base, row, at, labels):
    """Row ``at`` of a ring: segments that start at p, ``base`` the same for all labels."""
    for c in range(labels):
        row[at + c] = base
        if len(start_scores) > 0:
            row[at + c] += start_scores[p * labels + c]


@part
def take_in(scores, p, step, ring, row, sizes):
    """Add the scores of a position, less a step of the normaliser, to every row of a ring."""
    _, K, C, labels, _ = sizes
    for c in range(labels):
        row[c] = scores[p * labels + c] - step
    for v in range(0, C, LANES):
        here = load(row, v)
        for at in range(v, K * C, C):
            store(ring, at, load(ring, at) + here)


@part
def relative(alpha, largest, rel, factor, at, C):
    """Alpha less its largest label, and the exponential of that, into row ``at`` of the rings."""
    top = spread(largest if largest > -np.inf else 0.0)
    for v in range(0, C, LANES):
        here = load(alpha, v) - top
        store(rel, at + v, here)
        store(factor, at + v, exp(here))


@part
def sum_exactly(shared, rings, first, newest, rows, sizes, v):
    """Lanes v.. of alpha in the log domain; ``first`` is the segment from the start, or -inf."""
    _, transition, _, bias, _, _ = shared
    opened, rel, _ = rings
    _, K, C, labels, S = sizes
    top = first
    for d in range(rows):
        at = slot_of(newest, d, K) * C
        score = load(opened, at + v) + load(bias, d * C + v)
        for c in range(labels):
            pair = spread_from(rel, at + c) + load(transition, (d * S + c) * C + v)
            top = larger(top, score + pair)
    base = finite_or_zero(top)
    total = exp(first - base)
    for d in range(rows):
        at = slot_of(newest, d, K) * C
        score = load(opened, at + v) + load(bias, d * C + v)
        for c in range(labels):
            pair = spread_from(rel, at + c) + load(transition, (d * S + c) * C + v)
            total = total + exp(score + pair - base)
    return log(total) + base


@part
def sum_of_segments(shared, rings, first, newest, rows, sizes, v):
    """Lanes v.. of alpha: the sum over all segments that end here, with their sources."""
    linear, _, bound, _, _, _ = shared
    opened, _, factor = rings
    _, K, C, labels, S = sizes
    top = first
    for d in range(rows):
        at = slot_of(newest, d, K) * C + v
        top = larger(top, load(opened, at) + load(bound, d * C + v))
    base = finite_or_zero(top)
    total = exp(first - base)
    for d in range(rows):
        at = slot_of(newest, d, K) * C
        a = b = e = f = spread(0.0)
        for c in range(0, labels, 4):
            source, pair = at + c, (d * S + c) * C + v
            a = multiply_add(spread_from(factor, source), load(linear, pair), a)
            b = multiply_add(spread_from(factor, source + 1), load(linear, pair + C), b)
            e = multiply_add(spread_from(factor, source + 2), load(linear, pair + 2 * C), e)
            f = multiply_add(spread_from(factor, source + 3), load(linear, pair + 3 * C), f)
        score = load(opened, at + v) + load(bound, d * C + v)
        total = multiply_add(exp(score - base), (a + b) + (e + f), total)
    possible = where(top > spread(-np.inf), total, spread(1.0))
    if any_of(beats(spread(SAFE), possible)):
        return sum_exactly(shared, rings, first, newest, rows, sizes, v)
    return log(total) + base


@compiled
def scan(terms, shared, sizes, rings, row, place, norms, kept):
    """Log partition of one sequence, relative to the normaliser, and the normaliser.

    The next positions of a sequence are taken in by a call with the same rings, row, place, norms.

    Args:
        terms: scores, start_scores and end_scores, (L, labels) each, or empty.
        shared: linear and transition (K, S, C), bound and bias (K, C), start and end (C,).
        sizes: L, K, C, labels, S: positions, longest duration, labels padded and not padded,
            sources padded.
        rings: opened and rel full of -inf, and factor full of 0, (K, C) each.
        row: (C,) full of -inf: alpha of the last position, relative to the normaliser.
        place: of whole numbers, K and 0: row of the newest segment, positions so far.
        norms: three zeros: the normaliser, its next step, the largest of ``row``.
        kept: alpha (L, labels) and the steps of the normaliser (L,) to fill, or empty.
    """
    scores, start_scores, end_scores = terms
    _, _, _, bias, start, end = shared
    L, K, C, labels, _ = sizes
    opened, rel, factor = rings
    alpha, steps = kept
    newest, (norm, step, largest) = place[0], norms
    for i in range(L):
        p = place[1] + i
        newest = (newest if newest > 0 else K) - 1
        if p > 0:
            relative(row, largest, rel, factor, newest * C, C)
        open_row(start_scores, i, largest, opened, newest * C, labels)
        take_in(scores, i, step, opened, row, sizes)
        norm += step
        for v in range(0, C, LANES):
            first = spread(-np.inf)
            if p < K:
                first = load(opened, (K - 1) * C + v) + load(start, v) + load(bias, p * C + v)
            total = sum_of_segments(shared, rings, first, newest, min(p, K), sizes, v)
            store(row, v, total)
        for c in range(labels if len(end_scores) > 0 else 0):
            row[c] += end_scores[i * labels + c]
        largest = largest_of(row, labels)
        step = step_of(largest)
        if len(steps) > 0:
            copy(row, 0, alpha, i * labels, labels)
            steps[i] = step
    place[0], place[1] = newest, place[1] + L
    norms[0], norms[1], norms[2] = norm, step, largest
    return total_of(row, end, labels), norm


@part
def step_of(largest):
    """What the normaliser grows by: a whole number, so that its sum is exact."""
    return np.rint(largest) if np.isfinite(largest) else 0.0


@part
def total_of(alpha, end, labels):
    """log sum over the last label of exp(alpha + end)."""
    top = -np.inf
    for c in range(labels):
        if alpha[c] + end[c] > top or np.isnan(alpha[c]):
            top = alpha[c] + end[c]
    if not np.isfinite(top):
        return top
    total = 0.0
    for c in range(labels):
        total += np.exp(alpha[c] + end[c] - top)
    return np.log(total) + top
