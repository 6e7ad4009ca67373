"""Calls of the compiled CPU backend for the slope of the log partition: one task a sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.backends.cpu.sums import FixedSum
from torch_semimarkov.backends.cpu.tangent_pull import pull_back
from torch_semimarkov.backends.cpu.tangent_scan import room_of, scan
from torch_semimarkov.backends.cpu.threads import run
from torch_semimarkov.backends.cpu.vector_types import LANES
from torch_semimarkov.potentials import Potentials

PER_POSITION = ("scores", "start_scores", "end_scores")
SHARED = ("transition", "duration_bias", "start", "end")
_EMPTY = np.empty(0)
Grads = dict[str, Tensor]


def tangent_kept_shape(potentials: Potentials, keep: bool) -> tuple[int, ...]:
    """Alpha and its slope, and the steps of their normalisers, or nothing."""
    return (potentials.B, 2 * potentials.T * (potentials.C + 1)) if keep else (0,)


def tangent(
    potentials: Potentials, direction: Potentials, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Log partition and its derivative in a direction, (B,) float64; and what the backward needs.

    Potentials and direction are canonical, float64, and have the same terms.
    """
    p, tables = potentials, _Tables(potentials, direction)
    value, slope, kept = np.empty(p.B), np.empty(p.B), np.zeros(tangent_kept_shape(p, keep))

    def task(b: int) -> None:
        total, norm, lean, drift = _scan(tables, b, kept[b] if keep else _EMPTY)
        value[b] = total + norm
        slope[b] = lean + drift if total != -np.inf else 0.0

    run(task, p.B, _work(p))
    return torch.from_numpy(value), torch.from_numpy(slope), torch.from_numpy(kept)


def tangent_backward(
    potentials: Potentials,
    direction: Potentials,
    kept: Tensor,
    weight: Tensor,
    slope_weight: Tensor,
) -> tuple[Grads, Grads]:
    """Gradients of ``(weight * value + slope_weight * slope).sum()``: of terms, of directions."""
    p, tables = potentials, _Tables(potentials, direction)
    weights = [x.to(torch.float64).numpy() for x in (weight, slope_weight)]
    saved, sums = kept.numpy(), FixedSum(p.B)
    grads = [{name: torch.zeros_like(x) for name, x in p.terms()} for _ in range(2)]

    def task(b: int) -> None:
        if saved.ndim == 2:
            room = saved[b]
        else:
            room = np.empty(2 * tables.lengths[b] * (p.C + 1))
            _scan(tables, b, room)
        counts = np.zeros(tables.counted)
        if tables.possible(b, room):
            places = tuple(
                tuple(_rows(grad.get(name), b, tables.lengths[b]) for grad in reversed(grads))
                for name in PER_POSITION
            )
            _pull(tables, b, room, (weights[0][b], weights[1][b]), places, counts)
        sums.add(b, counts)

    run(task, p.B, 3 * _work(p))
    for found, grad in zip(tables.split(sums.total), reversed(grads), strict=True):
        for name in set(SHARED) & set(grad):
            rows = found[name]
            grad[name][: len(rows)] = torch.from_numpy(rows)
    return grads[0], grads[1]


class _Tables:
    """What all sequences share: the terms as flat float64 arrays, their labels padded.

    C labels padded to whole vectors, K durations and no more than positions. ``linear`` is the
    exponential of the transition relative to its largest source, ``bound``.
    """

    def __init__(self, p: Potentials, direction: Potentials) -> None:
        self.p, self.direction, self.labels, self.K = p, direction, p.C, min(p.K, p.T)
        self.C = -(-p.C // LANES) * LANES
        self.lengths: list[int] = p.lengths.tolist()  # type: ignore[union-attr]
        transition, bias, start, end = (self._shared(p, name) for name in SHARED)
        largest = transition.max(0)
        linear = np.exp(transition - np.where(largest == -np.inf, 0.0, largest))
        self.shared = (
            self._padded(linear, 1.0), self._padded(transition, 0.0), self._padded(largest, 0.0),
            self._padded(bias, 0.0), self._padded(start, 0.0), self._padded(end, -np.inf),
        )  # fmt: skip
        self.moved = tuple(self._padded(self._shared(direction, name), 0.0) for name in SHARED)
        top = bias.max(0)
        weights = self._padded(np.exp(bias - np.where(top == -np.inf, 0.0, top)), 1.0)
        self.quick = weights, weights * self.moved[1], self._padded(top, 0.0)
        self._sizes = [self.K * self.C, p.C * self.C, self.C, self.C]
        self.counted = 2 * sum(self._sizes)

    def _shared(self, p: Potentials, name: str) -> np.ndarray:
        x = getattr(p, name)
        found = np.zeros(p.C) if x is None else _array(x)
        return found[: self.K] if name == "duration_bias" else found

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
            tuple(_rows(getattr(p, name), b, L) for name in PER_POSITION)
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
        return bool((last + self.shared[5][: self.labels] > -np.inf).any())

    def parts(self, counts: np.ndarray) -> tuple[tuple[np.ndarray, ...], ...]:
        """Counts as two tables each of durations, transitions, first and last."""
        pieces = np.split(counts, np.cumsum([n for n in self._sizes for _ in range(2)])[:-1])
        return tuple(zip(pieces[::2], pieces[1::2], strict=True))

    def split(self, counts: np.ndarray) -> list[dict[str, np.ndarray]]:
        """The same by the name of the term, for directions and for terms."""
        names = ("duration_bias", "transition", "start", "end")
        shapes = ((self.K, self.C), (self.labels, self.C), (self.C,), (self.C,))
        each = list(zip(names, shapes, self.parts(counts), strict=True))
        return [
            {name: pair[i].reshape(shape)[..., : self.labels] for name, shape, pair in each}
            for i in range(2)
        ]


def _scan(x: _Tables, b: int, room: np.ndarray) -> tuple[float, float, float, float]:
    """Log partition and slope of a sequence, each relative to its normaliser and that."""
    C, sizes = x.C, x.sizes(b)
    rows = _pair(C, -np.inf), (*_pair(C), *_pair(C)), _pair(C), np.zeros(C)
    window = x.window(sizes, 4)
    window[2].reshape(-1, C)[:, x.labels :] = 1.0
    return scan(  # type: ignore[no-any-return]
        *x.terms(b), x.shared, x.moved, x.quick, sizes, window, rows, x.kept(b, room)
    )


def _pull(
    x: _Tables,
    b: int,
    room: np.ndarray,
    weights: tuple[float, float],
    places: tuple[Any, ...],
    counts: np.ndarray,
) -> None:
    """Fill ``places`` and add to ``counts`` with the gradients of one sequence."""
    _, K, C, _ = sizes = x.sizes(b)
    rows = (
        _pair(C, -np.inf), (*_pair(C), *_pair(C)), *(_pair(C) for _ in range(5)), np.zeros(C),
    )  # fmt: skip
    pull_back(
        *x.terms(b), x.shared, x.moved, x.quick, sizes, x.window(sizes, 6), rows, x.kept(b, room),
        weights, places, (*x.parts(counts), _pair(K * C)),
    )  # fmt: skip


def _pair(C: int, fill: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Two rows: of a mass and of its slope."""
    return np.full(C, fill), np.zeros(C)


def _array(x: Tensor) -> np.ndarray:
    """The numbers of a tensor in float64; not copied if they are."""
    return x.detach().to(torch.float64).numpy()


def _rows(x: Tensor | None, b: int, L: int) -> np.ndarray:
    """Flat rows of a sequence, not copied; empty if the term is absent."""
    return _EMPTY if x is None else x.detach()[b, :L].reshape(-1).numpy()


def _work(p: Potentials) -> int:
    return 4 * p.B * p.T * (min(p.K, p.T) + p.C) * p.C
