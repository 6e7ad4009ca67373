"""A stand-in for a compiled backend: kernels without autograd, from the pieces of the reference.

Registered by name, it runs through the library's ops as a compiled backend does.
"""

from contextlib import contextmanager

import torch

from torch_semimarkov import dispatch
from torch_semimarkov.backends.reference import viterbi as reference_viterbi
from torch_semimarkov.backends.reference.expectations import expectations
from torch_semimarkov.backends.reference.scan import Messages, prepare, scan, total
from torch_semimarkov.semirings import by_name

NAME = "double"
COMPOSITE = False

calls = []


def reasons_against(op, potentials, semiring="log"):
    if op == "tangent":
        return ["has no tangent"]
    if potentials.per_duration:
        return ["has no (K, C, C) transitions"]
    if potentials.tail is not None:
        return ["has no geometric tail"]
    return []


def kept_shape(potentials, keep, checkpoint_interval):
    p = potentials
    return (2, p.B, p.T, p.C) if keep and checkpoint_interval is None else (0,)


def forward(potentials, semiring, keep, checkpoint_interval):
    calls.append("forward")
    p, algebra = prepare(potentials), by_name(semiring)
    messages = scan(p, algebra)
    kept = messages.alpha.new_empty(0)
    if keep and checkpoint_interval is None:
        kept = torch.stack(messages[:2])
    return total(p, algebra, messages.alpha), kept


def backward(potentials, value, kept, weight):
    calls.append("backward")
    p = prepare(potentials)
    messages = Messages(*kept) if kept.numel() else scan(p, by_name("log"))
    found = expectations(p, messages, value, weight)
    missing = potentials.K - p.K
    found["duration_bias"] = torch.nn.functional.pad(found["duration_bias"], (0, 0, 0, missing))
    present = dict(potentials.terms())
    return {name: found[name].to(x.dtype).contiguous() for name, x in present.items()}


def viterbi(potentials):
    calls.append("viterbi")
    score, segments = reference_viterbi(potentials)
    table = torch.stack((segments.starts, segments.ends, segments.labels))
    missing = potentials.T - table.shape[-1]
    return score, torch.nn.functional.pad(table, (0, missing), value=-1), segments.counts


@contextmanager
def registered(first=False):
    """Make the double known inside a ``with`` block, with an empty list of ``calls``."""
    calls.clear()
    dispatch.register_backend(NAME, __name__, first=first)
    try:
        yield
    finally:
        dispatch.unregister_backend(NAME)
