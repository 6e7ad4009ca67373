"""Small labelled records and settings that the tests of training and of the command line share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from torch_semimarkov.data import NamedSegment, Record
from torch_semimarkov.training import TrainConfig

NAMES = ("low", "high", "rest")
TINY = {"hidden_dim": 8, "num_layers": 1, "batch_size": 3, "lr": 0.01}


def tiny_records(count: int = 8, seed: int = 0, longest: int = 5) -> list[Record]:
    """Records of 12 positions or more with two features and three labels."""
    generator = np.random.default_rng(seed)
    return [_record(f"r{seed}-{i}", generator, longest) for i in range(count)]


def _record(name: str, generator: np.random.Generator, longest: int) -> Record:
    segments, position, label = [], 0, int(generator.integers(3))
    while position < 12:
        end = position + int(generator.integers(1, longest + 1))
        segments.append(NamedSegment(position, end, NAMES[label]))
        position, label = end, (label + int(generator.integers(1, 3))) % 3
    means = np.repeat([NAMES.index(s.label) for s in segments], [s.duration for s in segments])
    features = np.stack((means, -means), axis=1) + generator.normal(0, 0.3, (position, 2))
    return Record(name, features, segments)


def tiny_config(**changes: object) -> TrainConfig:
    return TrainConfig(**{**TINY, "epochs": 3, "validation_fraction": 0.25, **changes})


def write_npz(folder: Path, records: list[Record], sample_rate: float | None = None) -> Path:
    """The records as NPZ files of a new folder."""
    folder.mkdir(parents=True)
    for record in records:
        labels = np.concatenate([[s.label] * s.duration for s in record.segments])
        extra = {} if sample_rate is None else {"sample_rate": np.asarray(sample_rate)}
        np.savez(folder / f"{record.name}.npz", features=record.features, labels=labels, **extra)
    return folder
