"""Calls of the compiled CPU backend that give several segmentations of each sequence."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.backends.cpu import per_duration
from torch_semimarkov.backends.cpu.kbest import follow
from torch_semimarkov.backends.cpu.kbest_sweep import kept_sweep
from torch_semimarkov.backends.cpu.messages import padded
from torch_semimarkov.backends.cpu.per_duration_viterbi import decode
from torch_semimarkov.backends.cpu.plan import TILE, Plan
from torch_semimarkov.backends.cpu.sample import filter_forward, walk, walk_pairs
from torch_semimarkov.backends.cpu.threads import run
from torch_semimarkov.potentials import Potentials

# What stands for a term that is absent.
_NOTHING = {torch.float32: np.empty(0, np.float32), torch.float64: np.empty(0)}
_UNUSED = (np.empty(0),) * 8
_ANY = np.empty(0, np.int32)
# Samples of a sequence that one task draws.
_TOGETHER = 256


def kbest(potentials: Potentials, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (k, B) float64, -inf where there are fewer, a table (3, k, B, N) and counts (k, B)."""
    p, B = potentials, potentials.B
    scores, counts = np.full((B, k), -np.inf), np.zeros((B, k), np.int64)
    parts: list[np.ndarray] = [np.empty((3, 0), np.int64)] * B
    lengths = p.lengths.tolist()  # type: ignore[union-attr]
    pairs = per_duration.tables_of(p) if p.per_duration else None
    prepared = arguments_of(p)

    def task(b: int) -> None:
        if pairs is not None:
            allowed, tables, plan, best = _kept_values(pairs, b)
        else:
            work, plan, allowed, best = kept_sweep(*prepared, b)
            tables = (work, *_UNUSED)
        if best > -np.inf:
            parts[b] = follow(lengths[b], allowed, tables, plan, best, scores[b], counts[b])

    run(task, B, p.T * B * (min(p.K, p.T) + p.C + 20) * p.C * (p.C if p.per_duration else 1))
    table = table_of(parts, counts)
    return torch.from_numpy(scores.T.copy()), table, torch.from_numpy(counts.T.copy())


def sample(potentials: Potentials, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """A table (3, num_samples, B, N) and counts (num_samples, B), of every sequence from one pass.

    A sequence without any possible segmentation has counts of 0.
    """
    p, B = potentials, potentials.B
    walks: list[Callable[..., np.ndarray] | None] = [None] * B
    prepare = _prepared_pairs(p) if p.per_duration else _prepared(p)
    work = p.T * B * (min(p.K, p.T) + p.C + 20) * p.C * (p.C if p.per_duration else 1)

    def forward(b: int) -> None:
        walks[b] = prepare(b)

    run(forward, B, work)
    counts, together = np.zeros((B, num_samples), np.int64), min(_TOGETHER, num_samples)
    firsts = range(0, num_samples, together)
    parts = [[np.empty((3, 0), np.int64)] * len(firsts) for _ in range(B)]

    def backward(task: int) -> None:
        b, i = divmod(task, len(firsts))
        samples = np.arange(firsts[i], min(firsts[i] + together, num_samples))
        step = walks[b]
        if step is not None:
            parts[b][i] = step(seed, samples, counts[b, samples[0] : samples[-1] + 1])

    run(backward, B * len(firsts), num_samples * work // max(1, p.C))
    table = table_of([np.concatenate(part, axis=1) for part in parts], counts)
    return table, torch.from_numpy(counts.T.copy())


def _prepared(p: Potentials) -> Callable[[int], Callable[..., np.ndarray] | None]:
    """A function that runs the sweep of a sequence and gives its walk; None if it is impossible."""
    arguments = arguments_of(p)

    def prepare(b: int) -> Callable[..., np.ndarray] | None:
        L = int(arguments[3][b])
        rows, info = np.empty((2, L * p.C)), np.empty((-(-L // TILE), 3))
        rest = filter_forward(*arguments, b, rows, info)
        return None if rest == -np.inf else partial(walk, *arguments, b, rows, info)

    return prepare


def _prepared_pairs(p: Potentials) -> Callable[[int], Callable[..., np.ndarray] | None]:
    """The same for (K, C, C) transitions."""
    x = per_duration.tables_of(p)
    value, kept = per_duration.forward(p, "log", True, None)

    def prepare(b: int) -> Callable[..., np.ndarray] | None:
        if value[b] == -np.inf:
            return None
        scores, opens, _ = x.terms(b)
        tables = (scores, opens, *x.kept(b, kept[b].numpy()), x.transition, x.bias, x.start)
        return partial(walk_pairs, tables, x.end, x.sizes(b), b, p.B)

    return prepare


def arguments_of(p: Potentials) -> tuple:
    """What kernels for (C, C) transitions take: terms, shared, sizes, lengths."""
    nothing = _NOTHING[p.scores.dtype]
    starts, ends = p.start_scores, p.end_scores
    if (starts is None) != (ends is None):
        starts = torch.zeros_like(p.scores) if starts is None else starts
        ends = torch.zeros_like(p.scores) if ends is None else ends
    flat = [
        nothing if x is None else x.detach().numpy().reshape(-1)
        for x in (p.scores, starts, ends, p.transition, p.duration_bias, p.start, p.end)
    ]
    sizes = (p.T, min(p.K, p.T), padded(p.C), p.C)
    return tuple(flat[:3]), tuple(flat[3:]), sizes, p.lengths.numpy()  # type: ignore[union-attr]


def _kept_values(x: Any, b: int) -> tuple:
    """What :func:`follow` takes for (K, C, C) transitions, from the values that viterbi keeps."""
    L, K, C, labels, _ = sizes = x.sizes(b)
    rings, row = (np.full(K * C, -np.inf), np.full(K * C, -np.inf)), np.full(C, -np.inf)
    kept, shared = (np.empty(L * labels), np.empty(L)), (x.transition, x.bias, x.start, x.end)
    path = np.empty((3, L), np.int64)
    best, _ = decode(x.terms(b), shared, sizes, rings, row, kept, path)
    plan = Plan(*(0,) * len(Plan._fields))._replace(K=K, C=C, labels=labels)
    return _ANY, (*x.terms(b), *kept, *shared), plan, best


def table_of(parts: list[np.ndarray], counts: np.ndarray) -> Tensor:
    """(3, n, B, N) from (3, segments) of each sequence and how many of them make a path, (B, n)."""
    B, n = counts.shape
    N = max(1, int(counts.max(initial=0)))
    table = np.full((3, n, B, N), -1, np.int64)
    column = np.arange(N)
    for b, found in enumerate(parts):
        inside = column < counts[b][:, None]
        for row in range(3):
            table[row, :, b][inside] = found[row]
    return torch.from_numpy(table)
