"""What the first call costs: with nothing compiled yet, and in later processes.

    python benchmarks/first_call.py --warm 5

Each measurement is a process of its own on one thread, with torch imported before the clock starts;
numba is imported inside the first call. The cold one has an empty cache folder, which the warm ones
then find filled. `cpu` is processor time, which says more than `wall` where others compute too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from torch_semimarkov import log_partition, viterbi

ENTRIES = ("forward", "backward", "viterbi", "abreast")
Times = dict[str, tuple[float, float]]


def timed(run: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """The result, and seconds by the clock on the wall and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, (time.perf_counter() - wall, time.process_time() - cpu)


def first_calls(dtype: torch.dtype, per_duration: bool) -> Times:
    """Seconds of the first call of each kernel in this process.

    "abreast" is a training step of a batch, whose sequences lie side by side.

    Args:
        dtype: of the inputs; each type has its kernels.
        per_duration: with a (K, C, C) transition, which has others.
    """
    B, T, K, C = 2, 64, 8, 5
    torch.manual_seed(0)
    shapes = ((B, T, C), (K, C, C) if per_duration else (C, C), (K, C))
    leaves = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    value, forward = timed(lambda: log_partition(*leaves, backend="cpu"))
    _, backward = timed(value.sum().backward)
    _, decoding = timed(lambda: viterbi(*(x.detach() for x in leaves), backend="cpu"))
    leaves[0] = torch.randn(8, T, C, dtype=dtype, requires_grad=True)
    _, abreast = timed(lambda: log_partition(*leaves, backend="cpu").sum().backward())
    return dict(zip(ENTRIES, (forward, backward, decoding, abreast), strict=True))


def measure(folder: str, options: list[str]) -> tuple[Times, list[str]]:
    """The same in a new process with the cache in ``folder``, and what it logged."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": folder, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, __file__, "--here", *options]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout), done.stderr.splitlines()


def report(times: Times) -> str:
    """One line: seconds of each entry, by the wall and of the processor, and in all."""
    walls, cpus = zip(*times.values(), strict=True)
    entries = {**times, "in all": (sum(walls), sum(cpus))}
    return "   ".join(f"{name} {wall:.3f} ({cpu:.3f})" for name, (wall, cpu) in entries.items())


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds of the first call, wall (cpu).")
    parser.add_argument("--warm", type=int, default=5, help="processes with a warm cache")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--per-duration", action="store_true", help="(K, C, C) transitions")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        print(json.dumps(first_calls(getattr(torch, args.dtype), args.per_duration)))
        return
    options = ["--dtype", args.dtype, *(["--per-duration"] if args.per_duration else [])]
    with tempfile.TemporaryDirectory() as folder:
        cold, log = measure(folder, options)
        print("seconds by the wall (and of the processor)")
        print(f"cold   {report(cold)}   lines of log: {len(log)}")
        warm = [measure(folder, options)[0] for _ in range(args.warm)]
    for times in warm:
        print(f"warm   {report(times)}")
    if warm:
        wall, cpu = (median(times["forward"][i] for times in warm) for i in (0, 1))
        print(f"warm   first forward, median of {len(warm)}: {wall:.3f} ({cpu:.3f})")


if __name__ == "__main__":
    main()
