"""The state of a sequence between two positions, and kernels that take further ones in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.backends.cpu.live import sum_chunk
from torch_semimarkov.backends.cpu.step_kernels import best_chunk, follow
from torch_semimarkov.backends.cpu.threads import run
from torch_semimarkov.backends.cpu.vector_types import LANES
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.segments import PAD

Arrays = tuple[np.ndarray, ...]


class Stepper:
    """The terms that all positions share, as the kernels take them, for one semiring.

    Args:
        p: canonical potentials with (C, C) transitions, of which only the shared terms are read.
        semiring: "log" or "max".
    """

    def __init__(self, p: Potentials, semiring: str) -> None:
        self.K, self.C, self.best = p.K, p.C, semiring == "max"
        self.depth, self.W = -(-p.K // LANES) * LANES, -(-p.C // LANES) * LANES
        self.width = code_width(p)
        move, bias = np.full((p.C, self.W), -np.inf), np.full((p.C, self.depth), -np.inf)
        move[:, : p.C] = _numbers(p.transition).T
        rows = _numbers(p.duration_bias)
        bias[:, self.depth - p.K :] = rows[::-1].T
        tail = np.empty(0) if p.tail is None else _numbers(p.tail)
        if p.tail is not None:  # what is K or more positions old has a number of its own
            bias[:, self.depth - p.K] = -np.inf
        start = np.zeros(p.C) if p.start is None else _numbers(p.start)
        self.end = np.zeros(p.C) if p.end is None else _numbers(p.end)
        self.shared = move.reshape(-1), bias.reshape(-1), rows[-1].copy(), start, tail

    def begin(self, label: int | None = None) -> Arrays:
        """The state before the first position, or after a segment of this label with score 0."""
        alpha = np.full(self.W, -np.inf)
        counts = np.zeros(2, np.int64)
        if label is not None:
            alpha[label], counts[0] = 0.0, 1
        lists = np.empty(self.C * 2 * self.depth), np.empty(self.C * 2 * self.depth, np.int64)
        beyond, bounds = np.full(self.C, -np.inf), np.zeros(2 * self.C, np.int64)
        return *lists, bounds, beyond, alpha, np.zeros(self.C), np.zeros(2), counts

    def advance(self, states: Sequence[Arrays], terms: Arrays) -> np.ndarray:
        """Take a chunk of n positions of each sequence in, and change the states.

        Args:
            states: one for each of B sequences, from :meth:`begin`.
            terms: scores, start_scores and end_scores, (B, n, C) of one type, or empty.

        Returns:
            (n, B, C, width) bytes in the max semiring, for :meth:`follow`; else empty.
        """
        B, n = terms[0].shape[:2]
        codes = np.empty((n, B, self.C, self.width) if self.best else (0,), np.uint8)
        sizes = n, self.K, self.depth, self.C, self.W

        def task(b: int) -> None:
            flat = tuple(x[b].reshape(-1) if x.size else x for x in terms)
            room = self.room()
            if self.best:
                layout = B, b, self.width
                best_chunk(flat, self.shared, sizes, states[b], room, codes.reshape(-1), layout)
            else:
                sum_chunk(flat, self.shared, sizes, states[b], room, np.empty(0))

        run(task, B, B * n * (self.K + self.C + 20) * self.C)
        return codes

    def room(self) -> Arrays:
        """What a kernel works in."""
        return np.empty(self.W), np.empty(self.W), np.empty(max(self.W, self.depth) + LANES)

    def ends(self, state: Arrays, last: bool) -> tuple[np.ndarray, float]:
        """(C,) score of all that ends here by its label, and a number to add to each.

        ``last`` adds the score of the end of the sequence.
        """
        alpha, norm = state[4][: self.C], state[6]
        return alpha + self.end if last else alpha.copy(), float(norm[0] + norm[1])

    def follow(self, codes: np.ndarray, first: int, b: int, walk: np.ndarray) -> np.ndarray:
        """(3, N) starts, ends and labels, the last first, that begin among some positions.

        Args:
            codes: (n, B, C, width), of the positions from ``first`` on.
            first: position of the first code.
            b: which of the sequences.
            walk: (4,) int64 at least, changed: (0, position, position + 1, label) of the last
                segment's end; then as the call for later positions left it.
        """
        table = np.empty((3, len(codes)), np.int64)
        layout = codes.shape[1], b, self.width
        count = follow(codes.reshape(-1), first, (self.K, self.C), layout, walk, table)
        return table[:, :count]


def viterbi(p: Potentials) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (B,) float64, a (3, B, T) int64 table of starts, ends and labels, counts (B,)."""
    stepper, lengths = Stepper(p, "max"), cast(Tensor, p.lengths).tolist()
    score, count = np.empty(p.B), np.zeros(p.B, np.int64)
    table = np.full((3, p.B, p.T), PAD, np.int64)
    per_position = (p.scores, p.start_scores, p.end_scores)
    nothing = np.empty(0, p.scores.detach().numpy().dtype)
    terms = [nothing if x is None else x.detach().numpy() for x in per_position]

    def task(b: int) -> None:
        L, states = lengths[b], [stepper.begin()]
        alone = tuple(x[b : b + 1, :L] if x.size else x for x in terms)
        codes = stepper.advance(states, alone)
        values, norm = stepper.ends(states[0], True)
        score[b] = values.max() + norm
        if score[b] > -np.inf:
            walk = np.array([0, L - 1, L, values.argmax()])
            found = stepper.follow(codes, 0, 0, walk)
            count[b] = found.shape[1]
            table[:, b, : count[b]] = found[:, ::-1]

    run(task, p.B, p.B * p.T * (p.K + p.C + 20) * p.C)
    return torch.from_numpy(score), torch.from_numpy(table), torch.from_numpy(count)


def code_width(p: Potentials) -> int:
    """Bytes of a pointer: a duration, a source label, and with a tail one bit more."""
    codes = p.K * p.C * (1 if p.tail is None else 2)
    return -(-(codes - 1).bit_length() // 8) or 1


def _numbers(x: Tensor) -> np.ndarray:
    return x.detach().to(torch.float64).numpy()
