"""What ``plot`` does once its arguments are known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from torch_semimarkov.cli.options import labelled_options, read_options
from torch_semimarkov.cli.tables import Labelled, load_labelled
from torch_semimarkov.data import LabelVocabulary, NamedSegment, Record, natural_key, read_any
from torch_semimarkov.errors import ConfigError, FileFormatError
from torch_semimarkov.plots import plot_segmentation, plot_training, save_figure
from torch_semimarkov.plots.saving import ENDINGS
from torch_semimarkov.training.checkpoint import LOG
from torch_semimarkov.training.folder import SavedModel, load_model
from torch_semimarkov.training.inference import Prediction, Predictor

Strip = tuple[NamedSegment, ...]


@dataclass(frozen=True)
class PlotCall:
    """The arguments of one call of ``plot``."""

    file: Path
    output: Path
    model: Path | None
    segments: Path | None
    span: tuple[float | None, float | None]
    title: str | None
    device: str
    reading: dict[str, Any]


def run_plot(call: PlotCall) -> None:
    """Draw and write the picture."""
    if call.output.suffix.lower() not in ENDINGS:
        raise ConfigError(f"{call.output}: a picture must end in {', '.join(ENDINGS)}")
    if not call.output.parent.is_dir():
        raise ConfigError(f"{call.output}: there is no folder {call.output.parent}")
    if call.model is not None and call.segments is not None:
        raise ConfigError("give either --model or --segments, and not both")
    figure = _training(call) if call.file.is_dir() else _sequence(call)
    save_figure(figure, call.output)
    click.echo(f"written: {call.output}")


def _training(call: PlotCall) -> Any:
    path = call.file / LOG
    if not path.is_file():
        raise FileFormatError(call.file, f"a folder without {LOG}: give one record, or a run")
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise FileFormatError(path, f"not lines of JSON: {error}") from error
    if not rows:
        raise FileFormatError(path, "no epoch is finished yet")
    keys = [key for key in ("train_loss", "validation_loss") if rows[0].get(key) is not None]
    return plot_training(rows, keys, call.title or call.file.name)


def _sequence(call: PlotCall) -> Any:
    saved = load_model(call.model) if call.model is not None else None
    if saved is None:
        record = read_any(call.file, read_options(call.reading))
    else:
        record = read_any(call.file, labelled_options(call.reading, saved))
    prediction = _predicted(call, record, saved)
    decoded = prediction.segments if prediction is not None else _from_table(call, record)
    return sequence_figure(record, decoded, prediction, saved, call.title, call.span)


def sequence_figure(
    record: Record,
    decoded: Strip | None = None,
    prediction: Prediction | None = None,
    saved: SavedModel | None = None,
    title: str | None = None,
    span: tuple[float | None, float | None] = (None, None),
) -> Any:
    """Signal, segments and posteriors of one record as a figure."""
    strips = [strip for strip in (record.segments, decoded) if strip is not None]
    model_names = tuple(saved.vocabulary) if saved is not None else ()
    others = {s.label for strip in strips for s in strip} - set(model_names)
    names = (*model_names, *sorted(others, key=natural_key))
    ids = LabelVocabulary(names) if names else None

    def encode(strip: Strip | None) -> list[tuple[int, int, int]] | None:
        return None if strip is None else [(s, e, ids.encode(label)) for s, e, label in strip]

    figure = plot_segmentation(
        record.features,
        encode(record.segments),
        encode(decoded),
        None if prediction is None else prediction.labels,
        None if prediction is None else prediction.boundaries,
        names or None,
        record.sample_rate,
        title or record.name,
    )
    _zoom(figure, record, span)
    return figure


def _zoom(figure: Any, record: Record, span: tuple[float | None, float | None]) -> None:
    end = record.length / (record.sample_rate or 1.0)
    first, last = span[0] or 0.0, end if span[1] is None else min(span[1], end)
    if first >= last:
        raise ConfigError(f"--from must be below --to and below the end at {end:g}, got {first:g}")
    if (first, last) != (0.0, end):
        figure.axes[0].set_xlim(first, last)


def _predicted(call: PlotCall, record: Record, saved: SavedModel | None) -> Prediction | None:
    if saved is None:
        return None
    return next(Predictor(saved, call.device, posteriors=True)([record]))


def _from_table(call: PlotCall, record: Record) -> Strip | None:
    if call.segments is None:
        return None
    tables = load_labelled(call.segments, read_options(call.reading))
    if record.name not in tables and len(tables) > 1:
        raise FileFormatError(call.segments, f"no segments of {record.name!r}")
    table = tables.get(record.name, next(iter(tables.values())))
    window = Labelled(record.name, (), record.sample_rate, record.offset, record.length)
    segments = table.within(window).segments
    for before, after in pairwise(segments):
        if after.start < before.end:
            problem = (
                f"segments of {table.name!r} overlap or are not sorted: {after.label!r} from "
                f"{after.start} to {after.end} starts before {before.end}"
            )
            raise FileFormatError(call.segments, problem)
    return segments
