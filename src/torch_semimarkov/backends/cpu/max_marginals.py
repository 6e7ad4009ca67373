"""Max-marginals on the compiled CPU backend: calls of the sweeps of max_sweep.py."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.backends.cpu.arguments import Arrays, sequence_of, terms_of
from torch_semimarkov.backends.cpu.live_calls import reversed_terms
from torch_semimarkov.backends.cpu.max_sweep import BEYOND, closing_best, sweep_best
from torch_semimarkov.backends.cpu.pages import empty
from torch_semimarkov.backends.cpu.plan import TILE
from torch_semimarkov.backends.cpu.threads import run
from torch_semimarkov.backends.cpu.vector_types import LANES, ROWS, padded
from torch_semimarkov.potentials import Potentials


def max_marginals(potentials: Potentials) -> tuple[Tensor, Tensor, Tensor]:
    """Best scores (B, T, C) float64 with a label at, a start at and an end at each position."""
    p = replace(potentials, duration_bias=potentials.duration_bias[: potentials.T])
    if p.K < potentials.K:  # no segment is so long
        p = replace(p, tail=None)
    K, C, W, terms = p.K, p.C, padded(p.C), terms_of(p)
    lengths = cast(Tensor, p.lengths).tolist()
    forward, backward = _shared(p, W), _shared(reversed_terms(p), W)
    found = _filled(3, p.B, p.T, C)

    def task(b: int) -> None:
        L = lengths[b]
        mine = tuple(x[: L * C] for x in sequence_of(terms, b))
        mirror = tuple(x.reshape(L, C)[::-1].reshape(-1) if x.size else x for x in mine)
        scores, starts, ends = mirror
        sizes, nothing = (L, K, W, C), np.empty(0)
        beta, V, labels, entering, alpha = _filled(5, L * W)
        room = _room(sizes, p.tail)
        sweep_best((scores, ends, starts), backward, sizes, room, beta, V, (nothing,) * 2, labels)
        beta = beta.reshape(L, W)[::-1].reshape(-1)
        closing = nothing
        if p.tail is not None:
            closing = _filled(L * W)
            closing_best(mine, forward[1], forward[-1], beta, sizes, closing)
        room = _room(sizes, p.tail)
        sweep_best(mine, forward, sizes, room, entering, alpha, (beta, closing), labels)
        rows = (x.reshape(L, W)[:, :C] for x in (labels, entering, V, alpha, beta))
        having, before, after, ending, leaving = rows
        found[0, b, :L] = having
        np.add(before, after[::-1], out=found[1, b, :L])
        np.add(ending, leaving, out=found[2, b, :L])

    run(task, p.B, 4 * p.B * p.T * (K + C + 20) * C)
    labels, starts, ends = (torch.from_numpy(x) for x in found)
    return labels, starts, ends


def _shared(p: Potentials, W: int) -> Arrays:
    """What the positions share, of padded labels."""

    def table(x: Tensor | None, rows: int, size: int) -> np.ndarray:
        whole = np.full((size, W), -np.inf)
        whole[:rows, : p.C] = 0.0 if x is None else x.detach().to(torch.float64).numpy()
        return whole

    def blocks(rows: np.ndarray) -> np.ndarray:
        """(W / 8, rows, 8), flat."""
        return rows.reshape(len(rows), -1, LANES).swapaxes(0, 1).reshape(-1)

    bias = table(p.duration_bias, p.K, p.K + BEYOND)
    tail = np.empty(0) if p.tail is None else table(p.tail, 1, 1)[0]
    move, start = table(p.transition, p.C, W), table(p.start, 1, 1)[0]
    return blocks(move), bias[: p.K].reshape(-1), blocks(bias), blocks(bias[::-1]), start, tail


def _filled(*shape: int) -> np.ndarray:
    """-inf everywhere."""
    x: np.ndarray = empty(torch.Size(shape), torch.float64).numpy()
    x.fill(-np.inf)
    return x


def _room(sizes: tuple[int, ...], tail: Tensor | None) -> Arrays:
    """What a sweep works in."""
    L, K, W, _ = sizes
    opened = _filled(L * W)
    long = np.empty(0) if tail is None else _filled(L * W)
    prefix, leaving = np.zeros((2, W))
    head, cut = np.full(W, -np.inf), np.zeros(W, np.int64)
    beside = np.empty(TILE * W), np.empty(TILE * W), np.empty((K + ROWS) * LANES)
    return opened, prefix, leaving, head, cut, long, *beside
