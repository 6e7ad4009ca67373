"""Max-marginals for (K, C, C) transitions: the values that Viterbi keeps, and a sweep back.

The sweep holds what follows each place where a segment may end, so that a position knows all
segments that start there, by their duration. From the longest to the shortest, the best so far
covers the last position of the next one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.backends.cpu.compile import compiled, part
from torch_semimarkov.backends.cpu.elementary import larger
from torch_semimarkov.backends.cpu.per_duration import Tables
from torch_semimarkov.backends.cpu.per_duration_scan import slot_of, take_in
from torch_semimarkov.backends.cpu.per_duration_viterbi import best_pair, decode
from torch_semimarkov.backends.cpu.threads import run
from torch_semimarkov.backends.cpu.vector import load, spread, store
from torch_semimarkov.backends.cpu.vector_types import LANES
from torch_semimarkov.potentials import Potentials


def max_marginals(p: Potentials) -> tuple[Tensor, Tensor, Tensor]:
    """Best scores (B, T, C) float64 with a label at, a start at and an end at each position."""
    x, found = Tables(p), np.full((3, p.B, p.T, p.C), -np.inf)
    tables = x.transition, x.bias, x.start, x.end

    def task(b: int) -> None:
        L, K, C, labels, S = sizes = x.sizes(b)
        terms, kept = x.terms(b), (np.empty(L * labels), np.empty(L))
        rings, row = (np.full(K * C, -np.inf), np.full(K * C, -np.inf)), np.full(C, -np.inf)
        best, _ = decode(terms, tables, sizes, rings, row, kept, np.empty((3, L), np.int64))
        if best == -np.inf:
            return
        alpha = np.full((L, S), -np.inf)
        alpha[:, :labels] = kept[0].reshape(L, labels) + (np.cumsum(kept[1]) - kept[1])[:, None]
        if len(terms[2]):
            alpha[:, :labels] += terms[2].reshape(L, labels)
        rows = tuple(np.full((L, C), -np.inf) for _ in range(2))
        ends = np.full((L, labels), -np.inf)
        room = (
            np.full(K * C, -np.inf), np.full(K * C, -np.inf), np.full(C, -np.inf),
            np.full(S * LANES, -np.inf), np.full(S, -np.inf),
        )  # fmt: skip
        flat = tuple(each.reshape(-1) for each in (*rows, ends))
        sweep_back(terms, tables, sizes, alpha.reshape(-1), room, flat)
        for target, each in zip(found[:, b, :L], (*rows, ends), strict=True):
            target[:] = each[:, :labels]

    run(task, p.B, 3 * p.B * p.T * min(p.K, p.T) * p.C * p.C)
    labels, starts, ends = (torch.from_numpy(each) for each in found)
    return labels, starts, ends


@part
def start_segments(t, rows, newest, opens, tables, sizes, alpha, room, found):
    """All segments that start at position t: what they cover, and what follows into ``onward``."""
    transition, bias, start, _ = tables
    _, K, C, labels, S = sizes
    rest, onward, row, _, _ = room
    covered, starts, _ = found
    for c in range(labels):
        row[c] = opens[t * labels + c] if len(opens) > 0 else 0.0
    for v in range(0, C, LANES):
        best, opening = spread(-np.inf), load(row, v)
        for d in range(rows - 1, -1, -1):
            at = slot_of(newest, d, K) * C + v
            after = load(rest, at) + load(bias, d * C + v) + opening
            store(onward, d * C + v, after)
            before = load(start, v)
            if t > 0:
                before = best_pair(alpha, (t - 1) * S, transition, d * S * C + v, C, labels)
            best = larger(best, before + after)
            place = (t + d) * C + v
            store(covered, place, larger(load(covered, place), best))
        store(starts, t * C + v, best)


@part
def leave_label(rows, transition, sizes, room):
    """The best that follows the end of a label, of the segments in ``onward``, into ``after``."""
    _, _, C, labels, S = sizes
    _, onward, _, lanes, after = room
    for c in range(labels):
        store(lanes, c * LANES, spread(-np.inf))
    for d in range(rows):
        for v in range(0, C, LANES):
            here = load(onward, d * C + v)
            for c in range(labels):
                pair = here + load(transition, (d * S + c) * C + v)
                store(lanes, c * LANES, larger(load(lanes, c * LANES), pair))
    for c in range(labels):
        best = -np.inf
        for i in range(LANES):
            best = max(best, lanes[c * LANES + i])
        after[c] = best


@compiled
def sweep_back(terms, tables, sizes, alpha, room, found):
    """Fill ``found`` from right to left.

    Args:
        terms, sizes: as for the scan of (K, C, C) transitions.
        tables: transition (K, S, C), bias (K, C), start and end (C,).
        alpha: (L, S) the best of what ends with a label at each position, padded with -inf.
        room: what follows the start of a segment, by the place of its end, and the same by its
            duration, (K, C) each; (C,), (S, LANES) and (S,); all full of -inf.
        found: with a label at and a start at each position, (L, C) full of -inf; with an end at
            it, (L, labels).
    """
    scores, opens, closes = terms
    transition, _, _, end = tables
    L, K, C, labels, S = sizes
    rest, _, row, _, after = room
    _, _, ends = found
    newest = K
    for c in range(labels):
        after[c] = end[c]
    for t in range(L - 1, -1, -1):
        newest = (newest if newest > 0 else K) - 1
        for c in range(labels):
            ends[t * labels + c] = alpha[t * S + c] + after[c]
            close = closes[t * labels + c] if len(closes) > 0 else 0.0
            rest[newest * C + c] = after[c] + close
        take_in(scores, t, 0.0, rest, row, sizes)
        rows = min(K, L - t)
        start_segments(t, rows, newest, opens, tables, sizes, alpha, room, found)
        leave_label(rows, transition, sizes, room)
