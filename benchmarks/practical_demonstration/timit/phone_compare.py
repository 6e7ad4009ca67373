"""Several models and seeds on the same data: a table, a JSON file, pictures."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phone_data import read_manifest, read_settings
from phone_models import PEER, SEMI_CRF, peer_library, wrap
from phone_pictures import draw
from phone_scores import (
    Decoded,
    decode,
    duration_report,
    expected_durations,
    score,
)
from phone_training import Data, Job, can_resume, finished_model, load_data, train_model

from torch_semimarkov.errors import ConfigError, FileFormatError, UnsupportedError
from torch_semimarkov.metrics import format_table
from torch_semimarkov.nn.routes import triton_or_not
from torch_semimarkov.training.folder import METRICS, remove_run, versions, write_json
from torch_semimarkov.training.inference import pick_device
from torch_semimarkov.training.run import cpu_threads

# Column of the table -> (number of a run, factor).
COLUMNS = {
    "PER %": ("phone_error_rate", 100.0),
    "PER % no sil": ("phone_error_rate_without_silence", 100.0),
    "boundary F1 %": ("boundary_f1", 100.0),
    "R-value %": ("boundary_r_value", 100.0),
    "segment F1 %": ("segment_f1", 100.0),
    "duration shift ms": ("duration_shift_ms", 1.0),
    "training s": ("train_seconds", 1.0),
    "inference ms": ("inference_seconds", 1000.0),
}


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` is asked to do.

    Args:
        job: the settings that all runs share.
        models, seeds: every pair of them is a run.
        runs: folder of the models, one for each run.
        output_json: file for every number, or None.
        plot_dir: folder for pictures, or None.
        export_duration: file for the durations of each phone, or None.
        overwrite: train anew what is there.
    """

    job: Job
    models: Sequence[str]
    seeds: Sequence[int]
    runs: Path
    output_json: Path | None = None
    plot_dir: Path | None = None
    export_duration: Path | None = None
    overwrite: bool = False


def compare(asked: Comparison, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Train what is not there, score all, and write what was asked for.

    A run that was stopped goes on from its checkpoint; one that is finished is only scored.

    Returns:
        One row a run.
    """
    _check(asked)
    rows, kept = [], {}
    for seed in asked.seeds:
        shared = asked.job.with_head(asked.models[0], asked.runs, seed)
        data = load_data(shared)
        for name in asked.models:
            job = asked.job.with_head(name, asked.runs / f"{name}-seed{seed}", seed)
            row, decoded, expected = _run(job, data, report, asked.overwrite)
            rows.append({"model": name, "seed": seed, **row})
            if seed == asked.seeds[0]:
                kept[name] = (decoded, expected)
            report(format_table([_shown(rows[-1])], digits=1))
    table = summary(rows)
    report(format_table([_cells(row) for row in table]))
    _write(asked, rows, table, kept)
    return rows


def _check(asked: Comparison) -> None:
    """Find out before any training whether the rest will work."""
    if PEER in asked.models:
        peer_library()
    for path in (asked.output_json, asked.export_duration):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise FileFormatError(path, "cannot be written: give a file in a folder that exists")
    if asked.plot_dir is not None and asked.plot_dir.exists() and not asked.plot_dir.is_dir():
        raise ConfigError(f"{asked.plot_dir}: pictures go to a folder, this is a file")
    if asked.plot_dir is not None and importlib.util.find_spec("matplotlib") is None:
        raise UnsupportedError("--plot-dir needs matplotlib: pip install torch_semimarkov[plots]")


def _run(
    job: Job, data: Data, report: Callable[[str], None], overwrite: bool
) -> tuple[dict[str, Any], Decoded, dict[str, list[float]] | None]:
    """Train one model, or find it trained, and score it on the test records."""
    if overwrite and job.output.is_dir():
        remove_run(job.output)
    saved = finished_model(job, data)
    if saved is None:
        report(f"training {job.output.name}")
        saved, _ = train_model(job, data, report, resume=can_resume(job))
    went = read_settings(job.output / METRICS)
    with cpu_threads(job.config.threads), triton_or_not(job.config.triton):
        model = wrap(job.model, saved.model, job.backend).to(pick_device(job.config.device))
        decoded = decode(model, data.parts["test"], data.manifest)
        expected = None
        if job.model == SEMI_CRF:
            expected = expected_durations(model, data.parts["test"], data.manifest)
    row = {
        **score(decoded, data.manifest),
        "train_seconds": went["seconds"],
        "train_cpu_seconds": went["cpu_seconds"],
        "epochs": went["epochs"],
        "best_epoch": went["best_epoch"],
        "validation_loss": went["validation_loss"],
        "max_duration": saved.model.max_duration,
        "test_records": len(decoded.records),
    }
    return row, decoded, expected


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds, one row a model, in the units of the table."""
    table = []
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == name]
        line: dict[str, Any] = {"model": name, "seeds": len(mine)}
        for column, (key, factor) in COLUMNS.items():
            values = [factor * row[key] for row in mine if row[key] is not None]
            spread = statistics.stdev(values) if len(values) > 1 else None
            line[column] = {"mean": statistics.mean(values) if values else None, "sd": spread}
        table.append(line)
    return table


def _cells(line: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the summary as text."""
    cells = {"model": line["model"], "seeds": line["seeds"]}
    for column in COLUMNS:
        mean, sd = line[column]["mean"], line[column]["sd"]
        text = "-" if mean is None else f"{mean:.1f}"
        cells[column] = text if sd is None else f"{text} ± {sd:.1f}"
    return cells


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    cells = {"model": row["model"], "seed": row["seed"]}
    for column, (key, factor) in COLUMNS.items():
        cells[column] = None if row[key] is None else factor * row[key]
    return cells


def _write(
    asked: Comparison, rows: list[dict[str, Any]], table: list[dict[str, Any]], kept: dict
) -> None:
    decoded = {name: pair[0] for name, pair in kept.items()}
    expected = {name: pair[1] for name, pair in kept.items() if pair[1] is not None}
    manifest = read_manifest(asked.job.data)
    if asked.output_json is not None:
        content = {
            "data": dict(manifest.settings),
            "settings": {"split_by": asked.job.split_by, **asked.job.config.to_dict()},
            "versions": versions(),
            "runs": rows,
            "summary": table,
        }
        write_json(asked.output_json, content)
    if asked.export_duration is not None:
        write_json(asked.export_duration, duration_report(decoded, expected, manifest))
    if asked.plot_dir is not None:
        asked.plot_dir.mkdir(parents=True, exist_ok=True)
        draw(asked.plot_dir, rows, decoded, expected, manifest)
