"""The messages that the k best segmentations are read from: the sweep of viterbi.py, kept.

E and P of all positions stay in the work array. Where scores are forbidden, prefix sums leave them
out, and ``allowed`` says from which position on a segment may begin that ends with a position.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import compiled, part, small
from torch_semimarkov.backends.cpu.exact import open_segment
from torch_semimarkov.backends.cpu.exact_viterbi import (
    best_last,
    best_of_open,
    best_of_sources,
    shift_tile,
)
from torch_semimarkov.backends.cpu.messages import tiles_of
from torch_semimarkov.backends.cpu.plan import TILE, S, fill_tables, make_plan, make_work
from torch_semimarkov.backends.cpu.tile import load_tile
from torch_semimarkov.backends.cpu.vector import beats, load, store
from torch_semimarkov.backends.cpu.vector import where as choose
from torch_semimarkov.backends.cpu.vector_types import LANES
from torch_semimarkov.backends.cpu.viterbi import sweep, use_logs


@part
def keep_position(p, j, L, E, allowed, work, plan):
    """E of a position in an exact sweep, and from where on a segment may begin that it is in."""
    C, labels = plan.C, plan.labels
    for c in range(labels):
        here, total = j * C + c, plan.jump + c
        e = work[plan.Q + here] + work[plan.opens + here] - work[total]
        work[E + (c // LANES * L + p) * LANES + c % LANES] = e
        before = allowed[(p - 1) * labels + c] if p > 0 else 0
        score = work[plan.scores + here]
        forbidden = score == -np.inf
        allowed[p * labels + c] = p + 1 if forbidden else before
        work[total] += 0.0 if forbidden else score


@part
def sweep_exactly(terms, at, L, where, allowed, work, state, plan):
    """Fill E, P and ``allowed`` of a sequence with forbidden scores."""
    C, (E, P) = plan.C, where
    state[S.OPEN] = 0
    for c in range(C):
        work[plan.Q + c] = work[plan.first + c]
        work[plan.jump + c] = 0.0
    for tile in range(tiles_of(L)):
        done = tile * TILE
        n = min(TILE, L - done)
        load_tile(terms, at + done * plan.labels, plan.labels, n, work, plan)
        for j in range(n):
            row = P + (done + j) * C
            for v in range(C // LANES):
                newest, alive = open_segment(j, v, work, state, plan)
                message, _ = best_of_open(newest, alive, v, work, plan)
                closes = load(work, plan.closes + j * C + v * LANES)
                store(work, row + v * LANES, message + closes)
            for v in range(C // LANES):
                entering, _ = best_of_sources(row, v, work, plan)
                store(work, plan.Q + (j + 1) * C + v * LANES, entering)
            keep_position(done + j, j, L, E, allowed, work, plan)
        shift_tile(n, work, state, plan)


@part
def sweep_with_tail(terms, at, L, where, allowed, rate, work, state, plan):
    """Fill E, P, what has K or more positions, and ``allowed``, for a model with a tail.

    What is long and open is a number of its own in the exact sweep, from which its rows are kept
    relative to the prefix sums, as E is.
    """
    C, K, (E, P, Z), held = plan.C, plan.K, where, plan.drift
    state[S.OPEN] = 0
    for c in range(C):
        work[plan.Q + c], work[plan.jump + c] = work[plan.first + c], 0.0
        work[held + c] = -np.inf
        work[held + C + c] = rate[c] if c < plan.labels else 0.0
    for tile in range(tiles_of(L)):
        done = tile * TILE
        n = min(TILE, L - done)
        load_tile(terms, at + done * plan.labels, plan.labels, n, work, plan)
        for j in range(n):
            row = (done + j) * C
            for v in range(C // LANES):
                newest, alive = open_segment(j, v, work, state, plan)
                here = j * C + v * LANES
                message, _ = best_of_open(newest, min(alive, K - 1), v, work, plan)
                long = load(work, held + v * LANES) + load(work, plan.scores + here)
                long = long + load(work, held + C + v * LANES)
                if alive == K:
                    long = best_of(load(work, newest - (K - 1) * LANES), long)
                store(work, held + v * LANES, long)
                longest = load(work, plan.bias + (v * plan.depth + K) * LANES)
                message = best_of(message, long + longest) + load(work, plan.closes + here)
                store(work, P + row + v * LANES, message)
            for v in range(C // LANES):
                entering, _ = best_of_sources(P + row, v, work, plan)
                store(work, plan.Q + (j + 1) * C + v * LANES, entering)
            keep_position(done + j, j, L, E, allowed, work, plan)
            for v in range(0, C, LANES):
                store(work, Z + row + v, load(work, held + v) - load(work, plan.jump + v))
        shift_tile(n, work, state, plan)


@small
def best_of(a, b):
    """The larger of two, lane by lane; NaN is not lost."""
    return choose(beats(a, b), a, b)


@compiled
def sweep_room(shared, sizes, boundaries, rows):
    """The work array of some sequences, with the tables that they share.

    ``boundaries`` is 1 if there are boundary scores. The messages of all positions go to the end of
    the array, which has room for so many rows of C numbers.
    """
    _, K, C, labels = sizes
    work, plan, state = make_work(K, C, labels, boundaries, rows * C)
    fill_tables(work, state, plan, shared, False)
    use_logs(work, plan)
    return work, state


@compiled
def kept_sweep(terms, sizes, lengths, b, rate, work, state):
    """Fill the work array with E and P of a sequence; returns ``allowed`` and the best score.

    ``rate`` is the tail by its labels, or empty. ``allowed`` is empty where no score is forbidden
    and there is no tail.
    """
    T, K, C, labels = sizes
    at, L, boundaries = b * T * labels, lengths[b], int(len(terms[1]) > 0)
    plan = make_plan(K, C, labels, boundaries, (-work.ctypes.data % 64) // 8)
    E, P, Z = plan.size, plan.size + L * C, plan.size + 2 * L * C
    allowed = np.empty(0, np.int32)
    if len(rate) > 0:
        allowed = np.empty(L * labels, np.int32)
        sweep_with_tail(terms, at, L, (E, P, Z), allowed, rate, work, state, plan)
    elif not sweep(terms, at, L, E, P, work, plan):
        allowed = np.empty(L * labels, np.int32)
        sweep_exactly(terms, at, L, (E, P), allowed, work, state, plan)
    _, best = best_last(P + (L - 1) * C, work, plan)
    return allowed, best
