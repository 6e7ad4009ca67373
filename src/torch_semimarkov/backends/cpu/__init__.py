"""The compiled CPU backend: numba kernels in float64 on tiles of positions; docs/cpu-kernels.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from torch_semimarkov.backends.cpu import gradient, partition, per_duration
from torch_semimarkov.backends.cpu.messages import Layout, layout_of, padded
from torch_semimarkov.backends.cpu.plan import TILE
from torch_semimarkov.backends.cpu.threads import share
from torch_semimarkov.backends.cpu.viterbi import viterbi as decode
from torch_semimarkov.potentials import Potentials

NAME = "cpu"
COMPOSITE = False
OPS = ("log_partition", "viterbi")
SEMIRINGS = ("log", "max")
# Sequences of a batch share so many partial sums at most, whatever the number of threads.
GROUPS = 32


def reasons_against(op: str, potentials: Potentials, semiring: str = "log") -> list[str]:
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
    return (potentials.B, _layout(potentials, checkpoint_interval).size) if keep else (1, 0)


def forward(
    potentials: Potentials, semiring: str, keep: bool, checkpoint_interval: int | None
) -> tuple[Tensor, Tensor]:
    """The total (B,) float64, and the messages for the backward."""
    if potentials.per_duration:
        return per_duration.forward(potentials, semiring, keep, checkpoint_interval)
    kept = torch.empty(kept_shape(potentials, keep, checkpoint_interval), dtype=torch.float64)
    if semiring == "max":
        return viterbi(potentials)[0], kept.zero_()
    value = torch.empty(potentials.B, dtype=torch.float64)
    layout = _layout(potentials, checkpoint_interval if keep else None)
    items = potentials.B + (keep and layout.half < -(-potentials.T // TILE))
    _run(partition.forward, potentials, items, layout, kept.numpy(), value.numpy())
    return value, kept


def backward(
    potentials: Potentials, value: Tensor, kept: Tensor, weight: Tensor
) -> dict[str, Tensor]:
    """Gradients of ``(weight * value).sum()`` by term, in the terms' types."""
    if potentials.per_duration:
        return per_duration.backward(potentials, value, kept, weight)
    p, stretch = potentials, int(kept[0, -3])
    layout = _layout(p, stretch * TILE or None)
    items = 2 if layout.half < -(-p.T // TILE) else min(p.B, GROUPS)
    K = min(p.K, p.T)
    sums = np.empty((items, (p.C + K + 2) * p.C))
    boundaries = p.start_scores is not None or p.end_scores is not None
    nothing = p.scores.new_empty(0)
    grads = [torch.empty_like(p.scores)]
    grads += [torch.empty_like(p.scores) if boundaries else nothing for _ in range(2)]
    weights = weight.to(torch.float64).contiguous().numpy()
    flat = tuple(grad.numpy().reshape(-1) for grad in grads)
    _run(gradient.backward, p, items, layout, kept.numpy(), weights, flat, sums)
    counts = torch.from_numpy(sums.sum(0)).to(p.scores.dtype).reshape(-1, p.C)
    transition, bias, start, end = (x.clone() for x in counts.split([p.C, K, 1, 1]))
    found = {
        "scores": grads[0],
        "transition": transition,
        "duration_bias": pad(bias, (0, 0, 0, p.K - K)) if K < p.K else bias,
        "start": start[0],
        "end": end[0],
        "start_scores": grads[1],
        "end_scores": grads[2],
    }
    return {name: found[name] for name, _ in p.terms()}


def viterbi(potentials: Potentials) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (B,) float64, a (3, B, T) int64 table of starts, ends and labels, counts (B,)."""
    if potentials.per_duration:
        return per_duration.viterbi(potentials)
    p = potentials
    score = torch.empty(p.B, dtype=torch.float64)
    count = torch.empty(p.B, dtype=torch.int64)
    table = torch.empty(3, p.B, p.T, dtype=torch.int64)
    _run(decode, p, p.B, score.numpy(), table.numpy(), count.numpy())
    return score, table, count


def _layout(p: Potentials, interval: int | None) -> Layout:
    return layout_of(p.B, p.T, min(p.K, p.T), p.C, interval)


def _run(kernel: Callable[..., None], p: Potentials, count: int, *results: Any) -> None:
    """Run a kernel over ``count`` sequences or groups, divided among the threads."""
    starts, ends = p.start_scores, p.end_scores
    if starts is None and ends is not None:
        starts = torch.zeros_like(p.scores)
    if ends is None and starts is not None:
        ends = torch.zeros_like(p.scores)
    terms = tuple(_flat(x, p.scores) for x in (p.scores, starts, ends))
    shared = tuple(_flat(x, p.scores) for x in (p.transition, p.duration_bias, p.start, p.end))
    sizes = p.T, min(p.K, p.T), padded(p.C), p.C
    lengths = p.lengths.numpy()

    def task(share: np.ndarray) -> None:
        kernel(terms, shared, sizes, lengths, share, *results)

    share(task, count, p.B * p.T * (sizes[1] + p.C + 20) * p.C)


def _flat(x: Tensor | None, like: Tensor) -> np.ndarray:
    x = like.new_empty(0) if x is None else x.detach()
    return x.numpy().reshape(-1)
