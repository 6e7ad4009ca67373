"""What ``demo`` does: data, three models, scores, pictures."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from torch_semimarkov.cli.options import made_folder
from torch_semimarkov.cli.run_plot import sequence_figure
from torch_semimarkov.data import (
    Record,
    SegmentTable,
    SyntheticProcess,
    atomic_write,
    make_synthetic,
    synthetic_process,
    write_segments_tsv,
)
from torch_semimarkov.errors import ConfigError, UnsupportedError
from torch_semimarkov.metrics import format_table
from torch_semimarkov.plots import plot_durations, save_figure
from torch_semimarkov.training.config import TrainConfig
from torch_semimarkov.training.evaluation import evaluate_model
from torch_semimarkov.training.folder import SavedModel, save_model, write_json
from torch_semimarkov.training.inference import Prediction
from torch_semimarkov.training.run import Trained, cpu_threads, train

HEADS = {"semi-crf": "semi-CRF", "linear-crf": "linear CRF (K = 1)", "argmax": "argmax"}
TOLERANCE = 2
FOLDERS, FILES = ("test", "semi-crf", "segments"), ("metrics.json", "sequence.png", "durations.png")


@dataclass(frozen=True)
class Sizes:
    """How much data and training; the cheap models get more epochs, so that none is held back."""

    train: int = 240
    validation: int = 32
    test: int = 80
    shortest: int = 150
    longest: int = 250
    epochs: tuple[int, int, int] = (12, 24, 40)


QUICK = Sizes(train=8, validation=2, test=3, shortest=40, longest=80, epochs=(1, 1, 1))


def run_demo(output: Path, seed: int, overwrite: bool = False, quick: bool = False) -> None:
    """Make data, train three models, print their scores, write everything to a folder."""
    _check_output(output, overwrite)
    # The tensors are small: more threads would only wait for one another.
    with made_folder(output), cpu_threads(1):
        _run(output, seed, QUICK if quick else Sizes())


def _run(output: Path, seed: int, sizes: Sizes) -> None:
    began = time.perf_counter()
    process = synthetic_process()
    training, validation, test = _data(process, sizes, seed)
    click.echo(
        f"data: {len(training)} training, {len(validation)} validation and {len(test)} test "
        f"sequences of about {np.mean([r.length for r in test]):.0f} positions, "
        f"{process.means.shape[1]} features; labels {', '.join(process.label_names)}"
    )
    config = TrainConfig(
        hidden_dim=32, num_layers=2, batch_size=16, lr=0.01, schedule="cosine", seed=seed
    )  # fmt: skip
    runs: dict[str, Trained] = {}
    results: dict[str, dict[str, Any]] = {}
    for head, epochs in zip(HEADS, sizes.epochs, strict=True):
        runs[head] = train(training, validation, replace(config, head=head, epochs=epochs))
        click.echo(
            f"trained {HEADS[head]:<18}  {epochs:3} epochs  {_seconds(runs[head]):5.1f} s  "
            f"validation loss {runs[head].progress.best_loss:.4f} nats per position"
        )
        predictions, results[head] = evaluate_model(
            runs[head].saved, test, posteriors=head == "semi-crf", tolerance=TOLERANCE
        )
        if head == "semi-crf":
            decoded = predictions
    durations = duration_rows(process, runs["semi-crf"].saved, results)
    click.echo("\n" + score_table(results) + "\n\n" + format_table(durations, digits=1))
    click.echo(
        "\nknown: of the process. learned: by the semi-CRF's duration weights. Others: decoded."
    )
    _write(output, runs["semi-crf"], decoded, results, durations)
    _draw(output, process, runs["semi-crf"].saved, decoded)
    click.echo(
        f"\n{time.perf_counter() - began:.0f} s; model, segments, metrics, pictures: {output}"
    )


def _check_output(output: Path, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output}: the output must be a folder, this is a file")
    found = [name for name in (*FOLDERS, *FILES) if (output / name).exists()]
    if found and not overwrite:
        raise ConfigError(f"{output} holds {', '.join(found)} already; add --overwrite")
    if found and not (output / "semi-crf").is_dir() and not (output / "metrics.json").is_file():
        raise ConfigError(f"{output} is no output of the demo ({', '.join(found)}); not replaced")


def _data(process: SyntheticProcess, sizes: Sizes, seed: int) -> list[list[Record]]:
    counts = (sizes.train, sizes.validation, sizes.test)
    return [
        make_synthetic(count, sizes.shortest, sizes.longest, seed=3 * seed + part, process=process)
        for part, count in enumerate(counts)
    ]


def _seconds(trained: Trained) -> float:
    return sum(row["seconds"] for row in trained.progress.history)


def score_table(results: dict[str, dict[str, Any]]) -> str:
    """The comparison that the demo is about."""
    rows = [
        {
            "model": HEADS[head],
            "position accuracy": found["positions"]["accuracy"],
            "segment F1 (IoU 0.5)": found["segments"]["iou 0.5"]["micro"]["f1"],
            f"boundary F1 (within {TOLERANCE})": found["boundaries"][f"{TOLERANCE}"]["any"][
                "micro"
            ]["f1"],
            "edit rate": found["label_edit_rate"],
        }
        for head, found in results.items()
    ]
    return format_table(rows)


def duration_rows(
    process: SyntheticProcess, saved: SavedModel, results: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Mean duration of each label: known, learned, and decoded by each model."""
    known = np.arange(1, len(process.durations) + 1) @ process.durations
    shares = learned_shares(saved)
    learned = np.arange(1, len(shares) + 1) @ shares
    rows = []
    for name, mean in zip(process.label_names, known, strict=True):
        row = {"mean duration of": name, "known": float(mean), "learned": None}
        if name in saved.vocabulary.names:
            row["learned"] = float(learned[saved.vocabulary.encode(name)])
        for head, found in results.items():
            label = found["durations"]["per_label"].get(name, {})
            row[HEADS[head]] = label.get("predicted", {}).get("mean")
        rows.append(row)
    return rows


def learned_shares(saved: SavedModel) -> np.ndarray:
    """(K, C) share of each duration by the duration weights of a semi-CRF alone."""
    bias = saved.model.head.durations().detach().double()
    return bias.softmax(0).numpy()


def _write(
    output: Path,
    trained: Trained,
    decoded: list[Prediction],
    results: dict[str, dict[str, Any]],
    durations: list[dict[str, Any]],
) -> None:
    """Everything but the pictures; an older demo is taken away first."""
    for name in FOLDERS:
        shutil.rmtree(output / name, ignore_errors=True)
        (output / name).mkdir(parents=True)
    for name in FILES:
        (output / name).unlink(missing_ok=True)
    names = list(trained.saved.vocabulary)
    for prediction in decoded:
        record = prediction.record
        _write_npz(output / "test" / f"{record.name}.npz", record)
        write_segments_tsv(
            output / "segments" / f"{record.name}.segments.tsv",
            SegmentTable(record.name, prediction.segments, None, prediction.scores(names)),
        )
    save_model(output / "semi-crf", trained.saved, trained.metrics())
    write_json(output / "metrics.json", {"mean_durations": durations, "models": results})


def _write_npz(path: Path, record: Record) -> None:
    labels = np.concatenate([[s.label] * s.duration for s in record.segments])
    with atomic_write(path, "wb") as file:
        np.savez_compressed(file, features=record.features, labels=labels)


def _draw(
    output: Path, process: SyntheticProcess, saved: SavedModel, decoded: list[Prediction]
) -> None:
    """One sequence and the durations; without matplotlib, a line that says so."""
    chosen = decoded[0]
    title = f"{chosen.record.name}: unseen in training, decoded by the semi-CRF"
    observed: dict[int, list[int]] = {i: [] for i in range(len(saved.vocabulary))}
    for prediction in decoded:
        for segment in saved.vocabulary.encode_record(prediction.record):
            observed[segment.label].append(segment.duration)
    try:
        figure = sequence_figure(chosen.record, chosen.segments, chosen, saved, title)
        save_figure(figure, output / "sequence.png")
        seen = {label: values for label, values in observed.items() if values}
        figure = plot_durations(
            seen, learned_shares(saved), tuple(saved.vocabulary), title="test and learned durations"
        )
        save_figure(figure, output / "durations.png")
    except UnsupportedError as error:
        click.echo(f"warning: no pictures: {error}", err=True)
