"""From records to a trained model in a folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from torch_semimarkov.data import LabelVocabulary, Record, suggest_max_duration
from torch_semimarkov.errors import ConfigError, SegmentError, ShapeError, raise_all
from torch_semimarkov.nn import SemiMarkovCRFHead
from torch_semimarkov.nn.routes import triton_or_not
from torch_semimarkov.nn.segmenter import Architecture, SegmentationModel
from torch_semimarkov.training.config import TrainConfig
from torch_semimarkov.training.examples import make_examples, pieces_of, split_records
from torch_semimarkov.training.folder import SavedModel, load_model, remove_run
from torch_semimarkov.training.inference import pick_device
from torch_semimarkov.training.loop import Progress, Trainer
from torch_semimarkov.training.ranks import Ranks
from torch_semimarkov.training.statistics import (
    feature_statistics,
    has_equal_neighbours,
    mean_durations,
    start_from_counts,
)

# Options of an encoder without which its weights do not fit, or mean something else.
_SHAPING = ("max_rank", "normaliser", "causal")


@dataclass(eq=False)
class Trained:
    """The outcome of :func:`train`.

    Args:
        saved: the model, ready for :func:`save_model`.
        progress: how the run went.
        duration: the longest duration, where it came from, and how many segments are longer.
        training: number of records trained on.
        held_out: the records validated on.
    """

    saved: SavedModel
    progress: Progress
    duration: dict[str, Any]
    training: int
    held_out: list[Record]

    def metrics(self) -> dict[str, Any]:
        """Plain data about the run, ready for JSON."""
        p = self.progress
        chosen = p.history[(p.best_epoch or len(p.history)) - 1]
        return {
            "train_loss": chosen["train_loss"],
            "validation_loss": chosen["validation_loss"],
            "loss_unit": "nats per position",
            "best_epoch": chosen["epoch"],
            "epochs": len(p.history),
            "stopped_early": p.stopped_early,
            "seconds": round(sum(row["seconds"] for row in p.history), 1),
            "duration": self.duration,
            "records": {"train": self.training, "validation": len(self.held_out)},
        }


def train(
    records: Sequence[Record],
    validation: Sequence[Record] | None = None,
    config: TrainConfig | None = None,
    folder: Path | None = None,
    *,
    resume: bool = False,
    clear: bool = False,
    quiet: bool = False,
    report: Callable[[str], None] = lambda line: None,
    should_stop: Callable[[Progress], bool] | None = None,
) -> Trained:
    """Train a model on labelled records.

    Args:
        records: labelled records.
        validation: records to stop by; default a share of ``records`` drawn by the seed.
        config: the settings; default :class:`TrainConfig` as it stands.
        folder: where checkpoint and log go; None keeps them away.
        resume: go on from the checkpoint in the folder.
        clear: once everything is checked, take away the run that is in the folder.
        quiet: no progress bar.
        report: takes one line of text about each choice made and each epoch.
        should_stop: asked after every batch; True stops the run.

    Raises:
        SegmentError, ShapeError: records without labels, or that do not fit together.
        ConfigError: a setting does not fit the data.
        KeyboardInterrupt: asked to stop; the checkpoint is written.
    """
    config = config or TrainConfig()
    training, held_out = _parts(records, validation, config)
    vocabulary = LabelVocabulary.from_records(training)
    duration = choose_duration(training, config, report)
    device = pick_device(config.device)
    generators = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with generators, cpu_threads(config.threads), triton_or_not(config.triton):
        torch.manual_seed(config.seed)
        saved = build(training, vocabulary, config, duration["max_duration"])
        model = saved.model
        examples = [
            make_examples(part, vocabulary, model.longest_segment) for part in (training, held_out)
        ]
        if config.fixed_length is not None:
            examples = [pieces_of(part, config.fixed_length) for part in examples]
        if isinstance(model.head, SemiMarkovCRFHead):
            start_from_counts(model.head, examples[0])
        if config.start_from is not None and not resume:
            start_from_model(saved, config.start_from)
        ranks = Ranks.here()
        if not ranks.first:  # dropout differs between the processes
            torch.manual_seed(config.seed + ranks.rank)
        size = sum(p.numel() for p in model.parameters())
        report = report if ranks.first else lambda line: None
        report(
            f"{len(training)} records to train on, {len(held_out)} to validate on; "
            f"labels {', '.join(vocabulary)}; {config.head} on {config.encoder}, {size:,} weights"
        )
        model.to(device)
        trainer = Trainer(
            model, *examples, config, folder, quiet=quiet, report=report, should_stop=should_stop
        )
        if resume:
            trainer.resume()
            p = trainer.progress
            report(f"resumed in epoch {p.epoch}, after {p.batch} batches")
        elif clear and folder is not None and ranks.first:
            remove_run(folder)
        progress = trainer.run()
    model.cpu()
    return Trained(saved, progress, duration, len(training), held_out)


def start_from_model(saved: SavedModel, folder: str | os.PathLike[str]) -> None:
    """Take encoder, normaliser and label scores of a model folder; the rest stays as it is.

    Args:
        saved: a model that is about to be trained.
        folder: a model with the same encoder and labels, whatever its head.

    Raises:
        FileFormatError: no model there, or a damaged one.
        ConfigError: a model of another encoder, other features or labels; every one is named.
    """
    before = load_model(folder)
    mine, theirs = (dataclasses.asdict(m.model.architecture) for m in (saved, before))
    mine["labels"], theirs["labels"] = (", ".join(m.vocabulary) for m in (saved, before))
    for settings in (mine, theirs):
        settings.update({k: settings["encoder_options"].get(k) for k in _SHAPING})
    names = ("num_features", "labels", "encoder", "hidden_dim", "num_layers", "kernel_size")
    names += _SHAPING
    problems = [f"{k} is {theirs[k]}, not {mine[k]}" for k in names if theirs[k] != mine[k]]
    raise_all(ConfigError, f"cannot start from {folder}", problems)
    shared = ("mean", "sd", "encoder.", "head.projection.")
    weights = {
        k: v
        for k, v in before.model.state_dict().items()
        if k.startswith(shared) and not k.endswith("_extra_state")  # gate modes, rank schedules
    }
    saved.model.load_state_dict(weights, strict=False)


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Compute with so many CPU threads inside a ``with`` block; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _parts(
    records: Sequence[Record], validation: Sequence[Record] | None, config: TrainConfig
) -> tuple[list[Record], list[Record]]:
    if not records:
        raise SegmentError("no record to train on")
    if validation is None:
        training, held_out = split_records(records, config.validation_fraction, config.seed)
    else:
        training, held_out = list(records), list(validation)
    D = training[0].num_features
    problems = [
        f"record {record.name!r} has {record.num_features} features, "
        f"record {training[0].name!r} has {D}"
        for record in (*training, *held_out)
        if record.num_features != D
    ]
    raise_all(ShapeError, "records do not fit together", problems[:10])
    return training, held_out


def choose_duration(
    records: Sequence[Record], config: TrainConfig, report: Callable[[str], None]
) -> dict[str, Any]:
    """The longest duration K, and how many training segments are longer: cut, or in the tail."""
    if config.head != "semi-crf":
        return {"max_duration": 1, "source": config.head}
    suggestion = suggest_max_duration(records, config.duration_quantile)
    K, source = config.max_duration, "given"
    if K is None:
        K, source = suggestion.max_duration, f"quantile {config.duration_quantile:g}"
    longer = sum(s.duration > K for record in records for s in record.segments or ())
    said = "given" if source == "given" else f"suggested, {source} of each label's durations"
    cut = f"{longer} of {suggestion.total} training segments are longer"
    fate = "take the tail" if config.tail == "geometric" else "are split"
    cut += f" (longest {suggestion.longest}) and {fate}" if longer else ""
    report(f"max_duration {K} ({said}); {cut}")
    return {
        "max_duration": K,
        "source": source,
        "longer": longer,
        "segments": suggestion.total,
        "longest": suggestion.longest,
    }


def build(
    records: Sequence[Record], vocabulary: LabelVocabulary, config: TrainConfig, K: int
) -> SavedModel:
    """An untrained model that fits the records."""
    first = records[0]
    architecture = Architecture(
        num_features=first.num_features,
        num_classes=len(vocabulary),
        max_duration=K,
        **{
            name: getattr(config, name)
            for name in (
                "head", "encoder", "hidden_dim", "num_layers", "kernel_size", "dropout",
                "duration_distribution", "boundary_scores",
            )
        },
        encoder_options=config.encoder_options(),
        tail=None if config.tail == "none" else config.tail,
    )  # fmt: skip
    model = SegmentationModel(architecture, mean_durations(records, vocabulary))
    model.set_normaliser(*feature_statistics(records))
    return SavedModel(
        model,
        vocabulary,
        _common_rate(records),
        tuple(first.channels),
        merge=not any(has_equal_neighbours(record) for record in records),
        training=config.to_dict(),
    )


def _common_rate(records: Sequence[Record]) -> float | None:
    rates = {record.sample_rate for record in records}
    if len(rates) > 1:
        raise ConfigError(
            f"records with different sample rates: {sorted(map(str, rates))}; resample them "
            "(WFDB: set sample_rate)"
        )
    return rates.pop()
