"""Times of the entropy, of its gradient, and of training steps with entropy regularisation.

    python benchmarks/entropy_times.py long 1000000,30,4 1000000,100,4   # T,K,C; one sequence
    python benchmarks/entropy_times.py step 8,1000,100,24                # B,T,K,C
    python benchmarks/entropy_times.py step 8,1000,100,24 --reference    # and on the reference

One line a measurement: the median of the repeats, wall and CPU seconds of the process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from torch_semimarkov import entropy, log_partition


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["long", "step"])
    parser.add_argument("sizes", nargs="+", help="T,K,C for long; B,T,K,C for step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--reference", action="store_true", help="the same on the reference too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, {options.repeats} repeats")
    for size in options.sizes:
        numbers = [int(part) for part in size.split(",")]
        terms = potentials(*([1, *numbers] if options.what == "long" else numbers))
        measure = long_times if options.what == "long" else step_times
        measure(size, terms, options.repeats)
        if options.reference and options.what == "step":
            report(size, "step with the entropy of the reference", 1,
                   lambda terms=terms: step(terms, "reference"))  # fmt: skip


def potentials(B: int, T: int, K: int, C: int) -> list[Tensor]:
    """Random float32 scores, transition and duration_bias that require a gradient."""
    torch.manual_seed(0)
    shapes = (B, T, C), (C, C), (K, C)
    return [torch.randn(shape).requires_grad_() for shape in shapes]


def long_times(size: str, terms: list[Tensor], repeats: int) -> None:
    """Value, and value with gradient, of log Z and of the entropy."""
    for name, function in (("log_partition", log_partition), ("entropy", entropy)):

        def value(function: Callable[..., Tensor] = function) -> None:
            with torch.no_grad():
                function(*terms)

        def both(function: Callable[..., Tensor] = function) -> None:
            torch.autograd.grad(function(*terms).sum(), terms)

        report(size, name, repeats, value)
        report(size, f"{name} with its gradient", repeats, both)


def step_times(size: str, terms: list[Tensor], repeats: int) -> None:
    """A step without and with an entropy in the loss."""
    report(size, "plain step", repeats, lambda: step(terms, None))
    report(size, "step with entropy", repeats, lambda: step(terms, "auto"))


def step(terms: list[Tensor], backend: str | None) -> None:
    """Gradients of a loss; with a backend, of the loss and an entropy."""
    loss = log_partition(*terms).mean()
    if backend is not None:
        loss = loss + 0.1 * entropy(*terms, backend=backend).mean()
    torch.autograd.grad(loss, terms)


def report(size: str, name: str, repeats: int, call: Callable[[], None]) -> None:
    """Print the medians of some repeats after one to warm up."""
    call()
    wall, cpu = [], []
    for _ in range(repeats):
        before = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - before[0])
        cpu.append(time.process_time() - before[1])
    print(f"{size:>16}  {name:<40} wall {median(wall):.4f} s  cpu {median(cpu):.4f} s", flush=True)


if __name__ == "__main__":
    main()
