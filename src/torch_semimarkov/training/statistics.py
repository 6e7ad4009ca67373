"""What the training data say before any training: feature scale, durations, transitions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.data import LabelVocabulary, Record
from torch_semimarkov.durations import LearnedDurations
from torch_semimarkov.nn.head import SemiMarkovCRFHead
from torch_semimarkov.training.examples import Example


def feature_statistics(records: Sequence[Record]) -> tuple[Tensor, Tensor]:
    """(D,) mean and (D,) standard deviation over all positions, in float64 on the way."""
    count = sum(record.length for record in records)
    mean = sum(record.features.sum(0, dtype=np.float64) for record in records) / count
    square = sum(((record.features - mean) ** 2).sum(0, dtype=np.float64) for record in records)
    return torch.from_numpy(mean).float(), torch.from_numpy(np.sqrt(square / count)).float()


def mean_durations(records: Sequence[Record], vocabulary: LabelVocabulary) -> list[float]:
    """Mean duration of each label, in positions; of one without a segment, that of all."""
    totals = np.zeros((len(vocabulary), 2))
    for record in records:
        for segment in vocabulary.encode_record(record):
            totals[segment.label] += (segment.duration, 1.0)
    everything = totals.sum(0)
    totals[totals[:, 1] == 0] = everything
    return (totals[:, 0] / totals[:, 1]).tolist()


def has_equal_neighbours(record: Record) -> bool:
    """True if two segments that touch carry the same label."""
    labels = [segment.label for segment in record.segments or ()]
    return any(a == b for a, b in pairwise(labels))


@torch.no_grad()
def start_from_counts(head: SemiMarkovCRFHead, examples: Sequence[Example]) -> None:
    """Set transitions, learned durations and rates to what the labels alone say, in nats.

    A semi-CRF learns these weights anyway; from here it gets there in far fewer steps.
    """
    K, C = head.max_duration, head.num_classes
    tables = [example.segments.numpy() for example in examples]
    pairs = np.ones((C, C))
    for table in tables:
        np.add.at(pairs, (table[:-1, 2], table[1:, 2]), 1.0)
    head.transition.copy_(_tensor(np.log(pairs / pairs.sum(1, keepdims=True))))
    rows = np.concatenate(tables)
    durations = [(rows[:, 1] - rows[:, 0])[rows[:, 2] == c] for c in range(C)]
    rates = np.zeros(C)
    if head.tail_logit is not None:
        rates = np.array([_rate(each, K) for each in durations])
        head.tail_logit.copy_(_tensor(np.log(rates / (1 - rates))))
    if isinstance(head.durations, LearnedDurations) and K > 1:
        columns = [_smooth(each, K, rate) for each, rate in zip(durations, rates, strict=True)]
        head.durations.weight.copy_(_tensor(np.log(np.stack(columns, axis=1))))


def _rate(durations: np.ndarray, K: int) -> float:
    """How likely a segment of K or more positions goes on; one that has K more counts as seen."""
    long = durations[durations >= K]
    more = float((long - K).sum()) + K
    return more / (more + len(long) + 1)


def _smooth(durations: np.ndarray, K: int, rate: float) -> np.ndarray:
    """(K,) share of each duration among segments, by a Gaussian kernel of Silverman's width.

    Where K positions may go on at a rate, only the share that does not is of K.
    """
    counts = np.bincount(np.minimum(durations, K), minlength=K + 1)[1:].astype(float)
    counts[-1] *= 1 - rate
    grid, total = np.arange(1.0, K + 1), max(1.0, counts.sum())
    mean = counts @ grid / total
    spread = np.sqrt(counts @ (grid - mean) ** 2 / total)
    width = max(1.0, 0.9 * spread * total**-0.2)
    kernel = np.exp(-0.5 * ((grid[:, None] - grid) / width) ** 2)
    shares = (kernel / kernel.sum(0)) @ counts + 1.0 / K
    return shares / shares.sum()


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).float()
