"""``torch-semimarkov benchmark``."""

from __future__ import annotations

from pathlib import Path

import click

from torch_semimarkov.cli.options import PATH


@click.command(short_help="Times of the backends that run here, in under a minute.")
@click.option(
    "--size", "sizes", multiple=True, metavar="B,T,K,C",
    help="Sequences, positions, longest duration and labels; may be given several times.  "
    "[default: five small ones]",
)  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:1, ...")
@click.option(
    "--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="Times for each."
)
@click.option("--output", "-o", type=PATH, help="CSV to write the rows to.")
def command(sizes: tuple[str, ...], device: str, repeats: int, output: Path | None) -> None:
    """Measure every backend that runs here at a few sizes, and print a table.

    Each backend computes the log partition (forward), and that with its gradients (both). Values
    and gradients are compared with the reference in float64 first: a backend that is off gets no
    time. The backends take turns, and the table shows medians with quartiles. "times" is how many
    times as fast as the reference a backend is.

    The first run on a machine may compile kernels for half a minute more.

    \b
    Examples:
      torch-semimarkov benchmark
      torch-semimarkov benchmark --size 1,10000,100,24 --size 8,1000,100,24 -o rows.csv
    """
    from torch_semimarkov.cli.run_benchmark import run_benchmark

    run_benchmark(sizes, device, repeats, output)
