"""The reference backend: plain torch, any device, any dtype; the text the others are judged by."""

from __future__ import annotations

from torch_semimarkov.backends.reference.edges import edge_log_partition
from torch_semimarkov.backends.reference.kbest import kbest
from torch_semimarkov.backends.reference.partition import (
    differentiable_gradient,
    log_partition,
    tangent,
)
from torch_semimarkov.backends.reference.queries import carried, max_marginals, messages
from torch_semimarkov.backends.reference.sample import sample
from torch_semimarkov.backends.reference.steps import stepper
from torch_semimarkov.backends.reference.viterbi import viterbi
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.semirings import SEMIRINGS

NAME = "reference"
COMPOSITE = True
OPS = (
    "log_partition", "tangent", "viterbi", "kbest", "sample", "messages", "max_marginals", "stream",
    "edge_log_partition", "edge_tree", "edge_pair",
)  # fmt: skip
# Those that a semiring which compares two models can run on.
_PAIR_OPS = ("edge_tree", "edge_pair")
# Time, and memory beside inputs and results, without and with a gradient; docs/backends.md.
COSTS = {
    "log_partition": ("O(T (K C + C^2))", "O(T C + K C)", "O(T C + K C)"),
    "log_partition, (K, C, C) transitions": ("O(T K C^2)", "O(T K C + K C^2)", "O(T K C^2)"),
    "tangent": ("O(T (K C + C^2))", "O(T C + K C)", "O(T (K C + C^2))"),
    "tangent, (K, C, C) transitions": ("O(T K C^2)", "O(T K C + K C^2)", "O(T K C^2)"),
    "viterbi": ("O(T (K C + C^2))", "O(T C + K C)", "none"),
    "kbest": ("O(T (K C + C^2) k log k K)", "O(k T C + k K C)", "none"),
    "kbest, (K, C, C) transitions": ("O(T K C^2 k log k C)", "O(k T K C + k K C^2)", "none"),
    "sample": (
        "O(T (K C + C^2)) + O(N (K + C)) for each sample of N segments",
        "O(T C + K C)",
        "none",
    ),
    "sample, (K, C, C) transitions": (
        "O(T K C^2) + O(N (K + C)) for each sample of N segments",
        "O(T K C + K C^2)",
        "none",
    ),
    "messages": ("O(T (K C + C^2))", "O(T C + K C)", "none"),
    "messages, (K, C, C) transitions": ("O(T K C^2)", "O(T K C + K C^2)", "none"),
    "max_marginals": ("O(T (K C + C^2))", "O(T C + K C)", "none"),
    "max_marginals, (K, C, C) transitions": ("O(T K C^2)", "O(T K C + K C^2)", "none"),
    "stream": ("O(T (K C + C^2))", "O(K C + C^2)", "none"),
    "stream, (K, C, C) transitions": ("O(T K C^2)", "O(K C^2)", "none"),
    "edge_log_partition": ("O(T K C^2)", "O(T C + K C^2)", "O(T K C^2)"),
    "edge_tree": ("O(T (K C)^3)", "O(T (K C)^3)", "O(T (K C)^3)"),
}


def reasons_against(op: str, potentials: Potentials, semiring: str = "log") -> list[str]:
    """Why this backend cannot run ``op``; empty if it can."""
    reasons = []
    if op not in OPS:
        reasons.append(f"has no {op}")
    if semiring not in SEMIRINGS:
        reasons.append(f"has no semiring {semiring!r}, only {sorted(SEMIRINGS)}")
    elif SEMIRINGS[semiring].arguments > 1 and op not in _PAIR_OPS:
        reasons.append(f"semiring {semiring!r} compares two sets of potentials, and gets one")
    if op == "stream" and semiring not in ("log", "max"):
        reasons.append("streams for semirings 'log' and 'max' only")
    return reasons


__all__ = [
    "COMPOSITE",
    "COSTS",
    "NAME",
    "OPS",
    "carried",
    "differentiable_gradient",
    "edge_log_partition",
    "kbest",
    "log_partition",
    "max_marginals",
    "messages",
    "reasons_against",
    "sample",
    "stepper",
    "tangent",
    "viterbi",
]
