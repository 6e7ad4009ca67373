"""The open segments of a label: a list of those alone that are possible, the oldest first.

An open segment is a position, where it starts, and a number, its score less the prefix sum of the
scores of its label, so that a position adds nothing to it. A score of -inf ends all that is open,
and a start that is forbidden opens nothing: a position costs what is open, not K. Each label has
room for twice the longest list; where the room ends, the list moves to its beginning.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, part, small
from torch_semimarkov.backends.cpu.elementary import exp, larger
from torch_semimarkov.backends.cpu.vector import (
    largest_of_lanes,
    load,
    spread,
    store,
    sum_of_lanes,
)
from torch_semimarkov.backends.cpu.vector_types import LANES


@small
def append(c, value, state, sizes):
    """Open a segment of label c at the position that comes now."""
    values, places, bounds, counts = state[0], state[1], state[2], state[7]
    room, begin = 2 * sizes[2], c * 2 * sizes[2]
    first, last = bounds[2 * c], bounds[2 * c + 1]
    if last == room:
        for k in range(last - first):
            values[begin + k] = values[begin + first + k]
            places[begin + k] = places[begin + first + k]
        first, last = 0, last - first
        bounds[2 * c] = 0
    values[begin + last] = value
    places[begin + last] = counts[0]
    bounds[2 * c + 1] = last + 1


@small
def drop(c, most, state, sizes):
    """Take out what has more than ``most`` positions; returns its number, -inf if there is none."""
    values, places, bounds, counts = state[0], state[1], state[2], state[7]
    begin, value = c * 2 * sizes[2], -np.inf
    while bounds[2 * c] < bounds[2 * c + 1]:
        at = begin + bounds[2 * c]
        if counts[0] - places[at] < most:
            break
        value = values[at]
        bounds[2 * c] += 1
    return value


@small
def or_nan(best, room, count):
    """The best of some scores; NaN where there is no other that is possible."""
    if best == -np.inf:
        for k in range(count):
            if np.isnan(room[k]):
                return np.nan
    return best


@small
def with_bias(c, bias, more, room, state, sizes):
    """Write the scores of what could end now to ``room``; returns how many and the best.

    After them come ``more``, one that counts too, and -inf up to whole vectors. Neighbours
    in the list that are neighbours in the sequence are added as vectors.
    """
    values, places, bounds, counts = state[0], state[1], state[2], state[7]
    depth = sizes[2]
    first = c * 2 * depth + bounds[2 * c]
    count = bounds[2 * c + 1] - bounds[2 * c]
    best = more
    shift, k = (c + 1) * depth - 1 - counts[0], 0
    if count > 0 and places[first + count - 1] - places[first] + 1 == count:
        top, there = spread(-np.inf), shift + places[first]
        while k + LANES <= count:
            both = load(values, first + k) + load(bias, there + k)
            store(room, k, both)
            top = larger(top, both)
            k += LANES
        if k > 0:
            best = max(best, largest_of_lanes(top))
    for j in range(k, count):
        room[j] = values[first + j] + bias[shift + places[first + j]]
        best = max(best, room[j])
    room[count] = more
    for j in range(count + 1, -(-(count + 1) // LANES) * LANES):
        room[j] = -np.inf
    return count, or_nan(best, room, count + 1)


@small
def total_of(room, count, best, keep):
    """Sum of the exponentials relative to ``best``; with ``keep`` they replace the scores."""
    total, base, end = spread(0.0), spread(best), -(-count // LANES) * LANES
    for k in range(0, end, LANES):
        each = exp(load(room, k) - base)
        if keep:
            store(room, k, each)
        total = total + each
    return sum_of_lanes(total)


@small
def products(x, y, j, count, room):
    """Write x[k] + y[j + k] for k < count, a multiple of the lanes; returns the largest."""
    top = spread(-np.inf)
    for k in range(0, count, LANES):
        both = load(x, k) + load(y, j + k)
        store(room, k, both)
        top = larger(top, both)
    return or_nan(largest_of_lanes(top), room, count)


@part
def log_sum_of_two(a, b):
    """Log of exp(a) + exp(b); -inf if both are, NaN if one is."""
    high, low = (b, a) if b > a or np.isnan(b) else (a, b)
    return high if low == -np.inf else high + np.log1p(np.exp(low - high))


@part
def begin_segments(i, scores, opens, entering, state, sizes):
    """Open a segment of each label at position i, and take its scores into the prefix sums."""
    bounds, beyond, prefix = state[2], state[3], state[5]
    C = sizes[3]
    for c in range(C):
        score = scores[i * C + c]
        if score == -np.inf:  # whatever is open ends here
            bounds[2 * c] = bounds[2 * c + 1] = 0
            beyond[c] = -np.inf
            continue
        fresh = entering[c] - prefix[c]
        if len(opens) > 0:
            fresh += opens[i * C + c]
        if fresh != -np.inf:
            append(c, fresh, state, sizes)
        prefix[c] += score


@part
def move_base(state, sizes):
    """Take the best score so far out of everything, and the prefix sums into the open segments."""
    values, _, bounds, beyond, alpha, prefix, norm, counts = state
    depth, C = sizes[2], sizes[3]
    best = -np.inf
    for c in range(C):
        best = max(best, alpha[c])
    if best == -np.inf:
        best = 0.0
    for c in range(C):
        change, begin = prefix[c] - best, c * 2 * depth
        for at in range(begin + bounds[2 * c], begin + bounds[2 * c + 1]):
            values[at] += change
        beyond[c] += change
        alpha[c] -= best
        prefix[c] = 0.0
    total = norm[0] + best
    norm[1] += (norm[0] - total) + best if abs(norm[0]) >= abs(best) else (best - total) + norm[0]
    norm[0] = total
    counts[1] = 0


@part
def close_segments(i, closes, ended, state, sizes):
    """Alpha of position i from what ends there, and a new base where it is time for one."""
    alpha, prefix, counts = state[4], state[5], state[7]
    K, C = sizes[1], sizes[3]
    for c in range(C):
        alpha[c] = ended[c] + prefix[c]
        if len(closes) > 0:
            alpha[c] += closes[i * C + c]
    counts[0] += 1
    counts[1] += 1
    if counts[1] >= max(K, 64):
        move_base(state, sizes)


@small
def forbids(terms, at):
    """True if the term is there and -inf at this place."""
    return len(terms) > 0 and terms[at] == -np.inf


@part
def enter(i, starts, shared, sizes, alpha, counts, room):
    """The log sum over source labels of what a segment could follow, by its label."""
    move, _, _, start, _ = shared
    C, W, entering, work = sizes[3], sizes[4], room[0], room[2]
    for c in range(C):
        entering[c] = -np.inf
        if counts[0] == 0:
            entering[c] = start[c]
        elif not forbids(starts, i * C + c):
            best = products(alpha, move, c * W, W, work)
            if best != -np.inf:
                entering[c] = best + np.log(total_of(work, W, best, False))


@compiled
def sum_chunk(terms, shared, sizes, state, room, kept):
    """Take a chunk of positions in: log sums over source labels and over durations.

    Args:
        terms: scores, start_scores and end_scores, flat (n, C) or empty.
        shared: transition by destination, (C, W) padded with -inf; duration bias from the longest
            to the shortest, (C, depth); that of K positions, start, tail, (C,), tail maybe empty.
        sizes: n, K, depth (K padded to whole vectors), C, W (C padded to whole vectors).
        state: the lists' numbers and positions (C, 2 depth), their first and last + 1 (C, 2),
            beyond (C,), alpha (W,), prefix sums (C,), normaliser (2,) as a sum of two, and how many
            positions there were and how many since the base. What is K or more positions old is
            one number, ``beyond``, where there is a tail.
        room: two arrays of W numbers, and one of max(W, depth) and the lanes.
        kept: (T C + 2 T,) for alpha and the normaliser at each position of a chunk that is the
            whole sequence of T = len(kept) / (C + 2) positions at most; or empty.
    """
    scores, starts, closes = terms
    _, bias, longest, _, tail = shared
    n, K, _, C, _ = sizes
    _, _, _, beyond, alpha, _, norm, counts = state
    entering, ended, work = room
    norms = len(kept) // (C + 2) * C
    for i in range(n):
        enter(i, starts, shared, sizes, alpha, counts, room)
        begin_segments(i, scores, starts, entering, state, sizes)
        for c in range(C):
            fresh = drop(c, K - 1 if len(tail) > 0 else K, state, sizes)
            if len(tail) > 0:
                beyond[c] = log_sum_of_two(fresh, beyond[c] + tail[c])
            ended[c] = -np.inf
            if not forbids(closes, i * C + c):
                long = beyond[c] + longest[c]
                count, best = with_bias(c, bias, long, work, state, sizes)
                if best != -np.inf:
                    ended[c] = best + np.log(total_of(work, count + 1, best, False))
        close_segments(i, closes, ended, state, sizes)
        if len(kept) > 0:
            kept[i * C : (i + 1) * C] = alpha[:C]
            kept[norms + 2 * i], kept[norms + 2 * i + 1] = norm[0], norm[1]
