"""The runs of a comparison in their folders: which are done, begun, or still to come."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torch_semimarkov.data import Record
from torch_semimarkov.errors import ConfigError, FileFormatError
from torch_semimarkov.training.checkpoint import CHECKPOINT
from torch_semimarkov.training.folder import CONFIG, METRICS, remove_run, write_json

RUNS, TABLE = "runs.json", "table.json"


class RunFolders:
    """One folder a head and seed, inside the output folder of a comparison.

    A run is done once its model is saved, and begun once it has a checkpoint. ``runs.json`` says
    what all of them belong to: the settings, and a digest of the data.

    Args:
        output: the folder of them all.
        settings: those of the comparison; seeds may be added later.
        resume: keep what is done, and go on with what is begun.
        overwrite: replace the runs that are there.

    Raises:
        ConfigError: runs are there, and neither is asked for; or both are; or output is a file.
        FileFormatError: there is nothing to resume.
    """

    def __init__(
        self, output: Path, settings: dict[str, Any], resume: bool = False, overwrite: bool = False
    ):
        self.output, self.settings = output, settings
        self.resume, self.overwrite = resume, overwrite
        if resume and overwrite:
            raise ConfigError("--resume and --overwrite exclude each other")
        if output.exists() and not output.is_dir():
            raise ConfigError(f"{output}: the output must be a folder, this is a file")
        found = [name for name in (RUNS, TABLE) if (output / name).exists()]
        if found and not (resume or overwrite):
            raise ConfigError(
                f"{output} holds runs already ({', '.join(found)}); add --resume to go on with "
                "them, or --overwrite to replace them"
            )
        if resume and RUNS not in found:
            raise FileFormatError(output / RUNS, "no runs to resume")

    def begin(self, records: Sequence[Record]) -> None:
        """Note what the runs belong to, once everything is read and checked.

        Raises:
            ConfigError: the runs to resume have other settings or other data.
            FileFormatError: what was noted about them is damaged.
        """
        now = {"settings": self.settings, "data": digest(records)}
        if self.resume:
            self._refuse_others(now)
        if self.overwrite:
            (self.output / TABLE).unlink(missing_ok=True)
            for folder in self.output.glob("*-seed*"):
                remove_run(folder)
        self.output.mkdir(parents=True, exist_ok=True)
        write_json(self.output / RUNS, now)

    def _refuse_others(self, now: dict[str, Any]) -> None:
        before = _read(self.output / RUNS)
        settings = before.get("settings", {})
        keys = [k for k in {**settings, **self.settings} if k != "seeds"]
        changed = [k for k in keys if settings.get(k) != self.settings.get(k)]
        if changed:
            shown = "; ".join(
                f"{k} was {settings.get(k)!r}, is {self.settings.get(k)!r}" for k in changed
            )
            raise ConfigError(f"{self.output / RUNS} belongs to runs with other settings: {shown}")
        if before.get("data") != now["data"]:
            raise ConfigError(f"{self.output / RUNS} belongs to runs on other data")

    def folder(self, head: str, seed: int) -> Path:
        """The folder of one run."""
        return self.output / f"{head}-seed{seed}"

    def row(self, head: str, seed: int) -> dict[str, Any] | None:
        """The row of a run that is done; None if it is not."""
        folder = self.folder(head, seed)
        return _read(folder / METRICS) if (folder / CONFIG).is_file() else None

    def begun(self, head: str, seed: int) -> bool:
        """A run has a checkpoint to go on from."""
        return (self.folder(head, seed) / CHECKPOINT).is_file()


def digest(records: Sequence[Record]) -> str:
    """What tells these records from others: names, features and segments."""
    found = hashlib.sha256()
    for record in records:
        segments = [tuple(segment) for segment in record.segments or ()]
        found.update(f"{record.name}\0{record.features.shape}\0{segments}\0".encode())
        found.update(np.ascontiguousarray(record.features))
    return found.hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileFormatError(path, f"damaged or truncated: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise FileFormatError(path, "damaged: expected a mapping")
    return found
