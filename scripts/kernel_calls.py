"""Calls of the triton backend that between them launch every variant of its kernels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from torch_semimarkov.backends import triton as backend
from torch_semimarkov.backends.triton import launch_walk
from torch_semimarkov.potentials import Potentials

FLAGS = ("start-end", "boundary", "tail", "per-duration")


@dataclass(frozen=True)
class Call:
    """Sizes, type, terms beyond the three that are always there, and whether calls are usual ones.

    Args:
        B: sequences.
        T: positions.
        K: longest duration.
        C: labels.
        dtype: of every term.
        flags: which of ``FLAGS``.
        default: True if the variants that it launches must not spill.
    """

    B: int = 64
    T: int = 1000
    K: int = 100
    C: int = 24
    dtype: torch.dtype = torch.float32
    flags: tuple[str, ...] = ()
    default: bool = False

    def __str__(self) -> str:
        sizes = f"B={self.B} T={self.T} K={self.K} C={self.C} {str(self.dtype)[6:]}"
        return " ".join((sizes, *self.flags))


USUAL = Call(default=True)
TAIL = replace(USUAL, flags=("tail",))
QUICK = (
    USUAL,
    TAIL,
    replace(USUAL, dtype=torch.float64, default=False),
    replace(USUAL, flags=("per-duration",), default=False),
)


def all_calls() -> Iterator[Call]:
    """The usual calls, then those that differ from them in sizes, type and terms."""
    doubles = {"dtype": torch.float64, "default": False}
    usual = [
        USUAL,
        replace(USUAL, B=32, K=500),
        replace(USUAL, B=1, K=1000, T=10_000),
        replace(USUAL, K=500, flags=("start-end", "boundary")),
        replace(USUAL, B=1, T=10_000),
        replace(USUAL, flags=("start-end", "boundary")),
        TAIL,
        replace(USUAL, flags=("start-end", "boundary", "tail")),
    ]
    yield from usual
    yield from (replace(call, **doubles) for call in usual)
    plain = replace(USUAL, default=False)
    for K in (1, 2, 8, 32, 1000):
        for B in (1, 512):
            yield replace(plain, B=B, T=2000, K=K)
    for C in (1, 3, 9, 33, 65, 129, 256):
        yield replace(plain, C=C)
        yield replace(plain, K=8, C=C)
        yield replace(plain, K=8, C=C, **doubles)
    for C, K in ((3, 1), (9, 8), (65, 8), (24, 1000), (256, 100)):
        yield replace(plain, K=K, C=C, flags=("tail",))
    for C, K in ((5, 3), (24, 16), (64, 16)):
        for flags in (("per-duration",), ("start-end", "boundary", "per-duration")):
            yield replace(plain, K=K, C=C, flags=flags)
            yield replace(plain, K=K, C=C, flags=flags, dtype=torch.float64)


def launch_all(call: Call) -> None:
    """Everything that the backend can be asked with these inputs; launches must be recorded."""
    p = _potentials(call)
    backend.forward(p, "log", False, None)
    backend.forward(p, "max", False, None)
    backend.viterbi(p)
    backend.messages(p)
    if not p.per_duration:
        backend.max_marginals(p)
    # a call of ``sample`` would read how many segments there are
    walks = launch_walk.Walks(p, 1000, 1 << 40)
    walks.count()
    walks.table(50)
    for interval in (None, 100):
        value, kept = backend.forward(p, "log", True, interval)
        backend.backward(p, value, kept, torch.ones_like(value))
    wide = _potentials(replace(call, dtype=torch.float64))
    if not wide.per_duration:
        for keep in (False, True):
            value, slope, kept = backend.tangent(wide, wide, keep)
            backend.tangent_backward(wide, wide, kept, value, slope)


def _potentials(call: Call) -> Potentials:
    """Canonical potentials without values or memory: a launch that is recorded reads none."""

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=call.dtype, device="meta")

    B, T, K, C = call.B, call.T, call.K, call.C
    terms = {
        "scores": empty(B, T, C),
        "transition": empty(K, C, C) if "per-duration" in call.flags else empty(C, C),
        "duration_bias": empty(K, C),
    }
    if "start-end" in call.flags:
        terms |= {"start": empty(C), "end": empty(C)}
    if "boundary" in call.flags:
        terms |= {"start_scores": empty(B, T, C), "end_scores": empty(B, T, C)}
    if "tail" in call.flags:
        terms["tail"] = empty(C)
    return Potentials(**terms, lengths=torch.empty(B, dtype=torch.int64, device="meta"))
