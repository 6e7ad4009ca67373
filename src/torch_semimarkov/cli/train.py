"""``torch-semimarkov train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from torch_semimarkov.cli.options import PATH, READING, read_options, settings


@click.command()
@click.argument("data", type=PATH)
@click.option("--output", "-o", type=PATH, required=True, help="Folder for the model and its log.")
@click.option(
    "--validation", type=PATH, help="Labelled data to stop by, instead of a share of DATA."
)
@click.option("--config", type=PATH, help="YAML or TOML file of settings; flags win over it.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in the output folder.")
@click.option("--overwrite", is_flag=True, help="Replace a run that is in the output folder.")
@click.option("--quiet", is_flag=True, help="No progress bar and no line for each epoch.")
@settings()
def command(
    data: Path,
    output: Path,
    *,
    validation: Path | None,
    config: Path | None,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Train a model on labelled data.

    DATA is a file or a folder: NPZ, CSV or TSV (one row a position, a column "label" or a table of
    segments beside the file), or WFDB records with annotations (--annotator).

    The longest duration K is taken from the data's quantiles unless --max-duration is given; the
    command says which it took and how many training segments are longer. Those are split.

    Ctrl-C stops after the batch in progress and leaves a checkpoint. The same command with --resume
    goes on to the same result as if it had not been stopped.

    Under torchrun the processes share each batch, and the result is that of one process with the
    whole batch: torchrun --nproc-per-node 2 --no-python torch-semimarkov train ...

    \b
    The output folder:
      model.safetensors  config.json    the model, loaded without executing code
      metrics.json                      losses, and scores on the validation data
      log.jsonl                         one line an epoch
      checkpoint.pt                     the state of the run

    \b
    Examples:
      torch-semimarkov train recordings/ -o runs/first
      torch-semimarkov train ludb/data -o runs/ecg --annotator ii --channels ii --sample-rate 250
      torch-semimarkov train recordings/ -o runs/first --config run.yaml --epochs 100 --resume
    """
    from torch_semimarkov.cli.run_train import TrainCall, run_train
    from torch_semimarkov.training import load_config

    settings_of_run = load_config(config, **given)
    options = read_options({name: getattr(settings_of_run, name) for name in READING})
    run_train(
        TrainCall(data, output, validation, settings_of_run, options, resume, overwrite, quiet)
    )
