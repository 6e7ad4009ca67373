"""Choice of a backend and the ops it runs through."""

from __future__ import annotations

from torch_semimarkov.dispatch.edges import EDGE_OP, edge_composite, edge_log_partition
from torch_semimarkov.dispatch.queries import carried, max_marginals, messages
from torch_semimarkov.dispatch.registry import (
    Stepper,
    available_backends,
    register_backend,
    unregister_backend,
)
from torch_semimarkov.dispatch.run import (
    expectations,
    holding_nan,
    kbest,
    log_partition,
    looks_clean,
    sample,
    stepper,
    tangent,
    viterbi,
)
from torch_semimarkov.dispatch.select import Explanation, explain_op, leave_out, use_backend

__all__ = [
    "EDGE_OP",
    "Explanation",
    "Stepper",
    "available_backends",
    "carried",
    "edge_composite",
    "edge_log_partition",
    "expectations",
    "explain_op",
    "holding_nan",
    "kbest",
    "leave_out",
    "log_partition",
    "looks_clean",
    "max_marginals",
    "messages",
    "register_backend",
    "sample",
    "stepper",
    "tangent",
    "unregister_backend",
    "use_backend",
    "viterbi",
]
