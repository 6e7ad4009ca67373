"""What ``train`` does once its arguments are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from torch_semimarkov.cli.options import check_run_folder, made_folder, read_all
from torch_semimarkov.data import ReadOptions, Record
from torch_semimarkov.errors import ConfigError
from torch_semimarkov.training.config import TrainConfig
from torch_semimarkov.training.evaluation import evaluate_model
from torch_semimarkov.training.folder import save_model
from torch_semimarkov.training.inference import pick_device
from torch_semimarkov.training.ranks import Ranks, process_group
from torch_semimarkov.training.run import train


@dataclass(frozen=True)
class TrainCall:
    """The arguments of one call of ``train``."""

    data: Path
    output: Path
    validation: Path | None
    config: TrainConfig
    options: ReadOptions
    resume: bool = False
    overwrite: bool = False
    quiet: bool = False


def run_train(call: TrainCall) -> None:
    """Read, train, save, and say what happened; under torchrun, by all its processes together."""
    with process_group(pick_device(call.config.device).type) as ranks:
        _run(call, ranks)


def _run(call: TrainCall, ranks: Ranks) -> None:
    if ranks.first:
        check_run_folder(call.output, call.resume, call.overwrite)
    records = read_all(call.data, call.options)
    held_out = None if call.validation is None else read_all(call.validation, call.options)
    _refuse_unlabelled(call.data, records, call.options)
    if held_out is not None:
        _refuse_unlabelled(call.validation, held_out, call.options)
    with made_folder(call.output):
        trained = train(
            records, held_out, call.config, call.output,
            resume=call.resume, quiet=call.quiet, report=_printer(call.quiet), clear=call.overwrite,
        )  # fmt: skip
    if not ranks.first:
        return
    metrics = trained.metrics()
    if trained.held_out:
        _, summary = evaluate_model(trained.saved, trained.held_out, call.config.device)
        metrics["validation"] = summary
    save_model(call.output, trained.saved, metrics)
    click.echo(_closing_line(metrics))
    click.echo(f"model: {call.output}")


def _printer(quiet: bool):
    return (lambda line: None) if quiet else click.echo


def _refuse_unlabelled(path: Path, records: list[Record], options: ReadOptions) -> None:
    unlabelled = [record.name for record in records if record.segments is None]
    if unlabelled:
        shown = ", ".join(unlabelled[:3]) + (", ..." if len(unlabelled) > 3 else "")
        raise ConfigError(
            f"{path}: {len(unlabelled)} of {len(records)} records are not labelled ({shown}); "
            f"CSV needs a column {options.label_column!r} or a table of segments, NPZ an array "
            "'labels' or 'segments', WFDB an --annotator"
        )


def _closing_line(metrics: dict) -> str:
    why = "stopped early" if metrics["stopped_early"] else "all epochs done"
    line = f"{why} after {metrics['epochs']} epochs, {metrics['seconds']:.0f} s; best epoch "
    line += f"{metrics['best_epoch']}, loss {metrics['train_loss']:.4f}"
    if metrics["validation_loss"] is None:
        return f"{line} (no validation data)"
    found = metrics["validation"]
    f1 = found["segments"]["iou 0.5"]["micro"]["f1"]
    return (
        f"{line}, validation loss {metrics['validation_loss']:.4f}; validation: position accuracy "
        f"{found['positions']['accuracy']:.3f}, segment F1 at IoU 0.5 {f1:.3f}"
    )
