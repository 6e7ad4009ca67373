"""Model folders: weights, settings and metrics, written whole and loaded without running code."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torch_semimarkov import __version__
from torch_semimarkov.data import LabelVocabulary, atomic_write
from torch_semimarkov.errors import FileFormatError, SemiMarkovError
from torch_semimarkov.nn.segmenter import Architecture, SegmentationModel
from torch_semimarkov.training.checkpoint import CHECKPOINT, LOG

WEIGHTS, CONFIG, METRICS = "model.safetensors", "config.json", "metrics.json"
RUN_FILES = (CONFIG, WEIGHTS, METRICS, LOG, CHECKPOINT)
FORMAT, FORMAT_VERSION = "torch_semimarkov model", 1


@dataclass(eq=False)
class SavedModel:
    """A model with everything that using it takes.

    Args:
        model: the network.
        vocabulary: names of its C labels.
        sample_rate: positions per second it was trained on; None when positions are no times.
        channels: names of its D features; empty when they have none.
        merge: join decoded neighbours with the same label; right where the training data have no
            such neighbours.
        training: the settings it was trained with, for the reader.
    """

    model: SegmentationModel
    vocabulary: LabelVocabulary
    sample_rate: float | None = None
    channels: tuple[str, ...] = ()
    merge: bool = False
    training: dict[str, Any] = field(default_factory=dict)


def save_model(
    folder: str | os.PathLike[str], saved: SavedModel, metrics: Mapping[str, Any] | None = None
) -> Path:
    """Write ``model.safetensors``, ``config.json`` and ``metrics.json`` to a folder.

    The folder counts as a model only once ``config.json`` is there. It is taken away first and
    written last, with the digest of the weights, so a torn write is never taken for a model.

    Args:
        folder: made as needed; other files in it stay.
        saved: the model.
        metrics: plain data about how good it is.
    """
    config = {
        "architecture": dataclasses.asdict(saved.model.architecture),
        "label_names": saved.vocabulary.to_json(),
        "sample_rate": saved.sample_rate,
        "channels": list(saved.channels),
        "merge_neighbours": saved.merge,
        "training": saved.training,
    }
    return write_folder(Path(folder), saved.model.state_dict(), FORMAT, config, metrics)


def write_folder(
    folder: Path,
    state: Mapping[str, torch.Tensor],
    kind: str,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any] | None,
) -> Path:
    """Write weights, metrics and, last of all, a config of a kind of model to a folder."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    weights = save({k: v.detach().cpu().contiguous() for k, v in state.items()})
    with contextlib.suppress(FileNotFoundError):
        (folder / CONFIG).unlink()
    with atomic_write(folder / WEIGHTS, "wb") as file:
        file.write(weights)
    write_json(folder / METRICS, dict(metrics or {}))
    head = {"format": kind, "format_version": FORMAT_VERSION}
    digest = {"weights_sha256": hashlib.sha256(weights).hexdigest(), "versions": versions()}
    write_json(folder / CONFIG, {**head, **config, **digest})
    return folder


def remove_run(folder: Path) -> None:
    """Take away the model and the run in a folder, the config first; other files stay."""
    for name in RUN_FILES:
        (folder / name).unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Versions of what computes."""
    return {
        "torch_semimarkov": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "safetensors": importlib.metadata.version("safetensors"),
    }


def write_json(path: Path, content: Any) -> None:
    """Write plain data as JSON, whole or not at all."""
    with atomic_write(path) as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")


def load_model(folder: str | os.PathLike[str]) -> SavedModel:
    """Read a folder written by :func:`save_model`, on the CPU; no code in it is executed.

    Args:
        folder: holds ``config.json`` and ``model.safetensors``.

    Raises:
        FileFormatError: a missing, truncated or tampered file; names it.
    """
    saved: SavedModel = read_folder(Path(folder), FORMAT, _from_config, lambda made: made.model)
    return saved


def read_folder(
    folder: Path,
    kind: str,
    build: Callable[[Mapping[str, Any]], Any],
    network: Callable[[Any], torch.nn.Module],
) -> Any:
    """What ``build`` makes of the config of a folder, with the folder's weights in its network.

    Raises:
        FileFormatError: as :func:`load_model`; or another kind of model.
    """
    if not folder.is_dir():
        raise FileFormatError(folder, "no such model folder")
    path = folder / CONFIG
    config = _read_config(path, kind)
    weights = _read_weights(folder / WEIGHTS, config.get("weights_sha256"))
    try:
        made = build(config)
    except (SemiMarkovError, KeyError, TypeError, ValueError) as error:
        problem = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise FileFormatError(path, f"does not describe a model: {problem}") from error
    try:
        network(made).load_state_dict(weights)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        problem = lines[1] if len(lines) > 1 else lines[0]
        raise FileFormatError(folder / WEIGHTS, f"does not fit {CONFIG}: {problem}") from error
    network(made).eval()
    return made


def _read_config(path: Path, kind: str) -> dict[str, Any]:
    if not path.is_file():
        raise FileFormatError(path, "missing; this folder holds no finished model")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileFormatError(path, f"damaged or truncated: not JSON ({error})") from error
    if not isinstance(config, dict) or config.get("format") != kind:
        raise FileFormatError(path, f"not the config of a model: expected format {kind!r}")
    if config.get("format_version") != FORMAT_VERSION:
        raise FileFormatError(
            path,
            f"format version {config.get('format_version')!r}; this is version {__version__} of "
            f"torch_semimarkov, which reads format version {FORMAT_VERSION}",
        )
    return config


def _read_weights(path: Path, digest: object) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise FileFormatError(path, "missing") from error
    except OSError as error:
        raise FileFormatError(path, f"cannot be read: {error.strerror}") from error
    try:
        weights = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise FileFormatError(path, f"damaged or truncated ({error})") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise FileFormatError(path, f"damaged: not the file that {CONFIG} was written for")
    return weights


def _from_config(config: Mapping[str, Any]) -> SavedModel:
    channels, rate, names = config["channels"], config["sample_rate"], config["label_names"]
    for key, value in (("channels", channels), ("label_names", names)):
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise ValueError(f"{key} must be a list of names")
    if rate is not None and not (isinstance(rate, int | float) and 0 < rate < float("inf")):
        raise ValueError(f"sample_rate must be > 0, got {rate!r}")
    vocabulary = LabelVocabulary(tuple(names))
    architecture = Architecture(**config["architecture"])
    if architecture.num_classes != len(vocabulary):
        raise ValueError(f"{len(vocabulary)} label names for {architecture.num_classes} labels")
    if channels and len(channels) != architecture.num_features:
        raise ValueError(f"{len(channels)} channels for {architecture.num_features} features")
    merge, training = config["merge_neighbours"], config.get("training") or {}
    model = SegmentationModel(architecture)
    return SavedModel(model, vocabulary, rate, tuple(channels), bool(merge), dict(training))
