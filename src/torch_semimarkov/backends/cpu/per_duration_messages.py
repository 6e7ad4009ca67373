"""Left-to-right messages in nats for (K, C, C) transitions, from the rows that the scan keeps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.backends.cpu.per_duration import scan_sequence, tables_of
from torch_semimarkov.backends.cpu.per_duration_scan import SAFE
from torch_semimarkov.backends.cpu.threads import run
from torch_semimarkov.potentials import Potentials

# Numbers of a product that are held at once.
_NUMBERS = 1 << 20


def messages(p: Potentials) -> tuple[Tensor, Tensor]:
    """``alpha`` (B, T, C) and ``entering`` (B, T, K, C), float64; -inf past the lengths.

    ``entering[b, t, d-1]`` is for segments of d positions whose last is t; K is at most T.
    """
    x = tables_of(p)
    alpha = np.full((p.B, p.T, p.C), -np.inf)
    entering = np.full((p.B, p.T, x.K, p.C), -np.inf)
    moves = x.transition.reshape(x.K, x.S, x.C)[:, : p.C, : p.C]
    linear = x.linear.reshape(x.K, x.S, x.C)[:, : p.C, : p.C]
    top = moves.max(1)
    factors = np.ascontiguousarray(linear.transpose(1, 0, 2)).reshape(p.C, -1)

    def task(b: int) -> None:
        L, K, *_ = x.sizes(b)
        room = np.empty(L * (p.C + 1))
        scan_sequence(x, b, room)
        rows, steps = x.kept(b, room)
        alpha[b, :L] = rows.reshape(L, p.C) + (np.cumsum(steps) - steps)[:, None]
        for d in range(K):
            entering[b, d, d] = x.start[: p.C]
        stretch = max(1, _NUMBERS // (x.K * p.C))
        for first in range(1, L, stretch):
            before = alpha[b, first - 1 : min(first + stretch, L) - 1]
            found = _entering(before, moves, factors, top)
            for d in range(K):
                stop = min(first + len(before) + d, L)
                entering[b, first + d : stop, d] = found[: max(0, stop - first - d), d]

    run(task, p.B, p.B * p.T * x.K * p.C * p.C)
    return torch.from_numpy(alpha), torch.from_numpy(entering)


def _entering(
    before: np.ndarray, moves: np.ndarray, factors: np.ndarray, top: np.ndarray
) -> np.ndarray:
    """(n, K, C). From alpha (n, C) before n positions, with a transition into each segment.

    A product of exponentials; where that may have lost too much, a sum in the log domain.
    """
    largest = before.max(1)
    base = np.where(np.isfinite(largest), largest, 0.0)[:, None]
    sums = (np.exp(before - base) @ factors).reshape(len(before), *top.shape)
    with np.errstate(divide="ignore"):
        found = np.log(sums) + base[:, None] + top
    n, d, c = (~(sums > SAFE) & (largest > -np.inf)[:, None, None] & (top > -np.inf)).nonzero()
    found[n, d, c] = np.logaddexp.reduce(before[n] + moves[d, :, c], axis=1)
    return found
