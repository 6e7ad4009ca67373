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
from torch_semimarkov.backends.cpu.per_duration_scan import copy, slot_of
from torch_semimarkov.backends.cpu.tangent_scan import (
    above_zero,
    difference,
    enter,
    is_small,
    take_in,
    total_of,
)
from torch_semimarkov.backends.cpu.vector import (
    load,
    multiply_add,
    spread,
    spread_from,
    store,
    sum_of_lanes,
)
from torch_semimarkov.backends.cpu.vector_types import LANES


@part
def begin(shared, moved, message, weights, ended, last, labels):
    """Masses of the last label, from the weights of value and slope."""
    alpha, slope = message
    end, moved_end = shared[5], moved[3]
    total, mean = total_of(message, end, moved_end, labels)
    for c in range(labels):
        share = np.exp(alpha[c] + end[c] - total)
        shift = slope[c] + moved_end[c] - mean if share > 0.0 else 0.0
        ended[0][c] = last[0][c] = weights[1] * share
        ended[1][c] = last[1][c] = weights[0] * share + weights[1] * share * shift


@part
def close_row(kept, terms, shifts, p, ended, rings, at, labels):
    """Row ``at`` of the rings: segments whose last position is p."""
    left, leaning, mass, bent = rings
    for c in range(labels):
        alpha, slope = kept[0][p * labels + c], kept[1][p * labels + c]
        left[at + c], leaning[at + c] = -np.inf, 0.0
        if alpha != -np.inf:
            score = shift = 0.0
            if len(terms[2]) > 0:
                score, shift = terms[2][p * labels + c], shifts[2][p * labels + c]
            left[at + c], leaning[at + c] = score - alpha, shift - slope
        mass[at + c], bent[at + c] = ended[0][c], ended[1][c]


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
def take_shares(shared, moved, rings, base, newest, rows, sizes, starts, durations):
    """Masses of the segments that start here: their sums, and their counts by duration."""
    _, _, _, bias, _, _ = shared
    left, leaning, mass, bent = rings
    _, K, C, _ = sizes
    for v in range(0, C, LANES):
        score, shift = load(base[0], v), load(base[1], v)
        plain = curved = spread(0.0)
        for d in range(rows):
            at, row = slot_of(newest, d, K) * C + v, d * C + v
            share = exp(load(left, at) + load(bias, row) + score)
            here = share * load(mass, at)
            there = multiply_add(
                share, load(bent, at), here * (load(leaning, at) + load(moved[1], row) + shift)
            )
            store(durations[0], row, load(durations[0], row) + here)
            store(durations[1], row, load(durations[1], row) + there)
            plain, curved = plain + here, curved + there
        store(starts[0], v, plain)
        store(starts[1], v, curved)


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
def pull_back(terms, shifts, shared, moved, sizes, rings, rows, kept, weights, places, counts):
    """Gradients of one sequence: in the directions, and in the terms.

    Args:
        terms, shifts, shared, moved, sizes, kept: as for the scan; ``kept`` is what it filled.
        rings: left full of -inf; leaning, mass and bent full of 0; (K, C) each.
        rows: message full of -inf and 0; entry; here, ended, inside, starts and base, of two rows
            (C,) each, full of 0.
        weights: upstream gradients of the log partition and of the slope.
        places: labels, starts and ends to fill, of two tables (L, labels) each, or empty.
        counts: durations (K, C), transitions (labels, C), first and last (C,), of two tables each:
            to add to.
    """
    L, K, C, labels = sizes
    message, entry, here, ended, inside, starts, base = rows
    durations, pairs, first, last = counts
    copy(kept[0], (L - 1) * labels, message[0], 0, labels)
    copy(kept[1], (L - 1) * labels, message[1], 0, labels)
    begin(shared, moved, message, weights, ended, last, labels)
    newest = K
    for s in range(L - 1, -1, -1):
        newest = (newest if newest > 0 else K) - 1
        close_row(kept, terms, shifts, s, ended, rings, newest * C, labels)
        difference(terms[0], s, kept[2][s - 1] if s > 0 else 0.0, here[0], labels)
        difference(shifts[0], s, kept[3][s - 1] if s > 0 else 0.0, here[1], labels)
        open_rows = min(L - s, K)
        take_in((rings[0], rings[1]), here, newest, open_rows, sizes)
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
        take_shares(shared, moved, rings, base, newest, open_rows, sizes, starts, durations)
        put(starts, places[1], s, labels)
        if s > 0:
            pull(shared, moved, message, entry, starts, ended, pairs, sizes)
    copy(starts[0], 0, first[0], 0, C)
    copy(starts[1], 0, first[1], 0, C)
