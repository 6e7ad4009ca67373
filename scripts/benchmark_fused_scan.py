#!/usr/bin/env python
"""Times of fused_associative_scan beside torch.cumsum and a copy of the same tensor.

Every size is checked against torch.cumsum in float64 before anything is timed; the exit status is 1
if a result is wrong. The three take turns, so that a busy moment of the machine hits all of them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from torch_semimarkov import __version__
from torch_semimarkov.scan import explain, fused_associative_scan

DIRECTIONS = ("forward", "reverse", "backward")
# Of the sum of magnitudes, which bounds what rounding can do.
ALLOWED = 1e-6
# Where the C library takes memory for results from, as options of mallopt: always from what the
# process holds and never gives back, or always new pages from the system. Left alone it is a mix.
MEMORY = {"mixed": {}, "reused": {"M_MMAP_MAX": 0, "M_TRIM_THRESHOLD": 1 << 30},
          "new": {"M_MMAP_THRESHOLD": 1 << 17}}  # fmt: skip
OPTIONS = {"M_TRIM_THRESHOLD": -1, "M_MMAP_THRESHOLD": -3, "M_MMAP_MAX": -4}


class Size(NamedTuple):
    """A tensor (B, T, D) and the dimension that is scanned."""

    B: int
    T: int
    D: int
    dim: int


def sizes(quick: bool) -> list[Size]:
    """The table: T at (4, T, 512), D at (4, 2048, D), B at (B, 2048, 512); dims 1 and last."""
    shapes = [(4, T, 512) for T in (512, 1024, 2048, 4096, 8192)]
    shapes += [(4, 2048, D) for D in (256, 512, 1024)]
    shapes += [(B, 2048, 512) for B in (1, 2, 4, 8)]
    shapes = [(2, 128, 64)] if quick else list(dict.fromkeys(shapes))
    return [Size(*shape, dim) for shape in shapes for dim in (1, 2)]


def parse() -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows and what they ran on here")
    parser.add_argument("--plot", type=Path, help="write a picture of the speedups here")
    parser.add_argument("--repeats", type=int, default=15, help="turns of each; default 15")
    parser.add_argument("--threads", type=int, help="threads on the CPU; default torch's own")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default cpu")
    parser.add_argument("--backend", help="pin the kernel; default the automatic choice")
    parser.add_argument(
        "--cpu-time", action="store_true", help="one thread's time on the processor: a busy machine"
    )
    parser.add_argument(
        "--memory", choices=MEMORY, default="mixed", help="of results on the CPU; default mixed"
    )
    parser.add_argument("--quick", action="store_true", help="one small size, to try the script")
    options = parser.parse_args()
    if options.repeats < 1 or (options.threads is not None and options.threads < 1):
        parser.error("--repeats and --threads must be at least 1")
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {options.device} needs a GPU, and torch finds none")
    if options.cpu_time and (options.device != "cpu" or options.threads not in (None, 1)):
        parser.error("--cpu-time is of one thread on the CPU")
    options.threads = 1 if options.cpu_time else options.threads
    return options


def take_memory(way: str) -> None:
    """Have malloc take the memory of results one way."""
    for name, value in MEMORY[way].items():
        try:
            done = ctypes.CDLL(None).mallopt(OPTIONS[name], value)
        except (OSError, TypeError, AttributeError):
            done = 0
        if not done:
            raise SystemExit(f"--memory {way} needs the mallopt of glibc, which is not here")


def calls(size: Size, direction: str, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """What takes turns: our scan, torch's, and a copy."""
    x = torch.randn(size[:3], generator=torch.manual_seed(0)).to(options.device)
    dim = size.dim

    def ours(tensor: torch.Tensor, reverse: bool = False) -> torch.Tensor:
        return fused_associative_scan(tensor, dim, reverse, backend=options.backend)

    found = {"copy": x.clone}
    if direction == "forward":
        return found | {"ours": lambda: ours(x), "torch": lambda: x.cumsum(dim)}
    if direction == "reverse":
        flipped = lambda: x.flip(dim).cumsum(dim).flip(dim)  # noqa: E731
        return found | {"ours": lambda: ours(x, True), "torch": flipped}
    leaf, weight = x.clone().requires_grad_(), torch.randn_like(x)

    def gradient(y: torch.Tensor) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(y, leaf, weight, retain_graph=True)

    return found | {"ours": gradient(ours(leaf)), "torch": gradient(leaf.cumsum(dim))}


def error_of(size: Size, direction: str, options: argparse.Namespace) -> float:
    """Largest difference from float64, relative to the sum of magnitudes so far."""
    value = calls(size, direction, options)["ours"]()
    x = torch.randn(size[:3], generator=torch.manual_seed(0)).to(options.device)
    if direction == "backward":
        (value,) = value
        # The weights that ``calls`` drew after the input.
        x = torch.randn_like(x)
    wide = x.double()
    if direction != "forward":
        wide = wide.flip(size.dim)
    truth, magnitude = wide.cumsum(size.dim), wide.abs().cumsum(size.dim)
    if direction != "forward":
        truth, magnitude = truth.flip(size.dim), magnitude.flip(size.dim)
    return float(((value.double() - truth).abs() / magnitude).max())


def milliseconds(run: Callable[[], Any], options: argparse.Namespace) -> float:
    """Time of one call, with what it launched."""
    clock = time.thread_time if options.cpu_time else time.perf_counter
    start = clock()
    run()
    if options.device != "cpu":
        torch.cuda.synchronize()
    return 1e3 * (clock() - start)


def row_of(size: Size, direction: str, options: argparse.Namespace) -> dict[str, Any]:
    """Medians and quartiles of one size and direction, and the speedup over torch."""
    runs = calls(size, direction, options)
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(options.repeats):
        # Each goes first in its turn: what is freed before a call decides how fast memory is got.
        for name in names[turn % 3 :] + names[: turn % 3]:
            times[name].append(milliseconds(runs[name], options))
    row: dict[str, Any] = {**size._asdict(), "direction": direction}
    x = torch.empty(size[:3], device=options.device)
    row["backend"] = explain(x, size.dim, direction != "forward", backend=options.backend).chosen
    for name, values in times.items():
        low, middle, high = (
            statistics.quantiles(values, n=4) if len(values) > 1 else 3 * [values[0]]
        )
        row |= {f"{name}_ms": middle, f"{name}_low_ms": low, f"{name}_high_ms": high}
    row["speedup"] = row["torch_ms"] / row["ours_ms"]
    row["of_copy_bandwidth"] = row["copy_ms"] / row["ours_ms"]
    return row


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """What the rows were measured on."""
    device = platform.processor() or platform.machine()
    if options.device != "cpu":
        device = torch.cuda.get_device_name()
    return {
        "torch_semimarkov": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device,
        "threads": torch.get_num_threads(),
        "repeats": options.repeats,
        "memory": options.memory,
        "clock": "time of one thread on the processor" if options.cpu_time else "wall",
    }


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The rows as a table."""
    yield "   B     T     D  dim  direction  backend    ours ms  torch ms   copy ms  speedup"
    for row in rows:
        yield (
            f"{row['B']:4} {row['T']:5} {row['D']:5}  {row['dim']:3}  {row['direction']:<9}  "
            f"{row['backend']:<9} {row['ours_ms']:8.3f}  {row['torch_ms']:8.3f}  "
            f"{row['copy_ms']:8.3f}  {row['speedup']:6.2f}x"
        )


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A picture of the speedups, a bar for each row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [f"({r['B']}, {r['T']}, {r['D']}) dim {r['dim']} {r['direction']}" for r in rows]
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.22 * len(rows)), layout="constrained")
    axes.barh(names, [row["speedup"] for row in rows])
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel("times torch.cumsum")
    figure.savefig(path)


def main() -> int:
    """Check, time, print, and write what was asked for."""
    options = parse()
    take_memory(options.memory)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    table = [(size, way) for size in sizes(options.quick) for way in DIRECTIONS]
    for size, way in tqdm(table, desc="check", disable=None):
        error = error_of(size, way, options)
        if not error <= ALLOWED:
            print(f"{size} {way} is wrong by {error:.1e} of the magnitudes", file=sys.stderr)
            return 1
    rows = [row_of(size, way, options) for size, way in tqdm(table, desc="time", disable=None)]
    print("\n".join(lines(rows)))
    if options.json:
        document = {"machine": machine(options), "rows": rows}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.plot:
        draw(rows, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
