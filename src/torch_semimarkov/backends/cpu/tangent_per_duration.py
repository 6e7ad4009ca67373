"""Log partition, slope, and the gradients of both for (K, C, C) transitions; O(T K C^2).

The same as in ``tangent_scan`` and ``tangent_pull``, but the transition depends on the duration, so
sources stay apart, and each segment has one exponential for each source. Everything is in the log
domain. Rings hold one row for every segment that is open, newest first.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, part
from torch_semimarkov.backends.cpu.elementary import exp, finite_or_zero, larger, log
from torch_semimarkov.backends.cpu.per_duration_scan import copy, largest_of, slot_of, step_of
from torch_semimarkov.backends.cpu.tangent_pull import advance, begin_at, put
from torch_semimarkov.backends.cpu.tangent_scan import (
    above_zero,
    end_segments,
    keep_position,
    slope_step,
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
def row_of(scores, shifts, p, row, at, labels):
    """Row p of what may be absent, and of its direction."""
    for c in range(labels):
        row[0][at + c] = row[1][at + c] = 0.0
        if len(scores) > 0:
            row[0][at + c], row[1][at + c] = scores[p * labels + c], shifts[p * labels + c]


@part
def take_in(terms, shifts, p, steps, rings, here, sizes):
    """Add the scores of a position, less steps of the normalisers, to every row of two rings."""
    _, K, C, labels = sizes
    for c in range(labels):
        here[0][c] = terms[0][p * labels + c] - steps[0]
        here[1][c] = shifts[0][p * labels + c] - steps[1]
    for v in range(0, C, LANES):
        score, shift = load(here[0], v), load(here[1], v)
        for at in range(v, K * C, C):
            store(rings[0], at, load(rings[0], at) + score)
            store(rings[1], at, load(rings[1], at) + shift)


@part
def sum_of_segments(shared, moved, rings, newest, rows, first, sizes, message, v):
    """Lanes v.. of alpha and its slope; ``first`` is the row that starts the sequence, or -1."""
    transition, bias, start, _ = shared
    opened, slid, source, lean = rings
    _, K, C, labels = sizes
    top = spread(-np.inf)
    if first >= 0:
        top = load(opened, slot_of(newest, first, K) * C + v) + load(bias, first * C + v)
        top = top + load(start, v)
    for d in range(rows):
        at = slot_of(newest, d, K) * C
        score = load(opened, at + v) + load(bias, d * C + v)
        for c in range(labels):
            pair = spread_from(source, at + c) + load(transition, (d * labels + c) * C + v)
            top = larger(top, score + pair)
    base = finite_or_zero(top)
    x = n = spread(0.0)
    if first >= 0:
        at, row = slot_of(newest, first, K) * C + v, first * C + v
        x = exp(load(opened, at) + load(bias, row) + load(start, v) - base)
        n = x * (load(slid, at) + load(moved[1], row) + load(moved[2], v))
    for d in range(rows):
        at = slot_of(newest, d, K) * C
        score = load(opened, at + v) + load(bias, d * C + v) - base
        shift = load(slid, at + v) + load(moved[1], d * C + v)
        for c in range(labels):
            pair = (d * labels + c) * C + v
            share = exp(score + (spread_from(source, at + c) + load(transition, pair)))
            n = multiply_add(share, shift + spread_from(lean, at + c) + load(moved[0], pair), n)
            x = x + share
    store(message[0], v, log(x) + base)
    store(message[1], v, n / above_zero(x))


@compiled
def scan(terms, shifts, shared, moved, sizes, rings, rows, kept):
    """Log partition and slope of one sequence: each relative to its normaliser, and that.

    Args:
        terms, shifts: scores, start_scores and end_scores, and their directions, (L, labels) each,
            or empty.
        shared: transition (K, labels, C), bias (K, C), start and end (C,).
        moved: directions of the same; of any number where a term is -inf.
        sizes: L, K, C, labels: positions, longest duration, labels padded and not padded.
        rings: opened, slid, source and lean, (K, C) each, full of -inf, 0, -inf and 0.
        rows: message, of two rows full of -inf and 0; here, of two, full of 0.
        kept: alpha and its slope (L, labels), the steps of both normalisers (L,), or all empty.
    """
    L, K, C, labels = sizes
    message, here = rows
    newest, norm, drift, step, slide = K, 0.0, 0.0, 0.0, 0.0
    for p in range(L):
        newest = (newest if newest > 0 else K) - 1
        copy(message[0], 0, rings[2], newest * C, C)
        copy(message[1], 0, rings[3], newest * C, C)
        row_of(terms[1], shifts[1], p, (rings[0], rings[1]), newest * C, labels)
        take_in(terms, shifts, p, (step, slide), (rings[0], rings[1]), here, sizes)
        norm, drift = norm + step, drift + slide
        first = p if p < K else -1
        for v in range(0, C, LANES):
            sum_of_segments(shared, moved, rings, newest, min(p, K), first, sizes, message, v)
        end_segments(terms, shifts, p, message, labels)
        largest = largest_of(message[0], labels)
        step, slide = step_of(largest), slope_step(message, largest, labels)
        if len(kept[2]) > 0:
            keep_position(message, (step, slide), p, kept, labels)
    total, slope = total_of(message, shared[3], moved[3], labels)
    return total, norm, slope, drift


@part
def close_row(kept, terms, shifts, p, ended, rings, at, labels):
    """Row ``at`` of the rings: segments whose last position is p."""
    row_of(terms[2], shifts[2], p, (rings[0], rings[1]), at, labels)
    for c in range(labels):
        alpha = kept[0][p * labels + c]
        rings[0][at + c] = rings[0][at + c] - alpha if alpha > -np.inf else -np.inf
        rings[1][at + c] -= kept[1][p * labels + c]
        rings[2][at + c], rings[3][at + c] = ended[0][c], ended[1][c]


@part
def share_out(rings, at, score, shift, starts, counts, pair, v):
    """What one source gives to the segments of one duration: added up, and returned."""
    share = exp(load(rings[0], at + v) + score)
    here = share * load(rings[2], at + v)
    there = multiply_add(share, load(rings[3], at + v), here * (load(rings[1], at + v) + shift))
    store(counts[0], pair, load(counts[0], pair) + here)
    store(counts[1], pair, load(counts[1], pair) + there)
    store(starts[0], v, load(starts[0], v) + here)
    store(starts[1], v, load(starts[1], v) + there)
    return here, there


@part
def pull(shared, moved, rings, message, base, newest, rows, sizes, starts, ended, pairs):
    """Masses of every source, to ``ended``, of every start, and of every transition."""
    transition, bias, _, _ = shared
    _, K, C, labels = sizes
    for c in range(labels):
        ended[0][c] = ended[1][c] = 0.0
    for d in range(rows):
        at = slot_of(newest, d, K) * C
        for v in range(0, C, LANES):
            score = load(bias, d * C + v) + load(base[0], v)
            shift = load(moved[1], d * C + v) + load(base[1], v)
            for c in range(labels):
                pair = (d * labels + c) * C + v
                before = spread_from(message[0], c) + load(transition, pair)
                lean = spread_from(message[1], c) + load(moved[0], pair)
                here, there = share_out(
                    rings, at, score + before, shift + lean, starts, pairs, pair, v
                )
                ended[0][c] += sum_of_lanes(here)
                ended[1][c] += sum_of_lanes(there)


@part
def pull_first(shared, moved, rings, base, newest, rows, sizes, starts, counts):
    """Masses of the first segments, by duration."""
    _, bias, start, _ = shared
    _, K, C, _ = sizes
    for d in range(rows):
        at = slot_of(newest, d, K) * C
        for v in range(0, C, LANES):
            row = d * C + v
            score = load(bias, row) + load(start, v) + load(base[0], v)
            shift = load(moved[1], row) + load(moved[2], v) + load(base[1], v)
            share_out(rings, at, score, shift, starts, counts, row, v)


@compiled
def pull_back(terms, shifts, shared, moved, sizes, rings, rows, kept, weights, places, counts):
    """Gradients of one sequence: in the directions, and in the terms.

    Args:
        terms, shifts, shared, moved, sizes, kept: as for the scan; ``kept`` is what it filled.
        rings: left full of -inf; leaning, mass and bent full of 0; (K, C) each.
        rows: message full of -inf and 0; here, ended, inside, starts and base, of two rows (C,)
            each, full of 0.
        weights: upstream gradients of the log partition and of the slope.
        places: labels, starts and ends to fill, of two tables (L, labels) each, or empty.
        counts: first segments by duration (K, C), transitions (K, labels, C), last (C,), of two
            tables each: to add to.
    """
    L, K, C, labels = sizes
    message, here, ended, inside, starts, base = rows
    firsts, pairs, last = counts
    begin_at(kept, L, (shared[3], moved[3]), message, weights, ended, last, labels)
    newest = K
    for s in range(L - 1, -1, -1):
        newest = (newest if newest > 0 else K) - 1
        close_row(kept, terms, shifts, s, ended, rings, newest * C, labels)
        steps = (kept[2][s - 1], kept[3][s - 1]) if s > 0 else (0.0, 0.0)
        take_in(terms, shifts, s, steps, (rings[0], rings[1]), here, sizes)
        advance(inside, ended, starts, C)
        put(inside, places[0], s, labels)
        put(ended, places[2], s, labels)
        row_of(terms[1], shifts[1], s, base, 0, labels)
        for c in range(C):
            starts[0][c] = starts[1][c] = 0.0
        count = min(L - s, K)
        if s > 0:
            copy(kept[0], (s - 1) * labels, message[0], 0, labels)
            copy(kept[1], (s - 1) * labels, message[1], 0, labels)
            pull(shared, moved, rings, message, base, newest, count, sizes, starts, ended, pairs)
        else:
            pull_first(shared, moved, rings, base, newest, count, sizes, starts, firsts)
        put(starts, places[1], s, labels)
