"""Calls of the compiled CPU backend for (K, C, C) transitions: one task a sequence."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.backends.cpu.per_duration_pull import BLOCK, pull_back
from torch_semimarkov.backends.cpu.per_duration_scan import scan
from torch_semimarkov.backends.cpu.per_duration_viterbi import decode
from torch_semimarkov.backends.cpu.sums import FixedSum
from torch_semimarkov.backends.cpu.threads import run
from torch_semimarkov.backends.cpu.vector_types import padded
from torch_semimarkov.potentials import PER_POSITION, Potentials

Arrays = tuple[np.ndarray, ...]
# The log of a relative transition from which on its exponential counts, about 1e-300.
NEGLIGIBLE = -690.0


def kept_shape(
    potentials: Potentials, keep: bool, checkpoint_interval: int | None
) -> tuple[int, ...]:
    """Alpha and the steps of the normaliser, or nothing."""
    if not keep or checkpoint_interval is not None:
        return (0,)
    return (potentials.B, potentials.T * (potentials.C + 1))


def forward(
    potentials: Potentials, semiring: str, keep: bool, checkpoint_interval: int | None
) -> tuple[Tensor, Tensor]:
    """The total (B,) float64, and the messages for the backward."""
    shape = kept_shape(potentials, keep, checkpoint_interval)
    if semiring == "max":
        return viterbi(potentials)[0], torch.zeros(shape, dtype=torch.float64)
    x, value, kept = Tables(potentials), np.empty(potentials.B), np.zeros(shape)

    def task(b: int) -> None:
        total, norm = scan_sequence(x, b, kept[b] if kept.ndim == 2 else kept)
        value[b] = total + norm

    run(task, potentials.B, _work(potentials))
    return torch.from_numpy(value), torch.from_numpy(kept)


def backward(
    potentials: Potentials, value: Tensor, kept: Tensor, weight: Tensor
) -> dict[str, Tensor]:
    """Gradients of ``(weight * value).sum()`` by term, in the terms' types."""
    p, x = potentials, Tables(potentials)
    totals, weights, saved = value.numpy(), weight.to(torch.float64).numpy(), kept.numpy()
    grads = {name: torch.zeros_like(term) for name, term in p.terms()}
    last, sums = np.zeros((p.B, p.C)), FixedSum(p.B)

    def task(b: int) -> None:
        counts = np.zeros(x.K * (x.S + 1) * x.C)
        if totals[b] != -np.inf:
            room = saved[b] if saved.ndim == 2 else np.empty(x.lengths[b] * (p.C + 1))
            if saved.ndim == 1:
                scan_sequence(x, b, room)
            found = [_rows(grads.get(name), b, x.lengths[b]) for name in PER_POSITION]
            _pull(x, b, room, weights[b], (*found, last[b], counts))
            for name, rows in zip(PER_POSITION, found, strict=True):
                _put_back(grads.get(name), b, rows)
        sums.add(b, counts)

    run(task, p.B, 3 * _work(p))
    counts = sums.total.reshape(x.K, x.S + 1, x.C)[..., : p.C]
    shared = {
        "transition": counts[:, : p.C],
        "duration_bias": counts.sum(1),
        "start": counts[:, -1].sum(0),
        "end": last.sum(0),
    }
    for name, total in shared.items():
        if name in grads:
            grads[name][: len(total)] = torch.from_numpy(total)
    return grads


def viterbi(potentials: Potentials) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (B,) float64, a (3, B, T) int64 table of starts, ends and labels, counts (B,)."""
    p, x = potentials, Tables(potentials)
    score, count = np.empty(p.B), np.zeros(p.B, dtype=np.int64)
    table = np.full((3, p.B, p.T), -1, dtype=np.int64)

    def task(b: int) -> None:
        L, K, C, _, _ = sizes = x.sizes(b)
        rings, row = (np.full(K * C, -np.inf), np.full(K * C, -np.inf)), np.full(C, -np.inf)
        kept = np.empty(L * p.C), np.empty(L)
        score[b], count[b] = decode(
            x.terms(b), (x.transition, x.bias, x.start, x.end), sizes, rings, row, kept, table[:, b]
        )

    run(task, p.B, _work(p))
    return torch.from_numpy(score), torch.from_numpy(table), torch.from_numpy(count)


class Tables:
    """What all sequences share: the terms as flat float64 arrays, their labels padded.

    C labels padded to whole vectors, S sources padded to a multiple of four, K durations and no
    more than positions. ``linear`` is the exponential of ``transition`` relative to its largest
    source, which ``bound`` adds to ``bias``.
    """

    def __init__(self, p: Potentials) -> None:
        self.p, self.labels, self.K = p, p.C, min(p.K, p.T)
        self.C, self.S = padded(p.C), -(-p.C // 4) * 4
        self.lengths: list[int] = p.lengths.tolist()  # type: ignore[union-attr]
        transition, bias = _array(p.transition)[: self.K], _array(p.duration_bias)[: self.K]
        largest = transition.max(1)
        self.transition = self._padded(transition, -np.inf)
        self.bias = self._padded(bias, 0.0)
        self.bound = self._padded(bias + largest, -np.inf)
        zeros = np.zeros(p.C)
        self.start = self._padded(zeros if p.start is None else _array(p.start), -np.inf)
        self.end = self._padded(zeros if p.end is None else _array(p.end), -np.inf)
        relative = transition - np.where(largest == -np.inf, 0.0, largest)[:, None]
        relative[relative < NEGLIGIBLE] = -np.inf
        self.linear = self._padded(np.exp(relative, out=relative), 0.0)

    def _padded(self, x: np.ndarray, fill: float) -> np.ndarray:
        shape = (*x.shape[:-2], self.S, self.C) if x.ndim == 3 else (*x.shape[:-1], self.C)
        whole = np.full(shape, fill)
        whole[tuple(slice(size) for size in x.shape)] = x
        return whole.reshape(-1)

    @property
    def shared(self) -> Arrays:
        """What the kernels of the log semiring take."""
        return self.linear, self.transition, self.bound, self.bias, self.start, self.end

    def sizes(self, b: int) -> tuple[int, int, int, int, int]:
        """(L, K, C, labels, S) of a sequence, K at most its length."""
        L = self.lengths[b]
        return L, min(self.K, L), self.C, self.labels, self.S

    def terms(self, b: int) -> Arrays:
        """Flat scores, start_scores and end_scores of a sequence; empty if absent."""
        named = (getattr(self.p, name) for name in PER_POSITION)
        return tuple(
            np.empty(0) if x is None else _array(x[b, : self.lengths[b]]).reshape(-1) for x in named
        )

    def kept(self, b: int, room: np.ndarray) -> Arrays:
        """Alpha (L, labels) and steps (L,) as parts of one array; empty if it is."""
        L = self.lengths[b] if len(room) else 0
        return room[: L * self.labels], room[L * self.labels :][:L]


def scan_sequence(x: Tables, b: int, room: np.ndarray) -> tuple[float, float]:
    """Log partition of a sequence relative to the normaliser, and that; fills ``room``."""
    _, K, C, _, _ = sizes = x.sizes(b)
    rings = np.full(K * C, -np.inf), np.full(K * C, -np.inf), np.zeros(K * C)
    row, place, norms = np.full(C, -np.inf), np.array([K, 0]), np.zeros(3)
    return scan(x.terms(b), x.shared, sizes, rings, row, place, norms, x.kept(b, room))


def _pull(x: Tables, b: int, room: np.ndarray, weight: float, found: Arrays) -> None:
    """Fill ``found`` with the gradients of one sequence."""
    _, K, C, _, _ = sizes = x.sizes(b)
    rings = (
        np.full(K * C, -np.inf),
        *(np.zeros(size) for size in (K * C, BLOCK * C, BLOCK * C, BLOCK * K * C)),
    )
    row = np.full(C, -np.inf), *(np.zeros(C) for _ in range(4))
    pull_back(x.terms(b), x.shared, sizes, rings, row, x.kept(b, room), weight, found)


def _array(x: Tensor) -> np.ndarray:
    """The numbers of a tensor in float64; not copied if they are."""
    return x.detach().to(torch.float64).numpy()


def _rows(grad: Tensor | None, b: int, L: int) -> np.ndarray:
    """Flat float64 rows of a sequence: the gradient's own where they are of that type."""
    if grad is None:
        return np.empty(0)
    if grad.dtype == torch.float64:
        return grad[b, :L].reshape(-1).numpy()
    return np.empty(L * grad.shape[-1])


def _put_back(grad: Tensor | None, b: int, rows: np.ndarray) -> None:
    """Copy the rows of a sequence into a gradient of another type."""
    if grad is not None and grad.dtype != torch.float64:
        found = torch.from_numpy(rows).view(-1, grad.shape[-1])
        grad[b, : len(found)] = found


def _work(p: Potentials) -> int:
    return p.B * p.T * min(p.K, p.T) * p.C * p.C
