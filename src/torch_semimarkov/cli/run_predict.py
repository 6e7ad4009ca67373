"""What ``predict`` does once its arguments are known."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from torch_semimarkov.cli.options import read_options
from torch_semimarkov.data import (
    ReadOptions,
    Record,
    SegmentTable,
    atomic_write,
    read_any,
    read_segments,
    record_paths,
    write_segments_json,
    write_segments_tsv,
    write_wfdb_annotations,
)
from torch_semimarkov.errors import ConfigError
from torch_semimarkov.training.folder import SavedModel, load_model
from torch_semimarkov.training.inference import Prediction, Predictor, pick_device
from torch_semimarkov.training.ranks import Ranks, process_group

ENDINGS = {"tsv": ".segments.tsv", "json": ".segments.json", "wfdb": ".pred"}
POSTERIORS = ".posteriors.npz"
BACKGROUND = ReadOptions().background


@dataclass(frozen=True)
class PredictCall:
    """The arguments of one call of ``predict``."""

    model: Path
    inputs: tuple[Path, ...]
    output: Path
    kind: str
    posteriors: bool
    decoding: str
    overwrite: bool
    batch_size: int
    device: str
    quiet: bool
    reading: dict[str, Any]
    merged: Path | None = None

    def targets(self, name: str) -> list[Path]:
        """Files that a record's results go to; the segments last, as they mark it as done."""
        segments = self.output / f"{name}{ENDINGS[self.kind]}"
        return [self.output / f"{name}{POSTERIORS}", segments] if self.posteriors else [segments]


def run_predict(call: PredictCall) -> None:
    """Decode every input that has no result yet; under torchrun each process takes its share."""
    _check_merged(call)
    with process_group(pick_device(call.device).type) as ranks:
        _run(call, ranks)


def _run(call: PredictCall, ranks: Ranks) -> None:
    if call.output.exists() and not call.output.is_dir():
        raise ConfigError(f"{call.output}: the output must be a folder, this is a file")
    saved = load_model(call.model)
    options = read_options(call.reading, saved)
    files = _named_files(call.inputs)
    if call.output.resolve() in {path.parent.resolve() for path in files.values()}:
        raise ConfigError(
            f"{call.output} holds inputs; the output must be another folder, or the results would "
            "be taken for labels"
        )
    todo = {
        name: path
        for name, path in files.items()
        if call.overwrite or not all(target.is_file() for target in call.targets(name))
    }
    mine = dict(ranks.share(list(todo.items())))
    predictor = Predictor(saved, call.device, call.batch_size, call.posteriors, call.decoding)
    quiet = True if call.quiet or not ranks.first else None
    with tqdm(total=len(mine), unit="file", disable=quiet, leave=False, file=sys.stderr) as bar:
        for prediction in predictor(_records(mine, options)):
            call.output.mkdir(parents=True, exist_ok=True)
            _write(call, saved, prediction)
            bar.update()
    ranks.wait()
    if not ranks.first:
        return
    if call.merged is not None:
        _merge(call, list(files))
    skipped = len(files) - len(todo)
    click.echo(f"{len(todo)} of {len(files)} files segmented: {call.output}")
    if skipped:
        click.echo(f"{skipped} had results already and were skipped; --overwrite makes them anew")


def _check_merged(call: PredictCall) -> None:
    if call.merged is None:
        return
    if call.kind == "wfdb":
        raise ConfigError("--merged joins tables, and --format wfdb writes none; use tsv or json")
    if not call.merged.absolute().parent.is_dir():
        raise ConfigError(f"{call.merged}: the folder of --merged does not exist")


def _merge(call: PredictCall, names: list[str]) -> None:
    """Write the segments of every input into one file, in the order of the inputs."""
    tables = [table for name in names for table in read_segments(call.targets(name)[-1])]
    (write_segments_tsv if call.kind == "tsv" else write_segments_json)(call.merged, tables)


def _named_files(inputs: tuple[Path, ...]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in (file for one in inputs for file in record_paths(one)):
        other = files.setdefault(path.stem, path)
        if other != path:
            raise ConfigError(
                f"{other} and {path} would both be written as {path.stem!r}; "
                "give them to two calls with different output folders"
            )
    return files


def _records(files: dict[str, Path], options: ReadOptions) -> Iterator[Record]:
    return (read_any(path, options) for path in files.values())


def _write(call: PredictCall, saved: SavedModel, prediction: Prediction) -> None:
    record, names = prediction.record, list(saved.vocabulary)
    if prediction.labels is not None:
        with atomic_write(call.targets(record.name)[0], "wb") as file:
            np.savez_compressed(
                file,
                labels=prediction.labels,
                boundaries=prediction.boundaries,
                label_names=np.asarray(names),
                sample_rate=np.asarray(record.sample_rate or np.nan),
            )
    target = call.targets(record.name)[-1]
    if call.kind == "wfdb":
        _write_wfdb(target, prediction)
        return
    table = SegmentTable(
        record.name, prediction.segments, record.sample_rate, prediction.scores(names)
    )
    (write_segments_tsv if call.kind == "tsv" else write_segments_json)(target, table)


def _write_wfdb(target: Path, prediction: Prediction) -> None:
    record = prediction.record
    if record.sample_rate is None:
        raise ConfigError(f"record {record.name!r} has no sample rate, which WFDB needs")
    if all(segment.label == BACKGROUND for segment in prediction.segments):
        click.echo(f"warning: {record.name}: no wave found, so no {target.name}", err=True)
        return
    write_wfdb_annotations(
        target.with_suffix(""),
        prediction.segments,
        target.suffix[1:],
        sample_rate=record.sample_rate,
        background=BACKGROUND,
    )
