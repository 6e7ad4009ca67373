"""The state of a sequence between two positions for (K, C, C) transitions; as steps.py's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from torch_semimarkov.backends.cpu.arguments import Arrays
from torch_semimarkov.backends.cpu.compile import compiled, part
from torch_semimarkov.backends.cpu.elementary import larger
from torch_semimarkov.backends.cpu.per_duration import Tables
from torch_semimarkov.backends.cpu.per_duration_scan import (
    copy,
    largest_of,
    open_row,
    scan,
    slot_of,
    step_of,
    take_in,
)
from torch_semimarkov.backends.cpu.per_duration_viterbi import best_of_duration, slack_of_pairs
from torch_semimarkov.backends.cpu.step_kernels import read_code, write_code
from torch_semimarkov.backends.cpu.steps import code_width
from torch_semimarkov.backends.cpu.threads import run
from torch_semimarkov.backends.cpu.vector import load, spread, store
from torch_semimarkov.backends.cpu.vector_types import LANES
from torch_semimarkov.potentials import Potentials


class PairStepper:
    """The shared terms of a model with (K, C, C) transitions, and the recurrence of one semiring.

    Args:
        p: canonical potentials, of which only the shared terms are read.
        semiring: "log" or "max".
    """

    def __init__(self, p: Potentials, semiring: str) -> None:
        self.K, self.C, self.best, self.width = p.K, p.C, semiring == "max", code_width(p)
        blank = p.scores.new_zeros(()).expand(1, p.K, p.C)
        lengths = torch.tensor([p.K])
        self.tables = Tables(replace(p, scores=blank, lengths=lengths))
        self.end = self.tables.end[: p.C].copy()

    def begin(self, label: int | None = None) -> Arrays:
        """The state before the first position, or after a segment of this label with score 0."""
        x = self.tables
        row, rings = np.full(x.C, -np.inf), np.full((2, x.K * x.C), -np.inf)
        place = np.array([x.K, 0])
        if label is not None:  # as after a first position, whose segments are all forbidden
            row[label], place[:] = 0.0, (x.K - 1, 1)
        return row, place, np.zeros(3), *rings, np.zeros(x.K * x.C)

    def advance(self, states: Sequence[Arrays], terms: Arrays) -> np.ndarray:
        """Take (B, n, C) terms in; (n, B, C, width) bytes in the max semiring, else empty."""
        x, (B, n) = self.tables, terms[0].shape[:2]
        codes = np.empty((n, B, self.C, self.width) if self.best else (0,), np.uint8)
        sizes, nothing = (n, x.K, x.C, x.labels, x.S), (np.empty(0), np.empty(0))
        shared = x.transition, x.bias, x.start

        def task(b: int) -> None:
            flat = tuple(each[b].reshape(-1) if each.size else each for each in terms)
            row, place, norms, *rings = states[b]
            if self.best:
                room, layout = np.empty((x.K + 1) * x.C), (B, b, self.width)
                state = row, place, norms
                best_chunk(
                    flat, shared, sizes, tuple(rings[:2]), state, room, codes.reshape(-1), layout
                )
            else:
                scan(flat, x.shared, sizes, tuple(rings), row, place, norms, nothing)

        run(task, B, B * n * x.K * x.C * x.C)
        return codes

    def ends(self, state: Arrays, last: bool) -> tuple[np.ndarray, float]:
        """(C,) score of all that ends here by its label, and a number to add to each."""
        alpha = state[0][: self.C]
        return alpha + self.end if last else alpha.copy(), float(state[2][0])

    def follow(self, codes: np.ndarray, first: int, b: int, walk: np.ndarray) -> np.ndarray:
        """(3, N) starts, ends and labels, the last first, that begin among some positions."""
        table = np.empty((3, len(codes)), np.int64)
        layout = codes.shape[1], b, self.width
        return table[:, : follow_pairs(codes.reshape(-1), first, self.C, layout, walk, table)]


@part
def best_by_duration(shared, rings, first, newest, rows, sizes, v, found):
    """Lanes v.. of the best segment that ends here; of each duration into ``found`` (K + 1, C).

    ``first`` is the segment from the start of the sequence, or -inf; it comes after the others.
    """
    transition, bias, _ = shared
    C, top = sizes[2], first
    for d in range(rows):
        best = best_of_duration(transition, bias, rings, newest, d, sizes, v)
        store(found, d * C + v, best)
        top = larger(top, best)
    store(found, rows * C + v, first)
    return top


@part
def pointer(c, best, shared, rings, newest, rows, sizes, found):
    """``(duration - 1) * labels + source`` of the best segment of c, the shortest of equals."""
    transition, _, _ = shared
    opened, source = rings
    _, K, C, labels, S = sizes
    d = 0
    while d < rows:
        at = slot_of(newest, d, K) * C
        near = best - slack_of_pairs(abs(best) + abs(opened[at + c]))
        if found[d * C + c] > -np.inf and found[d * C + c] >= near:
            break
        d += 1
    if d == rows:
        return d * labels if found[d * C + c] > -np.inf else 0
    at, top = slot_of(newest, d, K) * C, -np.inf
    for other in range(labels):
        top = max(top, source[at + other] + transition[(d * S + other) * C + c])
    near, other = top - slack_of_pairs(abs(top)), 0
    while other < labels - 1 and source[at + other] + transition[(d * S + other) * C + c] < near:
        other += 1
    return d * labels + other


@compiled
def best_chunk(terms, shared, sizes, rings, state, room, codes, layout):
    """Take a chunk of positions in, and write for each label how the best segmentation goes on.

    Args:
        terms, sizes: as for the scan of (K, C, C) transitions.
        shared: transition (K, S, C), bias (K, C), start (C,).
        rings: opened and source, (K, C) each.
        state: row, place and norms of the scan.
        room: (K + 1, C).
        codes: bytes, the :func:`pointer` of (position, sequence, label) in ``width`` of them.
        layout: sequences, which of them this is, width.
    """
    scores, start_scores, end_scores = terms
    _, bias, start = shared
    n, K, C, labels, _ = sizes
    opened, source = rings
    row, place, norms = state
    B, b, width = layout
    newest, norm, step = place[0], norms[0], norms[1]
    for i in range(n):
        p = place[1] + i
        newest = (newest if newest > 0 else K) - 1
        copy(row, 0, source, newest * C, labels)
        open_row(start_scores, i, 0.0, opened, newest * C, labels)
        take_in(scores, i, step, opened, row, sizes)
        norm += step
        rows = min(p, K)
        for v in range(0, C, LANES):
            first = spread(-np.inf)
            if p < K:
                first = load(start, v) + load(opened, (K - 1) * C + v) + load(bias, p * C + v)
            best = best_by_duration(shared, rings, first, newest, rows, sizes, v, room)
            store(row, v, best)
        for c in range(labels):
            code = pointer(c, row[c], shared, rings, newest, rows, sizes, room)
            write_code(codes, ((i * B + b) * labels + c) * width, code, width)
        for c in range(labels if len(end_scores) > 0 else 0):
            row[c] += end_scores[i * labels + c]
        step = step_of(largest_of(row, labels))
    place[0], place[1] = newest, place[1] + n
    norms[0], norms[1] = norm, step


@compiled
def follow_pairs(codes, first, labels, layout, walk, table):
    """Walk back through the codes of positions from ``first`` on; returns how many segments.

    Args:
        codes: as :func:`best_chunk` writes them, for positions ``first`` and later.
        first: position of the first code.
        labels: C.
        layout: sequences, which of them this is, width.
        walk: (5,) what is looked for, of the last call: 0 a duration, 2 the start of a segment; at
            which position; end and label of the segment, and the label before it.
        table: (3, n) starts, ends and labels, filled from the last segment on.
    """
    B, b, width = layout
    found = 0
    while walk[1] >= first:
        if walk[0] == 0:
            at = (((walk[1] - first) * B + b) * labels + walk[3]) * width
            code = read_code(codes, at, width)
            walk[0], walk[1], walk[4] = 2, walk[1] - code // labels, code % labels
        else:
            table[0, found], table[1, found], table[2, found] = walk[1], walk[2], walk[3]
            found += 1
            walk[0], walk[2], walk[3] = 0, walk[1], walk[4]
            walk[1] -= 1
    return found
