"""Calls of the compiled CPU backend that give several segmentations of each sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.backends.cpu import per_duration
from torch_semimarkov.backends.cpu.arguments import Arrays, arguments_of, cells_of
from torch_semimarkov.backends.cpu.kbest import search, write_paths
from torch_semimarkov.backends.cpu.kbest_sweep import kept_sweep, sweep_room
from torch_semimarkov.backends.cpu.pages import empty
from torch_semimarkov.backends.cpu.per_duration_viterbi import decode
from torch_semimarkov.backends.cpu.plan import TILE
from torch_semimarkov.backends.cpu.sample import filter_forward, walk, walk_pairs
from torch_semimarkov.backends.cpu.threads import run, share
from torch_semimarkov.backends.cpu.vector_types import padded
from torch_semimarkov.potentials import Potentials

# For some sequences: each with its length, ``allowed``, tables and best score.
Sweeps = Callable[[np.ndarray], Iterator[tuple]]
# From the seed, numbers of samples and their counts, which are filled, to a table of segments.
Walk = Callable[[int, np.ndarray, np.ndarray], np.ndarray]
_UNUSED = (np.empty(0),) * 7
_ANY = np.empty(0, np.int32)
# Samples of a sequence that one task draws.
_TOGETHER = 256


def kbest(potentials: Potentials, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (k, B) float64, -inf where there are fewer, a table (3, k, B, N) and counts (k, B).

    Two at least; the best alone is viterbi's.
    """
    p, B = potentials, potentials.B
    scores, counts = np.full((B, k), -np.inf), np.zeros((B, k), np.int64)
    found: list[Arrays | None] = [None] * B
    sweeps = _pair_sweeps(p) if p.per_duration else _sweeps(p)
    boundaries = p.start_scores is not None or p.end_scores is not None
    sizes = min(p.K, p.T), padded(p.C), p.C, int(boundaries)

    def task(some: np.ndarray) -> None:
        for b, L, allowed, tables, best in sweeps(some):
            if best != -np.inf:
                found[b] = search(L, sizes, allowed, tables, best, scores[b])
                counts[b] = found[b][2][1]

    share(task, B, cells_of(p))
    table = empty(torch.Size((3, k, B, max(1, int(counts.max(initial=0))))), torch.int64)
    lengths = p.lengths.tolist()  # type: ignore[union-attr]

    def write(b: int) -> None:
        rows, paths = table.numpy()[:, :, b], found[b]
        if paths is None:
            rows[:] = -1
        else:
            write_paths(*paths, lengths[b], rows)

    run(write, B, table.numel())
    return torch.from_numpy(scores.T.copy()), table, torch.from_numpy(counts.T.copy())


def _sweeps(p: Potentials) -> Sweeps:
    """A function that gives what :func:`search` takes of one sequence after the other."""
    terms, shared, sizes, lengths = arguments_of(p)
    rate = _UNUSED[0] if p.tail is None else p.tail.detach().to(torch.float64).numpy()

    def sweeps(some: np.ndarray) -> Iterator[tuple]:
        longest = int(lengths[some].max())
        rows = (3 if len(rate) else 2) * longest
        work, state = sweep_room(shared, sizes, int(len(terms[1]) > 0), rows)
        for b in some.tolist():
            allowed, best = kept_sweep(terms, sizes, lengths, b, rate, work, state)
            yield b, int(lengths[b]), allowed, (work, rate, *_UNUSED), best

    return sweeps


def _pair_sweeps(p: Potentials) -> Sweeps:
    """The same for (K, C, C) transitions, from the values that viterbi keeps."""
    x = per_duration.Tables(p)
    shared = x.transition, x.bias, x.start, x.end

    def sweeps(some: np.ndarray) -> Iterator[tuple]:
        for b in some.tolist():
            L, K, C, labels, _ = sizes = x.sizes(b)
            rings, row = (np.full(K * C, -np.inf), np.full(K * C, -np.inf)), np.full(C, -np.inf)
            kept, path = (np.empty(L * labels), np.empty(L)), np.empty((3, L), np.int64)
            best, _ = decode(x.terms(b), shared, sizes, rings, row, kept, path)
            yield b, L, _ANY, (*x.terms(b), *kept, *shared), best

    return sweeps


def sample(potentials: Potentials, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """A table (3, num_samples, B, N) and counts (num_samples, B), of every sequence from one pass.

    A sequence without any possible segmentation has counts of 0.
    """
    p = potentials
    return draw_all(_prepared_pairs(p) if p.per_duration else _prepared(p), p, num_samples, seed)


def draw_all(
    prepare: Callable[[int], Walk | None], p: Potentials, num_samples: int, seed: int
) -> tuple[Tensor, Tensor]:
    """:func:`sample` by the walk of each sequence.

    Args:
        prepare: runs the sweep of a sequence and gives its walk; None if it is impossible.
        p: the sequences.
        num_samples, seed: as there.
    """
    B, work = p.B, cells_of(p)
    walks: list[Walk | None] = [None] * B

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


def _prepared(p: Potentials) -> Callable[[int], Walk | None]:
    """A function that runs the sweep of a sequence and gives its walk; None if it is impossible."""
    arguments = arguments_of(p)

    def prepare(b: int) -> Walk | None:
        L = int(arguments[3][b])
        rows, info = np.empty((2, L * p.C)), np.empty((-(-L // TILE), 3))
        rest = filter_forward(*arguments, b, rows, info)
        return None if rest == -np.inf else partial(walk, *arguments, b, rows, info)

    return prepare


def _prepared_pairs(p: Potentials) -> Callable[[int], Walk | None]:
    """The same for (K, C, C) transitions."""
    x = per_duration.Tables(p)
    value, kept = per_duration.forward(p, "log", True, None)

    def prepare(b: int) -> Walk | None:
        if value[b] == -np.inf:
            return None
        scores, opens, _ = x.terms(b)
        tables = (scores, opens, *x.kept(b, kept[b].numpy()), x.transition, x.bias, x.start)
        return partial(walk_pairs, tables, x.end, x.sizes(b), b, p.B)

    return prepare


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
