"""Gradients of a log partition and its slope, from alpha alone: one pass from right to left.

The mass of a label at t is the weighted posterior that a segment ends there with it. A segment from
s to t takes from it the share exp(alpha[s, source] + transition + ... - alpha[t]), which is at most
1, and the shares of its sources are the mass at s. The derivative of a share in the direction is
the share times the difference of the slopes. So two masses go from right to left: ``mass``, of the
posterior itself, is the gradient of the slope in the direction; ``bent``, of which a segment takes
its share and in addition the share of ``mass`` times the difference of slopes, is the gradient in
the terms. Only differences of neighbouring messages occur, for masses and for slopes.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, part
from torch_semimarkov.backends.cpu.elementary import exp, finite_or_zero
from torch_semimarkov.backends.cpu.per_duration_scan import copy
from torch_semimarkov.backends.cpu.tangent_scan import (
    LARGE,
    above_zero,
    enter,
    is_small,
    room_of,
    settle,
    take_in,
    total_of,
)
from torch_semimarkov.backends.cpu.tangent_tail import hold_back, take_long
from torch_semimarkov.backends.cpu.vector import (
    any_of,
    load,
    multiply_add,
    spread,
    spread_from,
    store,
    sum_of_lanes,
)
from torch_semimarkov.backends.cpu.vector_types import LANES

# The largest exponent of the factor of a window whose members may have lost what is below 1e-308.
LIMIT = 230.0


@part
def begin_at(kept, L, ends, message, weights, ended, last, labels):
    """Masses of the last label, from the weights of value and slope; the message before them."""
    copy(kept[0], (L - 1) * labels, message[0], 0, labels)
    copy(kept[1], (L - 1) * labels, message[1], 0, labels)
    alpha, slope = message
    end, moved_end = ends
    total, mean = total_of(message, end, moved_end, labels)
    for c in range(labels):
        share = np.exp(alpha[c] + end[c] - total)
        shift = slope[c] + moved_end[c] - mean if share > 0.0 else 0.0
        ended[0][c] = last[0][c] = weights[1] * share
        ended[1][c] = last[1][c] = weights[0] * share + weights[1] * share * shift


@part
def close_row(kept, terms, shifts, p, ended, window, held, newest, labels, C):
    """The newest row of a window: segments whose last position is p."""
    at = newest * C
    for c in range(labels):
        alpha, slope = kept[0][p * labels + c], kept[1][p * labels + c]
        window[0][at + c], window[1][at + c] = -np.inf, 0.0
        if alpha != -np.inf:
            score = shift = 0.0
            if len(terms[2]) > 0:
                score, shift = terms[2][p * labels + c], shifts[2][p * labels + c]
            window[0][at + c] = score - alpha - held[0][c]
            window[1][at + c] = shift - slope - held[1][c]
        window[4][at + c], window[5][at + c] = ended[0][c], ended[1][c]


@part
def weigh(window, at, base):
    """Masses of a place in the window times its exponential, ready for the sums."""
    share, mass = exp(load(window[0], at) - base), load(window[4], at)
    store(window[2], at, share * mass)
    store(window[3], at, share * multiply_add(mass, load(window[1], at), load(window[5], at)))


@part
def refresh(window, held, top, source, target, rows, v, C):
    """Put lanes v.. of a window in order, with exponentials relative to its largest."""
    settle(window, held, top, source, target, rows, v, C)
    for d in range(rows):
        at = (target + d) * C + v
        store(window[4], at, load(window[4], (source + d) * C + v))
        store(window[5], at, load(window[5], (source + d) * C + v))
        weigh(window, at, load(top, v))


@part
def weigh_row(window, held, top, newest, rows, C):
    """The newest row, ready for the sums; in order with the others, if it is much larger."""
    for v in range(0, C, LANES):
        at = newest * C + v
        if any_of(load(window[0], at) - load(top, v) > spread(LARGE)):
            refresh(window, held, top, newest, newest, rows, v, C)
        else:
            weigh(window, at, load(top, v))


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


@part
def lean_on(entry, terms, shifts, p, base, labels):
    """What segments that start at p have in common: score before them, and its slope."""
    for c in range(labels):
        score = shift = 0.0
        if len(terms[1]) > 0:
            score, shift = terms[1][p * labels + c], shifts[1][p * labels + c]
        base[0][c] = entry[2][c] + score
        base[1][c] = entry[3][c] + (shift if base[0][c] > -np.inf else 0.0)


@part
def score_of(quick, held, top, base, v):
    """What all segments that start here have in common."""
    return load(base[0], v) + load(held[0], v) + load(top, v) + load(quick[2], v)


@part
def take_shares(shared, moved, quick, window, held, top, base, newest, rows, sizes, found):
    """Masses of the segments that start here: their sums, and their counts by duration.

    Args:
        found: starts, of two rows to fill; counts by duration without the factors of the duration,
            and with them, of two tables each to add to.
    """
    _, _, C, _ = sizes
    linear, leaning, _ = quick
    starts, bare, durations = found
    for v in range(0, C, LANES):
        score = score_of(quick, held, top, base, v)
        if any_of(score > spread(LIMIT)):
            refresh(window, held, top, newest, newest, rows, v, C)
            score = score_of(quick, held, top, base, v)
        if any_of(score > spread(LIMIT)):
            take_exactly(shared, moved, window, held, base, newest, rows, sizes, starts,
                         durations, v)  # fmt: skip
            continue
        factor = exp(score)
        shift = factor * (load(held[1], v) + load(base[1], v))
        x = n = m = spread(0.0)
        for d in range(rows):
            at, row = (newest + d) * C + v, d * C + v
            mass, curved, weight = load(window[2], at), load(window[3], at), load(linear, row)
            x = multiply_add(mass, weight, x)
            n = multiply_add(curved, weight, n)
            m = multiply_add(mass, load(leaning, row), m)
            store(bare[0], row, multiply_add(factor, mass, load(bare[0], row)))
            sums = multiply_add(factor, curved, load(bare[1], row))
            store(bare[1], row, multiply_add(shift, mass, sums))
        store(starts[0], v, factor * x)
        store(starts[1], v, multiply_add(shift, x, factor * (n + m)))


@part
def take_exactly(shared, moved, window, held, base, newest, rows, sizes, starts, durations, v):
    """Lanes v.. of the same with an exponential for each segment."""
    _, _, C, _ = sizes
    bias = shared[3]
    score, shift = load(base[0], v) + load(held[0], v), load(base[1], v) + load(held[1], v)
    plain = curved = spread(0.0)
    for d in range(rows):
        at, row = (newest + d) * C + v, d * C + v
        share = exp(load(window[0], at) + load(bias, row) + score)
        here = share * load(window[4], at)
        lean = load(window[1], at) + load(moved[1], row) + shift
        there = multiply_add(share, load(window[5], at), here * lean)
        store(durations[0], row, load(durations[0], row) + here)
        store(durations[1], row, load(durations[1], row) + there)
        plain, curved = plain + here, curved + there
    store(starts[0], v, plain)
    store(starts[1], v, curved)


@part
def add_bare(quick, bare, durations, K, C):
    """Give counts the factors of their durations, and add them to the others."""
    linear, leaning, _ = quick
    for at in range(0, K * C, LANES):
        plain, weight = load(bare[0], at), load(linear, at)
        store(durations[0], at, multiply_add(plain, weight, load(durations[0], at)))
        both = multiply_add(load(bare[1], at), weight, plain * load(leaning, at))
        store(durations[1], at, load(durations[1], at) + both)


@part
def share_of(shared, message, entry, exact, c, v, C):
    """Part of what enters a label in lanes v.. that comes from source c."""
    alpha, _ = message
    factor, total, entering, _ = entry
    if exact:
        score = spread_from(alpha, c) + load(shared[1], c * C + v)
        return exp(score - finite_or_zero(load(entering, v)))
    return spread_from(factor, c) * load(shared[0], c * C + v) / above_zero(load(total, v))


@part
def pull(shared, moved, message, entry, starts, ended, pairs, sizes):
    """Masses of every source, to ``ended``, and of every transition."""
    _, _, C, labels = sizes
    for c in range(labels):
        ended[0][c] = ended[1][c] = 0.0
    for v in range(0, C, LANES):
        exact = is_small(load(entry[1], v), load(shared[2], v))
        for c in range(labels):
            at = c * C + v
            share = share_of(shared, message, entry, exact, c, v, C)
            here = share * load(starts[0], v)
            shift = spread_from(message[1], c) + load(moved[0], at) - load(entry[3], v)
            there = multiply_add(share, load(starts[1], v), here * shift)
            store(pairs[0], at, load(pairs[0], at) + here)
            store(pairs[1], at, load(pairs[1], at) + there)
            ended[0][c] += sum_of_lanes(here)
            ended[1][c] += sum_of_lanes(there)


@part
def advance(inside, ended, starts, C):
    """Labels at a position, from those behind it: what ends here joins, what started leaves."""
    for i in range(2):
        for c in range(C):
            inside[i][c] = inside[i][c] + ended[i][c] - starts[i][c]


@part
def put(row, found, p, labels):
    """Row p of two results; nothing where they are not asked for."""
    for i in range(2):
        if len(found[i]) > 0:
            copy(row[i], 0, found[i], p * labels, labels)


@compiled
def pull_back(
    terms, shifts, shared, moved, quick, tails, sizes, window, rows, kept, weights, places, counts
):
    """Gradients of one sequence: in the directions, and in the terms.

    Args:
        terms, shifts, shared, moved, quick, tails, sizes, kept: as for the scan; ``kept`` is what
            it filled.
        window: score, slope, two kinds of weighted masses, mass and bent, (room_of(K), C) each:
            the first full of -inf, but of 0 in padded lanes; the others full of 0.
        rows: message full of -inf and 0; entry; held, ended, inside, starts and base, of two rows
            (C,) each, and top; full of 0; sums (5, C), the first full of -inf, the others of 0.
        weights: upstream gradients of the log partition and of the slope.
        places: labels, starts and ends to fill, of two tables (L, labels) each, or empty.
        counts: durations (K, C), transitions (labels, C), first, last and tail (C,), of two tables
            each: to add to; and room for durations, of two tables full of 0.
    """
    L, K, C, labels = sizes
    message, entry, held, ended, inside, starts, base, top, sums = rows
    durations, pairs, first, last, beyond, bare = counts
    longer = len(tails[0]) > 0
    begin_at(kept, L, (shared[5], moved[3]), message, weights, ended, last, labels)
    newest = room_of(K)
    for s in range(L - 1, -1, -1):
        newest = move_if_full(window, held, top, newest, min(L - 1 - s, K - 1), sizes) - 1
        count = min(L - s, K)
        close_row(kept, terms, shifts, s, ended, window, held, newest, labels, C)
        weigh_row(window, held, top, newest, count, C)
        steps = (kept[2][s - 1], kept[3][s - 1]) if s > 0 else (0.0, 0.0)
        take_in(terms[0], shifts[0], s, steps, window, held, newest, count, sizes)
        advance(inside, ended, starts, C)
        put(inside, places[0], s, labels)
        put(ended, places[2], s, labels)
        if s == 0:
            copy(shared[4], 0, entry[2], 0, C)
            copy(moved[2], 0, entry[3], 0, C)
        else:
            copy(kept[0], (s - 1) * labels, message[0], 0, labels)
            copy(kept[1], (s - 1) * labels, message[1], 0, labels)
            enter(shared, moved, message, entry, C, labels)
        lean_on(entry, terms, shifts, s, base, labels)
        if longer:
            hold_back(terms, shifts, s, steps, tails, window, held, newest, count == K, sums,
                      sizes)  # fmt: skip
            count = min(count, K - 1)
        take_shares(shared, moved, quick, window, held, top, base, newest, count, sizes,
                    (starts, bare, durations))  # fmt: skip
        if longer:
            take_long(shared[3], moved[1], base, sums, starts, durations, beyond, sizes)
        put(starts, places[1], s, labels)
        if s > 0:
            pull(shared, moved, message, entry, starts, ended, pairs, sizes)
    copy(starts[0], 0, first[0], 0, C)
    copy(starts[1], 0, first[1], 0, C)
    add_bare(quick, bare, durations, K, C)
