"""``torch-semimarkov demo``."""

from __future__ import annotations

from pathlib import Path

import click

from torch_semimarkov.cli.options import PATH


@click.command(short_help="Train, decode and draw data that it makes itself.")
@click.option(
    "--output", "-o", type=PATH, default="runs/demo", show_default=True, help="Folder to make."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed.")
@click.option("--overwrite", is_flag=True, help="Replace a demo that is in the output folder.")
@click.option("--quick", is_flag=True, help="A few seconds, and too little training to judge by.")
def command(output: Path, seed: int, *, overwrite: bool, quick: bool) -> None:
    """Train, decode and draw a data set that the command makes itself; half a minute on two cores.

    The data have four labels in two pairs that look almost alike. Where the second label of a pair
    takes over can hardly be seen: it is told by how long each label lasts, which is known.

    Three models are trained on the same features with the same encoder, which sees a few positions
    around each: a semi-CRF, which knows durations; a linear CRF (K = 1), which knows which label
    follows which; and the best label of each position on its own. Their scores on sequences that
    they have not seen are printed, and the durations beside the known ones.

    \b
    The output folder:
      test/          the unseen sequences, as NPZ     metrics.json    every number
      semi-crf/      the model                        sequence.png    one sequence
      segments/      its segments, as TSV             durations.png   known and learned durations
    """
    from torch_semimarkov.cli.run_demo import run_demo

    run_demo(output, seed, overwrite, quick)
