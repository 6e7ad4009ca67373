"""The gradient over lists of open segments: the scan of the reversed sequence, and what it meets.

At a position the scan has, for each label, the exponentials of all that could end there, which is
to start there in the order of the sequence. Times the message from the left they are posterior
probabilities, so that the gradient of the duration bias costs a multiplication more. Positions
beyond K are counted on the way: beside the sum of what is K or more positions long goes the mean of
how many more it has.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, part
from torch_semimarkov.backends.cpu.live import (
    begin_segments,
    close_segments,
    drop,
    forbids,
    log_sum_of_two,
    products,
    total_of,
    with_bias,
)


@part
def scale_between(kept, at, norm, whole):
    """Log scale of a left and a right message relative to the log partition; each is two numbers.

    The rounding of the first sum is kept: all three may be large and close together.
    """
    left = kept[at] if at >= 0 else 0.0
    total = left + norm[0]
    other = total - left
    error = (left - (total - other)) + (norm[0] - other)
    rest = (kept[at + 1] if at >= 0 else 0.0) + norm[1]
    return (total - kept[whole]) + (error + (rest - kept[whole + 1]))


@part
def count_durations(c, count, factor, work, counted, state, sizes):
    """Add the probabilities of the segments of label c that start to those of their lengths."""
    places, bounds, counts = state[1], state[2], state[7]
    first, shift = c * 2 * sizes[2] + bounds[2 * c], (c + 1) * sizes[2] - 1 - counts[0]
    if count > 0 and places[first + count - 1] - places[first] + 1 == count:
        there = shift + places[first]
        for k in range(count):
            counted[there + k] += factor * work[k]
        return
    for k in range(count):
        counted[shift + places[first + k]] += factor * work[k]


@part
def leave_labels(i, terms, shared, sizes, state, room, kept, scale, weight, sums, ends):
    """What follows the end of a segment at position i, by its label, and the pairs of labels."""
    _, _, closes = terms
    move, _, _, last, _ = shared
    C, W, alpha, counts = sizes[3], sizes[4], state[4], state[7]
    after, _, work = room
    moves = sums[0]
    for c in range(C):
        after[c], ends[c] = -np.inf, 0.0
        left = kept[i * C + c] + scale
        if counts[0] == 0:
            after[c] = last[c]
            ends[c] = np.exp(left + last[c])
            sums[3][c] += weight * ends[c]
        elif not forbids(closes, i * C + c):
            best = products(alpha, move, c * W, W, work)
            if best == -np.inf:
                continue
            total = total_of(work, W, best, True)
            after[c] = best + np.log(total)
            ends[c] = np.exp(left + after[c])
            if ends[c] > 0.0:
                factor = weight * ends[c] / total
                for k in range(W):
                    moves[c * W + k] += factor * work[k]


@part
def left_of(i, c, first, move, sizes, before, work):
    """The message into label c at position i from the left."""
    W = sizes[4]
    if i == 0:
        return first[c]
    best = products(before, move, c * W, W, work)
    return best if best == -np.inf else best + np.log(total_of(work, W, best, False))


@part
def meet_starts(i, terms, shared, left, sizes, state, room, scale, weight, sums, starts):
    """What starts at position i, from its lists, and the probability that it does, by its label."""
    opens, (_, bias, longest, _, tail) = terms[1], shared
    first, move, before, mean = left
    K, C, beyond, prefix = sizes[1], sizes[3], state[3], state[5]
    _, ended, work = room
    for c in range(C):
        fresh = drop(c, K - 1 if len(tail) > 0 else K, state, sizes)
        if len(tail) > 0:
            older = beyond[c] + tail[c]
            beyond[c] = log_sum_of_two(fresh, older)
            mean[c] = np.exp(older - beyond[c]) * (mean[c] + 1) if older > -np.inf else 0.0
        ended[c], starts[c] = -np.inf, 0.0
        if forbids(opens, i * C + c):
            continue
        into = left_of(i, c, first, move, sizes, before, work) + scale + prefix[c]
        if len(opens) > 0:
            into += opens[i * C + c]
        count, best = with_bias(c, bias, beyond[c] + longest[c], work, state, sizes)
        if best == -np.inf:
            continue
        total = total_of(work, count + 1, best, True)
        ended[c] = best + np.log(total)
        starts[c] = np.exp(into + ended[c])
        if starts[c] > 0.0:
            factor = weight * starts[c] / total
            count_durations(c, count, factor, work, sums[1], state, sizes)
            if len(tail) > 0:
                sums[1][(c + 1) * sizes[2] - K] += factor * work[count]
                sums[4][c] += factor * work[count] * mean[c]
        if i == 0:
            sums[2][c] += weight * starts[c]


@compiled
def gradient_of(terms, shared, left, sizes, state, room, kept, weight, grads, sums):
    """Gradients of one sequence, whose forward was live.py's :func:`sum_chunk`.

    Args:
        terms: scores, start_scores and end_scores of the sequence, flat (T, C) or empty.
        shared, sizes, state, room: as there, for the reversed sequence; n is its length.
        left: start (C,) and transition by destination, (C, W), in the order of the sequence; two
            arrays of W and C numbers: alpha of the position before, and the means, zeros.
        kept: as there, then the log partition as a sum of two.
        weight: upstream gradient of the log partition.
        grads: of the terms, all positions of it up to the length are written; two may be empty.
        sums: added to: of transitions by source, (C, W); of the duration bias, as its table lies;
            of the first and last label and of the positions beyond K, (C,).
    """
    scores, opens, closes = terms
    n, _, _, C, _ = sizes
    norm, before, whole = state[6], left[2], len(kept) - 2
    norms = len(kept) // (C + 2) * C
    inside, starts, ends = np.zeros(C), np.zeros(C), np.zeros(C)
    for i in range(n - 1, -1, -1):
        scale = scale_between(kept, norms + 2 * i, norm, whole)
        leave_labels(i, terms, shared, sizes, state, room, kept, scale, weight, sums, ends)
        begin_segments(i, scores, closes, room[0], state, sizes)
        for c in range(C):
            before[c] = kept[(i - 1) * C + c] if i > 0 else -np.inf
        scale = scale_between(kept, norms + 2 * (i - 1) if i > 0 else -1, norm, whole)
        meet_starts(i, terms, shared, left, sizes, state, room, scale, weight, sums, starts)
        close_segments(i, opens, room[1], state, sizes)
        for c in range(C):
            at = i * C + c
            inside[c] = inside[c] + ends[c] if scores[at] != -np.inf else 0.0
            grads[0][at] = weight * max(inside[c], 0.0)
            inside[c] -= starts[c]
            if len(grads[1]) > 0:
                grads[1][at], grads[2][at] = weight * starts[c], weight * ends[c]
