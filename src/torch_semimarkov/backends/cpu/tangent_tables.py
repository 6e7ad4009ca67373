"""What the sequences of a batch share where a tangent is taken, and the kernels it goes to."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.backends.cpu import tangent_per_duration as per_duration
from torch_semimarkov.backends.cpu.tangent_pull import pull_back
from torch_semimarkov.backends.cpu.tangent_scan import room_of, scan
from torch_semimarkov.backends.cpu.vector_types import padded
from torch_semimarkov.potentials import PER_POSITION, Potentials

SHARED = ("transition", "duration_bias", "start", "end", "tail")
_EMPTY = np.empty(0)
Arrays = tuple[Any, ...]


class Tables:
    """What all sequences share: the terms as flat float64 arrays, their labels padded.

    C labels padded to whole vectors, K durations and no more than positions. ``linear`` is the
    exponential of the transition relative to its largest source, ``bound``.
    """

    def __init__(self, p: Potentials, direction: Potentials) -> None:
        self.p, self.direction, self.labels, self.K = p, direction, p.C, min(p.K, p.T)
        self.C = padded(p.C)
        self.lengths: list[int] = p.lengths.tolist()  # type: ignore[union-attr]
        self.moved = tuple(self._padded(self._of(direction, name), 0.0) for name in SHARED)
        self._prepare()
        self.counted = 2 * sum(self._sizes)

    def _prepare(self) -> None:
        transition, bias, start, end, tail = (self._of(self.p, name) for name in SHARED)
        largest = transition.max(0)
        linear = np.exp(transition - np.where(largest == -np.inf, 0.0, largest))
        self.end = self._padded(end, -np.inf)
        self.shared = (
            self._padded(linear, 1.0), self._padded(transition, 0.0), self._padded(largest, 0.0),
            self._padded(bias, 0.0), self._padded(start, 0.0), self.end,
        )  # fmt: skip
        top = bias.max(0)
        weights = self._padded(np.exp(bias - np.where(top == -np.inf, 0.0, top)), 1.0)
        self.quick = weights, weights * self.moved[1], self._padded(top, 0.0)
        self.tails = _EMPTY, _EMPTY
        if self.p.tail is not None:
            self.tails = self._padded(tail, -np.inf), self.moved[4]
        self._sizes = [self.K * self.C, self.labels * self.C, self.C, self.C, self.C]

    def _of(self, p: Potentials, name: str) -> np.ndarray:
        x = getattr(p, name)
        found = np.zeros(p.C) if x is None else array_of(x)
        return found[: self.K] if name == "duration_bias" or found.ndim == 3 else found

    def _padded(self, x: np.ndarray, fill: float) -> np.ndarray:
        whole = np.full((*x.shape[:-1], self.C), fill)
        whole[..., : x.shape[-1]] = x
        return whole.reshape(-1)

    def sizes(self, b: int) -> tuple[int, int, int, int]:
        """(L, K, C, labels) of a sequence, K at most its length."""
        L = self.lengths[b]
        return L, min(self.K, L), self.C, self.labels

    def terms(self, b: int) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """Flat scores, start_scores and end_scores of a sequence, and their directions."""
        L = self.lengths[b]
        first, second = (
            tuple(rows_of(getattr(p, name), b, L) for name in PER_POSITION)
            for p in (self.p, self.direction)
        )
        return first, second

    def kept(self, b: int, room: np.ndarray) -> tuple[np.ndarray, ...]:
        """Alpha and its slope (L, labels), and steps (L,) of both, as parts of one array."""
        L = self.lengths[b] if len(room) else 0
        places = np.cumsum([L * self.labels, L * self.labels, L, L])
        return tuple(np.split(room[: places[-1]], places[:-1]))

    def window(self, sizes: tuple[int, int, int, int], count: int) -> tuple[np.ndarray, ...]:
        """So many arrays of rows for the segments that are open, none of them possible."""
        _, K, C, labels = sizes
        score = np.full((room_of.py_func(K), C), -np.inf)
        score[:, labels:] = 0.0
        return score.reshape(-1), *(np.zeros(score.size) for _ in range(count - 1))

    def possible(self, b: int, room: np.ndarray) -> bool:
        """True if the sequence has a segmentation."""
        last = self.kept(b, room)[0][-self.labels :]
        return bool((last + self.end[: self.labels] > -np.inf).any())

    def parts(self, counts: np.ndarray) -> tuple[tuple[np.ndarray, ...], ...]:
        """Counts as two tables each of durations, transitions, first, last and beyond."""
        pieces = np.split(counts, np.cumsum([n for n in self._sizes for _ in range(2)])[:-1])
        return tuple(zip(pieces[::2], pieces[1::2], strict=True))

    def split(self, counts: np.ndarray) -> list[dict[str, np.ndarray]]:
        """The same by the name of the term, for directions and for terms."""
        names = ("duration_bias", "transition", "start", "end", "tail")
        shapes = ((self.K, self.C), (self.labels, self.C), *((self.C,),) * 3)
        each = list(zip(names, shapes, self.parts(counts), strict=True))
        return [
            {name: pair[i].reshape(shape)[..., : self.labels] for name, shape, pair in each}
            for i in range(2)
        ]

    def scan(self, b: int, room: np.ndarray) -> tuple[float, float, float, float]:
        """Log partition and slope of a sequence, each relative to its normaliser, and that."""
        C, sizes = self.C, self.sizes(b)
        rows = pair(C, -np.inf), (*pair(C), *pair(C)), pair(C), np.zeros(C), pair(C, -np.inf)
        window = self.window(sizes, 4)
        window[2].reshape(-1, C)[:, self.labels :] = 1.0
        return scan(  # type: ignore[no-any-return]
            *self.terms(b), self.shared, self.moved, self.quick, self.tails, sizes, window, rows,
            self.kept(b, room),
        )  # fmt: skip

    def pull(
        self,
        b: int,
        room: np.ndarray,
        weights: tuple[float, float],
        places: Arrays,
        counts: np.ndarray,
    ) -> None:
        """Fill ``places`` and add to ``counts`` with the gradients of a sequence."""
        _, K, C, _ = sizes = self.sizes(b)
        sums = np.zeros((5, C))
        sums[0] = -np.inf
        rows = (
            pair(C, -np.inf), (*pair(C), *pair(C)), *(pair(C) for _ in range(5)), np.zeros(C), sums,
        )  # fmt: skip
        pull_back(
            *self.terms(b), self.shared, self.moved, self.quick, self.tails, sizes,
            self.window(sizes, 6), rows, self.kept(b, room), weights, places,
            (*self.parts(counts), pair(K * C)),
        )  # fmt: skip


class PerDuration(Tables):
    """The same for (K, C, C) transitions."""

    def _prepare(self) -> None:
        transition, bias, start, end, _ = (self._of(self.p, name) for name in SHARED)
        self.end = self._padded(end, -np.inf)
        self.shared = (
            self._padded(transition, -np.inf), self._padded(bias, -np.inf),
            self._padded(start, -np.inf), self.end,
        )  # fmt: skip
        self._sizes = [self.K * self.C, self.K * self.labels * self.C, self.C]

    def split(self, counts: np.ndarray) -> list[dict[str, np.ndarray]]:
        """Counts by the name of the term, for directions and for terms."""
        firsts, pairs, last = self.parts(counts)
        found = []
        for i in range(2):
            first = firsts[i].reshape(self.K, self.C)[:, : self.labels]
            table = pairs[i].reshape(self.K, self.labels, self.C)[..., : self.labels]
            found.append(
                {
                    "duration_bias": first + table.sum(1),
                    "transition": table,
                    "start": first.sum(0),
                    "end": last[i][: self.labels],
                }
            )
        return found

    def scan(self, b: int, room: np.ndarray) -> tuple[float, float, float, float]:
        """Log partition and slope of a sequence, each relative to its normaliser, and that."""
        _, K, C, _ = sizes = self.sizes(b)
        rings = *pair(K * C, -np.inf), *pair(K * C, -np.inf)
        rows = pair(C, -np.inf), pair(C)
        return per_duration.scan(  # type: ignore[no-any-return]
            *self.terms(b), self.shared, self.moved, sizes, rings, rows, self.kept(b, room)
        )

    def pull(
        self,
        b: int,
        room: np.ndarray,
        weights: tuple[float, float],
        places: Arrays,
        counts: np.ndarray,
    ) -> None:
        """Fill ``places`` and add to ``counts`` with the gradients of a sequence."""
        _, K, C, _ = sizes = self.sizes(b)
        rings = *pair(K * C, -np.inf), *pair(K * C)
        rows = pair(C, -np.inf), *(pair(C) for _ in range(5))
        per_duration.pull_back(
            *self.terms(b), self.shared, self.moved, sizes, rings, rows, self.kept(b, room),
            weights, places, self.parts(counts),
        )  # fmt: skip


def pair(C: int, fill: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Two rows: of a mass and of its slope."""
    return np.full(C, fill), np.zeros(C)


def array_of(x: Tensor) -> np.ndarray:
    """The numbers of a tensor in float64; not copied if they are."""
    return x.detach().to(torch.float64).numpy()


def rows_of(x: Tensor | None, b: int, L: int) -> np.ndarray:
    """Flat rows of a sequence, not copied; empty if the term is absent."""
    return _EMPTY if x is None else x.detach()[b, :L].reshape(-1).numpy()
