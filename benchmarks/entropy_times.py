"""Times of the entropy, of its gradient, and of training steps with entropy regularisation.

    python benchmarks/entropy_times.py long 1000000,30,4 1000000,100,4   # T,K,C; one sequence
    python benchmarks/entropy_times.py step 8,1000,100,24                # B,T,K,C
    python benchmarks/entropy_times.py step 8,1000,100,24 --reference    # and on the reference

One line a measurement: the median of the repeats, wall and CPU seconds of the process. What is
compared takes turns, after a round to warm up.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from command import whole
from torch import Tensor

from torch_semimarkov import entropy, log_partition


def main() -> None:
    """Measure, and print size after size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["long", "step"])
    parser.add_argument("sizes", nargs="+", help="T,K,C for long; B,T,K,C for step")
    parser.add_argument("--repeats", type=whole, default=5)
    parser.add_argument("--threads", type=whole, default=torch.get_num_threads())
    parser.add_argument("--reference", action="store_true", help="the same on the reference too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, {options.repeats} repeats")
    for size in options.sizes:
        numbers = [int(part) for part in size.split(",")]
        terms = potentials(*([1, *numbers] if options.what == "long" else numbers))
        calls = long_calls(terms) if options.what == "long" else step_calls(terms)
        if options.reference and options.what == "step":
            name = "step with the entropy of the reference"
            calls[name] = lambda terms=terms: step(terms, "reference")
        report(size, calls, options.repeats)


def potentials(B: int, T: int, K: int, C: int) -> list[Tensor]:
    """Random float32 scores, transition and duration_bias that require a gradient."""
    torch.manual_seed(0)
    shapes = (B, T, C), (C, C), (K, C)
    return [torch.randn(shape).requires_grad_() for shape in shapes]


def long_calls(terms: list[Tensor]) -> dict[str, Callable[[], None]]:
    """Value, and value with gradient, of log Z and of the entropy."""
    calls = {}
    for name, function in (("log_partition", log_partition), ("entropy", entropy)):

        def value(function: Callable[..., Tensor] = function) -> None:
            with torch.no_grad():
                function(*terms)

        def both(function: Callable[..., Tensor] = function) -> None:
            torch.autograd.grad(function(*terms).sum(), terms)

        calls |= {name: value, f"{name} with its gradient": both}
    return calls


def step_calls(terms: list[Tensor]) -> dict[str, Callable[[], None]]:
    """A step without and with an entropy in the loss."""
    return {
        "plain step": lambda: step(terms, None),
        "step with entropy": lambda: step(terms, "auto"),
    }


def step(terms: list[Tensor], backend: str | None) -> None:
    """Gradients of a loss; with a backend, of the loss and an entropy."""
    loss = log_partition(*terms).mean()
    if backend is not None:
        loss = loss + 0.1 * entropy(*terms, backend=backend).mean()
    torch.autograd.grad(loss, terms)


def report(size: str, calls: dict[str, Callable[[], None]], repeats: int) -> None:
    """Print the medians of each call, which are measured in turns."""
    seconds = {name: ([], []) for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            before = time.perf_counter(), time.process_time()
            call()
            after = time.perf_counter(), time.process_time()
            if turn > 0:
                for kind in (0, 1):
                    seconds[name][kind].append(after[kind] - before[kind])
    for name, (wall, cpu) in seconds.items():
        print(f"{size:>16}  {name:<40} wall {median(wall):.4f} s  cpu {median(cpu):.4f} s")


if __name__ == "__main__":
    main()
