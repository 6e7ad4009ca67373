"""Exact samples: the left-to-right sweep keeps its messages, then every sample walks back.

The rows that the sweep keeps are as its tiles have them; the walk takes the logs of those that it
meets. For (K, C, C) transitions the rows are what per_duration_scan.py keeps.

Source: forward filtering, backward sampling; Chib, Calculating posterior distributions and modal
estimates in Markov mixture models, J. Econometrics 75, 1996.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, part
from torch_semimarkov.backends.cpu.draws import draw, stream_of, uniform
from torch_semimarkov.backends.cpu.growing import grown, turn_round
from torch_semimarkov.backends.cpu.messages import tiles_of
from torch_semimarkov.backends.cpu.partition import load_left_tile
from torch_semimarkov.backends.cpu.plan import TILE, S, fill_tables, make_work
from torch_semimarkov.backends.cpu.sweep import advance, begin, log_partition_of, take
from torch_semimarkov.backends.cpu.tile import LOG2


@compiled
def filter_forward(terms, shared, sizes, lengths, b, rows, info):
    """Keep P and Q of every position of a sequence; returns the rest of its log partition.

    Args:
        terms, shared, sizes, lengths: as for the log partition.
        b: the sequence.
        rows: (2, L * labels), to fill: P after, and Q before each position.
        info: (tiles, 3), to fill: log scale of a tile, that of its positions, 1 if it is in logs.
    """
    T, K, C, labels = sizes
    L = lengths[b]
    work, plan, state = make_work(K, C, labels, int(len(terms[1]) > 0), 0)
    fill_tables(work, state, plan, shared, False)
    begin(work, state, plan)
    n = 0
    for tile in range(tiles_of(L)):
        if tile > 0:
            advance(n, work, state, plan)
        n = load_left_tile(terms, b * T * labels, tile, L, work, plan)
        take(n, False, work, state, plan)
        info[tile, 0] = state[S.EXPONENT] * LOG2
        info[tile, 1] = state[S.GROWTH] * LOG2 / n
        info[tile, 2] = state[S.EXACT]
        for j in range(n):
            to = (tile * TILE + j) * labels
            for c in range(labels):
                rows[0, to + c] = work[plan.P + (j + 1) * C + c]
                rows[1, to + c] = work[plan.Q + j * C + c]
    _, rest = log_partition_of(n, work, state, plan)
    return rest


@part
def log_of(row, position, c, after, labels, info):
    """The log of a kept number of a position, before or ``after`` it."""
    tile = position // TILE
    value = row[position * labels + c]
    if info[tile, 2] > 0.0:
        return value + info[tile, 0]
    return np.log(value) + info[tile, 0] + (position - tile * TILE + after) * info[tile, 1]


@part
def draw_segment(terms, at, shared, rows, info, place, sizes, scores, point):
    """Start of the segment that ends at a place (position, label)."""
    _, K, _, labels = sizes
    _, bias, _, _ = shared
    stop, c = place
    content, count = 0.0, 0
    for d in range(min(K, stop)):
        s = stop - 1 - d
        here = at + s * labels + c
        content += terms[0][here]
        if content == -np.inf:
            break
        opens = terms[1][here] if len(terms[1]) else 0.0
        entering = log_of(rows[1], s, c, 0, labels, info)
        scores[d] = entering + content + opens + bias[d * labels + c]
        count += 1
    return stop - 1 - draw(scores, count, point)


@compiled
def walk(terms, shared, sizes, lengths, b, rows, info, seed, samples, counts):
    """Draw some samples of a sequence.

    Args:
        terms, shared, sizes, lengths, b, rows, info: as of :func:`filter_forward`.
        seed: of the random numbers.
        samples: numbers of the samples.
        counts: for each of them, to fill.

    Returns:
        (3, n) starts, ends and labels of the segments of the first one, then of the second.
    """
    T, K, _, labels = sizes
    transition, _, _, end = shared
    L, at = lengths[b], b * T * labels
    scores, found, filled = np.empty(max(K, labels)), np.empty((3, 64), np.int64), 0
    for i in range(len(samples)):
        keys, taken, begins = stream_of(seed, samples[i] * len(lengths) + b), 1, filled
        for c in range(labels):
            scores[c] = log_of(rows[0], L - 1, c, 1, labels, info)
            scores[c] += end[c] if len(end) else 0.0
        label, stop = draw(scores, labels, uniform(keys, 0)), L
        while stop > 0:
            point = uniform(keys, taken)
            start = draw_segment(
                terms, at, shared, rows, info, (stop, label), sizes, scores, point
            )  # fmt: skip
            found = grown(found, filled + 1)
            found[0, filled], found[1, filled], found[2, filled] = start, stop, label
            if start > 0:
                for c in range(labels):
                    scores[c] = log_of(rows[0], start - 1, c, 1, labels, info)
                    scores[c] += transition[c * labels + label]
                label = draw(scores, labels, uniform(keys, taken + 1))
            filled, taken, stop = filled + 1, taken + 2, start
        counts[i] = filled - begins
        turn_round(found, begins, filled)
    return found[:, :filled].copy()


@part
def draw_pair(tables, place, sizes, scores, point):
    """Start of the segment that ends at a place (position, label), and the label before it."""
    values, opens, alpha, steps, transition, bias, start = tables
    _, K, C, labels, S = sizes
    stop, c = place
    content, count = 0.0, 0
    for d in range(min(K, stop)):
        s = stop - 1 - d
        here = s * labels + c
        content += values[here] - (steps[s - 1] if s > 0 else 0.0)
        if content == -np.inf:
            break
        base = content + bias[d * C + c] + (opens[here] if len(opens) else 0.0)
        for source in range(labels):
            score = base + start[c] if source == 0 else -np.inf
            if s > 0:
                score = base + transition[(d * S + source) * C + c]
                score += alpha[(s - 1) * labels + source]
            scores[count] = score
            count += 1
    d, source = divmod(draw(scores, count, point), labels)
    return stop - 1 - d, source


@compiled
def walk_pairs(tables, end, sizes, b, batch, seed, samples, counts):
    """Draw some samples of a sequence with (K, C, C) transitions.

    Args:
        tables: scores and start scores of the sequence, alpha and steps as the scan keeps them, and
            transition, bias and start, which all share.
        end: (C,).
        sizes: as for the scan.
        b, batch: the sequence, and how many there are.
        seed, samples, counts: as for :func:`walk`, and the result too.
    """
    L, K, _, labels, _ = sizes
    scores, found, filled = np.empty(K * labels), np.empty((3, 64), np.int64), 0
    for i in range(len(samples)):
        keys, taken, begins = stream_of(seed, samples[i] * batch + b), 1, filled
        for c in range(labels):
            scores[c] = tables[2][(L - 1) * labels + c] + end[c]
        label, stop = draw(scores, labels, uniform(keys, 0)), L
        while stop > 0:
            point = uniform(keys, taken)
            start, source = draw_pair(tables, (stop, label), sizes, scores, point)
            found = grown(found, filled + 1)
            found[0, filled], found[1, filled], found[2, filled] = start, stop, label
            filled, taken, stop, label = filled + 1, taken + 1, start, source
        counts[i] = filled - begins
        turn_round(found, begins, filled)
    return found[:, :filled].copy()
