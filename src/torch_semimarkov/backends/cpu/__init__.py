"""The compiled CPU backend: numba kernels in float64 on tiles of positions; docs/cpu-kernels.md."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.backends.cpu import edges, gradient, partition, per_duration
from torch_semimarkov.backends.cpu.messages import layout_of, padded
from torch_semimarkov.backends.cpu.plan import TILE
from torch_semimarkov.backends.cpu.threads import share
from torch_semimarkov.backends.cpu.values import looks_clean
from torch_semimarkov.backends.cpu.viterbi import viterbi as decode
from torch_semimarkov.potentials import EdgePotentials, Potentials

__all__ = [
    "COMPOSITE",
    "COSTS",
    "NAME",
    "OPS",
    "SEMIRINGS",
    "backward",
    "edge_backward",
    "edge_forward",
    "edge_kept_shape",
    "forward",
    "kept_shape",
    "looks_clean",
    "reasons_against",
    "viterbi",
]

NAME = "cpu"
COMPOSITE = False
OPS = ("log_partition", "viterbi", "edge_log_partition")
SEMIRINGS = ("log", "max")
# Time, and memory beside inputs and results, without and with a gradient; docs/backends.md.
COSTS = {
    "log_partition": ("O(T (K C + C^2))", "O(K C)", "O(T C)"),
    "log_partition, (K, C, C) transitions": ("O(T K C^2)", "O(K C^2)", "O(T C + K C^2)"),
    "viterbi": ("O(T (K C + C^2))", "O(T C)", "none"),
    "edge_log_partition": ("O(T K C^2)", "O(K C)", "O(T C)"),
}
# Sequences of a batch share so many partial sums at most, whatever the number of threads.
GROUPS = 32
# What stands for a term that is absent.
_NOTHING = {torch.float32: np.empty(0, np.float32), torch.float64: np.empty(0)}
# Not for the symbolic sizes of a trace.
_layout = lru_cache(maxsize=256)(layout_of)


def reasons_against(
    op: str, potentials: Potentials | EdgePotentials, semiring: str = "log"
) -> list[str]:
    """Why this backend cannot run ``op``; empty if it can."""
    reasons = []
    if potentials.device.type != "cpu":
        reasons.append(f"needs CPU tensors, got {potentials.device}")
    if op not in OPS:
        reasons.append(f"has no {op}")
    if semiring not in SEMIRINGS:
        reasons.append(f"has no semiring {semiring!r}, only {list(SEMIRINGS)}")
    if torch._C._are_functorch_transforms_active():
        reasons.append("cannot be followed by torch.func transforms")
    return reasons


def kept_shape(
    potentials: Potentials, keep: bool, checkpoint_interval: int | None
) -> tuple[int, ...]:
    """The messages of each sequence that the backward needs, or nothing."""
    if potentials.per_duration:
        return per_duration.kept_shape(potentials, keep, checkpoint_interval)
    p = potentials
    size = layout_of(p.B, p.T, min(p.K, p.T), p.C, checkpoint_interval).size if keep else 0
    return (p.B, size) if keep else (1, 0)


def forward(
    potentials: Potentials, semiring: str, keep: bool, checkpoint_interval: int | None
) -> tuple[Tensor, Tensor]:
    """The total (B,) float64, and the messages for the backward."""
    if potentials.per_duration:
        return per_duration.forward(potentials, semiring, keep, checkpoint_interval)
    p, (B, T, C) = potentials, potentials.scores.shape
    layout = _layout(B, T, min(p.K, T), C, checkpoint_interval if keep else None)
    kept = np.empty((B, layout.size) if keep else (1, 0))
    if semiring == "max":
        kept.fill(0.0)
        return viterbi(p)[0], torch.from_numpy(kept)
    value = np.empty(B)
    items = B + (keep and layout.half < -(-T // TILE))
    _run(partition.forward, p, items, layout, kept, value)
    return torch.from_numpy(value), torch.from_numpy(kept)


def backward(
    potentials: Potentials, value: Tensor, kept: Tensor, weight: Tensor
) -> dict[str, Tensor]:
    """Gradients of ``(weight * value).sum()`` by term, in the terms' types."""
    if potentials.per_duration:
        return per_duration.backward(potentials, value, kept, weight)
    p, messages = potentials, kept.numpy()
    (B, T, C), K, nothing = p.scores.shape, min(p.K, p.T), _NOTHING[p.scores.dtype]
    layout = _layout(B, T, K, C, int(messages[0, -3]) * TILE or None)
    items = 2 if layout.half < -(-T // TILE) else min(B, GROUPS)
    found = {"scores": np.empty((B, T, C), nothing.dtype)}
    if p.start_scores is not None or p.end_scores is not None:
        found["start_scores"] = np.empty_like(found["scores"])
        found["end_scores"] = np.empty_like(found["scores"])
    flat = [grad.reshape(-1) for grad in found.values()] + [nothing] * (3 - len(found))
    weights = np.ascontiguousarray(weight.numpy(), np.float64)
    sums = np.empty((items, C + K + 2, C))
    rows = sums.reshape(items, -1)
    _run(gradient.backward, p, items, layout, messages, weights, tuple(flat), rows, passes=3)
    with np.errstate(over="ignore"):  # what is too large becomes inf, as torch has it
        counts = (sums.sum(0) if items > 1 else sums[0]).astype(nothing.dtype)
    found |= {
        "transition": counts[:C],
        "duration_bias": np.pad(counts[C:-2], ((0, p.K - K), (0, 0))) if K < p.K else counts[C:-2],
        "start": counts[-2],
        "end": counts[-1],
    }
    return {name: torch.from_numpy(found[name]) for name, _ in p.terms()}


def viterbi(potentials: Potentials) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (B,) float64, a (3, B, T) int64 table of starts, ends and labels, counts (B,)."""
    if potentials.per_duration:
        return per_duration.viterbi(potentials)
    p = potentials
    score, count = np.empty(p.B), np.empty(p.B, np.int64)
    table = np.empty((3, p.B, p.T), np.int64)
    _run(decode, p, p.B, score, table, count)
    return torch.from_numpy(score), torch.from_numpy(table), torch.from_numpy(count)


edge_forward, edge_backward, edge_kept_shape = edges.forward, edges.backward, edges.kept_shape


def _run(
    kernel: Callable[..., None], p: Potentials, count: int, *results: Any, passes: int = 1
) -> None:
    """Run a kernel over ``count`` sequences or groups, divided among the threads."""
    (B, T, C), K, nothing = p.scores.shape, min(p.K, p.T), _NOTHING[p.scores.dtype]
    starts, ends = p.start_scores, p.end_scores
    if (starts is None) != (ends is None):
        starts = torch.zeros_like(p.scores) if starts is None else starts
        ends = torch.zeros_like(p.scores) if ends is None else ends
    flat = [
        nothing if x is None else x.detach().numpy().reshape(-1)
        for x in (p.scores, starts, ends, p.transition, p.duration_bias, p.start, p.end)
    ]
    terms, shared, sizes = tuple(flat[:3]), tuple(flat[3:]), (T, K, padded(C), C)
    lengths = p.lengths.numpy()  # type: ignore[union-attr]

    def task(items: np.ndarray) -> None:
        kernel(terms, shared, sizes, lengths, items, *results)

    share(task, count, passes * B * T * (K + C + 20) * C)
