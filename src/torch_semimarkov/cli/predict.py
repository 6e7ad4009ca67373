"""``torch-semimarkov predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from torch_semimarkov.cli.options import PATH, decoding_option, settings


@click.command()
@click.argument("model", type=PATH)
@click.argument("inputs", type=PATH, nargs=-1, required=True, metavar="INPUT...")
@click.option("--output", "-o", type=PATH, required=True, help="Folder for the results.")
@click.option(
    "--format", "kind", type=click.Choice(("tsv", "json", "wfdb")), default="tsv",
    show_default=True, help="Format of the segments.",
)  # fmt: skip
@click.option("--posteriors", is_flag=True, help="Also write <name>.posteriors.npz.")
@decoding_option
@click.option(
    "--merged", type=PATH, help="Also write the segments of all inputs to one file, in their order."
)
@click.option("--overwrite", is_flag=True, help="Write results that are there already once more.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=8, show_default=True,
    help="Files decoded at a time; more is faster and takes more memory.",
)  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@settings("channels", "label_column", "sample_rate", defaults=False)
def command(
    model: Path,
    inputs: tuple[Path, ...],
    *,
    output: Path,
    kind: str,
    posteriors: bool,
    decoding: str,
    merged: Path | None,
    overwrite: bool,
    batch_size: int,
    device: str,
    quiet: bool,
    **given: Any,
) -> None:
    """Segment files with a trained model.

    MODEL is a folder made by "train". INPUT are files or folders in any format that "train" reads;
    their labels, if any, are not used. Only a few files are in memory at a time.

    Each input gives one file in the output folder: <name>.segments.tsv, <name>.segments.json, or
    (wfdb) annotations <name>.pred. Results that are there already are left as they are, so a
    stopped call goes on where it was; --overwrite makes them anew.

    Under torchrun the processes share the inputs: torchrun --nproc-per-node 2 --no-python
    torch-semimarkov predict ...

    With --posteriors the segments also carry a score (the mean posterior of the label over the
    segment), and <name>.posteriors.npz holds labels (T, C), boundaries (T,), which is the posterior
    of a segment's start, label_names and sample_rate.

    \b
    Examples:
      torch-semimarkov predict runs/first recordings/ -o segments/
      torch-semimarkov predict runs/ecg ludb/data/1.hea -o out/ --format wfdb --posteriors
    """
    from torch_semimarkov.cli.run_predict import PredictCall, run_predict

    run_predict(
        PredictCall(
            model,
            inputs,
            output,
            kind,
            posteriors,
            decoding,
            overwrite,
            batch_size,
            device,
            quiet,
            given,
            merged,
        )
    )
