"""What ``benchmark`` does: compare with the reference in float64, then time in turns."""

from __future__ import annotations

import csv
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from tqdm import tqdm

from torch_semimarkov import __version__
from torch_semimarkov.cli.timing import Clock, Size, interleave, parse_size, summarize, timed
from torch_semimarkov.data import atomic_write
from torch_semimarkov.dispatch import available_backends
from torch_semimarkov.errors import ConfigError, FileFormatError
from torch_semimarkov.functional import explain, log_partition
from torch_semimarkov.metrics import format_table

SIZES = ((8, 128, 8, 4), (1, 256, 16, 8), (8, 256, 16, 8), (1, 256, 64, 16), (2, 512, 32, 8))
PHASES = ("forward", "both")
REFERENCE = "reference"
# Relative error of a value, and of a gradient relative to its largest entry or 1.
VALUE, GRADIENT = 1e-6, 1e-4
COLUMNS = {
    "B": "B", "T": "T", "K": "K", "C": "C", "phase": "phase", "backend": "backend",
    "median_ms": "median ms", "q1_ms": "q1", "q3_ms": "q3", "times": "times", "status": "status",
}  # fmt: skip
# Columns of the CSV that the table has no room for.
CSV_ONLY = (
    "repeats", "value_error", "gradient_error", "reason", "dtype", "device", "threads", "torch",
    "torch_semimarkov",
)  # fmt: skip
Row = dict[str, Any]


def run_benchmark(sizes: tuple[str, ...], device: str, repeats: int, output: Path | None) -> None:
    """Measure, print the table, and write the CSV if one is wanted.

    Raises:
        ConfigError: a size or a device that is none.
        FileFormatError: the CSV cannot be written.
    """
    wanted = [parse_size(text) for text in sizes] or [Size(*size) for size in SIZES]
    place = checked_device(device)
    if output is not None and (output.is_dir() or not output.absolute().parent.is_dir()):
        raise FileFormatError(output, "must be the name of a file in a folder that exists")
    steps = [(size, phase) for size in wanted for phase in PHASES]
    rows: list[Row] = []
    with tqdm(total=len(steps), disable=None, leave=False, file=sys.stderr) as bar:
        for size, phase in steps:
            bar.set_description(f"{size} {phase}")
            rows += measure(size, phase, place, repeats)
            bar.update()
    click.echo(_heading(place))
    click.echo(format_table([r for r in rows if r["status"] != "unavailable"], COLUMNS))
    reasons = dict.fromkeys(f"{r['backend']}: {r['reason']}" for r in rows if r["reason"])
    for reason in reasons:
        click.echo(reason)
    if output is not None:
        _write(output, rows, place)
        click.echo(f"rows: {output}")


def checked_device(text: str) -> torch.device:
    """The CPU or CUDA device that ``--device`` names.

    Raises:
        ConfigError: it is neither, or is not here.
    """
    try:
        place = torch.device(text)
    except RuntimeError:
        raise ConfigError(f"--device must be cpu, cuda or cuda:N, got {text!r}") from None
    if place.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device must be cpu, cuda or cuda:N, got {text!r}")
    count = torch.cuda.device_count() if place.type == "cuda" else 1
    if place.type == "cuda" and (place.index or 0) >= count:
        raise ConfigError(f"--device {text}: there are {count} CUDA devices here; use cpu")
    return place


def _heading(place: torch.device) -> str:
    return (
        f"log partition (forward) and with its gradients (both), float32, on {place} "
        f"({_device_name(place)}), {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, torch_semimarkov {__version__}"
    )


def _device_name(place: torch.device) -> str:
    """What was measured: the card, or the processor."""
    if place.type == "cuda":
        return torch.cuda.get_device_name(place)
    return platform.processor() or platform.machine()


def draw(size: Size, place: torch.device) -> dict[str, Tensor]:
    """Random potentials of a size, the same in every run."""
    B, T, K, C = size
    generator = torch.Generator().manual_seed(0)
    shapes = {"scores": (B, T, C), "transition": (C, C), "duration_bias": (K, C)}
    return {
        name: torch.randn(shape, generator=generator).to(place) for name, shape in shapes.items()
    }


def call_of(terms: dict[str, Tensor], backend: str, phase: str) -> Callable[[], list[Tensor]]:
    """A function that gives the values, and the gradients if the phase has them."""
    leaves = {name: x.detach().requires_grad_(phase == "both") for name, x in terms.items()}

    def run() -> list[Tensor]:
        value = log_partition(**leaves, backend=backend)
        if phase == "forward":
            return [value]
        return [value.detach(), *torch.autograd.grad(value.sum(), list(leaves.values()))]

    return run


def measure(size: Size, phase: str, place: torch.device, repeats: int) -> list[Row]:
    """A row for each backend: compared with the reference in float64, then timed in turns."""
    terms = draw(size, place)
    wide = {name: x.cpu().double() for name, x in terms.items()}
    right = call_of(wide, REFERENCE, phase)()
    rows: dict[str, Row] = {}
    runs: dict[str, Callable[[], Any]] = {}
    for backend in available_backends():
        row = {**size._asdict(), "phase": phase, "backend": backend, "status": "ok", "reason": ""}
        reasons = explain(**terms, backend=backend).reasons[backend]
        if reasons:
            rows[backend] = {**row, "status": "unavailable", "reason": "; ".join(reasons)}
            continue
        run = call_of(terms, backend, phase)
        rows[backend] = {**row, **_compared(run(), right)}
        if rows[backend]["status"] == "ok":
            runs[backend] = run
    seconds = interleave(runs, dict.fromkeys(runs, repeats), _clock(place))
    for backend, taken in seconds.items():
        median, q1, q3, count = summarize(taken)
        rows[backend].update(median_ms=median, q1_ms=q1, q3_ms=q3, repeats=count)
    base = rows.get(REFERENCE, {}).get("median_ms")
    for row in rows.values():
        if base and "median_ms" in row:
            row["times"] = base / row["median_ms"]
    return list(rows.values())


def _clock(place: torch.device) -> Clock:
    """Waits for a GPU to finish before it looks at the clock."""

    def clock(run: Callable[[], Any]) -> tuple[float, Any]:
        torch.cuda.synchronize(place)

        def finished() -> Any:
            result = run()
            torch.cuda.synchronize(place)
            return result

        return timed(finished)

    return clock if place.type == "cuda" else timed


def _compared(found: list[Tensor], right: list[Tensor]) -> Row:
    """Errors, and whether they are small enough."""
    value = float(((found[0].cpu().double() - right[0]) / right[0]).abs().max())
    pairs = zip(found[1:], right[1:], strict=True)
    gradients = [
        float((g.cpu().double() - r).abs().max() / r.abs().max().clamp(min=1)) for g, r in pairs
    ]
    gradient = max(gradients, default=0.0)
    row: Row = {"value_error": value, "gradient_error": gradient if gradients else None}
    if value <= VALUE and gradient <= GRADIENT:
        return row
    reason = f"off by {value:.1e} in the value, {gradient:.1e} in a gradient"
    return {**row, "status": "wrong", "reason": reason}


def _write(path: Path, rows: list[Row], place: torch.device) -> None:
    facts = {
        "dtype": "float32",
        "device": _device_name(place),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torch_semimarkov": __version__,
    }
    with atomic_write(path) as file:
        writer = csv.DictWriter(
            file, (*COLUMNS, *CSV_ONLY), extrasaction="ignore", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows({**facts, **row} for row in rows)
