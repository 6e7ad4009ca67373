"""What a GPU can do at best, measured once, and how long a size takes at that pace.

Three ceilings: bytes moved to and from memory, exponentials, and multiply-adds in float32. A size
needs at least its inputs (and gradients) moved once, and the terms of its recurrences. What these
leave out is that a position waits for the one before it: at a small batch that is what a call
takes, and its share of the ceiling is small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from workload import Size

COPIED_BYTES = 2**30
STEPS, LANES, PROGRAMS, WARPS = 4096, 1024, 4096, 4
REPEATS = 5


class Rates(NamedTuple):
    """A second's work: bytes, exponentials and multiply-adds."""

    bytes: float
    exponentials: float
    multiply_adds: float


# What is counted, in words, for the column ``ceiling``.
WORDS = {
    "bytes": "bytes of inputs and gradients over measured copy bandwidth",
    "exponentials": "exponentials over their measured rate",
    "multiply_adds": "float32 multiply-adds over their measured rate",
}


def work_of(size: Size, phase: str) -> Rates:
    """The least work of a size, float32, in logs: what the recurrences name, each thing once.

    Forward: at each position an exponential and a multiply-add for every pair of duration and
    label and for every pair of labels. The backward takes the same exponentials again, and has
    two multiply-adds for each: the share of a segment's start, and the expected count.
    """
    B, T, K, C = size
    terms = T * B * C * (min(K, T) + C)
    inputs = 4 * (B * T * C + C * C + K * C + C)
    if phase == "forward+backward":
        return Rates(2 * inputs, 2 * terms, 3 * terms)
    if phase == "viterbi":
        return Rates(inputs, 0, terms)
    return Rates(inputs, terms, terms)


def bound_of(size: Size, phase: str, rates: Rates) -> tuple[float, str]:
    """The least seconds that a size can take, and which ceiling says so."""
    seconds = {
        name: work / rate
        for name, work, rate in zip(Rates._fields, work_of(size, phase), rates, strict=True)
    }
    name = max(seconds, key=lambda key: seconds[key])
    return seconds[name], WORDS[name]


def measure_rates(clock: Callable[..., tuple[float, Any]], device: str) -> Rates:
    """The ceilings of a device; takes less than a second after its kernels are compiled."""
    kinds = Rates._fields[1:]
    return Rates(_copied(clock, device), *(_in_registers(clock, device, kind) for kind in kinds))


def _copied(clock: Callable[..., tuple[float, Any]], device: str) -> float:
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / _best(clock, lambda: target.copy_(source))


def _in_registers(clock: Callable[..., tuple[float, Any]], device: str, kind: str) -> float:
    from gpu_rate_kernels import KERNELS

    out = torch.empty(PROGRAMS * LANES, device=device)

    def run() -> None:
        KERNELS[kind][(PROGRAMS,)](out, STEPS, LANES, num_warps=WARPS)

    return PROGRAMS * LANES * STEPS / _best(clock, run)


def _best(clock: Callable[..., tuple[float, Any]], run: Callable[[], Any]) -> float:
    run()
    return min(clock(run)[0] for _ in range(REPEATS))
