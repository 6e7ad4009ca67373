"""Calls of the compiled CPU backend for the slope of the log partition: one task a sequence."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.backends.cpu.sums import FixedSum
from torch_semimarkov.backends.cpu.tangent_tables import PerDuration, Tables, rows_of
from torch_semimarkov.backends.cpu.threads import run
from torch_semimarkov.potentials import PER_POSITION, Potentials

_EMPTY = np.empty(0)
Grads = dict[str, Tensor]


def kept_shape(potentials: Potentials, keep: bool) -> tuple[int, ...]:
    """Alpha and its slope, and the steps of their normalisers, or nothing."""
    return (potentials.B, 2 * potentials.T * (potentials.C + 1)) if keep else (0,)


def slope_forward(
    potentials: Potentials, direction: Potentials, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Log partition and its derivative in a direction, (B,) float64; and what the backward needs.

    Potentials and direction are canonical, float64, and have the same terms.
    """
    p, tables = potentials, _tables(potentials, direction)
    value, slope, kept = np.empty(p.B), np.empty(p.B), np.zeros(kept_shape(p, keep))

    def task(b: int) -> None:
        total, norm, lean, drift = tables.scan(b, kept[b] if keep else _EMPTY)
        value[b] = total + norm
        slope[b] = lean + drift if total != -np.inf else 0.0

    run(task, p.B, _work(p))
    return torch.from_numpy(value), torch.from_numpy(slope), torch.from_numpy(kept)


def slope_backward(
    potentials: Potentials,
    direction: Potentials,
    kept: Tensor,
    weight: Tensor,
    slope_weight: Tensor,
) -> tuple[Grads, Grads]:
    """Gradients of ``(weight * value + slope_weight * slope).sum()``: of terms, of directions."""
    p, tables = potentials, _tables(potentials, direction)
    weights = [x.to(torch.float64).numpy() for x in (weight, slope_weight)]
    saved, sums = kept.numpy(), FixedSum(p.B)
    grads = [{name: torch.zeros_like(x) for name, x in p.terms()} for _ in range(2)]

    def task(b: int) -> None:
        if saved.ndim == 2:
            room = saved[b]
        else:
            room = np.empty(2 * tables.lengths[b] * (p.C + 1))
            tables.scan(b, room)
        counts = np.zeros(tables.counted)
        if tables.possible(b, room):
            places = tuple(
                tuple(rows_of(grad.get(name), b, tables.lengths[b]) for grad in reversed(grads))
                for name in PER_POSITION
            )
            tables.pull(b, room, (weights[0][b], weights[1][b]), places, counts)
        sums.add(b, counts)

    run(task, p.B, 3 * _work(p))
    for found, grad in zip(tables.split(sums.total), reversed(grads), strict=True):
        for name in set(found) & set(grad):
            rows = found[name]
            grad[name][: len(rows)] = torch.from_numpy(rows)
    return grads[0], grads[1]


def _tables(p: Potentials, direction: Potentials) -> Tables:
    return PerDuration(p, direction) if p.per_duration else Tables(p, direction)


def _work(p: Potentials) -> int:
    each = min(p.K, p.T) * p.C if p.per_duration else min(p.K, p.T) + p.C
    return 4 * p.B * p.T * each * p.C
