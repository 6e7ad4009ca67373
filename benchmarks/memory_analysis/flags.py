"""The flags of benchmark_memory_analysis.py, and what they come to."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from command import names_of, size_of, whole

from memory_analysis.memory import DTYPES
from memory_analysis.plan import PHASES, SEMIRINGS
from memory_analysis.runner import Settings
from memory_analysis.ways import BACKENDS, PEER_NAMES
from torch_semimarkov.cli.run_benchmark import checked_device as cuda_or_cpu

DEFAULT_BACKENDS = {
    "cpu": ("linear_scan_streaming", "cpu", "exact"),
    "cuda": ("triton", "triton_pytorch", "linear_scan_streaming"),
}


def wholes(text: str) -> list[int]:
    """Whole numbers of at least 1 between commas."""
    return list(dict.fromkeys(whole(part.strip()) for part in text.split(",")))


def above_zero(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def seed_of(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def peers_of(text: str) -> list[str]:
    """Names of peers between commas, or "all"."""
    return list(PEER_NAMES) if text == "all" else names_of(text, PEER_NAMES)


def add_flags(made: argparse.ArgumentParser) -> None:
    """Every flag, in groups."""
    _add_sizes(made.add_argument)
    _add_measuring(made.add_argument)
    _add_compiling(made.add_argument)


def _some(known: Sequence[str]):
    return lambda text: names_of(text, known)


def _add_sizes(add) -> None:
    add("--T", type=wholes, default=[128, 256, 512, 1024], help="positions (128,256,512,1024)")
    add("--K", type=wholes, default=[4, 8, 12, 16, 20, 24], help="durations (4,8,12,16,20,24)")
    add("--C", type=wholes, default=[3, 6, 9, 12], help="labels (3,6,9,12)")
    add("--B", type=wholes, default=[4], help="sequences in a batch (4)")
    add(
        "--configs", nargs="+", type=size_of, metavar="B,T,K,C",
        help="these sizes in the place of the grid",
    )  # fmt: skip
    add("--dtype", choices=tuple(DTYPES), default="float32", help="of the inputs (float32)")
    add("--seed", type=seed_of, default=0, help="of the inputs and of the sampling (0)")


def _add_measuring(add) -> None:
    add("--device", default="cpu", help="cpu, cuda or cuda:N (cpu)")
    add("--repeats", type=whole, default=5, help="times for each call (5); a slow one gets fewer")
    add("--phases", type=_some(PHASES), default=["both"], help=f"some of {','.join(PHASES)} (both)")
    add(
        "--semirings",
        type=_some(SEMIRINGS),
        default=["Log"],
        help=f"some of {','.join(SEMIRINGS)} (Log)",
    )
    defaults = "; ".join(f"{','.join(names)} on {kind}" for kind, names in DEFAULT_BACKENDS.items())
    add("--backends", type=_some(BACKENDS), help=f"some of {','.join(BACKENDS)} ({defaults})")
    add(
        "--peers",
        type=peers_of,
        default=[],
        help=f"all, or some of {','.join(PEER_NAMES)}, beside the backends",
    )
    add(
        "--verify", action=argparse.BooleanOptionalAction, default=True,
        help="compare with the oracle in float64 before anything is timed (yes)",
    )  # fmt: skip
    add("--time-limit", type=above_zero, default=60.0, help="seconds that one call may take (60)")
    add("--output-dir", type=Path, default=Path("results"), help="folder of the files (results)")
    add(
        "--resume", action="store_true", help="keep the rows of the folder, measure what is missing"
    )


def _add_compiling(add) -> None:
    add(
        "--use-compile", action=argparse.BooleanOptionalAction, default=True,
        help="triton trains through torch.compile (yes), else with checkpoints",
    )  # fmt: skip
    add(
        "--compile-friendly",
        action="store_true",
        help="a few sizes of each shape that is compiled once",
    )
    add("--max-canonical-shapes", type=whole, default=8, help="shapes at most (8)")
    add("--samples-per-shape", type=whole, default=2, help="sizes measured of each shape (2)")
    add("--skip-precompile", action="store_true", help="the kernels are in the folder already")
    add(
        "--compile-cache-dir",
        type=Path,
        help="folder of the kernels (OUTPUT_DIR/.torch_compile_cache)",
    )
    add(
        "--compile-cache-size-gb",
        type=above_zero,
        default=10.0,
        help="its size at most, in GiB (10)",
    )
    add("--compile-threads", type=whole, help="threads that compile (all)")


def checked_device(text: str) -> str:
    """The name of a device that is here, which becomes the current one.

    Raises:
        ConfigError: it is not, or is neither a CPU nor a CUDA device.
    """
    device = cuda_or_cpu(text)
    if device.type == "cpu":
        return "cpu"
    torch.cuda.set_device(device.index or 0)
    return f"cuda:{device.index or 0}"


def settings_of(args: argparse.Namespace) -> Settings:
    """What holds for every configuration."""
    kind = args.device.split(":")[0]
    args.backends = args.backends or list(DEFAULT_BACKENDS[kind])
    backends = tuple(dict.fromkeys([*args.backends, *args.peers]))
    return Settings(
        backends, tuple(args.phases), args.repeats, args.device, args.dtype, args.seed, args.verify,
        args.use_compile, args.time_limit,
    )  # fmt: skip
