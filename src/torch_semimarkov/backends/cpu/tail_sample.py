"""Exact samples of models with a tail: the sums of live.py, kept, then every sample walks back.

What is K or more positions long is one choice more at the end of a segment. If it is taken, a
second number says how far back the segment goes: at each position the sweep has kept the share of
what was that long a position earlier already.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, part
from torch_semimarkov.backends.cpu.draws import draw, stream_of, uniform
from torch_semimarkov.backends.cpu.growing import grown, turn_round
from torch_semimarkov.backends.cpu.live import (
    begin_segments,
    close_segments,
    drop,
    enter,
    forbids,
    log_sum_of_two,
    total_of,
    with_bias,
)


@part
def close_long(i, shared, sizes, state, rows):
    """Take in what is K positions long now, and keep the sum and the share of what was longer."""
    K, C = sizes[1], sizes[3]
    beyond, prefix, tail = state[3], state[5], shared[4]
    for c in range(C):
        fresh = drop(c, K - 1, state, sizes)
        older = beyond[c] + tail[c]
        beyond[c] = log_sum_of_two(fresh, older)
        rows[2, i * C + c] = beyond[c] + prefix[c]
        share = 1.0 if older > -np.inf else 0.0
        if fresh > -np.inf:
            share = np.exp(older - beyond[c])
        rows[3, i * C + c] = share


@compiled
def filter_long(terms, shared, sizes, state, room, rows, norms, whole):
    """Take a sequence in as live.py's :func:`sum_chunk` does, and keep what samples need.

    Args:
        terms, shared, sizes, state, room: as there, with a tail.
        rows: (4, n C), to fill: alpha after each position; the sum over source labels before it;
            all open segments with K or more positions at it, without their bias; the share of
            these that had as many a position earlier.
        norms: (n + 1, 2), zeros, to fill: what the second and third, and the first row of the
            position before, are relative to, as a sum of two.
        whole: keep the sum over source labels also where no segment may start.
    """
    scores, starts, closes = terms
    guards = starts[:0] if whole else starts
    _, bias, longest, _, _ = shared
    n, _, _, C, _ = sizes
    _, _, _, beyond, alpha, _, norm, counts = state
    entering, ended, work = room
    for i in range(n):
        enter(i, guards, shared, sizes, alpha, counts, room)
        rows[1, i * C : (i + 1) * C] = entering[:C]
        begin_segments(i, scores, starts, entering, state, sizes)
        close_long(i, shared, sizes, state, rows)
        for c in range(C):
            ended[c] = -np.inf
            if not forbids(closes, i * C + c):
                count, best = with_bias(c, bias, beyond[c] + longest[c], work, state, sizes)
                if best != -np.inf:
                    ended[c] = best + np.log(total_of(work, count + 1, best, False))
        close_segments(i, closes, ended, state, sizes)
        rows[0, i * C : (i + 1) * C] = alpha[:C]
        norms[i + 1, 0], norms[i + 1, 1] = norm[0], norm[1]


@part
def between(norms, i, j):
    """What a number relative to normaliser i has more than one relative to normaliser j."""
    return (norms[i, 0] - norms[j, 0]) + (norms[i, 1] - norms[j, 1])


@part
def draw_long(stop, c, K, C, rows, point):
    """Start of a segment labelled c that ends at ``stop`` and has K or more positions."""
    last = stop - 1
    while last >= K:
        share = rows[3, last * C + c]
        if point >= share:
            break
        point /= share
        last -= 1
    return last - K + 1


@part
def draw_start(terms, bias, longest, sizes, rows, norms, place, scores, points):
    """Start of the segment that ends at a place (position, label)."""
    _, K, depth, C, _ = sizes
    stop, c = place
    content, count = 0.0, 0
    for d in range(min(K - 1, stop)):
        s = stop - 1 - d
        here = s * C + c
        content += terms[0][here]
        if content == -np.inf:
            break
        score = content + rows[1, here] + between(norms, s, stop - 1)
        score += bias[(c + 1) * depth - 1 - d]
        scores[d] = score + (terms[1][here] if len(terms[1]) > 0 else 0.0)
        count += 1
    scores[count] = rows[2, (stop - 1) * C + c] + longest[c]
    d = draw(scores, count + 1, points[0])
    return stop - 1 - d if d < count else draw_long(stop, c, K, C, rows, points[1])


@compiled
def walk_long(terms, shared, end, sizes, rows, norms, place, seed, samples, counts):
    """Draw some samples of a sequence.

    Args:
        terms, shared, sizes, rows, norms: as of :func:`filter_long`.
        end: (C,).
        place: the sequence, and how many there are.
        seed: of the random numbers.
        samples: numbers of the samples.
        counts: for each of them, to fill.

    Returns:
        (3, n) starts, ends and labels of the segments of the first one, then of the second.
    """
    move, bias, longest, _, _ = shared
    L, K, _, C, W = sizes
    b, batch = place
    scores, found, filled = np.empty(max(K, C)), np.empty((3, 64), np.int64), 0
    for i in range(len(samples)):
        keys, taken, begins = stream_of(seed, samples[i] * batch + b), 1, filled
        for c in range(C):
            scores[c] = rows[0, (L - 1) * C + c] + end[c]
        label, stop = draw(scores, C, uniform(keys, 0)), L
        while stop > 0:
            points = uniform(keys, taken), uniform(keys, taken + 1)
            start = draw_start(
                terms, bias, longest, sizes, rows, norms, (stop, label), scores, points
            )  # fmt: skip
            found = grown(found, filled + 1)
            found[0, filled], found[1, filled], found[2, filled] = start, stop, label
            if start > 0:
                for c in range(C):
                    scores[c] = rows[0, (start - 1) * C + c] + move[label * W + c]
                label = draw(scores, C, uniform(keys, taken + 2))
            filled, taken, stop = filled + 1, taken + 3, start
        counts[i] = filled - begins
        turn_round(found, begins, filled)
    return found[:, :filled].copy()
