"""What ``evaluate`` does once its arguments are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from torch_semimarkov.cli.options import labelled_options, read_all, read_options
from torch_semimarkov.cli.tables import Labelled, load_labelled
from torch_semimarkov.data import LabelVocabulary, natural_key
from torch_semimarkov.errors import ConfigError
from torch_semimarkov.metrics import (
    boundary_rows,
    evaluate_segmentations,
    format_table,
    segment_rows,
)
from torch_semimarkov.training.evaluation import evaluate_model
from torch_semimarkov.training.folder import load_model, write_json


@dataclass(frozen=True)
class EvaluateCall:
    """The arguments of one call of ``evaluate``."""

    true: Path
    predicted: Path | None
    model: Path | None
    output: Path | None
    device: str
    decoding: str
    reading: dict[str, Any]
    how: dict[str, Any]


def run_evaluate(call: EvaluateCall) -> None:
    """Compute, print and write the metrics."""
    if (call.predicted is None) == (call.model is None):
        raise ConfigError("give either PREDICTED or --model, and not both")
    if call.output is not None and (call.output.is_dir() or not call.output.parent.is_dir()):
        raise ConfigError(f"{call.output}: give the name of a file in an existing folder")
    summary = _of_model(call) if call.model is not None else _of_tables(call)
    click.echo(format_summary(summary))
    if call.output is not None:
        write_json(call.output, summary)
        click.echo(f"\nwritten: {call.output}")


def format_summary(summary: dict[str, Any]) -> str:
    """The tables and lines that ``evaluate`` prints."""
    accuracy, edits = summary["positions"]["accuracy"], summary["label_edit_rate"]
    lines = [
        "segments",
        format_table(segment_rows(summary)),
        "",
        "boundaries",
        format_table(boundary_rows(summary)),
        "",
        f"sequences          {summary['sequences']}",
        f"position accuracy  {_number(accuracy)}",
        f"edit rate          {_number(edits)}",
    ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _of_model(call: EvaluateCall) -> dict[str, Any]:
    saved = load_model(call.model)
    records = read_all(call.true, labelled_options(call.reading, saved))
    return evaluate_model(saved, records, call.device, decoding=call.decoding, **call.how)[1]


def _of_tables(call: EvaluateCall) -> dict[str, Any]:
    options = read_options(call.reading)
    true, found = load_labelled(call.true, options), load_labelled(call.predicted, options)
    missing, surplus = sorted(true.keys() - found.keys()), sorted(found.keys() - true.keys())
    if missing or surplus:
        name, lacking = (missing[0], call.predicted) if missing else (surplus[0], call.true)
        raise ConfigError(
            f"{lacking}: no sequence {name!r} ({len(missing)} true ones are not predicted, "
            f"{len(surplus)} predicted ones are not in {call.true})"
        )
    names = sorted(true, key=natural_key)
    pairs = [(true[name], found[name].within(true[name])) for name in names]
    for truth, guess in pairs:
        _refuse_other_span(call, truth, guess)
    vocabulary = _vocabulary(pairs)
    lists = [
        [[(s, e, vocabulary.encode(label)) for s, e, label in one.segments] for one in side]
        for side in zip(*pairs, strict=True)
    ]
    rates = [truth.sample_rate or guess.sample_rate for truth, guess in pairs]
    rate = rates if all(rates) else None
    return evaluate_segmentations(*lists, list(vocabulary), sample_rate=rate, **call.how)


def _refuse_other_span(call: EvaluateCall, truth: Labelled, guess: Labelled) -> None:
    """Positions at two sample rates are no mistake of a model."""
    rates = (truth.sample_rate, guess.sample_rate)
    if None not in rates and abs(rates[0] / rates[1] - 1) > 1e-6:
        raise ConfigError(
            f"sequence {truth.name!r}: {rates[0]:g} positions a second in {call.true}, "
            f"{rates[1]:g} in {call.predicted}; give --sample-rate"
        )
    last = guess.segments[-1].end if guess.segments else 0
    if truth.length is not None and last > truth.length:
        raise ConfigError(
            f"sequence {truth.name!r}: predicted up to position {last}, but it has {truth.length}"
        )


def _vocabulary(pairs: list[tuple[Labelled, Labelled]]) -> LabelVocabulary:
    labels = {s.label for pair in pairs for one in pair for s in one.segments}
    return LabelVocabulary(tuple(sorted(labels, key=natural_key)))
