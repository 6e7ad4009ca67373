"""Position by position, for scores that arrive in chunks and durations with a tail.

The state between two positions is all that the next one needs. An open segment of label c is one
number, its score less the prefix sum of the scores of c, so that a position adds nothing to it; the
prefix sums, and all scores with them, move to a new base every so many positions. A ring of the
newest K of them is kept twice over, so that a window of it is contiguous. What is K or more
positions old is one more number for each label, where there is a tail.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, part
from torch_semimarkov.backends.cpu.elementary import exp, larger
from torch_semimarkov.backends.cpu.vector import load, spread, store
from torch_semimarkov.backends.cpu.vector_types import LANES


@part
def log_sum_of_products(x, i, y, j, count, room):
    """Log sum over k < count, a multiple of the lanes, of exp(x[i + k] + y[j + k])."""
    top = spread(-np.inf)
    for k in range(0, count, LANES):
        top = larger(top, load(x, i + k) + load(y, j + k))
    store(room, 0, top)
    best = -np.inf
    for k in range(LANES):
        best = max(best, room[k])
    if best == -np.inf:
        return best
    total, base = spread(0.0), spread(best)
    for k in range(0, count, LANES):
        total = total + exp(load(x, i + k) + load(y, j + k) - base)
    store(room, 0, total)
    summed = 0.0
    for k in range(LANES):
        summed += room[k]
    return best + np.log(summed)


@part
def log_sum_of_two(a, b):
    """Log of exp(a) + exp(b); -inf if both are."""
    high, low = max(a, b), min(a, b)
    return high if low == -np.inf else high + np.log1p(np.exp(low - high))


@part
def begin_segments(i, terms, entering, state, sizes):
    """Open a segment of each label at position i, and take its scores into the prefix sums."""
    scores, starts, _ = terms
    ring, beyond, _, prefix, _, counts = state
    _, _, depth, C, _ = sizes
    head = (counts[1] + 1) % depth
    counts[1] = head
    for c in range(C):
        column = c * 2 * depth
        fresh = entering[c] - prefix[c]
        if len(starts) > 0:
            fresh += starts[i * C + c]
        ring[column + head] = fresh
        ring[column + head + depth] = fresh
        score = scores[i * C + c]
        if score > -np.inf:
            prefix[c] += score
        else:  # whatever is open ends here
            ring[column : column + 2 * depth] = -np.inf
            beyond[c] = -np.inf


@part
def move_base(state, sizes):
    """Take the best score so far out of everything, and the prefix sums into the open segments."""
    ring, beyond, alpha, prefix, norm, counts = state
    _, _, depth, C, _ = sizes
    best = -np.inf
    for c in range(C):
        best = max(best, alpha[c])
    if best == -np.inf:
        best = 0.0
    for c in range(C):
        change = prefix[c] - best
        for at in range(c * 2 * depth, (c + 1) * 2 * depth):
            ring[at] += change
        beyond[c] += change
        alpha[c] -= best
        prefix[c] = 0.0
    total = norm[0] + best
    norm[1] += (norm[0] - total) + best if abs(norm[0]) >= abs(best) else (best - total) + norm[0]
    norm[0] = total
    counts[2] = 0


@part
def close_segments(i, ended, terms, state, sizes):
    """Alpha of position i from what ends there, and a new base where it is time for one."""
    _, _, ends = terms
    _, _, alpha, prefix, _, counts = state
    _, K, _, C, _ = sizes
    for c in range(C):
        alpha[c] = ended[c] + prefix[c]
        if len(ends) > 0:
            alpha[c] += ends[i * C + c]
    counts[0] += 1
    counts[2] += 1
    if counts[2] >= max(K, 64):
        move_base(state, sizes)


@compiled
def sum_chunk(terms, shared, sizes, state, room):
    """Take a chunk of positions in: log sums over source labels and over durations.

    Args:
        terms: scores, start_scores and end_scores, flat (n, C) or empty.
        shared: transition by destination, (C, W) padded with -inf; duration bias from the longest
            to the shortest, (C, depth); that of K positions, start, tail, (C,), tail maybe empty.
        sizes: n, K, depth (K padded to whole vectors), C, W (C padded to whole vectors).
        state: ring (C, 2 depth), beyond (C,), alpha (W,), prefix sums (C,), normaliser (2,) as a
            sum of two, and how many positions there were, the newest row, positions since the base.
        room: two arrays of W numbers and one of lanes.
    """
    move, bias, longest, start, tail = shared
    n, K, depth, C, W = sizes
    ring, beyond, alpha, _, _, counts = state
    entering, ended, lanes = room
    for i in range(n):
        for c in range(C):
            first = counts[0] == 0
            entering[c] = (
                start[c] if first else log_sum_of_products(alpha, 0, move, c * W, W, lanes)
            )
        begin_segments(i, terms, entering, state, sizes)
        for c in range(C):
            window = c * 2 * depth + counts[1] + 1
            ended[c] = log_sum_of_products(ring, window, bias, c * depth, depth, lanes)
            if len(tail) > 0:
                fresh = ring[window + depth - K]
                beyond[c] = log_sum_of_two(fresh, beyond[c] + tail[c])
                ended[c] = log_sum_of_two(ended[c], beyond[c] + longest[c])
        close_segments(i, ended, terms, state, sizes)


@part
def best_of_sources(c, alpha, move, sizes):
    """The lowest label among the best sources of label c, and the score."""
    _, _, _, C, W = sizes
    best, source = -np.inf, 0
    for other in range(C):
        value = alpha[other] + move[c * W + other]
        if value > best:
            best, source = value, other
    return best, source


@part
def best_of_durations(c, window, ring, bias, sizes):
    """The shortest among the best durations - 1 of a segment of label c, and the score."""
    _, K, depth, _, _ = sizes
    best, duration = -np.inf, 0
    newest, shortest = window + depth - 1, (c + 1) * depth - 1
    for d in range(K):
        value = ring[newest - d] + bias[shortest - d]
        if value > best:
            best, duration = value, d
    return best, duration


@part
def write_code(codes, at, code, width):
    """A number in ``width`` bytes, the lowest first."""
    for k in range(width):
        codes[at + k] = code & 255
        code >>= 8


@compiled
def best_chunk(terms, shared, sizes, state, room, codes, layout):
    """Take a chunk of positions in, and write for each label how the best segmentation goes on.

    Args:
        terms, shared, sizes, state, room: as in :func:`sum_chunk`.
        codes: bytes, the code of (position, sequence, label) in ``width`` of them:
            ``(held * K + duration - 1) * C + source``. Duration and held are of the segment that
            ends at the position, where held says that the one that ended K or more positions
            after its start had that many already a position earlier. Source is the label before
            a segment that starts at the position.
        layout: sequences, which of them this is, width.
    """
    move, bias, longest, start, tail = shared
    n, K, depth, C, _ = sizes
    ring, beyond, alpha, _, _, counts = state
    entering, ended, _ = room
    B, b, width = layout
    for i in range(n):
        first, row = counts[0] == 0, (i * B + b) * C
        for c in range(C):
            entering[c], source = best_of_sources(c, alpha, move, sizes)
            if first:
                entering[c], source = start[c], 0
            write_code(codes, (row + c) * width, source, width)
        begin_segments(i, terms, entering, state, sizes)
        for c in range(C):
            window = c * 2 * depth + counts[1] + 1
            ended[c], duration = best_of_durations(c, window, ring, bias, sizes)
            if len(tail) > 0:
                fresh, older = ring[window + depth - K], beyond[c] + tail[c]
                beyond[c] = max(fresh, older)
                duration += K if older > fresh else 0
                if beyond[c] + longest[c] > ended[c]:
                    ended[c] = beyond[c] + longest[c]
                    duration = (K if older > fresh else 0) + K - 1
            at = (row + c) * width
            write_code(codes, at, read_code(codes, at, width) + duration * C, width)
        close_segments(i, ended, terms, state, sizes)


@part
def read_code(codes, at, width):
    """The number in ``width`` bytes."""
    code = 0
    for k in range(width):
        code |= np.int64(codes[at + k]) << (8 * k)
    return code


@compiled
def follow(codes, first, sizes, layout, walk, table):
    """Walk back through the codes of positions from ``first`` on; returns how many segments.

    Args:
        codes: as :func:`best_chunk` writes them, for positions ``first`` and later.
        first: position of the first code.
        sizes: K and C.
        layout: sequences, which of them this is, width.
        walk: (4,) what is looked for, of the last call: 0 a duration, 1 where a long segment had K
            positions, 2 the label before a segment; at which position; end and label of the
            segment. Continue with the codes of earlier positions while the position is >= 0.
        table: (3, n) starts, ends and labels, filled from the last segment on.
    """
    K, C = sizes
    B, b, width = layout
    found = 0
    while walk[1] >= first:
        at = (((walk[1] - first) * B + b) * C + walk[3]) * width
        code = read_code(codes, at, width)
        duration, held = (code // C) % K, code // C >= K
        if walk[0] == 0 and duration < K - 1:
            walk[0], walk[1] = 2, walk[1] - duration
        elif walk[0] < 2 and held:
            walk[0], walk[1] = 1, walk[1] - 1
        elif walk[0] < 2:
            walk[0], walk[1] = 2, walk[1] - K + 1
        else:
            table[0, found], table[1, found], table[2, found] = walk[1], walk[2], walk[3]
            found += 1
            walk[0], walk[2], walk[3] = 0, walk[1], code % C
            walk[1] -= 1
    return found
