"""The best segmentation: the tiles of tile.py in the max semiring, followed back.

E and P of all positions are kept, with prefix sums from the start of the sequence; following back
takes the maxima again, and of what differs by no more than rounding the first in the tie rule. A
forbidden position has no prefix sum; such a sequence is decoded by exact_viterbi.py.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, inlined, part
from torch_semimarkov.backends.cpu.exact_viterbi import best_last, decode_exactly, slack
from torch_semimarkov.backends.cpu.messages import tiles_of
from torch_semimarkov.backends.cpu.plan import TILE, fill_tables, make_work
from torch_semimarkov.backends.cpu.tile import LARGE, history, load_tile, solve
from torch_semimarkov.backends.cpu.vector import (
    any_of,
    beats,
    load,
    spread,
    store,
)
from torch_semimarkov.backends.cpu.vector_types import LANES, TROPICAL


@part
def use_logs(work, plan):
    """In the max semiring a log is its own exponential."""
    for i in range(plan.C * plan.C):
        work[plan.X + i] = work[plan.move + i]
    for i in range(plan.depth * plan.C):
        work[plan.D + i] = work[plan.bias + i]


@part
def sum_scores(n, work, plan):
    """enter and leave with the prefix sums from the start of the sequence, which go on in ``jump``.

    Returns False if a score is forbidden or no number.
    """
    fine = True
    for v in range(0, plan.C, LANES):
        total = load(work, plan.jump + v)
        for j in range(n):
            here = j * plan.C + v
            store(work, plan.enter + here, load(work, plan.opens + here) - total)
            total = total + load(work, plan.scores + here)
            store(work, plan.leave + here, load(work, plan.closes + here) + total)
        store(work, plan.jump + v, total)
        if any_of(beats(spread(-LARGE), total)):
            fine = False
    return fine


@inlined
def sweep(terms, at, L, E, P, work, plan):
    """Fill E, in blocks of L rows, and the rows P; False if the sequence needs the exact way."""
    C = plan.C
    for c in range(C):
        work[plan.Q + c] = work[plan.first + c]
        work[plan.jump + c] = 0.0
    for tile in range(tiles_of(L)):
        done = tile * TILE
        n = min(TILE, L - done)
        load_tile(terms, at + done * plan.labels, plan.labels, n, work, plan)
        if not sum_scores(n, work, plan):
            return False
        window = E + done * LANES
        history(TROPICAL, n, min(done, plan.K - 1), window, L, work, plan)
        solve(TROPICAL, n, window, L, work, plan)
        for i in range(0, n * C, LANES):
            store(work, P + done * C + i, load(work, plan.P + C + i))
        for v in range(0, C, LANES):
            store(work, plan.Q + v, load(work, plan.Q + n * C + v))
    return True


@part
def best_duration(E, rows, stop, c, P, work, plan):
    """Duration of the best segment labelled c that ends at ``stop``; the shortest of equal ones.

    ``P`` is the row of messages there.
    """
    block, lane = c // LANES, c % LANES
    bias = plan.bias + block * plan.depth * LANES + lane
    column = E + block * rows * LANES + lane
    longest, score = min(plan.K, stop), -np.inf
    for d in range(1, longest + 1):
        score = max(score, work[column + (stop - d) * LANES] + work[bias + d * LANES])
    score -= slack(abs(score) + abs(work[P + c]))
    for d in range(1, longest):
        if work[column + (stop - d) * LANES] + work[bias + d * LANES] >= score:
            return d
    return longest


@part
def best_source(P, c, work, plan):
    """The label from which a segment labelled c is best entered; the lowest of equal ones."""
    column = plan.move + c // LANES * plan.C * LANES + c % LANES
    score = -np.inf
    for source in range(plan.labels):
        score = max(score, work[P + source] + work[column + source * LANES])
    score -= slack(abs(score))
    for source in range(plan.labels - 1):
        if work[P + source] + work[column + source * LANES] >= score:
            return source
    return plan.labels - 1


@part
def follow_back(L, E, P, work, plan, table):
    """The score, and the segments at the end of ``table`` (3, T) up to L; returns their number."""
    label, score = best_last(P + (L - 1) * plan.C, work, plan)
    if score == -np.inf:
        return score, 0
    count, stop = 0, L
    while stop > 0:
        row = P + (stop - 1) * plan.C
        begin = stop - best_duration(E, L, stop, label, row, work, plan)
        count += 1
        table[0, L - count], table[1, L - count], table[2, L - count] = begin, stop, label
        if begin > 0:
            label = best_source(P + (begin - 1) * plan.C, label, work, plan)
        stop = begin
    return score, count


@part
def to_front(table, L, count):
    """Move ``count`` segments that end at column L to the front, and pad with -1."""
    for row in range(3):
        for i in range(count):
            table[row, i] = table[row, L - count + i]
        for i in range(count, table.shape[1]):
            table[row, i] = -1


@compiled
def viterbi(terms, shared, sizes, lengths, group, score, table, counts):
    """Scores, segments and their number of the sequences in ``group``."""
    T, K, C, labels = sizes
    longest = 0
    for b in group:
        longest = max(longest, lengths[b])
    work, plan, state = make_work(K, C, labels, int(len(terms[1]) > 0), 2 * longest * C)
    E = plan.size
    P = E + longest * C
    fill_tables(work, state, plan, shared, False)
    use_logs(work, plan)
    for b in group:
        at, L = b * T * labels, lengths[b]
        if sweep(terms, at, L, E, P, work, plan):
            score[b], counts[b] = follow_back(L, E, P, work, plan, table[:, b])
        else:
            score[b], counts[b] = decode_exactly(terms, at, L, work, state, plan, table[:, b])
        to_front(table[:, b], L, counts[b])
