"""Every gradient for (K, C, C) transitions, from alpha alone: one pass from right to left.

The mass of a label at t is the posterior that a segment ends there with it. A segment from s to t
takes from it the share exp(alpha[s, source] + transition + ... - alpha[t]), which is at most 1, and
the shares of its sources are the mass at s. So only differences of neighbouring alphas occur, and
nothing is lost where a share underflows. As in the scan, a share is a product: of the factor of the
source, of the linear transition, and of the rest, ``quota``. Where a quota is too large for that,
its shares are taken in the log domain.

The sums over positions run over ``BLOCK`` of them at once, so that a table of (K, C, C) is read and
written once a block.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, part
from torch_semimarkov.backends.cpu.elementary import exp, larger
from torch_semimarkov.backends.cpu.per_duration_scan import (
    copy,
    largest_of,
    open_row,
    relative,
    slot_of,
    take_in,
    total_of,
)
from torch_semimarkov.backends.cpu.vector import (
    any_of,
    load,
    multiply_add,
    spread,
    spread_from,
    store,
    sum_of_lanes,
    where,
)
from torch_semimarkov.backends.cpu.vector_types import LANES

# Positions of a block; ``count_pairs`` is written for as many.
BLOCK = 4
# The log of a quota above which its shares are taken in logs. A factor that vanished is below
# exp(-690), so that below the limit a share that is lost is below exp(-190).
LIMIT = 500.0


@part
def zero_or(x, limit):
    """The exponential of x, and 0 where x is above the limit."""
    return where(x > spread(limit), spread(0.0), exp(x))


@part
def quotas(shared, rings, base, newest, rows, sizes, i):
    """Fill row i of the block's quotas; returns whether some are too large and left at 0."""
    _, _, bound, _, _, _ = shared
    left, mass, _, _, quota = rings
    _, K, C, _, _ = sizes
    largest = spread(-np.inf)
    for v in range(0, C, LANES):
        here = load(base, v)
        for d in range(rows):
            at = slot_of(newest, d, K) * C + v
            x = load(left, at) + load(bound, d * C + v) + here
            largest = larger(largest, x)
            store(quota, (i * K + d) * C + v, zero_or(x, LIMIT) * load(mass, at))
    return any_of(largest > spread(LIMIT))


@part
def pull(linear, rings, rows, sizes, i, before, starts):
    """Mass of every source, to ``before``, and of every start, from the quotas of row i."""
    _, _, _, factor, quota = rings
    _, K, C, labels, S = sizes
    for c in range(0, labels, 4):
        a = b = e = f = spread(0.0)
        for v in range(0, C, LANES):
            p = q = r = s = spread(0.0)
            for d in range(rows):
                share, at = load(quota, (i * K + d) * C + v), (d * S + c) * C + v
                p = multiply_add(share, load(linear, at), p)
                q = multiply_add(share, load(linear, at + C), q)
                r = multiply_add(share, load(linear, at + 2 * C), r)
                s = multiply_add(share, load(linear, at + 3 * C), s)
            a, b, e, f = a + p, b + q, e + r, f + s
            total = multiply_add(spread_from(factor, i * C + c), p, load(starts, v))
            total = multiply_add(spread_from(factor, i * C + c + 1), q, total)
            total = multiply_add(spread_from(factor, i * C + c + 2), r, total)
            store(starts, v, multiply_add(spread_from(factor, i * C + c + 3), s, total))
        before[c] = factor[i * C + c] * sum_of_lanes(a)
        before[c + 1] = factor[i * C + c + 1] * sum_of_lanes(b)
        before[c + 2] = factor[i * C + c + 2] * sum_of_lanes(e)
        before[c + 3] = factor[i * C + c + 3] * sum_of_lanes(f)


@part
def pull_exactly(shared, rings, base, newest, rows, sizes, i, before, starts, counts):
    """Add what the quotas left out, segment by segment in the log domain."""
    _, transition, bound, bias, _, _ = shared
    left, mass, rel, _, _ = rings
    _, K, C, labels, S = sizes
    for v in range(0, C, LANES):
        here = load(base, v)
        for d in range(rows):
            at = slot_of(newest, d, K) * C + v
            missing = load(left, at) + load(bound, d * C + v) + here > spread(LIMIT)
            if not any_of(missing):
                continue
            score = load(left, at) + load(bias, d * C + v) + here
            score = where(missing, score, spread(-np.inf))
            for c in range(labels):
                pair = (d * S + c) * C + v
                share = exp(score + (spread_from(rel, i * C + c) + load(transition, pair)))
                share = share * load(mass, at)
                before[c] += sum_of_lanes(share)
                store(starts, v, load(starts, v) + share)
                pair += d * C
                store(counts, pair, load(counts, pair) + share)


@part
def count_pairs(linear, rings, rows, sizes, counts):
    """Add the expected transitions of a block of positions to ``counts``."""
    _, _, _, factor, quota = rings
    _, K, C, labels, S = sizes
    for d in range(rows):
        for v in range(0, C, LANES):
            p, q = load(quota, d * C + v), load(quota, (K + d) * C + v)
            r, s = load(quota, (2 * K + d) * C + v), load(quota, (3 * K + d) * C + v)
            for c in range(labels):
                total = spread_from(factor, c) * p
                total = multiply_add(spread_from(factor, C + c), q, total)
                total = multiply_add(spread_from(factor, 2 * C + c), r, total)
                total = multiply_add(spread_from(factor, 3 * C + c), s, total)
                at, pair = (d * S + c) * C + v, (d * (S + 1) + c) * C + v
                store(counts, pair, multiply_add(total, load(linear, at), load(counts, pair)))


@part
def count_first(shared, rings, base, newest, rows, sizes, starts, counts):
    """Expected first segments of each duration, into the last row of ``counts``."""
    _, _, _, bias, start, _ = shared
    left, mass, _, _, _ = rings
    _, K, C, _, S = sizes
    for v in range(0, C, LANES):
        here, total = load(start, v) + load(base, v), spread(0.0)
        for d in range(rows):
            at = slot_of(newest, d, K) * C + v
            share = exp(load(left, at) + load(bias, d * C + v) + here) * load(mass, at)
            store(counts, (d * (S + 1) + S) * C + v, share)
            total = total + share
        store(starts, v, total)


@part
def close_row(alpha, end_scores, p, ended, left, mass, at, labels):
    """Row ``at`` of the rings: segments that end with position p."""
    for c in range(labels):
        last = alpha[p * labels + c]
        left[at + c] = -np.inf
        if last != -np.inf:
            left[at + c] = (end_scores[p * labels + c] if len(end_scores) > 0 else 0.0) - last
        mass[at + c] = ended[c]


@compiled
def pull_back(terms, shared, sizes, rings, row, kept, weight, found):
    """Posterior of one sequence times ``weight``: where labels are, start and end, and counts.

    Args:
        terms, shared, sizes, kept: as for the scan; ``kept`` is what it filled.
        rings: left (K, C) full of -inf; mass (K, C), rel and factor (BLOCK, C) and quota
            (BLOCK, K, C) full of 0.
        row: message (C,) full of -inf; ended, inside, starts and base (C,) full of 0.
        weight: upstream gradient of the log partition.
        found: labels, starts and ends (L, labels) to fill, the last two or empty; last (labels,);
            counts (K, S + 1, C) full of 0, their last row for first segments.
    """
    scores, start_scores, end_scores = terms
    linear, _, _, _, _, end = shared
    L, K, C, labels, _ = sizes
    left, mass, rel, factor, _ = rings
    alpha, steps = kept
    in_label, in_start, in_end, last, counts = found
    message, ended, inside, starts, base = row
    copy(alpha, (L - 1) * labels, message, 0, labels)
    total = total_of(message, end, labels)
    for c in range(labels):
        last[c] = ended[c] = weight * np.exp(message[c] + end[c] - total)
    newest = K
    for s in range(L - 1, -1, -1):
        i = (L - 1 - s) % BLOCK
        newest = (newest if newest > 0 else K) - 1
        close_row(alpha, end_scores, s, ended, left, mass, newest * C, labels)
        take_in(scores, s, steps[s - 1] if s > 0 else 0.0, left, base, sizes)
        for c in range(labels):
            inside[c] = inside[c] + ended[c] - starts[c]
        copy(inside, 0, in_label, s * labels, labels)
        if len(in_end) > 0:
            copy(ended, 0, in_end, s * labels, labels)
        for c in range(C):
            starts[c] = 0.0
        rows = min(K, L - s)
        if s == 0:
            open_row(start_scores, s, 0.0, base, 0, labels)
            count_first(shared, rings, base, newest, rows, sizes, starts, counts)
        else:
            copy(alpha, (s - 1) * labels, message, 0, labels)
            largest = largest_of(message, labels)
            relative(message, largest, rel, factor, i * C, C)
            open_row(start_scores, s, largest, base, 0, labels)
            large = quotas(shared, rings, base, newest, rows, sizes, i)
            pull(linear, rings, rows, sizes, i, ended, starts)
            if large:
                pull_exactly(shared, rings, base, newest, rows, sizes, i, ended, starts, counts)
        if s == 0:
            for at in range(i * C, BLOCK * C):
                factor[at] = 0.0
        if s == 0 or i == BLOCK - 1:
            count_pairs(linear, rings, rows, sizes, counts)
        if len(in_start) > 0:
            copy(starts, 0, in_start, s * labels, labels)
