"""The state of a sequence between two positions, in plain torch; see the compiled backend's.

A state is a ring of open segments, one row a duration, alpha, and whether there was no position
yet. Codes are whole numbers, and not packed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.potentials import Potentials

Arrays = tuple[np.ndarray, ...]


def stepper(p: Potentials, semiring: str) -> Stepper:
    """What takes the positions of sequences in, chunk by chunk; of the shared terms."""
    return (PairStepper if p.per_duration else Stepper)(p, semiring)


class Stepper:
    """The shared terms in float64, and the recurrence of one position; as the compiled one.

    Args:
        p: canonical potentials with (C, C) transitions, of which only the shared terms are read.
        semiring: "log" or "max".
    """

    def __init__(self, p: Potentials, semiring: str) -> None:
        self.K, self.C, self.best, self.width = p.K, p.C, semiring == "max", 8
        zeros = p.scores.new_zeros(p.C)
        self._start, self._end, self._tail = (
            (fallback if x is None else x).detach().double()
            for x, fallback in ((p.start, zeros), (p.end, zeros), (p.tail, zeros - torch.inf))
        )
        self._move, self._bias = p.transition.detach().double(), p.duration_bias.detach().double()

    def begin(self, label: int | None = None) -> list:
        """The state before the first position, or after a segment of this label with score 0."""
        alpha = torch.full((self.C,), -torch.inf, dtype=torch.float64)
        if label is not None:
            alpha[label] = 0.0
        ring = torch.full((self.K, self.C), -torch.inf, dtype=torch.float64)
        return [ring, alpha, label is None]

    def advance(self, states: Sequence[list], terms: Arrays) -> np.ndarray:
        """Take (B, n, C) terms in; (n, B, C, 8) bytes in the max semiring."""
        B, n = terms[0].shape[:2]
        codes = np.zeros((n, B, self.C), np.int64)
        scores, starts, ends = (
            torch.from_numpy(x) if x.size else torch.zeros(B, n, self.C) for x in terms
        )
        for b in range(B):
            for i in range(n):
                here = scores[b, i], starts[b, i], ends[b, i]
                codes[i, b] = self._step(states[b], *here)
        return codes.view(np.uint8).reshape(n, B, self.C, 8) if self.best else np.empty(0, np.uint8)

    def _sum(self, x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        best = x.max(dim)
        return (best.values if self.best else x.logsumexp(dim)), best.indices

    def _step(self, state: list, score: Tensor, opens: Tensor, closes: Tensor) -> np.ndarray:
        ring, alpha, first = state
        entering, source = self._sum(alpha[:, None] + self._move, 0)
        if first:
            entering, source = self._start, source * 0
        older = ring[-1] + self._tail + score
        ring = torch.cat(((entering + opens)[None], ring[:-1])) + score
        last, held = self._sum(torch.stack((ring[-1], older)), 0)
        ring = torch.cat((ring[:-1], last[None]))
        ended, duration = self._sum(ring + self._bias, 0)
        state[:] = ring, ended + closes, False
        return ((held * self.K + duration) * self.C + source).numpy()

    def ends(self, state: list, last: bool) -> tuple[np.ndarray, float]:
        """(C,) score of all that ends here by its label, and a number to add to each."""
        return (state[1] + self._end if last else state[1]).numpy().copy(), 0.0

    def follow(self, codes: np.ndarray, first: int, b: int, walk: np.ndarray) -> np.ndarray:
        """(3, N) starts, ends and labels, the last first, that begin among some positions."""
        numbers, found = codes[:, b].copy().view(np.int64)[..., 0], []
        while walk[1] >= first:
            phase, at, end, label = walk[:4].tolist()
            rest, source = divmod(int(numbers[at - first, label]), self.C)
            held, duration = divmod(rest, self.K)
            if phase == 2:
                found.append((at, end, label))
                walk[:4] = 0, at - 1, at, source
            elif phase == 0 and duration < self.K - 1:
                walk[:2] = 2, at - duration
            else:
                walk[:2] = (1, at - 1) if held else (2, at - self.K + 1)
        return np.array(found, np.int64).reshape(-1, 3).T


class PairStepper(Stepper):
    """The same for (K, C, C) transitions, where what ended at the last K positions stays apart.

    A state is the score of the positions of open segments, alpha, what ended before each of these
    segments, what is K or more positions old, and how many positions there were, -1 if the first of
    them followed a segment.
    """

    def begin(self, label: int | None = None) -> list:
        """The state before the first position, or after a segment of this label with score 0."""
        _, alpha, fresh = super().begin(label)
        blank = torch.full((self.K, self.C), -torch.inf, dtype=torch.float64)
        sources = torch.cat((alpha[None], blank[1:]))
        return [blank, alpha, sources, blank[0], 0 if fresh else -1]

    def _step(self, state: list, score: Tensor, opens: Tensor, closes: Tensor) -> np.ndarray:
        content, _, sources, beyond, count = state
        content = torch.cat((opens[None], content[:-1])) + score
        entering, source = self._sum(sources[..., None] + self._move, 1)
        if 0 <= count < self.K:
            entering[count], source[count] = self._start, 0
        ring = entering + content
        older = beyond + self._tail + score
        last, held = self._sum(torch.stack((ring[-1], older)), 0)
        ring = torch.cat((ring[:-1], last[None]))
        ended, duration = self._sum(ring + self._bias, 0)
        alpha = ended + closes
        sources = torch.cat((alpha[None], sources[:-1]))
        state[:] = content, alpha, sources, last, count + 1 if count >= 0 else count
        before = source.gather(0, duration[None])[0]
        code = (held * self.K + duration) * self.C + before
        return (code * self.C + source[-1]).numpy()

    def follow(self, codes: np.ndarray, first: int, b: int, walk: np.ndarray) -> np.ndarray:
        """(3, N) starts, ends and labels, the last first, that begin among some positions."""
        numbers, found = codes[:, b].copy().view(np.int64)[..., 0], []
        while walk[1] >= first:
            phase, at, end, label, source = walk.tolist()
            if phase == 2:
                found.append((at, end, label))
                walk[:4] = 0, at - 1, at, source
                continue
            rest, longest = divmod(int(numbers[at - first, label]), self.C)
            rest, source = divmod(rest, self.C)
            held, duration = divmod(rest, self.K)
            if phase == 0 and duration < self.K - 1:
                walk[[0, 1, 4]] = 2, at - duration, source
            elif held:
                walk[:2] = 1, at - 1
            else:
                walk[[0, 1, 4]] = 2, at - self.K + 1, longest
        return np.array(found, np.int64).reshape(-1, 3).T
