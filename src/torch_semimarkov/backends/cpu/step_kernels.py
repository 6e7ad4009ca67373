"""The best segmentation position by position, and the walk back through its codes."""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, part
from torch_semimarkov.backends.cpu.live import (
    begin_segments,
    close_segments,
    drop,
    forbids,
    with_bias,
)
from torch_semimarkov.backends.cpu.vector import any_of, beats, load, spread
from torch_semimarkov.backends.cpu.vector_types import LANES


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
def best_of_durations(c, bias, room, state, sizes):
    """The shortest among the best durations - 1 of a segment of label c, and the score."""
    places, bounds, counts = state[1], state[2], state[7]
    count, best = with_bias(c, bias, -np.inf, room, state, sizes)
    if best == -np.inf:
        return best, 0
    below, k = np.nextafter(best, -np.inf), (count - 1) // LANES * LANES
    while k > 0 and not any_of(beats(load(room, k), spread(below))):
        k -= LANES
    k = min(k + LANES, count) - 1
    while k > 0 and room[k] != best:
        k -= 1
    return best, counts[0] - places[c * 2 * sizes[2] + bounds[2 * c] + k]


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
        terms, shared, sizes, state, room: as in live.py's :func:`sum_chunk`.
        codes: bytes, the code of (position, sequence, label) in ``width`` of them:
            ``(held * K + duration - 1) * C + source``. Duration and held are of the segment that
            ends at the position, where held says that the one that ended K or more positions
            after its start had that many already a position earlier. Source is the label before
            a segment that starts at the position.
        layout: sequences, which of them this is, width.
    """
    scores, starts, closes = terms
    move, bias, longest, start, tail = shared
    n, K, _, C, _ = sizes
    beyond, alpha, counts = state[3], state[4], state[7]
    entering, ended, work = room
    B, b, width = layout
    for i in range(n):
        row = (i * B + b) * C
        for c in range(C):
            entering[c], source = -np.inf, 0
            if counts[0] == 0:
                entering[c] = start[c]
            elif not forbids(starts, i * C + c):
                entering[c], source = best_of_sources(c, alpha, move, sizes)
            write_code(codes, (row + c) * width, source, width)
        begin_segments(i, scores, starts, entering, state, sizes)
        for c in range(C):
            fresh, older = drop(c, K - 1 if len(tail) > 0 else K, state, sizes), -np.inf
            if len(tail) > 0:
                older = beyond[c] + tail[c]
                beyond[c] = max(fresh, older)
            held = K if older > fresh else 0
            ended[c], duration = -np.inf, 0
            if not forbids(closes, i * C + c):
                ended[c], duration = best_of_durations(c, bias, work, state, sizes)
                if len(tail) > 0 and beyond[c] + longest[c] > ended[c]:
                    ended[c], duration = beyond[c] + longest[c], K - 1
            at = (row + c) * width
            write_code(codes, at, read_code(codes, at, width) + (duration + held) * C, width)
        close_segments(i, closes, ended, state, sizes)


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
