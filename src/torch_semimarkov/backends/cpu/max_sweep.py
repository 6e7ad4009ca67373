"""Best scores of what has a label, a start or an end at each position: two sweeps of maxima.

A sweep holds, for every place where a segment may have started, the best score before it less the
prefix sum of its label, so that a position adds nothing to it. The sweep of the reversed sequence
gives the best score of what follows an end. With that, the sweep of the sequence itself goes, at
each position, through the segments that end there, from the longest to the shortest: the best so
far covers the start of the next one. A forbidden score takes what is open out, once.

The windows of all labels together are more than the nearest memory holds. So what is open before a
tile of positions is taken label block by label block for all ends in the tile at once, and what
those ends cover before the tile is found once for all of them. Tiles with a forbidden score, and
models with a tail, go position by position.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, part, small
from torch_semimarkov.backends.cpu.elementary import larger
from torch_semimarkov.backends.cpu.plan import TILE
from torch_semimarkov.backends.cpu.vector import (
    load,
    load_rows,
    multiply_add,
    of,
    repeat,
    spread,
    spread_each,
    store,
    sum_of_rows,
    zero_rows,
)
from torch_semimarkov.backends.cpu.vector_types import LANES, ROWS, TROPICAL

# Rows of -inf that the tables of durations have besides, since a block of rows may reach beyond K.
BEYOND = TILE + ROWS


@part
def enter_best(t, move, start, alpha, entering, W):
    """The best score of what ended before position t, and the transition into each label."""
    for v in range(0, W, LANES):
        if t == 0:
            store(entering, v, load(start, v))
            continue
        total = zero_rows(TROPICAL)
        for c in range(0, W, ROWS):
            before = of(TROPICAL, spread_each(alpha, (t - 1) * W + c))
            rows = of(TROPICAL, load_rows(move, v * W + c * LANES))
            total = multiply_add(before, rows, total)
        store(entering, t * W + v, sum_of_rows(total))


@small
def best_of_pairs(count, x, at, step, table, row):
    """ROWS rows of the best over j of x[at + j step] + table[row - 8 j]."""
    total = zero_rows(TROPICAL)
    for j in range(count):
        factor = repeat(of(TROPICAL, load(x, at + j * step)))
        rows = of(TROPICAL, load_rows(table, row - j * LANES))
        total = multiply_add(factor, rows, total)
    return total


@part
def end_past(first, n, opened, rising, K, W, past):
    """The best of what is open before a tile and ends at each of its n positions, to ``past``.

    Args:
        first: position that the tile begins with.
        rising: the duration bias in blocks of labels, from the shortest to the longest.
        past: (W / 8, TILE, 8), to fill.
    """
    for v in range(0, W, LANES):
        table = v * (K + BEYOND)
        for i in range(0, n, ROWS):
            s = max(0, first + i - K + 1)
            row = table + (first + i - s) * LANES
            count = max(0, first - s)
            total = best_of_pairs(count, opened, s * W + v, W, rising, row)
            store(past, v * TILE + i * LANES, total)


@part
def cover_past(first, n, opened, falling, follow, K, W, best, found):
    """What ends in a tile covers the positions before it from its start on.

    Args:
        first: position that the tile begins with.
        falling: the duration bias in blocks of labels, after BEYOND rows, from the longest on.
        follow: (W / 8, TILE, 8) what follows an end at each of n positions, with the prefix sums.
        best: room for K + ROWS rows of lanes.
        found: (L, W) the best so far of each position; changed.
    """
    open_rows = min(first, K - 1)
    blocks = -(-open_rows // ROWS)
    for v in range(0, W, LANES):
        for block in range(blocks):
            s = first - (blocks - block) * ROWS
            count = min(n, s + ROWS - 1 + K - first)
            row = v * (K + BEYOND) + (K - 1 + BEYOND - (first - s)) * LANES
            total = best_of_pairs(count, follow, v * TILE, LANES, falling, row)
            store(best, block * ROWS * LANES, total)
        top, at = spread(-np.inf), (blocks * ROWS - open_rows) * LANES
        for s in range(first - open_rows, first):
            top = larger(top, load(opened, s * W + v) + load(best, at))
            store(found, s * W + v, larger(load(found, s * W + v), top))
            at += LANES


@small
def forbids_some(scores, begin, end):
    """True if one of these scores is -inf."""
    lowest = np.inf
    for i in range(begin, end):
        lowest = min(lowest, scores[i])
    return lowest == -np.inf


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


@part
def end_best(t, rows, together, bias, tail, K, W, opened, prefix, long, past, alpha):
    """The best segment that ends at position t, with its prefix sum, to row t of ``alpha``.

    It has ``rows`` positions at most, or is open before the tile, or is long.
    """
    for v in range(0, W, LANES):
        top = best_of_rows(opened, bias, t, rows, v, W)
        if together:
            top = larger(top, load(past, v * TILE + t % TILE * LANES))
        top = top + load(prefix, v)
        if len(tail) > 0:
            top = larger(top, load(long, t * W + v) + load(bias, (K - 1) * W + v))
        store(alpha, t * W + v, top)


@part
def lead_on(t, together, closes, beta, W, labels, prefix, past, leaving, follow, head):
    """What follows an end at position t, to ``leaving`` and ``follow``; with it the past's best."""
    for c in range(labels):
        leaving[c] = beta[t * W + c] + prefix[c]
        if len(closes) > 0:
            leaving[c] += closes[t * labels + c]
    for v in range(0, W if together else 0, LANES):
        at, here = v * TILE + t % TILE * LANES, load(leaving, v)
        store(follow, at, here)
        store(head, v, load(past, at) + here)


@compiled
def sweep_best(terms, shared, sizes, room, entering, alpha, after, found):
    """The messages of one sequence from left to right, and with ``after`` what its labels have.

    Args:
        terms: scores, start_scores and end_scores, flat (L, labels) or empty.
        shared: transition by source in blocks of labels (W / 8, W, 8), duration bias (K, W), and
            the two tables of it that :func:`end_past` and :func:`cover_past` take; start (W,), all
            padded with -inf; tail (W,), or empty.
        sizes: L, K, W, labels: positions, longest duration, labels padded and not padded.
        room: opened (L, W), full of -inf; prefix sums, leaving, (W,) zeros; head, (W,) full of
            -inf; of whole numbers, where the open segments of a label begin, (W,) zeros; with a
            tail (L, W) full of -inf; three more, of TILE W, TILE W and 8 (K + ROWS) numbers.
        entering, alpha: (L, W) full of -inf, to fill: the best score before each position with
            the transition into a label, and up to each position that ends with a label.
        after: the best that follows an end at each position, and a segment of K or more positions
            at it, (L, W), the second empty without a tail; or both empty.
        found: (L, W), full of -inf: the best with a label at each position, filled with ``after``.
    """
    move, bias, rising, falling, start, tail = shared
    L, K, W, labels = sizes
    opened, prefix, leaving, head, cut, long, past, follow, best = room
    scores, _, closes = terms
    beta, closing = after
    together, long_too = False, len(tail) > 0
    for t in range(L):
        j = t % TILE
        n = min(TILE, L - t + j)
        if j == 0:
            head[:] = -np.inf
            together = not long_too and not forbids_some(scores, t * labels, (t + n) * labels)
            if together:
                end_past(t, n, opened, rising, K, W, past)
        enter_best(t, move, start, alpha, entering, W)
        open_best(t, terms, K, W, labels, entering, opened, prefix, cut)
        rows = min(j + 1 if together else t + 1, K - long_too)
        if long_too:
            hold_best(t, terms, tail, K, W, labels, opened, prefix, long)
        end_best(t, rows, together, bias, tail, K, W, opened, prefix, long, past, alpha)
        for c in range(labels if len(closes) > 0 else 0):
            alpha[t * W + c] += closes[t * labels + c]
        if len(beta) == 0:
            continue
        lead_on(t, together, closes, beta, W, labels, prefix, past, leaving, follow, head)
        if long_too:
            cover_long(t, K, W, opened, prefix, long, closing, found, head)
        cover_best(t, rows, opened, bias, head, leaving, found, W)
        if together and j == n - 1:
            cover_past(t - j, n, opened, falling, follow, K, W, best, found)
