"""``torch-semimarkov plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from torch_semimarkov.cli.options import PATH, READING, settings


@click.command()
@click.argument("file", type=PATH)
@click.option(
    "--output", "-o", type=PATH, required=True, help="Picture to write: .png, .svg or .pdf."
)
@click.option("--model", type=PATH, help="Model folder: decode FILE and draw the posteriors.")
@click.option("--segments", type=PATH, help="Table of predicted segments, instead of a model.")
@click.option("--from", "first", type=click.FloatRange(min=0), help="Start, in s or positions.")
@click.option("--to", "last", type=click.FloatRange(min=0), help="End, in s or positions.")
@click.option("--title", help="Heading.  [default: the name of the record]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@settings(*READING, defaults=False)
def command(
    file: Path,
    *,
    output: Path,
    model: Path | None,
    segments: Path | None,
    first: float | None,
    last: float | None,
    title: str | None,
    device: str,
    **given: Any,
) -> None:
    """Draw one sequence, or the loss of a training run.

    FILE is one record in any format that "train" reads: its signal and, where it is labelled, its
    true segments are drawn; with --model also the decoded segments and the posteriors of labels and
    boundaries; with --segments the segments of a table.

    If FILE is an output folder of "train", its losses are drawn.

    --from and --to are seconds where the record has a sample rate, else positions.

    \b
    Examples:
      torch-semimarkov plot recordings/a.npz --model runs/first -o a.png
      torch-semimarkov plot a.csv --segments segments/a.segments.tsv --from 2 --to 8 -o a.svg
      torch-semimarkov plot runs/first -o losses.pdf
    """
    from torch_semimarkov.cli.run_plot import PlotCall, run_plot

    run_plot(PlotCall(file, output, model, segments, (first, last), title, device, given))
