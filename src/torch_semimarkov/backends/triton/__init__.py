"""The Triton backend: durations and labels in the lanes of a GPU; docs/gpu-kernels.md.

This module loads Triton at the first call that runs. With TRITON_INTERPRET=1 it takes CPU tensors
too, if it is asked for by name: Triton's interpreter is for tests.
"""

from __future__ import annotations

import os
from functools import lru_cache
from importlib import metadata

import torch
from torch import Tensor

from torch_semimarkov.backends.triton.variants import (
    MOST_LABELS,
    SHARED_BYTES,
    size_problem,
    variant_of,
)
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
    "max_marginals",
    "messages",
    "reasons_against",
    "reasons_against_choice",
    "sample",
    "tangent",
    "tangent_backward",
    "tangent_kept_shape",
    "variant",
    "viterbi",
]

NAME = "triton"
COMPOSITE = False
OPS = (
    "log_partition", "tangent", "viterbi", "sample", "messages", "max_marginals",
    "edge_log_partition",
)  # fmt: skip
# Those that take no tail.
WITHOUT_TAIL = ("tangent", "sample", "messages", "max_marginals")
SEMIRINGS = ("log", "max")
# Time, and memory beside inputs and results, without and with a gradient; docs/backends.md.
COSTS = {
    "log_partition": ("O(T (K C + C^2))", "O(K C)", "O(T C)"),
    "log_partition, tail": ("O(T (K C + C^2))", "O(K C)", "O(T C)"),
    "log_partition, (K, C, C) transitions": ("O(T K C^2)", "O(K C)", "O(T C)"),
    "tangent": ("O(T (K C + C^2))", "O(K C)", "O(T C + K C + C^2)"),
    "viterbi": ("O(T (K C + C^2))", "O(T C)", "none"),
    "sample": (
        "O(T (K C + C^2)) + O(N (K + C)) for each sample of N segments",
        "O(T C)",
        "none",
    ),
    "sample, (K, C, C) transitions": (
        "O(T K C^2) + O(N K C) for each sample of N segments",
        "O(T C + K C^2)",
        "none",
    ),
    "messages": ("O(T (K C + C^2))", "O(T C)", "none"),
    "messages, (K, C, C) transitions": ("O(T K C^2)", "O(T K C)", "none"),
    "max_marginals": ("O(T (K C + C^2))", "O(T C)", "none"),
    "edge_log_partition": ("O(T K C^2)", "O(T C)", "O(T C)"),
}
OLDEST = (3, 6)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def reasons_against(
    op: str, potentials: Potentials | EdgePotentials, semiring: str = "log"
) -> list[str]:
    """Why this backend cannot run ``op``; empty if it can."""
    p, reasons = potentials, []
    on_device = p.device.type == "cuda"
    if not on_device and not (INTERPRETED and p.device.type == "cpu"):
        reasons.append(f"needs CUDA tensors, got {p.device}")
    else:
        reasons += [problem for problem in (triton_problem(),) if problem]
    if op not in OPS:
        reasons.append(f"has no {op}")
    if op == "max_marginals" and getattr(p, "per_duration", False):
        reasons.append("has no max_marginals for (K, C, C) transitions")
    if op in WITHOUT_TAIL and getattr(p, "tail", None) is not None:
        reasons.append(f"has no {op} with a geometric tail")
    if semiring not in SEMIRINGS:
        reasons.append(f"has no semiring {semiring!r}, only {list(SEMIRINGS)}")
    if p.C > MOST_LABELS:
        reasons.append(f"takes at most C = {MOST_LABELS} labels, got {p.C}")
    elif on_device and not reasons and isinstance(p, Potentials):
        problem = memory_problem(p.device.index or 0, SHARED_BYTES)
        reasons += [problem] if problem else []
    if isinstance(p, Potentials) and p.per_duration and p.tail is not None:
        reasons.append("has no geometric tail with (K, C, C) transitions")
    elif isinstance(p, Potentials) and not p.per_duration:
        reasons += [problem for problem in (size_problem(p),) if problem]
    if op == "tangent" and isinstance(p, Potentials) and p.per_duration:
        reasons.append("has no tangent of (K, C, C) transitions")
    if torch._C._are_functorch_transforms_active():
        reasons.append("cannot be followed by torch.func transforms")
    return reasons


def reasons_against_choice(potentials: Potentials | EdgePotentials) -> list[str]:
    """What keeps this backend out of the automatic choice; it can still be asked for by name."""
    if potentials.device.type == "cpu":
        return ["runs on CPU tensors in Triton's interpreter only if asked for by name"]
    return []


def variant(potentials: Potentials | EdgePotentials) -> str:
    """Which form of the kernels runs, for ``explain``."""
    p = potentials
    if isinstance(p, EdgePotentials):
        return "explicit edges"
    return "transitions by duration" if p.per_duration else str(variant_of(p))


def triton_problem() -> str:
    """What is wrong with the Triton that is installed; empty if nothing is."""
    oldest = ".".join(map(str, OLDEST))
    found = _version("triton") or _version("pytorch-triton-rocm") or _version("triton-windows")
    if not found:
        return f"needs Triton, which is not installed; `pip install 'triton>={oldest}'`"
    if tuple(int(part) for part in found.split("+")[0].split(".")[:2]) < OLDEST:
        return f"needs Triton {oldest} or later, got {found}"
    return ""


def memory_problem(device: int, needed: int) -> str:
    """Why a GPU's shared memory is too little for the kernels; empty if it is not."""
    found = torch.cuda.get_device_properties(device)
    has = getattr(found, "shared_memory_per_block_optin", found.shared_memory_per_block)
    if has < needed:
        return f"needs {needed} bytes of shared memory, the GPU has {has}; take fewer labels"
    return ""


# torch.compile runs these when it traces, and cannot trace them.
triton_problem._dynamo_marked_constant = True  # type: ignore[attr-defined]
memory_problem._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache(maxsize=8)
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def kept_shape(
    potentials: Potentials, keep: bool, checkpoint_interval: int | None
) -> tuple[int, ...]:
    """Shape of what the forward keeps for the backward; see ``launch``."""
    from torch_semimarkov.backends.triton import launch, per_duration

    part = per_duration if potentials.per_duration else launch
    return part.kept_shape(potentials, keep, checkpoint_interval)


def forward(
    potentials: Potentials, semiring: str, keep: bool, checkpoint_interval: int | None
) -> tuple[Tensor, Tensor]:
    """The total (B,) float64, and what is kept for the backward.

    ``checkpoint_interval`` keeps states of the scan in place of the messages of every position, on
    two levels: the backward makes those every so many positions, rounded up to a multiple of 32 and
    to the padded K at least, from a few that the forward keeps. 1 asks for the least memory.
    """
    from torch_semimarkov.backends.triton import launch, per_duration

    part = per_duration if potentials.per_duration else launch
    with torch.cuda.device_of(potentials.scores):
        return part.forward(potentials, semiring, keep, checkpoint_interval)


def backward(
    potentials: Potentials, value: Tensor, kept: Tensor, weight: Tensor
) -> dict[str, Tensor]:
    """Gradients of ``(weight * value).sum()`` by term, in the terms' types."""
    from torch_semimarkov.backends.triton import launch, per_duration

    part = per_duration if potentials.per_duration else launch
    with torch.cuda.device_of(potentials.scores):
        return part.backward(potentials, value, kept, weight)


def tangent_kept_shape(potentials: Potentials, keep: bool) -> tuple[int, ...]:
    """Shape of what the tangent keeps for its backward."""
    from torch_semimarkov.backends.triton import tangent_calls

    return tangent_calls.tangent_kept_shape(potentials, keep)


def tangent(
    potentials: Potentials, direction: Potentials, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Log partition and its derivative in a direction, (B,) float64; and what is kept."""
    from torch_semimarkov.backends.triton import tangent_calls

    with torch.cuda.device_of(potentials.scores):
        return tangent_calls.tangent(potentials, direction, keep)


def tangent_backward(
    potentials: Potentials,
    direction: Potentials,
    kept: Tensor,
    weight: Tensor,
    slope_weight: Tensor,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of ``(weight * value + slope_weight * slope).sum()``: of terms, of directions."""
    from torch_semimarkov.backends.triton import tangent_calls

    with torch.cuda.device_of(potentials.scores):
        return tangent_calls.tangent_backward(potentials, direction, kept, weight, slope_weight)


def viterbi(potentials: Potentials) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (B,) float64, a (3, B, T) int64 table of starts, ends and labels, counts (B,)."""
    from torch_semimarkov.backends.triton import launch, per_duration

    part = per_duration if potentials.per_duration else launch
    with torch.cuda.device_of(potentials.scores):
        return part.viterbi(potentials)


def sample(potentials: Potentials, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """A table (3, num_samples, B, N) int64 of starts, ends and labels, and counts."""
    from torch_semimarkov.backends.triton import launch_walk

    with torch.cuda.device_of(potentials.scores):
        return launch_walk.sample(potentials, num_samples, seed)


def messages(potentials: Potentials) -> tuple[Tensor, Tensor]:
    """``alpha`` and ``entering`` (B, T, C) float64 in nats; -inf past the lengths.

    With (K, C, C) transitions ``entering`` is (B, T, K, C), by last position and duration.
    """
    from torch_semimarkov.backends.triton import launch_posterior, per_duration_messages

    part = per_duration_messages if potentials.per_duration else launch_posterior
    with torch.cuda.device_of(potentials.scores):
        return part.messages(potentials)


def max_marginals(potentials: Potentials) -> tuple[Tensor, Tensor, Tensor]:
    """Best scores (B, T, C) float64 with a label at, a start at and an end at each position."""
    from torch_semimarkov.backends.triton import launch_posterior

    with torch.cuda.device_of(potentials.scores):
        return launch_posterior.max_marginals(potentials)


def edge_kept_shape(p: EdgePotentials, keep: bool) -> tuple[int, ...]:
    """Alpha and its normaliser at every boundary."""
    return (p.B, p.T + 1, p.C + 1)


def edge_forward(p: EdgePotentials, semiring: str, keep: bool) -> tuple[Tensor, Tensor]:
    """The total (B,) float64 of explicit edges, and what is kept for the backward."""
    from torch_semimarkov.backends.triton import edges

    with torch.cuda.device_of(p.edge):
        return edges.forward(p, semiring, keep)


def edge_backward(p: EdgePotentials, semiring: str, kept: Tensor, weight: Tensor) -> Tensor:
    """Gradient of ``(weight * total).sum()`` in the edges, in their type."""
    from torch_semimarkov.backends.triton import edges

    with torch.cuda.device_of(p.edge):
        return edges.backward(p, semiring, kept, weight)
