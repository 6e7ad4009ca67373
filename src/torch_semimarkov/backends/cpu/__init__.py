"""The compiled CPU backend: numba kernels in float64 on tiles of positions; docs/cpu-kernels.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.backends.cpu import (
    abreast_sweeps,
    edges,
    gradient,
    live_calls,
    partition,
    per_duration,
    queries,
    steps,
    tail_paths,
)
from torch_semimarkov.backends.cpu.abreast import FEWEST, MOST_DURATIONS, MOST_LABELS
from torch_semimarkov.backends.cpu.abreast_sweeps import ABREAST
from torch_semimarkov.backends.cpu.carried import carried
from torch_semimarkov.backends.cpu.host import hosted, takes
from torch_semimarkov.backends.cpu.max_marginals import max_marginals as best_scores
from torch_semimarkov.backends.cpu.max_per_duration import max_marginals as best_by_duration
from torch_semimarkov.backends.cpu.messages import layout_of, padded
from torch_semimarkov.backends.cpu.pair_steps import PairStepper
from torch_semimarkov.backends.cpu.paths import kbest as several
from torch_semimarkov.backends.cpu.paths import sample as sample_plain
from torch_semimarkov.backends.cpu.per_duration_messages import messages as pair_messages
from torch_semimarkov.backends.cpu.plan import TILE
from torch_semimarkov.backends.cpu.steps import Stepper
from torch_semimarkov.backends.cpu.tangent_calls import (
    tangent,
    tangent_backward,
    tangent_kept_shape,
)
from torch_semimarkov.backends.cpu.threads import share
from torch_semimarkov.backends.cpu.values import looks_clean
from torch_semimarkov.backends.cpu.vector_types import LANES
from torch_semimarkov.backends.cpu.viterbi import viterbi as decode
from torch_semimarkov.potentials import EdgePotentials, Potentials

__all__ = [
    "COMPOSITE",
    "COSTS",
    "NAME",
    "OPS",
    "SEMIRINGS",
    "backward",
    "carried",
    "edge_backward",
    "edge_forward",
    "edge_kept_shape",
    "forward",
    "kbest",
    "kept_shape",
    "looks_clean",
    "max_marginals",
    "messages",
    "reasons_against",
    "sample",
    "stepper",
    "tangent",
    "tangent_backward",
    "tangent_kept_shape",
    "variant",
    "viterbi",
]

NAME = "cpu"
COMPOSITE = False
OPS = (
    "log_partition", "tangent", "viterbi", "kbest", "sample", "messages", "max_marginals", "stream",
    "edge_log_partition",
)  # fmt: skip
# Those that take a tail, with (C, C) transitions.
TAIL_OPS = (
    "log_partition", "tangent", "viterbi", "kbest", "sample", "messages", "max_marginals", "stream",
)  # fmt: skip
SEMIRINGS = ("log", "max")
# Time, and memory beside inputs and results, without and with a gradient; docs/backends.md.
COSTS = {
    "log_partition": ("O(T (K C + C^2))", "O(K C)", "O(T C)"),
    "log_partition, tail": ("O(T (K C + C^2))", "O(K C)", "O(T C), all of it kept"),
    "log_partition, (K, C, C) transitions": ("O(T K C^2)", "O(K C^2)", "O(T C + K C^2)"),
    "tangent": ("O(T (K C + C^2))", "O(K C)", "O(T C)"),
    "tangent, (K, C, C) transitions": ("O(T K C^2)", "O(K C^2)", "O(T C + K C^2)"),
    "viterbi": ("O(T (K C + C^2))", "O(T C)", "none"),
    "kbest": ("O(T (K C + C^2)) + O(k N (K + C))", "O(T C + k^2 N)", "none"),
    "kbest, (K, C, C) transitions": ("O(T K C^2) + O(k N K C)", "O(T C + k^2 N)", "none"),
    "sample": (
        "O(T (K C + C^2)) + O(N (K + C)) for each sample of N segments",
        "O(T C + K C)",
        "none",
    ),
    "sample, (K, C, C) transitions": (
        "O(T K C^2) + O(N K C) for each sample of N segments",
        "O(T C + K C^2)",
        "none",
    ),
    "messages": ("O(T (K C + C^2))", "O(T C + K C)", "none"),
    "messages, (K, C, C) transitions": ("O(T K C^2)", "O(T K C + K C^2)", "none"),
    "max_marginals": ("O(T (K C + C^2))", "O(T C)", "none"),
    "max_marginals, (K, C, C) transitions": ("O(T K C^2)", "O(T C + K C^2)", "none"),
    "stream": ("O(T (K C + C^2))", "O(K C + C^2)", "none"),
    "stream, (K, C, C) transitions": ("O(T K C^2)", "O(K C^2)", "none"),
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
    if not takes(op, potentials.device):
        reasons.append(f"needs CPU tensors, got {potentials.device}")
    if op not in OPS:
        reasons.append(f"has no {op}")
    if semiring not in SEMIRINGS:
        reasons.append(f"has no semiring {semiring!r}, only {list(SEMIRINGS)}")
    if isinstance(potentials, Potentials):
        with_tail = op in TAIL_OPS and not potentials.per_duration
        if potentials.tail is not None and not with_tail:
            reasons.append("has no geometric tail")
    if torch._C._are_functorch_transforms_active():
        reasons.append("cannot be followed by torch.func transforms")
    return reasons


def variant(potentials: Potentials | EdgePotentials) -> str:
    """Which form of the calls runs, for ``explain``."""
    return "" if potentials.device.type == "cpu" else "on copies in memory"


def kept_shape(
    potentials: Potentials, keep: bool, checkpoint_interval: int | None
) -> tuple[int, ...]:
    """The messages of each sequence that the backward needs, or nothing."""
    if potentials.per_duration:
        return per_duration.kept_shape(potentials, keep, checkpoint_interval)
    if potentials.tail is not None:
        return live_calls.kept_shape(potentials, keep)
    p = potentials
    size = layout_of(p.B, p.T, min(p.K, p.T), p.C, checkpoint_interval).size if keep else 0
    return (p.B, size) if keep else (1, 0)


def forward(
    potentials: Potentials, semiring: str, keep: bool, checkpoint_interval: int | None
) -> tuple[Tensor, Tensor]:
    """The total (B,) float64, and the messages for the backward."""
    if potentials.per_duration:
        return per_duration.forward(potentials, semiring, keep, checkpoint_interval)
    if semiring == "max":
        kept = np.zeros(kept_shape(potentials, keep, checkpoint_interval))
        return viterbi(potentials)[0], torch.from_numpy(kept)
    if potentials.tail is not None:
        return live_calls.forward(potentials, keep)
    p, (B, T, C) = _trimmed(potentials), potentials.scores.shape
    interval = checkpoint_interval if keep else None
    layout = _layout(B, T, min(p.K, T), C, interval)
    # as large as for all K durations: a trace does not know which are forbidden
    whole = _layout(B, T, min(potentials.K, T), C, interval)
    kept = np.empty((B, whole.size) if keep else (1, 0))
    value = np.empty(B)
    items = B + (keep and layout.half < -(-T // TILE))
    calm = np.zeros(items, np.bool_)
    if suits_abreast(p, checkpoint_interval):
        _run(abreast_sweeps.forward, p, _groups(B), layout, kept, value, calm)
    if not calm.all():
        _run(partition.forward, p, np.flatnonzero(~calm), layout, kept, value)
    return torch.from_numpy(value), torch.from_numpy(kept)


def backward(
    potentials: Potentials, value: Tensor, kept: Tensor, weight: Tensor
) -> dict[str, Tensor]:
    """Gradients of ``(weight * value).sum()`` by term, in the terms' types."""
    if potentials.per_duration:
        return per_duration.backward(potentials, value, kept, weight)
    if potentials.tail is not None:
        return live_calls.backward(potentials, kept, weight)
    p, messages = _trimmed(potentials), kept.numpy()
    (B, T, C), nothing = p.scores.shape, _NOTHING[p.scores.dtype]
    more = potentials.K - min(p.K, T)
    found = {"scores": np.empty((B, T, C), nothing.dtype)}
    if p.start_scores is not None or p.end_scores is not None:
        found["start_scores"] = np.empty_like(found["scores"])
        found["end_scores"] = np.empty_like(found["scores"])
    flat = tuple([grad.reshape(-1) for grad in found.values()] + [nothing] * (3 - len(found)))
    sums = _gradients(p, messages, np.ascontiguousarray(weight.numpy(), np.float64), flat)
    with np.errstate(over="ignore"):  # what is too large becomes inf, as torch has it
        counts = (sums.sum(0) if len(sums) > 1 else sums[0]).astype(nothing.dtype)
    found |= {
        "transition": counts[:C],
        "duration_bias": np.pad(counts[C:-2], ((0, more), (0, 0))) if more else counts[C:-2],
        "start": counts[-2],
        "end": counts[-1],
    }
    return {name: torch.from_numpy(found[name]) for name, _ in p.terms()}


def _gradients(
    p: Potentials, messages: np.ndarray, weights: np.ndarray, flat: tuple[np.ndarray, ...]
) -> np.ndarray:
    """Write the gradients of the terms at positions; returns rows of sums for the others."""
    (B, T, C), K = p.scores.shape, min(p.K, p.T)
    stretch = int(messages[:, -3].max())
    layout = _layout(B, T, K, C, max(stretch, 0) * TILE or None)
    done, rows = np.zeros(B, np.bool_), []
    if (messages[:, -3] == ABREAST).any():
        rows.append(np.zeros((_groups(B), C + K + 2, C)))
        _run(abreast_sweeps.backward, p, _groups(B), layout, messages, weights, flat, rows[0],
             done, passes=3)  # fmt: skip
        left = np.flatnonzero((messages[:, -3] == ABREAST) & ~done)
        if len(left):
            messages = messages.copy()
            _run(partition.forward, p, left, layout, messages, np.empty(B))
    if not done.all():
        items = 2 if layout.half < -(-T // TILE) else min(B, GROUPS)
        rows.append(np.empty((items, C + K + 2, C)))
        _run(gradient.backward, p, items, layout, messages, weights, flat,
             rows[-1].reshape(items, -1), done, passes=3)  # fmt: skip
    return rows[0] if len(rows) == 1 else np.concatenate(rows)


def suits_abreast(p: Potentials, checkpoint_interval: int | None) -> bool:
    """True if sequences side by side are faster than one after the other."""
    few = min(p.K, p.T) <= MOST_DURATIONS and p.C <= MOST_LABELS
    return few and p.B >= FEWEST and checkpoint_interval is None


def _trimmed(p: Potentials) -> Potentials:
    """The same potentials without the longest durations, if no segment may have them.

    Finite rows stay, also those of more positions than there are: what kernels take out of the bias
    must not depend on the length of the batch.
    """
    bias = p.duration_bias.detach()
    rows = bias.numpy()
    if rows[-1].max() != -np.inf:
        return p
    K = int((rows != -np.inf).any(1).nonzero()[0].max(initial=0)) + 1
    return replace(p, duration_bias=bias[:K])


def _groups(B: int) -> int:
    return -(-B // LANES)


def viterbi(potentials: Potentials) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (B,) float64, a (3, B, T) int64 table of starts, ends and labels, counts (B,)."""
    if potentials.per_duration:
        return per_duration.viterbi(potentials)
    if potentials.tail is not None:
        return steps.viterbi(potentials)
    p = _trimmed(potentials)
    score, count = np.empty(p.B), np.empty(p.B, np.int64)
    table = np.empty((3, p.B, p.T), np.int64)
    _run(decode, p, p.B, score, table, count)
    return torch.from_numpy(score), torch.from_numpy(table), torch.from_numpy(count)


def stepper(potentials: Potentials, semiring: str) -> Stepper | PairStepper:
    """What takes the positions of sequences in, chunk by chunk; of the shared terms."""
    return (PairStepper if potentials.per_duration else Stepper)(potentials, semiring)


@hosted
def sample(potentials: Potentials, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """A table (3, num_samples, B, N) and counts (num_samples, B)."""
    draw = sample_plain if potentials.tail is None else tail_paths.sample
    return draw(potentials, num_samples, seed)


@hosted
def messages(potentials: Potentials) -> tuple[Tensor, Tensor]:
    """``alpha`` and ``entering`` in float64, as the reference has them; -inf past the lengths."""
    if potentials.per_duration:
        return pair_messages(potentials)
    home = queries if potentials.tail is None else tail_paths
    return home.messages(potentials)


@hosted
def max_marginals(potentials: Potentials) -> tuple[Tensor, Tensor, Tensor]:
    """Best scores (B, T, C) float64 with a label at, a start at and an end at each position."""
    return (best_by_duration if potentials.per_duration else best_scores)(potentials)


@hosted
def kbest(potentials: Potentials, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (k, B) float64, -inf where there are fewer, a table (3, k, B, N) and counts (k, B)."""
    if k > 1:
        return several(potentials, k)
    score, table, count = viterbi(potentials)
    width = max(1, *count.tolist())
    return score[None], table[:, None, :, :width], count[None]


edge_forward, edge_backward, edge_kept_shape = edges.forward, edges.backward, edges.kept_shape


def _run(
    kernel: Callable[..., None],
    p: Potentials,
    items: int | np.ndarray,
    *results: Any,
    passes: int = 1,
) -> None:
    """Run a kernel over sequences or groups of trimmed potentials, divided among the threads.

    ``items`` says how many of them, or which.
    """
    T, C, K, nothing = p.T, p.C, min(p.K, p.T), _NOTHING[p.scores.dtype]
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

    count = items if isinstance(items, int) else len(items)

    def task(some: np.ndarray) -> None:
        kernel(terms, shared, sizes, lengths, some, *results)

    share(task, items, passes * count * T * (K + C + 20) * C)
