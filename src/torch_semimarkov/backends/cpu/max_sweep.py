"""Best scores of what has a label, a start or an end at each position: two sweeps of maxima.

A sweep holds, for every place where a segment may have started, the best score before it less the
prefix sum of its label, so that a position adds nothing to it. The sweep of the reversed sequence
gives the best score of what follows an end. With that, the sweep of the sequence itself goes, at
each position, through the segments that end there, from the longest to the shortest: the best so
far covers the start of the next one. A forbidden score takes what is open out, once.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, part, small
from torch_semimarkov.backends.cpu.elementary import larger
from torch_semimarkov.backends.cpu.vector import load, spread, spread_from, store
from torch_semimarkov.backends.cpu.vector_types import LANES


@part
def enter_best(t, move, start, alpha, entering, W, labels):
    """The best score of what ended before position t, and the transition into each label."""
    for v in range(0, W, LANES):
        best = spread(-np.inf)
        if t == 0:
            best = load(start, v)
        else:
            for c in range(labels):
                pair = spread_from(alpha, (t - 1) * W + c) + load(move, c * W + v)
                best = larger(best, pair)
        store(entering, t * W + v, best)


@part
def open_best(t, terms, K, W, labels, entering, opened, prefix, cut):
    """What starts at position t, and its scores: what a forbidden one ends is taken out."""
    scores, opens, _ = terms
    for c in range(labels):
        at, score = t * W + c, scores[t * labels + c]
        if score == -np.inf:
            for s in range(max(cut[c], t - K + 1), t + 1):
                opened[s * W + c] = -np.inf
            cut[c] = t + 1
            continue
        opened[at] = entering[at] - prefix[c]
        if len(opens) > 0:
            opened[at] += opens[t * labels + c]
        prefix[c] += score


@part
def hold_best(t, terms, tail, K, W, labels, opened, prefix, long):
    """The best that is K or more positions long at position t, to row t of ``long``."""
    for c in range(labels):
        best, score = -np.inf, terms[0][t * labels + c]
        if t >= K - 1:
            best = opened[(t - K + 1) * W + c] + prefix[c]
        if t > 0:
            best = max(best, long[(t - 1) * W + c] + tail[c] + score)
        long[t * W + c] = best


@small
def best_of_rows(opened, bias, t, rows, v, W):
    """The best segment that ends at position t with at most so many positions."""
    first = second = third = fourth = spread(-np.inf)
    d, at = 0, t * W + v
    while d + 4 <= rows:
        row = d * W + v
        first = larger(first, load(opened, at) + load(bias, row))
        second = larger(second, load(opened, at - W) + load(bias, row + W))
        third = larger(third, load(opened, at - 2 * W) + load(bias, row + 2 * W))
        fourth = larger(fourth, load(opened, at - 3 * W) + load(bias, row + 3 * W))
        d, at = d + 4, at - 4 * W
    while d < rows:
        first = larger(first, load(opened, at) + load(bias, d * W + v))
        d, at = d + 1, at - W
    return larger(larger(first, second), larger(third, fourth))


@part
def cover_best(t, rows, opened, bias, head, leaving, found, W):
    """Segments that end at position t, from the longest on: what they cover is no worse.

    Args:
        rows: the most positions of those that are looked at.
        head: (W,) the best of those with one more, or -inf; what follows the end included.
        leaving: (W,) what follows the end, with the prefix sums.
        found: (L, W) the best so far of each position; changed.
    """
    for v in range(0, W, LANES):
        best, after = load(head, v), load(leaving, v)
        d, at = rows - 1, (t - rows + 1) * W + v
        while d >= 0:
            best = larger(best, load(opened, at) + load(bias, d * W + v) + after)
            store(found, at, larger(load(found, at), best))
            d, at = d - 1, at + W


@compiled
def closing_best(terms, bias, tail, beta, sizes, closing):
    """(L, W), filled: the best that follows a segment of K or more positions at each of them."""
    L, K, W, labels = sizes
    scores, _, closes = terms
    for t in range(L - 1, -1, -1):
        for c in range(labels):
            best = bias[(K - 1) * W + c] + beta[t * W + c]
            if len(closes) > 0:
                best += closes[t * labels + c]
            if t < L - 1:
                after = scores[(t + 1) * labels + c] + tail[c]
                best = max(best, after + closing[(t + 1) * W + c])
            closing[t * W + c] = best


@part
def cover_long(t, K, W, opened, prefix, long, closing, found, head):
    """What is K positions long at t covers its first position; what is longer covers t alone.

    ``head`` is the former, for the positions behind the first.
    """
    for c in range(W):
        head[c] = -np.inf
        if t >= K - 1:
            at = (t - K + 1) * W + c
            head[c] = opened[at] + prefix[c] + closing[t * W + c]
            found[at] = max(found[at], head[c])
        found[t * W + c] = max(found[t * W + c], long[t * W + c] + closing[t * W + c])


@compiled
def sweep_best(terms, shared, sizes, room, entering, alpha, after, found):
    """The messages of one sequence from left to right, and with ``after`` what its labels have.

    Args:
        terms: scores, start_scores and end_scores, flat (L, labels) or empty.
        shared: transition (labels, W) by source, duration bias (K, W), start (W,), padded with
            -inf; tail (W,), or empty.
        sizes: L, K, W, labels: positions, longest duration, labels padded and not padded.
        room: opened (L, W), full of -inf; prefix sums, leaving, head, (W,) zeros; of whole numbers,
            where the open segments of a label begin, (W,) zeros; with a tail (L, W) full of -inf.
        entering, alpha: (L, W) full of -inf, to fill: the best score before each position with
            the transition into a label, and up to each position that ends with a label.
        after: the best that follows an end at each position, and a segment of K or more positions
            at it, (L, W), the second empty without a tail; or both empty.
        found: (L, W), full of -inf: the best with a label at each position, filled with ``after``.
    """
    move, bias, start, tail = shared
    L, K, W, labels = sizes
    opened, prefix, leaving, head, cut, long = room
    _, _, closes = terms
    beta, closing = after
    for t in range(L):
        enter_best(t, move, start, alpha, entering, W, labels)
        open_best(t, terms, K, W, labels, entering, opened, prefix, cut)
        rows = min(t + 1, K)
        if len(tail) > 0:
            hold_best(t, terms, tail, K, W, labels, opened, prefix, long)
            rows = min(rows, K - 1)
        for v in range(0, W, LANES):
            best = best_of_rows(opened, bias, t, rows, v, W) + load(prefix, v)
            if len(tail) > 0:
                best = larger(best, load(long, t * W + v) + load(bias, (K - 1) * W + v))
            store(alpha, t * W + v, best)
        for c in range(labels if len(closes) > 0 else 0):
            alpha[t * W + c] += closes[t * labels + c]
        if len(beta) == 0:
            continue
        for c in range(labels):
            leaving[c] = beta[t * W + c] + prefix[c]
            if len(closes) > 0:
                leaving[c] += closes[t * labels + c]
        if len(tail) > 0:
            cover_long(t, K, W, opened, prefix, long, closing, found, head)
        cover_best(t, rows, opened, bias, head, leaving, found, W)
