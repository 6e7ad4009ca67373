"""The compiled CPU backend: numba kernels in float64, one task a sequence and direction."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.backends.cpu import combine, per_duration
from torch_semimarkov.backends.cpu.operands import Arrays, Operands, operands, padded
from torch_semimarkov.backends.cpu.scan import scan, total_of
from torch_semimarkov.backends.cpu.threads import run
from torch_semimarkov.backends.cpu.viterbi import decode
from torch_semimarkov.potentials import Potentials

NAME = "cpu"
COMPOSITE = False
OPS = ("log_partition", "viterbi")
SEMIRINGS = ("log", "max")


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
    """Alpha, entering and norms of both directions, or nothing."""
    if potentials.per_duration:
        return per_duration.kept_shape(potentials, keep, checkpoint_interval)
    if not keep or checkpoint_interval is not None:
        return (0,)
    return (potentials.B, 2, potentials.T * (2 * padded(potentials.C) + 1))


def forward(
    potentials: Potentials, semiring: str, keep: bool, checkpoint_interval: int | None
) -> tuple[Tensor, Tensor]:
    """The total (B,) float64, and the messages for the backward."""
    if potentials.per_duration:
        return per_duration.forward(potentials, semiring, keep, checkpoint_interval)
    shape = kept_shape(potentials, keep, checkpoint_interval)
    if semiring == "max":
        return viterbi(potentials)[0], torch.zeros(shape, dtype=torch.float64)
    x = operands(potentials)
    value = np.empty(potentials.B)
    kept = np.zeros(shape)

    def task(i: int) -> None:
        b, direction = i % potentials.B, i // potentials.B
        L, _, C, labels = x.sizes(b)
        room = np.empty(L * (2 * C + 1)) if kept.ndim == 1 else kept[b, direction]
        alpha, _, norms = messages = _split(room, L, C)
        _scan(x, b, direction, messages)
        if direction == 0:
            value[b] = total_of(alpha[-C:], x.end, labels) + norms[-1]

    directions = 1 if kept.ndim == 1 else 2
    run(task, directions * potentials.B, directions * _work(potentials))
    return torch.from_numpy(value), torch.from_numpy(kept)


def backward(
    potentials: Potentials, value: Tensor, kept: Tensor, weight: Tensor
) -> dict[str, Tensor]:
    """Gradients of ``(weight * value).sum()`` by term, in the terms' types."""
    if potentials.per_duration:
        return per_duration.backward(potentials, value, kept, weight)
    p, x = potentials, operands(potentials)
    K, C = p.K, x.C
    totals, weights, saved = value.numpy(), weight.to(torch.float64).numpy(), kept.numpy()
    found = np.zeros((3, p.B, p.T, C))
    counts = np.zeros((p.B, C * C)), np.zeros((p.B, K * C))

    def task(b: int) -> None:
        if totals[b] == -np.inf:
            return
        sizes = L, *_ = x.sizes(b)
        room = np.empty((2, L * (2 * C + 1))) if saved.ndim == 1 else saved[b]
        left, right = (_split(part, L, C) for part in room)
        if saved.ndim == 1:
            _scan(x, b, 0, left)
            _scan(x, b, 1, right)
        shared = left, right, sizes, totals[b], weights[b]
        starts, ends, labels = (part[b].reshape(-1) for part in found)
        combine.positions(*shared, starts, ends, labels)
        combine.transitions(*shared, x.transition, counts[0][b])
        combine.durations(left, right, x.terms(b), *shared[2:], x.bias, counts[1][b])

    run(task, p.B, 3 * _work(p))
    return _by_term(p, found, counts)


def _by_term(p: Potentials, found: np.ndarray, counts: Arrays) -> dict[str, Tensor]:
    """Gradients without the padding, summed over the sequences in their order."""
    starts, ends, labels = torch.from_numpy(found[..., : p.C])
    C = found.shape[-1]
    last = p.lengths - 1  # type: ignore[operator]
    grads = {
        "scores": labels,
        "transition": torch.from_numpy(counts[0].sum(0).reshape(C, C)[: p.C, : p.C]),
        "duration_bias": torch.from_numpy(counts[1].sum(0).reshape(p.K, C)[:, : p.C]),
        "start": starts[:, 0].sum(0),
        "end": ends[torch.arange(p.B), last].sum(0),
        "start_scores": starts,
        "end_scores": ends,
    }
    return {name: grads[name].to(x.dtype, copy=True).contiguous() for name, x in p.terms()}


def viterbi(potentials: Potentials) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (B,) float64, a (3, B, T) int64 table of starts, ends and labels, counts (B,)."""
    if potentials.per_duration:
        return per_duration.viterbi(potentials)
    p, x = potentials, operands(potentials)
    score, count = np.empty(p.B), np.zeros(p.B, dtype=np.int64)
    table = np.full((3, p.B, p.T), -1, dtype=np.int64)

    def task(b: int) -> None:
        shared = x.transition, x.bias, x.start
        room = x.ring(b)
        score[b], count[b] = decode(x.terms(b), shared, x.end, x.sizes(b), room, table[:, b])

    run(task, p.B, _work(p))
    return torch.from_numpy(score), torch.from_numpy(table), torch.from_numpy(count)


def _scan(x: Operands, b: int, direction: int, messages: Arrays) -> None:
    """The messages of one sequence and direction: 0 from the left, 1 from the right."""
    terms, shared = x.terms(b), (x.transition, x.bias, x.start)
    if direction == 1:
        transition = np.ascontiguousarray(x.transition.reshape(x.C, x.C).T).reshape(-1)
        terms, shared = x.reversed_terms(b), (transition, x.bias, x.end)
    scan(terms, shared, x.sizes(b), x.ring(b), messages)


def _split(room: np.ndarray, L: int, C: int) -> Arrays:
    """Alpha (L * C), entering (L * C) and norms (L) as parts of one array."""
    return room[: L * C], room[L * C : 2 * L * C], room[2 * L * C : 2 * L * C + L]


def _work(p: Potentials) -> int:
    return p.B * p.T * p.K * p.C
