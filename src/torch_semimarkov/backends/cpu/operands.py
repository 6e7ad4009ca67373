"""Potentials as the kernels take them: float64, the label axis padded to whole vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from torch_semimarkov.backends.cpu.vector import LANES
from torch_semimarkov.potentials import Potentials

Arrays = tuple[np.ndarray, ...]


def padded(C: int) -> int:
    """Labels rounded up to whole vectors.

    >>> padded(9)
    16
    """
    return -(-C // LANES) * LANES


@dataclass(frozen=True)
class Operands:
    """Flat float64 arrays of the whole batch.

    Args:
        positions: scores, start_scores and end_scores, each (B, T, C) or (B, 0) if absent.
        transition: (C, C), and -inf in the padding, as in start and end.
        bias: (K, C).
        start: (C,).
        end: (C,).
        lengths: one length a sequence.
        labels: labels without the padding.
    """

    positions: Arrays
    transition: np.ndarray
    bias: np.ndarray
    start: np.ndarray
    end: np.ndarray
    lengths: list[int]
    labels: int

    @property
    def C(self) -> int:
        """Labels with the padding."""
        return len(self.start)

    def sizes(self, b: int) -> tuple[int, int, int, int]:
        """(L, K, C, labels) of a sequence, K at most its length."""
        L = self.lengths[b]
        return L, min(len(self.bias) // self.C, L), self.C, self.labels

    def terms(self, b: int) -> Arrays:
        """Flat scores, start_scores and end_scores of a sequence, cut to its length."""
        return tuple(x[b][: self.lengths[b]].reshape(-1) for x in self.positions)

    def reversed_terms(self, b: int) -> Arrays:
        """The same from right to left, where starts are ends."""
        scores, starts, ends = (x[b][: self.lengths[b]][::-1].reshape(-1) for x in self.positions)
        return scores, ends, starts

    def ring(self, b: int) -> np.ndarray:
        """Room for the open segments of a sequence."""
        _, K, C, _ = self.sizes(b)
        return np.full(2 * K * C, -np.inf)


def operands(p: Potentials) -> Operands:
    """Convert canonical potentials with (C, C) transitions."""
    more = padded(p.C) - p.C

    def flat(x: Tensor | None, fill: float, rows: int = 0) -> np.ndarray:
        x = torch.zeros(p.C) if x is None else x.detach()
        margins = (0, more, 0, rows) if rows else (0, more)
        return pad(x.to(torch.float64), margins, value=fill).contiguous().numpy()

    def at_positions(x: Tensor | None) -> np.ndarray:
        return np.empty((p.B, 0)) if x is None else flat(x, 0.0)

    starts, ends = p.start_scores, p.end_scores
    if starts is not None or ends is not None:
        starts = torch.zeros_like(p.scores) if starts is None else starts
        ends = torch.zeros_like(p.scores) if ends is None else ends
    return Operands(
        positions=tuple(at_positions(x) for x in (p.scores, starts, ends)),
        transition=flat(p.transition, -np.inf, more).reshape(-1),
        bias=flat(p.duration_bias, 0.0).reshape(-1),
        start=flat(p.start, -np.inf),
        end=flat(p.end, -np.inf),
        lengths=p.lengths.tolist(),  # type: ignore[union-attr]
        labels=p.C,
    )
