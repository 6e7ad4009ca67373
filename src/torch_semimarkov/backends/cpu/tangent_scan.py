"""Log partition and its slope in a direction, from left to right; for (C, C) transitions.

Every message is a pair: a log mass, and its derivative in the direction. Along a segmentation both
add up; in a sum over alternatives the log masses go into a log-sum-exp, and the slope is the mean
of the alternatives' slopes, weighted with their masses. So a slope costs a multiplication where a
mass costs an exponential.

A window holds, for every place where a segment may have started, newest first, the score of what
lies before and its slope. What a position adds is the same for all of them and is held apart, so
that the exponentials of the window, relative to its largest, stay as they are: a sum over durations
is a product of the window with a table. Every ``room_of(K)`` positions, and wherever a new row is
much larger than the others, the window is put in order: what was held is added, and exponentials
are taken anew. Where a sum is not far above what underflows, it is done in the log domain.

Masses and slopes are relative to normalisers that follow them in whole numbers, so that their sums
are exact, and no digits are lost at the end of a long sequence. Arrays are flat float64. A row of
labels is padded to whole vectors. Padded lanes hold numbers that nothing reads: a mass of 1 in the
scan, and of 0 on the way back.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, part, small
from torch_semimarkov.backends.cpu.elementary import exp, finite_or_zero, larger, log
from torch_semimarkov.backends.cpu.per_duration_scan import (
    SAFE,
    copy,
    largest_of,
    step_of,
)
from torch_semimarkov.backends.cpu.tangent_tail import close_long, hold
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

# Exponent from which on a window is put in order.
LARGE = 200.0


@part
def above_zero(x):
    """x, or 1 where it is 0, to divide by."""
    return where(x > spread(0.0), x, spread(1.0))


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


@small
def room_of(K):
    """Rows of a window that holds K of them: so many more that it seldom has to move."""
    return 2 * K + 64


@part
def settle(window, held, top, source, target, rows, v, C):
    """Add what is held to the rows of a window, and move them from row ``source`` to ``target``."""
    score, shift, largest = load(held[0], v), load(held[1], v), spread(-np.inf)
    for d in range(rows):
        x = load(window[0], (source + d) * C + v) + score
        store(window[0], (target + d) * C + v, x)
        store(window[1], (target + d) * C + v, load(window[1], (source + d) * C + v) + shift)
        largest = larger(largest, x)
    store(held[0], v, spread(0.0))
    store(held[1], v, spread(0.0))
    store(top, v, finite_or_zero(largest))


@part
def refresh(window, held, top, source, target, rows, v, C):
    """Put lanes v.. of a window in order, with exponentials relative to its largest."""
    settle(window, held, top, source, target, rows, v, C)
    base = load(top, v)
    for d in range(rows):
        at = (target + d) * C + v
        mass = exp(load(window[0], at) - base)
        store(window[2], at, mass)
        store(window[3], at, mass * load(window[1], at))


@part
def forbid(window, newest, rows, c, C):
    """Take every segment that is open with label c out of a window."""
    for d in range(rows):
        at = (newest + d) * C + c
        window[0][at] = -np.inf
        window[2][at] = window[3][at] = 0.0


@part
def take_in(scores, shifts, p, steps, window, held, newest, rows, sizes):
    """Hold the scores of a position, and their direction, less steps of the normalisers."""
    _, _, C, labels = sizes
    for c in range(labels):
        score = scores[p * labels + c]
        if score == -np.inf:
            forbid(window, newest, rows, c, C)
        else:
            held[0][c] += score - steps[0]
            held[1][c] += shifts[p * labels + c] - steps[1]


@part
def open_row(entry, terms, shifts, p, window, held, newest, labels, C):
    """The newest row of a window: segments that start at p."""
    _, _, entering, moving = entry
    at = newest * C
    for c in range(labels):
        score = shift = 0.0
        if len(terms[1]) > 0:
            score, shift = terms[1][p * labels + c], shifts[1][p * labels + c]
        window[0][at + c] = entering[c] + score - held[0][c]
        window[1][at + c] = moving[c] + shift - held[1][c] if entering[c] > -np.inf else 0.0


@part
def weigh_row(window, held, top, newest, rows, C):
    """Exponentials of the newest row; in order with the others, if it is much larger."""
    for v in range(0, C, LANES):
        at = newest * C + v
        x = load(window[0], at) - load(top, v)
        if any_of(x > spread(LARGE)):
            refresh(window, held, top, newest, newest, rows, v, C)
        else:
            mass = exp(x)
            store(window[2], at, mass)
            store(window[3], at, mass * load(window[1], at))


@part
def close(shared, moved, quick, window, held, top, newest, rows, sizes, message):
    """All segments that end here: alpha without its end_scores, and its slope."""
    _, _, C, _ = sizes
    linear, leaning, bound = quick
    for v in range(0, C, LANES):
        x = n = m = spread(0.0)
        for d in range(rows):
            at, row = (newest + d) * C + v, d * C + v
            mass, factor = load(window[2], at), load(linear, row)
            x = multiply_add(mass, factor, x)
            n = multiply_add(load(window[3], at), factor, n)
            m = multiply_add(mass, load(leaning, row), m)
        if any_of(beats(spread(SAFE), x)):
            close_exactly(shared, moved, window, held, top, newest, rows, sizes, message, x, v)
        else:
            base = load(top, v) + load(bound, v) + load(held[0], v)
            store(message[0], v, log(x) + base)
            store(message[1], v, (n + m) / x + load(held[1], v))


@part
def close_exactly(shared, moved, window, held, top, newest, rows, sizes, message, sums, v):
    """Lanes v.. of the same in the log domain; puts the window in order if that may help."""
    _, _, C, _ = sizes
    bias = shared[3]
    largest = spread(-np.inf)
    for d in range(rows):
        score = load(window[0], (newest + d) * C + v) + load(bias, d * C + v)
        largest = larger(largest, score)
    base = finite_or_zero(largest)
    x = n = spread(0.0)
    for d in range(rows):
        at = (newest + d) * C + v
        share = exp(load(window[0], at) + load(bias, d * C + v) - base)
        n = multiply_add(share, load(window[1], at) + load(moved[1], d * C + v), n)
        x = x + share
    store(message[0], v, log(x) + base + load(held[0], v))
    store(message[1], v, n / above_zero(x) + load(held[1], v))
    possible = where(largest > spread(-np.inf), sums, spread(1.0))
    if any_of(beats(spread(SAFE), possible)):
        refresh(window, held, top, newest, newest, rows, v, C)


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


@part
def move_if_full(window, held, top, newest, rows, sizes):
    """Make room before the newest row: the window moves to the end of its buffer."""
    _, K, C, _ = sizes
    if newest > 0:
        return newest
    target = room_of(K) - rows
    for v in range(0, C, LANES):
        refresh(window, held, top, newest, target, rows, v, C)
    return target


@compiled
def scan(terms, shifts, shared, moved, quick, tails, sizes, window, rows, kept):
    """Log partition and slope of one sequence: each relative to its normaliser, and that.

    Args:
        terms, shifts: scores, start_scores and end_scores, and their directions, (L, labels) each,
            or empty.
        shared: linear and transition (labels, C), bound (C,), bias (K, C), start and end (C,).
        moved: directions of transition, bias, start and end; of any number where a term is -inf.
        quick: exponential of the bias relative to its largest, that times its direction (K, C),
            and the largest (C,).
        tails: the tail and its direction (C,), or both empty.
        sizes: L, K, C, labels: positions, longest duration, labels padded and not padded.
        window: score, slope, mass, and mass times slope, (room_of(K), C) each: full of -inf, 0, 0
            and 0; padded lanes of 0, 0, 1 and 0.
        rows: message, of two rows full of -inf and 0; entry, of four; held, of two; top; all of 0;
            beyond, of two full of -inf and 0.
        kept: alpha and its slope (L, labels), the steps of both normalisers (L,), or all empty.
    """
    L, K, C, labels = sizes
    message, entry, held, top, beyond = rows
    longer = len(tails[0]) > 0
    newest, norm, drift, step, slide = room_of(K), 0.0, 0.0, 0.0, 0.0
    for p in range(L):
        newest = move_if_full(window, held, top, newest, min(p, K - 1), sizes) - 1
        if p == 0:
            copy(shared[4], 0, entry[2], 0, C)
            copy(moved[2], 0, entry[3], 0, C)
        else:
            enter(shared, moved, message, entry, C, labels)
        count = min(p + 1, K)
        open_row(entry, terms, shifts, p, window, held, newest, labels, C)
        weigh_row(window, held, top, newest, count, C)
        take_in(terms[0], shifts[0], p, (step, slide), window, held, newest, count, sizes)
        norm, drift = norm + step, drift + slide
        if longer:
            hold(terms, shifts, p, (step, slide), tails, window, held, newest, count == K, beyond,
                 sizes)  # fmt: skip
            count = min(count, K - 1)
        close(shared, moved, quick, window, held, top, newest, count, sizes, message)
        if longer:
            close_long(shared[3], moved[1], K, C, labels, beyond, message)
        end_segments(terms, shifts, p, message, labels)
        largest = largest_of(message[0], labels)
        step, slide = step_of(largest), slope_step(message, largest, labels)
        if len(kept[2]) > 0:
            keep_position(message, (step, slide), p, kept, labels)
    total, slope = total_of(message, shared[5], moved[3], labels)
    return total, norm, slope, drift
