"""Training one model on preprocessed records, with checkpoints, in a folder of its own."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from phone_data import Manifest, load_records, parts_of, read_manifest
from phone_models import HEADS, SEMI_CRF, OnBackend, PeerCRF, wrap

from torch_semimarkov.data import LabelVocabulary, Record
from torch_semimarkov.errors import ConfigError
from torch_semimarkov.nn.routes import triton_or_not
from torch_semimarkov.training import SavedModel, TrainConfig, Trainer, load_model, save_model
from torch_semimarkov.training.checkpoint import CHECKPOINT
from torch_semimarkov.training.examples import make_examples, pieces_of
from torch_semimarkov.training.folder import CONFIG, remove_run
from torch_semimarkov.training.inference import pick_device
from torch_semimarkov.training.loop import Progress
from torch_semimarkov.training.run import build, choose_duration, cpu_threads
from torch_semimarkov.training.statistics import start_from_counts


@dataclass(frozen=True)
class Job:
    """What ``train`` is asked to do.

    Args:
        data: a folder that ``preprocess`` wrote.
        output: the folder of the model.
        model: "semicrf", "linear" or "pytorch-crf".
        config: every setting of the training room.
        backend: what runs the head; see :class:`phone_models.OnBackend`.
        log_every: print the loss every so many batches; 0 for once an epoch.
        split_by: see :func:`phone_data.parts_of`.
    """

    data: Path
    output: Path
    model: str
    config: TrainConfig
    backend: str = "auto"
    log_every: int = 0
    split_by: str = "word"

    def with_head(self, model: str, output: Path, seed: int) -> Job:
        """The same settings for another model; what is said of durations is for the semi-CRF."""
        config = dataclasses.replace(self.config, head=HEADS[model], seed=seed)
        if model != SEMI_CRF:
            config = dataclasses.replace(config, max_duration=None, duration_distribution="learned")
        return dataclasses.replace(self, model=model, output=output, config=config)


@dataclass(frozen=True)
class Data:
    """Records by part, and the manifest they come with."""

    manifest: Manifest
    parts: dict[str, list[Record]]


def load_data(job: Job) -> Data:
    """Everything of a data folder, parted by the job's seed where the corpus fixes no parts."""
    manifest = read_manifest(job.data)
    names = parts_of(manifest, job.split_by, job.config.seed)
    return Data(manifest, {part: load_records(job.data, rows) for part, rows in names.items()})


def train_model(
    job: Job,
    data: Data,
    report: Callable[[str], None],
    *,
    resume: bool = False,
) -> tuple[SavedModel, dict[str, Any]]:
    """Train and save; Ctrl-C leaves a checkpoint, from which ``resume`` goes on.

    Args:
        job: what to do.
        data: the records.
        report: takes one line of text at a time.
        resume: go on from the checkpoint in the output folder.

    Returns:
        The model, and how training went: losses, epochs, seconds.
    """
    if job.model not in HEADS:
        raise ConfigError(f"model must be one of {', '.join(HEADS)}, got {job.model!r}")
    config, training, held_out = job.config, data.parts["train"], data.parts["validation"]
    vocabulary = LabelVocabulary(data.manifest.phones)
    duration = choose_duration(training, config, report)
    device = pick_device(config.device)
    with torch.random.fork_rng(), cpu_threads(config.threads), triton_or_not(config.triton):
        torch.manual_seed(config.seed)
        saved = build(training, vocabulary, config, duration["max_duration"])
        K = saved.model.max_duration
        examples = [make_examples(part, vocabulary, K) for part in (training, held_out)]
        if config.fixed_length is not None:
            examples = [pieces_of(part, config.fixed_length) for part in examples]
        start_from_counts(saved.model.head, examples[0])
        model = wrap(job.model, saved.model, job.backend).to(device)
        job.output.mkdir(parents=True, exist_ok=True)
        trainer = _trainer(job, model, examples, report)
        report(
            f"{job.model}, {sum(p.numel() for p in saved.model.parameters()):,} weights, "
            f"{len(vocabulary)} phones; {len(examples[0])} to train on, {len(examples[1])} to "
            f"validate on, {len(data.parts['test'])} to test on"
        )
        _begin(job, trainer, resume, report)
        began = time.process_time()
        progress = trainer.run()
        busy = time.process_time() - began
    saved.model.cpu()
    cpu_seconds = None if resume else round(busy, 1)
    went = {**progress.summary(), "cpu_seconds": cpu_seconds, "duration": duration}
    save_model(job.output, dataclasses.replace(saved, training=_settings(job, data)), went)
    return saved, went


def _trainer(
    job: Job, model: OnBackend | PeerCRF, examples: list, report: Callable[[str], None]
) -> Trainer:
    def after_batch(progress: Progress) -> bool:
        if job.log_every and progress.batch and progress.batch % job.log_every == 0:
            loss = progress.loss_sum / progress.positions
            report(f"epoch {progress.epoch}, batch {progress.batch}: loss {loss:.4f}")
        return False

    return Trainer(model, *examples, job.config, job.output, report=report, should_stop=after_batch)


def _begin(job: Job, trainer: Trainer, resume: bool, report: Callable[[str], None]) -> None:
    if not resume:
        remove_run(job.output)
        return
    trainer.resume()
    report(f"resumed in epoch {trainer.progress.epoch}, after {trainer.progress.batch} batches")


def _settings(job: Job, data: Data) -> dict[str, Any]:
    """What tells a run from another."""
    recipe = {"recipe_model": job.model, "split_by": job.split_by, "data": data.manifest.digest()}
    return {**job.config.to_dict(), **recipe}


def finished_model(job: Job, data: Data) -> SavedModel | None:
    """The model in the output folder if training came to its end there; None if not.

    Raises:
        ConfigError: the model was trained by other settings.
    """
    if not (job.output / CONFIG).is_file():
        return None
    saved = load_model(job.output)
    now = _settings(job, data)
    changed = [k for k, v in now.items() if saved.training.get(k) != v]
    if changed:
        shown = "; ".join(f"{k} was {saved.training.get(k)!r}, is {now[k]!r}" for k in changed)
        raise ConfigError(
            f"{job.output} was trained by other settings: {shown}; choose another --runs-dir, or "
            "add --overwrite"
        )
    return saved


def can_resume(job: Job) -> bool:
    """A checkpoint is there."""
    return (job.output / CHECKPOINT).is_file()
