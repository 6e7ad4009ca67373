"""The training loop of a gene model: a stretch a step, in random order, resumable at every step."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from torch_semimarkov.errors import ConfigError, FileFormatError
from torch_semimarkov.genes.fit import Stretch, loss_of
from torch_semimarkov.genes.gold import as_array
from torch_semimarkov.genes.model import GeneModel
from torch_semimarkov.training.checkpoint import (
    CHECKPOINT,
    StopSignals,
    read_checkpoint,
    write_checkpoint,
)


@dataclass(frozen=True)
class GeneConfig:
    """Settings of the training of a gene model.

    Args:
        genetic_code: NCBI's number of the table.
        max_duration: longest duration K with a bias of its own, in bases.
        hidden_dim: size of the hidden layer that scores start sites.
        stretch: bases of the parts that a contig is trained on, about.
        epochs: passes over all parts.
        lr: learning rate of Adam at the start; it falls to 0 by half a cosine.
        seed: seed of the weights and of the order of the parts.
    """

    genetic_code: int = 11
    max_duration: int = 900
    hidden_dim: int = 32
    stretch: int = 30000
    epochs: int = 10
    lr: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        lowest = {"max_duration": 100, "hidden_dim": 1, "stretch": 1000, "epochs": 0, "seed": 0}
        for name, low in lowest.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < low:
                raise ConfigError(f"{name} must be an integer >= {low}, got {value!r}")
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr must be a number > 0, got {self.lr!r}")


@dataclass
class Steps:
    """Where a training stands.

    Args:
        step: steps that are done.
        history: mean loss of each epoch that is done, nats per base.
        losses: those of the steps of the epoch in progress.
    """

    step: int = 0
    history: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


class GeneTrainer:
    """Maximum likelihood by Adam, a stretch a step.

    Args:
        model: the model, already started by counting.
        parts: the stretches.
        config: the settings.
        folder: where the checkpoint goes; None keeps it away.
        report: takes one line of text an epoch.
        quiet: no progress bar.
    """

    def __init__(
        self,
        model: GeneModel,
        parts: Sequence[Stretch],
        config: GeneConfig,
        folder: Path | None = None,
        report: Callable[[str], None] = lambda line: None,
        quiet: bool = False,
    ):
        self.model, self.parts, self.config = model, list(parts), config
        self.folder, self.report, self.quiet = folder, report, quiet
        self.optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
        self.steps = Steps()
        self._data = _fingerprint(self.parts)

    def run(self) -> Steps:
        """Train to the end.

        Raises:
            KeyboardInterrupt: asked to stop by Ctrl-C or SIGTERM; the checkpoint is written.
        """
        total = self.config.epochs * len(self.parts)
        hidden = True if self.quiet else None
        bar = tqdm(total=total, initial=self.steps.step, unit="step", disable=hidden, leave=False)
        with StopSignals() as stop, bar:
            while self.steps.step < total:
                epoch, i = divmod(self.steps.step, len(self.parts))
                order = np.random.default_rng((self.config.seed, epoch)).permutation(
                    len(self.parts)
                )
                loss = self._step(self.parts[order[i]], self.steps.step / total)
                bar.update()
                bar.set_postfix(loss=f"{loss:.5f}")
                if i + 1 == len(self.parts):
                    self._close_epoch(epoch)
                if stop.requested:
                    self.save()
                    raise KeyboardInterrupt(f"stopped after {self.steps.step} of {total} steps")
        return self.steps

    def _step(self, part: Stretch, done: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * 0.5 * (1 + math.cos(math.pi * done))
        loss = loss_of(self.model, part)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.steps.step += 1
        self.steps.losses.append(loss.item())
        return loss.item()

    def _close_epoch(self, epoch: int) -> None:
        self.steps.history.append(float(np.mean(self.steps.losses)))
        self.steps.losses = []
        self.report(f"epoch {epoch + 1}/{self.config.epochs}  loss {self.steps.history[-1]:.5f}")
        self.save()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        if self.folder is None:
            return
        state: dict[str, Any] = {
            "config": asdict(self.config),
            "data": self._data,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": asdict(self.steps),
        }
        write_checkpoint(self.folder / CHECKPOINT, state)

    def resume(self) -> None:
        """Take the state from the checkpoint in the folder.

        Raises:
            FileFormatError: no checkpoint, or a damaged one.
            ConfigError: other settings or other data than those of the checkpoint.
        """
        path = Path(self.folder or ".") / CHECKPOINT
        state = read_checkpoint(path)
        if state.get("config") != asdict(self.config):
            raise ConfigError(f"{path} belongs to a run with other settings: {state.get('config')}")
        if state.get("data") != self._data:
            raise ConfigError(f"{path} belongs to a run on other data")
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.steps = Steps(**state["steps"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise FileFormatError(path, f"does not fit this run: {error}") from error


def _fingerprint(parts: Sequence[Stretch]) -> str:
    """Digest of the parts, by which a resumed run knows its data."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.contig.codes)
        digest.update(as_array(part.segments))
    return digest.hexdigest()
