"""Log partition and its slope in a direction, from left to right; for (C, C) transitions.

Every message is a pair: a log mass, and its derivative in the direction. Along a segmentation both
add up; in a sum over alternatives the log masses go into a log-sum-exp, and the slope is the mean
of the alternatives' slopes, weighted with their masses. So a slope costs a multiplication where a
mass costs an exponential.

A ring holds, for every place where a segment may have started, newest first, the score so far and
its slope. Masses and slopes are relative to normalisers that follow them in whole numbers, so that
their sums are exact, and no digits are lost at the end of a long sequence. Arrays are flat float64.
A row of labels is padded to whole vectors; padded lanes have a duration bias of -inf.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, part
from torch_semimarkov.backends.cpu.elementary import exp, finite_or_zero, larger, log
from torch_semimarkov.backends.cpu.per_duration_scan import (
    SAFE,
    copy,
    largest_of,
    slot_of,
    step_of,
)
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


@part
def above_zero(x):
    """x, or 1 where it is 0, to divide by."""
    return where(x > spread(0.0), x, spread(1.0))


@part
def difference(x, p, step, row, labels):
    """Row p of what may be absent, less a step of the normaliser."""
    for c in range(labels):
        row[c] = (x[p * labels + c] if len(x) > 0 else 0.0) - step


@part
def enter(shared, moved, message, entry, C, labels):
    """All that ended before, and the transition into each label: mass, slope, and factors.

    Args:
        shared: linear and transition (labels, C), bound, ..., of which a row is a source.
        moved: their direction, from that of the transition on.
        message: alpha and its slope, (C,) each.
        entry: to fill: factor (C,) of each source, total (C,) of their products with ``linear``,
            entering and its slope (C,).
    """
    linear, _, bound, _, _, _ = shared
    alpha, slope = message
    factor, total, entering, moving = entry
    largest = largest_of(alpha, labels)
    top = spread(largest if largest > -np.inf else 0.0)
    for v in range(0, C, LANES):
        store(factor, v, exp(load(alpha, v) - top))
    for v in range(0, C, LANES):
        x = n = spread(0.0)
        for c in range(labels):
            share = spread_from(factor, c) * load(linear, c * C + v)
            n = multiply_add(share, spread_from(slope, c) + load(moved[0], c * C + v), n)
            x = x + share
        store(total, v, x)
        if is_small(x, load(bound, v)):
            enter_exactly(shared, moved, message, entry, v, C, labels)
        else:
            store(entering, v, log(x) + load(bound, v) + top)
            store(moving, v, n / above_zero(x))


@part
def is_small(total, bound):
    """True if a sum of products may have lost something, where there is something to lose."""
    return any_of(beats(spread(SAFE), where(bound > spread(-np.inf), total, spread(1.0))))


@part
def enter_exactly(shared, moved, message, entry, v, C, labels):
    """Lanes v.. of the same in the log domain."""
    _, transition, _, _, _, _ = shared
    alpha, slope = message
    _, _, entering, moving = entry
    top = spread(-np.inf)
    for c in range(labels):
        top = larger(top, spread_from(alpha, c) + load(transition, c * C + v))
    base = finite_or_zero(top)
    x = n = spread(0.0)
    for c in range(labels):
        share = exp(spread_from(alpha, c) + load(transition, c * C + v) - base)
        n = multiply_add(share, spread_from(slope, c) + load(moved[0], c * C + v), n)
        x = x + share
    store(entering, v, log(x) + base)
    store(moving, v, n / above_zero(x))


@part
def take_in(rings, here, newest, rows, sizes):
    """Add the scores of a position, and their direction, to the open rows of two rings."""
    _, K, C, _ = sizes
    for v in range(0, C, LANES):
        score, shift = load(here[0], v), load(here[1], v)
        for d in range(rows):
            at = slot_of(newest, d, K) * C + v
            store(rings[0], at, load(rings[0], at) + score)
            store(rings[1], at, load(rings[1], at) + shift)


@part
def close(shared, moved, rings, newest, rows, sizes, message):
    """All segments that end here: alpha without its end_scores, and its slope."""
    _, _, _, bias, _, _ = shared
    opened, slid = rings
    _, K, C, _ = sizes
    for v in range(0, C, LANES):
        top = spread(-np.inf)
        for d in range(rows):
            at = slot_of(newest, d, K) * C + v
            top = larger(top, load(opened, at) + load(bias, d * C + v))
        base = finite_or_zero(top)
        x = n = spread(0.0)
        for d in range(rows):
            at = slot_of(newest, d, K) * C + v
            share = exp(load(opened, at) + load(bias, d * C + v) - base)
            n = multiply_add(share, load(slid, at) + load(moved[1], d * C + v), n)
            x = x + share
        store(message[0], v, log(x) + base)
        store(message[1], v, n / above_zero(x))


@part
def open_row(entry, terms, shifts, p, rings, at, labels):
    """Row ``at`` of the rings: segments that start at p."""
    _, _, entering, moving = entry
    for c in range(labels):
        score = shift = 0.0
        if len(terms[1]) > 0:
            score, shift = terms[1][p * labels + c], shifts[1][p * labels + c]
        rings[0][at + c] = entering[c] + score
        rings[1][at + c] = moving[c] + (shift if rings[0][at + c] > -np.inf else 0.0)


@part
def end_segments(terms, shifts, p, message, labels):
    """Add the end_scores of a position, and their direction, where anything ends."""
    alpha, slope = message
    for c in range(labels if len(terms[2]) > 0 else 0):
        alpha[c] += terms[2][p * labels + c]
        slope[c] += shifts[2][p * labels + c]
    for c in range(labels):
        if alpha[c] == -np.inf:
            slope[c] = 0.0


@part
def slope_step(message, largest, labels):
    """What the normaliser of slopes grows by: that of the label with the largest mass."""
    alpha, slope = message
    for c in range(labels):
        if alpha[c] == largest:
            return step_of(slope[c])
    return 0.0


@part
def total_of(message, end, moved_end, labels):
    """Log mass of all segmentations, and its slope."""
    alpha, slope = message
    top = -np.inf
    for c in range(labels):
        if alpha[c] + end[c] > top or np.isnan(alpha[c]):
            top = alpha[c] + end[c]
    if not np.isfinite(top):
        return top, 0.0
    x = n = 0.0
    for c in range(labels):
        share = np.exp(alpha[c] + end[c] - top)
        x += share
        n += share * (slope[c] + moved_end[c]) if share > 0.0 else 0.0
    return np.log(x) + top, n / x


@part
def keep_position(message, steps, p, kept, labels):
    """Keep the messages at p and what the normalisers grow by after it."""
    copy(message[0], 0, kept[0], p * labels, labels)
    copy(message[1], 0, kept[1], p * labels, labels)
    kept[2][p], kept[3][p] = steps


@compiled
def scan(terms, shifts, shared, moved, sizes, rings, rows, kept):
    """Log partition and slope of one sequence: each relative to its normaliser, and that.

    Args:
        terms, shifts: scores, start_scores and end_scores, and their directions, (L, labels) each,
            or empty.
        shared: linear and transition (labels, C), bound (C,), bias (K, C), start and end (C,).
        moved: directions of transition, bias, start and end; of any number where a term is -inf.
        sizes: L, K, C, labels: positions, longest duration, labels padded and not padded.
        rings: opened full of -inf, and slid full of 0, (K, C) each.
        rows: message, of two rows full of -inf and 0; entry, of four; here, of two, full of 0.
        kept: alpha and its slope (L, labels), the steps of both normalisers (L,), or all empty.
    """
    L, K, C, labels = sizes
    message, entry, here = rows
    newest, norm, drift, step, slide = K, 0.0, 0.0, 0.0, 0.0
    for p in range(L):
        newest = (newest if newest > 0 else K) - 1
        if p == 0:
            copy(shared[4], 0, entry[2], 0, C)
            copy(moved[2], 0, entry[3], 0, C)
        else:
            enter(shared, moved, message, entry, C, labels)
        open_row(entry, terms, shifts, p, rings, newest * C, labels)
        difference(terms[0], p, step, here[0], labels)
        difference(shifts[0], p, slide, here[1], labels)
        open_rows = min(p + 1, K)
        take_in(rings, here, newest, open_rows, sizes)
        norm, drift = norm + step, drift + slide
        close(shared, moved, rings, newest, open_rows, sizes, message)
        end_segments(terms, shifts, p, message, labels)
        largest = largest_of(message[0], labels)
        step, slide = step_of(largest), slope_step(message, largest, labels)
        if len(kept[2]) > 0:
            keep_position(message, (step, slide), p, kept, labels)
    total, slope = total_of(message, shared[5], moved[3], labels)
    return total, norm, slope, drift
