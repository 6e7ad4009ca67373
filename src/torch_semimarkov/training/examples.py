"""Records as training examples: checked, encoded, cut to the longest duration, in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from torch_semimarkov.data import LabelVocabulary, Record, split_long_segments
from torch_semimarkov.errors import ConfigError, SegmentError
from torch_semimarkov.segments import PAD, Segments

# Batches of similar lengths waste little padding; pools keep their composition random.
POOL = 8


@dataclass(frozen=True, eq=False)
class Example:
    """One labelled sequence as tensors.

    Args:
        name: the record.
        features: (T, D) float32.
        segments: (N, 3) int64 rows of start, end, label; none longer than K.
    """

    name: str
    features: Tensor
    segments: Tensor


@dataclass(frozen=True, eq=False)
class ExampleBatch:
    """Examples padded to one length: what a model's ``forward`` takes.

    Args:
        features: (B, T, D) float32, 0 past the lengths.
        lengths: (B,) int64.
        segments: B segmentations.
    """

    features: Tensor
    lengths: Tensor
    segments: Segments

    def to(self, device: torch.device | str) -> ExampleBatch:
        """The same batch on another device."""
        return ExampleBatch(
            self.features.to(device), self.lengths.to(device), self.segments.to(device)
        )


def make_examples(
    records: Sequence[Record], vocabulary: LabelVocabulary, longest: int | None
) -> list[Example]:
    """Examples of labelled records; segments of more positions than ``longest`` are cut.

    None cuts none.

    Raises:
        SegmentError: a record without labels, or a label that the vocabulary does not hold.
    """
    examples = []
    for record in records:
        if record.segments is None:
            raise SegmentError(f"record {record.name!r} is not labelled; training needs labels")
        limit = record.length if longest is None else longest
        pieces = split_long_segments(record.segments, limit)
        rows = [(s, e, vocabulary.encode(label, record.name)) for s, e, label in pieces]
        examples.append(Example(record.name, torch.from_numpy(record.features), torch.tensor(rows)))
    return examples


def pieces_of(examples: Sequence[Example], length: int) -> list[Example]:
    """Pieces of exactly ``length`` positions, one after the other; what is left over goes.

    Raises:
        ConfigError: no example is that long.

    >>> one = Example("a", torch.zeros(5, 1), torch.tensor([[0, 3, 0], [3, 5, 1]]))
    >>> [piece.segments.tolist() for piece in pieces_of([one], 2)]
    [[[0, 2, 0]], [[0, 1, 0], [1, 2, 1]]]
    """
    pieces = []
    for example in examples:
        for first in range(0, len(example.features) - length + 1, length):
            stop, rows = first + length, example.segments
            inside = rows[(rows[:, 1] > first) & (rows[:, 0] < stop)].clone()
            inside[:, :2] = inside[:, :2].clamp(first, stop) - first
            name = f"{example.name}:{first}-{stop}"
            pieces.append(Example(name, example.features[first:stop], inside))
    if examples and not pieces:
        longest = max(len(example.features) for example in examples)
        raise ConfigError(
            f"fixed_length is {length}, and the longest record has {longest} positions; lower it"
        )
    return pieces


def collate_examples(examples: Sequence[Example]) -> ExampleBatch:
    """Pad B >= 1 examples to one batch."""
    table = pad_sequence([e.segments for e in examples], batch_first=True, padding_value=PAD)
    counts = torch.tensor([len(e.segments) for e in examples])
    return ExampleBatch(
        pad_sequence([e.features for e in examples], batch_first=True),
        torch.tensor([len(e.features) for e in examples]),
        Segments(*table.unbind(-1), counts),
    )


def batch_order(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int, max_padding: float = 1.0
) -> list[list[int]]:
    """Indices of the batches of one epoch; the same seed and epoch give the same batches.

    Args:
        lengths: positions of each example.
        batch_size: examples of a batch at most.
        seed, epoch: what the order is drawn by.
        max_padding: largest share of a batch that is padding, 0..1; where it would be more, the
            batch is smaller.

    >>> batch_order([5, 9, 5, 9], 2, seed=0, epoch=1) == batch_order([5, 9, 5, 9], 2, 0, 1)
    True
    >>> sorted(map(sorted, batch_order([5, 9, 9], 3, seed=0, epoch=1, max_padding=0.1)))
    [[0], [1, 2]]
    """
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(len(lengths))
    batches: list[list[int]] = []
    for first in range(0, len(order), batch_size * POOL):
        pool = sorted(order[first : first + batch_size * POOL].tolist(), key=lengths.__getitem__)
        batches += _cut(pool, lengths, batch_size, max_padding)
    return [batches[i] for i in generator.permutation(len(batches))]


def _cut(
    pool: list[int], lengths: Sequence[int], batch_size: int, max_padding: float
) -> list[list[int]]:
    """Batches of neighbours in a pool that is sorted by length."""
    batches: list[list[int]] = []
    total = 0
    for index in pool:
        length = lengths[index]
        size = len(batches[-1]) + 1 if batches else 1
        padding = 1 - (total + length) / (size * max(length, 1))
        if not batches or size > batch_size or padding > max_padding:
            batches.append([])
            total = 0
        batches[-1].append(index)
        total += length
    return batches


def in_order(examples: Sequence[Example], batch_size: int) -> Iterator[ExampleBatch]:
    """All examples, the shortest first, without any chance."""
    ordered = sorted(examples, key=lambda example: len(example.features))
    for first in range(0, len(ordered), batch_size):
        yield collate_examples(ordered[first : first + batch_size])


def split_records(
    records: Sequence[Record], fraction: float, seed: int
) -> tuple[list[Record], list[Record]]:
    """Training and validation records; at least one of each unless the fraction is 0.

    >>> rows = [Record(str(i), np.zeros((1, 1))) for i in range(4)]
    >>> [len(part) for part in split_records(rows, 0.1, seed=0)]
    [3, 1]
    """
    if fraction == 0 or len(records) < 2:
        return list(records), []
    count = min(max(1, round(fraction * len(records))), len(records) - 1)
    order = np.random.default_rng((seed, 2**31)).permutation(len(records))
    chosen = set(order[:count].tolist())
    left = [record for i, record in enumerate(records) if i not in chosen]
    return left, [record for i, record in enumerate(records) if i in chosen]


def fingerprint(examples: Sequence[Example]) -> str:
    """Digest of the examples, by which a resumed run knows its data."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{example.name}\0{tuple(example.features.shape)}\0".encode())
        digest.update(np.ascontiguousarray(example.features.numpy()))
        digest.update(np.ascontiguousarray(example.segments.numpy()))
    return digest.hexdigest()
