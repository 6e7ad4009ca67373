"""What known boundaries cost: calls with ``boundaries`` as multiples of the same call without.

    python benchmarks/forced_boundaries.py

Times are of the processor, on one thread, the least of some turns. Before anything is timed, the
marginals of each forced boundary are looked at: they are 1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from command import whole
from torch import Tensor

from torch_semimarkov import constrain, log_partition, marginals, viterbi

SIZES = ((8, 1000, 30, 12), (8, 1000, 100, 24))
# Positions from one forced boundary to the next.
STEPS = (1000, 100, 50, 15)
SHARE = 0.3
CALLS: dict[str, Callable[..., Any]] = {
    "log_partition": log_partition,
    "marginals": marginals,
    "viterbi": viterbi,
}


def models_of(size: Sequence[int], steps: Sequence[int]) -> dict[str, dict[str, Tensor]]:
    """Arguments of a call by what is known of the boundaries; nothing is first."""
    B, T, K, C = size
    draw = torch.Generator().manual_seed(0)
    plain = {
        "scores": torch.randn(B, T, C, generator=draw),
        "transition": 0.3 * torch.randn(C, C, generator=draw),
        "duration_bias": 0.3 * torch.randn(K, C, generator=draw),
    }
    found = {"plain": plain}
    for step in steps:
        known = torch.full((B, T), -1)
        known[:, step // 2 :: step] = 1
        found[f"one in {step}"] = _restricted(plain, known)
    known = torch.where(torch.rand(B, T, generator=draw) < SHARE, 0, -1)
    known[:, 0] = -1
    found["forbidden"] = _restricted(plain, known)
    return found


def _restricted(plain: dict[str, Tensor], known: Tensor) -> dict[str, Tensor]:
    terms = constrain(**plain, boundaries=known).terms
    terms = {name: x for name, x in terms.items() if isinstance(x, Tensor)}
    starts = marginals(**terms).boundaries
    if not torch.allclose(starts[known >= 0], known[known >= 0].float(), rtol=0, atol=1e-4):
        raise SystemExit("a boundary that is known has another probability than 0 or 1")
    return terms


def multiples(call: Callable[..., Any], models: Sequence[dict], turns: int) -> list[float]:
    """Milliseconds of the first model, then the others as multiples of it."""
    least = [float("inf")] * len(models)
    for turn in range(turns + 1):
        for i, model in enumerate(models):
            before = time.thread_time()
            call(**model, validate_args=False)
            if turn > 0:  # the first compiles
                least[i] = min(least[i], time.thread_time() - before)
    return [1000 * least[0], *(x / least[0] for x in least[1:])]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=whole, default=5)
    turns = parser.parse_args(arguments).turns
    torch.set_num_threads(1)
    for size in SIZES:
        models = models_of(size, STEPS)
        print("B, T, K, C =", *size)
        print(f"{'':14}{'ms':>10}", *(f"{name:>12}" for name in list(models)[1:]))
        for name, call in CALLS.items():
            first, *others = multiples(call, list(models.values()), turns)
            print(f"{name:14}{first:10.2f}", *(f"{x:12.1f}" for x in others))


if __name__ == "__main__":
    main()
