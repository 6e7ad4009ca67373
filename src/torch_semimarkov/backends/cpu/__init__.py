"""The compiled CPU backend: numba kernels in float64 on tiles of positions; docs/cpu-kernels.md."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from torch_semimarkov.backends.cpu import partition, per_duration
from torch_semimarkov.backends.cpu.messages import kept_size
from torch_semimarkov.backends.cpu.threads import share
from torch_semimarkov.backends.cpu.vector import LANES
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
    """The left-to-right messages of each sequence, or nothing."""
    if potentials.per_duration:
        return per_duration.kept_shape(potentials, keep, checkpoint_interval)
    if not keep or checkpoint_interval is not None:
        return (1, 0)
    return (potentials.B, kept_size(potentials.T, potentials.C))


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
    _run(partition.forward, potentials, potentials.B, kept.numpy(), value.numpy())
    return value, kept


def backward(
    potentials: Potentials, value: Tensor, kept: Tensor, weight: Tensor
) -> dict[str, Tensor]:
    """Gradients of ``(weight * value).sum()`` by term, in the terms' types."""
    if potentials.per_duration:
        return per_duration.backward(potentials, value, kept, weight)
    p = potentials
    groups, K = min(p.B, GROUPS), min(p.K, p.T)
    if not kept.numel():
        kept = forward(p, "log", True, None)[1]
    boundaries = p.start_scores is not None or p.end_scores is not None
    nothing = p.scores.new_empty(0)
    grads = [torch.empty_like(p.scores)]
    grads += [torch.empty_like(p.scores) if boundaries else nothing for _ in range(2)]
    sums = np.empty((groups, (p.C + K + 2) * p.C))
    weights = weight.to(torch.float64).contiguous().numpy()
    flat = tuple(grad.numpy().reshape(-1) for grad in grads)
    _run(partition.backward, p, groups, kept.numpy(), weights, flat, sums)
    counts = torch.from_numpy(sums.sum(0)).to(p.scores.dtype).reshape(-1, p.C)
    transition, bias, start, end = (x.clone() for x in counts.split([p.C, K, 1, 1]))
    found = {
        "scores": grads[0],
        "transition": transition,
        "duration_bias": pad(bias, (0, 0, 0, p.K - K)),
        "start": start[0],
        "end": end[0],
        "start_scores": grads[1],
        "end_scores": grads[2],
    }
    return {
        name: found[name].clone() if name[-1] in "ndts" else found[name] for name, _ in p.terms()
    }


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


def _run(kernel, p: Potentials, count: int, *results) -> None:
    """Run a kernel over ``count`` sequences or groups, divided among the threads."""
    starts, ends = p.start_scores, p.end_scores
    if starts is None and ends is not None:
        starts = torch.zeros_like(p.scores)
    if ends is None and starts is not None:
        ends = torch.zeros_like(p.scores)
    terms = tuple(_flat(x, p.scores) for x in (p.scores, starts, ends))
    shared = tuple(_flat(x, p.scores) for x in (p.transition, p.duration_bias, p.start, p.end))
    sizes = p.T, min(p.K, p.T), -(-p.C // LANES) * LANES, p.C
    lengths = p.lengths.numpy()

    def task(share: np.ndarray) -> None:
        kernel(terms, shared, sizes, lengths, share, *results)

    share(task, count, p.B * p.T * (sizes[1] + p.C + 20) * p.C)


def _flat(x: Tensor | None, like: Tensor) -> np.ndarray:
    x = like.new_empty(0) if x is None else x.detach()
    return x.numpy().reshape(-1)
