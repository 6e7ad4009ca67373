"""The training loop: resumable at every batch, with the same result as without a stop."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from torch_semimarkov.data import atomic_write
from torch_semimarkov.errors import ConfigError, FileFormatError
from torch_semimarkov.nn import ARSSMEncoder
from torch_semimarkov.training.checkpoint import (
    CHECKPOINT,
    LOG,
    StopSignals,
    random_state,
    read_checkpoint,
    set_random_state,
    write_checkpoint,
)
from torch_semimarkov.training.config import TrainConfig
from torch_semimarkov.training.doctor import kept_if_it_fails, watch_drift
from torch_semimarkov.training.examples import (
    Example,
    batch_order,
    collate_examples,
    fingerprint,
    in_order,
)
from torch_semimarkov.training.ranks import Ranks

# Settings that may differ from those of the run that is resumed.
MAY_CHANGE = ("epochs", "patience", "device")


@dataclass
class Progress:
    """Where a run stands; plain values, kept in the checkpoint.

    Args:
        epoch: epoch in progress, from 1.
        batch: batches of it that are done.
        loss_sum: nats summed over those batches.
        positions: positions in those batches.
        seconds: time spent on those batches.
        best_loss: lowest validation loss so far (without validation: none).
        best_epoch: its epoch, 0 before the first.
        finished: the run has ended by itself.
        stopped_early: it ended for want of a lower validation loss.
        history: one row an epoch.
    """

    epoch: int = 1
    batch: int = 0
    loss_sum: float = 0.0
    positions: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    best_epoch: int = 0
    finished: bool = False
    stopped_early: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """Adam with decay, clipped gradients, early stopping, and checkpoints.

    The loss is the negative log-likelihood in nats per position. A checkpoint is written after
    every epoch and when the run is asked to stop (Ctrl-C or SIGTERM), which it does after the batch
    in progress.

    Args:
        model: ``model(features, lengths, segments)`` gives (B,) losses.
        train: examples to learn from.
        validation: examples to stop by; may be empty.
        config: the settings.
        folder: where checkpoint and log go; None keeps them away.
        quiet: no progress bar.
        report: takes one line of text about each epoch.
        should_stop: asked after every batch; True stops as Ctrl-C does.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Sequence[Example],
        validation: Sequence[Example],
        config: TrainConfig,
        folder: Path | None = None,
        *,
        quiet: bool = False,
        report: Callable[[str], None] = lambda line: None,
        should_stop: Callable[[Progress], bool] | None = None,
    ):
        self.model, self.train_set, self.validation_set = model, list(train), list(validation)
        self.config, self.folder, self.report = config, folder, report
        self.should_stop = should_stop or (lambda progress: False)
        self.ranks = Ranks.here()
        self.quiet = quiet or not self.ranks.first
        self.device = next(model.parameters()).device
        self.network = self._wrapped()
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(model, config), lr=config.lr, weight_decay=config.weight_decay
        )
        self.progress = Progress()
        self.best: dict[str, torch.Tensor] | None = None
        lengths = [len(example.features) for example in self.train_set]
        self._lengths = lengths
        # the number of batches depends on the epoch where padding is bounded
        self.steps_per_epoch = len(self._order(1))
        self._data = fingerprint([*self.train_set, *self.validation_set])

    def _wrapped(self) -> nn.Module:
        """The model as it is called: compiled, and averaging its gradients over the processes."""
        network: nn.Module = self.model
        if self.config.compile:
            network = torch.compile(network, dynamic=True)  # type: ignore[assignment]
        if self.ranks.size > 1:
            network = nn.parallel.DistributedDataParallel(network)
        return network

    def _order(self, epoch: int) -> list[list[int]]:
        """The steps of an epoch: the examples of each, in batches one after the other."""
        c = self.config
        batches = batch_order(self._lengths, c.batch_size, c.seed, epoch, c.max_padding)
        return [
            [i for batch in batches[first : first + c.accumulate] for i in batch]
            for first in range(0, len(batches), c.accumulate)
        ]

    def run(self) -> Progress:
        """Train to the end and leave the best weights in the model.

        Raises:
            KeyboardInterrupt: asked to stop; the message says where, and the checkpoint is written.
            NumericsError: NaN or Inf in the loss or a gradient; the last checkpoint stands, and
                the batch is written to the folder for ``torch-semimarkov doctor``.
        """
        with StopSignals() as stop:
            while not self.progress.finished:
                self._epoch(stop)
        if self.best is not None:
            self.model.load_state_dict(self.best)
        self.model.eval()
        return self.progress

    def resume(self) -> None:
        """Take the state from the checkpoint in the folder.

        Raises:
            FileFormatError: no checkpoint, or a damaged one.
            ConfigError: other settings or other data than those of the checkpoint.
        """
        path = Path(self.folder or ".") / CHECKPOINT
        state = read_checkpoint(path)
        try:
            self._refuse_other_run(path, state)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.best = state["best"]
            self.progress = Progress(**state["progress"])
            set_random_state(state["random"][self.ranks.rank], self.device)
        except (IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise FileFormatError(path, f"does not fit this run: {error}") from error
        self._reopen()

    def _reopen(self) -> None:
        """A finished run goes on if the new settings leave it epochs."""
        p = self.progress
        stale = p.best_epoch and p.epoch - 1 - p.best_epoch >= self.config.patience
        if p.finished and p.epoch <= self.config.epochs and not stale:
            p.finished = p.stopped_early = False

    def _refuse_other_run(self, path: Path, state: dict[str, Any]) -> None:
        # an older run did not have every setting, and did what is the default now
        before, now = TrainConfig().to_dict() | state["config"], self.config.to_dict()
        fixed = [k for k in now if k not in MAY_CHANGE or self._scheduled(k)]
        changed = [k for k in fixed if before.get(k) != now[k]]
        if changed:
            shown = "; ".join(f"{k} was {before.get(k)!r}, is {now[k]!r}" for k in changed)
            raise ConfigError(f"{path} belongs to a run with other settings: {shown}")
        if state["data"] != self._data:
            raise ConfigError(f"{path} belongs to a run on other data")

    def _scheduled(self, name: str) -> bool:
        return name == "epochs" and self.config.schedule != "constant"

    def _epoch(self, stop: StopSignals) -> None:
        p = self.progress
        order = self._order(p.epoch)
        self.model.train()
        with self._bar(len(order)) as bar:
            while p.batch < len(order):
                began = time.perf_counter()
                self._step([self.train_set[i] for i in order[p.batch]])
                p.batch += 1
                p.seconds += time.perf_counter() - began
                bar.update()
                bar.set_postfix(loss=f"{p.loss_sum / p.positions:.4f}", best=self._best_text())
                self._stop_if_asked(stop)
            found = self._validation_loss()
            bar.set_postfix(loss=f"{p.loss_sum / p.positions:.4f}", validation=_text(found))
        self._close_epoch(found)
        if not p.finished:
            self._stop_if_asked(stop, saved=True)

    def _step(self, examples: list[Example]) -> None:
        p, c = self.progress, self.config
        step = (p.epoch - 1) * self.steps_per_epoch + p.batch
        rate = learning_rate(c, step, c.epochs * self.steps_per_epoch)
        if isinstance(self.model.encoder, ARSSMEncoder):
            self.model.encoder.update_rank_schedule(step, c.rank_warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.optimizer.zero_grad(set_to_none=True)
        count = sum(len(example.features) for example in examples)
        total = self._gradients(examples, count)
        nn.utils.clip_grad_norm_(self.model.parameters(), c.clip_norm)
        self.optimizer.step()
        p.loss_sum += self.ranks.total(total)
        p.positions += count

    def _gradients(self, examples: list[Example], count: int) -> float:
        """Add up the gradients of this process's examples, a batch at a time; their summed loss."""
        c, total = self.config, 0.0
        # a process without an example takes part with one that weighs nothing
        mine, share = self.ranks.share(examples), self.ranks.size / count
        if not mine:
            mine, share = examples[:1], 0.0
        for first in range(0, len(mine), c.batch_size):
            batch = collate_examples(mine[first : first + c.batch_size]).to(self.device)
            last = first + c.batch_size >= len(mine)
            alone = nullcontext() if last or self.ranks.size == 1 else self.network.no_sync()
            with alone, kept_if_it_fails(self.model, batch, self.folder):
                with self._autocast():
                    losses = self.network(batch.features, batch.lengths, batch.segments)
                loss = losses.sum() * share
                if c.crf_reg and last:
                    loss = loss + c.crf_reg * self.model.head.parameter_penalty()
                loss.backward()
            total += losses.sum().item() if share else 0.0
        return total

    def _autocast(self) -> torch.autocast:
        wanted = self.config.autocast != "none"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted)

    @torch.no_grad()
    def _validation_loss(self) -> float | None:
        if not self.validation_set:
            return None
        self.model.eval()
        total, count = 0.0, sum(len(example.features) for example in self.validation_set)
        for batch in in_order(self.ranks.share(self.validation_set), self.config.batch_size):
            batch = batch.to(self.device)
            with self._autocast():
                losses = self.model(batch.features, batch.lengths, batch.segments)
            total += losses.sum().item()
        return self.ranks.total(total) / count

    def _close_epoch(self, validation: float | None) -> None:
        p = self.progress
        if validation is not None and validation < p.best_loss:
            p.best_loss, p.best_epoch = validation, p.epoch
            self.best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        p.history.append(
            {
                "epoch": p.epoch,
                "train_loss": p.loss_sum / p.positions,
                "validation_loss": validation,
                "best": p.best_epoch == p.epoch,
                "lr": self.optimizer.param_groups[0]["lr"],
                "seconds": round(p.seconds, 3),
            }
        )
        p.stopped_early = bool(p.best_epoch) and p.epoch - p.best_epoch >= self.config.patience
        p.finished = p.stopped_early or p.epoch >= self.config.epochs
        if self.ranks.first:
            self.report(_epoch_line(p.history[-1], self.config.epochs))
            watch_drift(self.model.head, p.epoch)
        p.epoch, p.batch, p.loss_sum, p.positions, p.seconds = p.epoch + 1, 0, 0.0, 0, 0.0
        self.save()

    def save(self) -> None:
        """Write checkpoint and log to the folder, each whole or not at all."""
        if self.folder is None:
            return
        random = self.ranks.all(random_state(self.device))
        if self.ranks.first:
            self._write(random)
        self.ranks.wait()

    def _write(self, random: list[dict[str, torch.Tensor]]) -> None:
        folder = Path(self.folder or ".")
        state = {
            "config": self.config.to_dict(),
            "data": self._data,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "progress": dict(vars(self.progress)),
            "random": random,
        }
        write_checkpoint(folder / CHECKPOINT, state)
        with atomic_write(folder / LOG) as file:
            file.writelines(json.dumps(row) + "\n" for row in self.progress.history)

    def _stop_if_asked(self, stop: StopSignals, saved: bool = False) -> None:
        if not any(self.ranks.all(stop.requested or self.should_stop(self.progress))):
            return
        if not saved:
            self.save()
        where = f"epoch {self.progress.epoch}, after {self.progress.batch} batches"
        kept = f"; {self.folder / CHECKPOINT} is written" if self.folder else ""
        raise KeyboardInterrupt(f"stopped in {where}{kept}")

    def _bar(self, total: int) -> tqdm:
        p = self.progress
        title = f"epoch {p.epoch}/{self.config.epochs}"
        hidden = True if self.quiet else None  # None: hidden where there is no terminal
        return tqdm(
            total=total, initial=p.batch, desc=title, unit="batch", disable=hidden,
            leave=False, dynamic_ncols=True,
        )  # fmt: skip

    def _best_text(self) -> str:
        return _text(self.progress.best_loss if self.progress.best_epoch else None)


def _parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Parameters with their share of the learning rate; what is no projection has its own."""
    weights = list(model.named_parameters())
    own = [p for name, p in weights if name.startswith("head.") and "projection" not in name]
    if config.head_lr is None or not own:
        return [{"params": [p for _, p in weights], "share": 1.0}]
    apart = {id(p) for p in own}
    return [
        {"params": [p for _, p in weights if id(p) not in apart], "share": 1.0},
        {"params": own, "share": config.head_lr / config.lr},
    ]


def _epoch_line(row: dict[str, Any], epochs: int) -> str:
    line = f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  loss {row['train_loss']:.4f}"
    if row["validation_loss"] is not None:
        line += f"  validation {row['validation_loss']:.4f}"
    return line + ("  best so far" if row["best"] else "")


def _text(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4f}"


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """Learning rate of a step, counted from 0: a warm-up, then constant or half a cosine.

    >>> learning_rate(TrainConfig(lr=1.0, schedule="cosine"), step=5, total=10)
    0.5
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
