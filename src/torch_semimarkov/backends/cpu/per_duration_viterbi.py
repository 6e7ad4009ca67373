"""The best segmentation for (K, C, C) transitions: the same rings in the max semiring.

There are no back-pointers. The values of the recurrence are kept, and the way back looks for the
first that gives each of them, but for rounding, in the order in which ties are resolved.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, part, small
from torch_semimarkov.backends.cpu.elementary import larger
from torch_semimarkov.backends.cpu.exact_viterbi import slack
from torch_semimarkov.backends.cpu.per_duration_scan import (
    copy,
    largest_of,
    open_row,
    slot_of,
    step_of,
    take_in,
)
from torch_semimarkov.backends.cpu.vector import (
    load,
    spread,
    spread_from,
    store,
)
from torch_semimarkov.backends.cpu.vector_types import LANES


@part
def best_pair(source, at, transition, pair, C, labels):
    """Lanes of the best source of a segment: scores from ``at``, transitions from ``pair`` on."""
    a = b = e = f = spread(-np.inf)
    for c in range(0, labels, 4):
        i, row = at + c, pair + c * C
        a = larger(a, spread_from(source, i) + load(transition, row))
        b = larger(b, spread_from(source, i + 1) + load(transition, row + C))
        e = larger(e, spread_from(source, i + 2) + load(transition, row + 2 * C))
        f = larger(f, spread_from(source, i + 3) + load(transition, row + 3 * C))
    return larger(larger(a, b), larger(e, f))


@part
def best_of_duration(transition, bias, rings, newest, d, sizes, v):
    """Lanes v.. of the best segment of d + 1 positions that ends here, with its best source."""
    opened, source = rings
    _, K, C, labels, S = sizes
    at = slot_of(newest, d, K) * C
    best = best_pair(source, at, transition, d * S * C + v, C, labels)
    return best + load(opened, at + v) + load(bias, d * C + v)


@part
def best_of_segments(shared, rings, first, newest, rows, sizes, v):
    """Lanes v.. of the best segment that ends here; ``first`` is that from the start, or -inf."""
    transition, bias, _, _ = shared
    top = first
    for d in range(rows):
        top = larger(top, best_of_duration(transition, bias, rings, newest, d, sizes, v))
    return top


@compiled
def decode(terms, shared, sizes, rings, row, kept, table):
    """Best score of one sequence, its segments in ``table`` (3, T), and their number.

    Args:
        terms, sizes: as for the scan.
        shared: transition (K, S, C), bias (K, C), start and end (C,).
        rings: opened and source, (K, C) each, full of -inf.
        row: (C,). Room, full of -inf.
        kept: room for the best values (L, labels) and the steps of the normaliser (L,).
        table: filled in the order of the segments, and -1 after them.
    """
    scores, start_scores, end_scores = terms
    _, bias, start, end = shared
    L, K, C, labels, _ = sizes
    opened, source = rings
    values, steps = kept
    newest, norm, step = K, 0.0, 0.0
    for p in range(L):
        newest = (newest if newest > 0 else K) - 1
        copy(row, 0, source, newest * C, labels)
        open_row(start_scores, p, 0.0, opened, newest * C, labels)
        take_in(scores, p, step, opened, row, sizes)
        norm += step
        for v in range(0, C, LANES):
            first = spread(-np.inf)
            if p < K:
                first = load(start, v) + load(opened, (K - 1) * C + v) + load(bias, p * C + v)
            store(row, v, best_of_segments(shared, rings, first, newest, min(p, K), sizes, v))
        copy(row, 0, values, p * labels, labels)
        for c in range(labels if len(end_scores) > 0 else 0):
            row[c] += end_scores[p * labels + c]
        step = steps[p] = step_of(largest_of(row, labels))
    label, score = labels, -np.inf
    for c in range(labels):
        if not row[c] + end[c] <= score:
            label, score = c, row[c] + end[c]
    if score == -np.inf:
        return score, 0
    return score + norm, follow_back(terms, shared, sizes, kept, label, table)


@small
def slack_of_pairs(value):
    """:func:`slack` for values relative to a normaliser, which is a rounded sum of many steps."""
    return 4.0 * slack(value)


@part
def best_source(end_scores, shared, sizes, kept, begin, stop, label):
    """Value of the best source of a segment, and the lowest label that gives it."""
    _, _, _, labels, _ = sizes
    best, source = -np.inf, label
    for c in range(labels):
        best = max(best, from_source(c, end_scores, shared, sizes, kept, begin, stop, label))
    near = best - slack_of_pairs(abs(best))
    for c in range(labels - 1, -1, -1):
        if from_source(c, end_scores, shared, sizes, kept, begin, stop, label) >= near:
            source = c
    return best, source


@small
def from_source(c, end_scores, shared, sizes, kept, begin, stop, label):
    """Value of a source of a segment."""
    transition, (values, _) = shared[0], kept
    _, _, C, labels, S = sizes
    at = (begin - 1) * labels + c
    value = values[at] + end_scores[at] if len(end_scores) > 0 else values[at]
    return value + transition[((stop - begin - 1) * S + c) * C + label]


@part
def best_segment(terms, shared, sizes, kept, stop, label):
    """Start of the best segment that ends at ``stop``, and its source; the shortest wins ties."""
    scores, start_scores, end_scores = terms
    _, bias, start, _ = shared
    _, K, C, labels, _ = sizes
    values, steps = kept
    best = values[(stop - 1) * labels + label]
    for d in range(min(K, stop)):
        begin = stop - 1 - d
        entering, source = start[label], label
        if begin > 0:
            entering, source = best_source(end_scores, shared, sizes, kept, begin, stop, label)
        opened = start_scores[begin * labels + label] if len(start_scores) > 0 else 0.0
        for p in range(begin, stop):
            opened += scores[p * labels + label] - (steps[p - 1] if p > 0 else 0.0)
        value = entering + opened + bias[d * C + label]
        if value > -np.inf and value >= best - slack_of_pairs(abs(best) + abs(opened)):
            return begin, source
    return stop - 1, label  # only where there is NaN


@part
def follow_back(terms, shared, sizes, kept, label, table):
    """Walk back from the best last label; the segments go to ``table`` in their order."""
    L, _, _, _, _ = sizes
    count, stop = 0, L
    while stop > 0:
        begin, source = best_segment(terms, shared, sizes, kept, stop, label)
        count += 1
        table[0, L - count], table[1, L - count], table[2, L - count] = begin, stop, label
        stop, label = begin, source
    for row in range(3):
        for i in range(L):
            table[row, i] = table[row, L - count + i] if i < count else -1
    return count
