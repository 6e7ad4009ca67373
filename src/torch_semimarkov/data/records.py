"""What every reader returns and every model room consumes: records, label names, batches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.errors import SegmentError, ShapeError, raise_all
from torch_semimarkov.segments import Segment, Segments


class NamedSegment(NamedTuple):
    """One half-open stretch of positions ``[start, end)`` with the name of its label.

    >>> NamedSegment(2, 5, "QRS").duration
    3
    """

    start: int
    end: int
    label: str

    @property
    def duration(self) -> int:
        """Number of positions, ``end - start``."""
        return self.end - self.start


@dataclass(frozen=True, eq=False)
class Record:
    """One sequence: its features and, when labelled, the segments that tile it.

    Args:
        name: how messages, tables and written files call the sequence.
        features: (T, D) numbers, T >= 1, D >= 1, all finite; kept as float32.
        segments: ``(start, end, label name)`` in positions, half-open, in order, tiling
            ``[0, T)``; None when unlabelled.
        sample_rate: positions per second, > 0; None when positions are no times.
        channels: D names of the features; empty when they have none.
        offset: positions of the source before the first one here (a cropped file), >= 0.

    Raises:
        ShapeError: features are not a finite (T, D) table, or another field is out of range.
        SegmentError: the segments do not tile ``[0, T)``.

    >>> record = Record("a", np.zeros((4, 1)), [(0, 3, "low"), (3, 4, "high")])
    >>> record.length, record.segments[1].label
    (4, 'high')
    """

    name: str
    features: np.ndarray
    segments: Sequence[tuple[int, int, str]] | None = None
    sample_rate: float | None = None
    channels: Sequence[str] = ()
    offset: int = 0

    def __post_init__(self) -> None:
        raise_all(ShapeError, f"record {self.name!r} is malformed", _record_problems(self))
        with np.errstate(over="ignore"):
            features = np.ascontiguousarray(self.features, dtype=np.float32)
        _refuse_non_finite(self.name, features)
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "channels", tuple(self.channels))
        if self.segments is not None:
            object.__setattr__(self, "segments", tile(self.name, self.segments, len(features)))

    @property
    def length(self) -> int:
        """Number of positions T."""
        return int(self.features.shape[0])

    @property
    def num_features(self) -> int:
        """Number of features D."""
        return int(self.features.shape[1])


def _record_problems(record: Record) -> list[str]:
    problems = []
    shape = np.shape(record.features)
    kind = np.asarray(record.features).dtype
    if len(shape) != 2 or 0 in shape:
        problems.append(f"features must be (T, D) with T >= 1 and D >= 1, got {shape}")
    if kind.kind not in "fiub":
        problems.append(f"features must be real numbers, got {kind}")
    if record.channels and len(shape) == 2 and len(record.channels) != shape[1]:
        problems.append(f"channels must be D = {shape[1]} names, got {len(record.channels)}")
    rate = record.sample_rate
    if rate is not None and not 0 < rate < float("inf"):
        problems.append(f"sample_rate must be > 0 positions per second, got {rate}")
    if record.offset < 0:
        problems.append(f"offset must be >= 0, got {record.offset}")
    return problems


def _refuse_non_finite(name: str, features: np.ndarray) -> None:
    bad = ~np.isfinite(features)
    if bad.any():
        t, d = (int(i) for i in np.argwhere(bad)[0])
        raise ShapeError(
            f"record {name!r}: features must be finite in float32, got {int(bad.sum())} NaN or "
            f"Inf, the first at position {t}, feature {d}; cut them out or fill them"
        )


def tile(name: str, segments: Iterable[tuple[int, int, str]], T: int) -> tuple[NamedSegment, ...]:
    """The segments, checked to cover ``[0, T)`` in order, without gap and without overlap.

    Args:
        name: the record, for messages.
        segments: ``(start, end, label name)`` in positions.
        T: number of positions, >= 1.

    Raises:
        SegmentError: a gap, an overlap, an empty segment, or one past T; names the segment.

    >>> tile("a", [(0, 2, "x"), (3, 4, "y")], 4)
    Traceback (most recent call last):
    torch_semimarkov.errors.SegmentError: record 'a', segment 1 [3, 4) 'y': gap, expected start 2
    """
    checked = tuple(NamedSegment(int(s), int(e), str(label)) for s, e, label in segments)
    position = 0
    for i, (start, end, label) in enumerate(checked):
        here = f"record {name!r}, segment {i} [{start}, {end}) {label!r}"
        if start != position:
            what = "gap" if start > position else "overlap or disorder"
            raise SegmentError(f"{here}: {what}, expected start {position}")
        if end <= start:
            raise SegmentError(f"{here}: expected end > start")
        if end > T:
            raise SegmentError(f"{here}: ends after the last position, expected end <= T = {T}")
        position = end
    if position != T:
        raise SegmentError(f"record {name!r}: segments end at {position}, expected T = {T}")
    return checked


def segments_from_runs(labels: Sequence[object]) -> list[NamedSegment]:
    """Maximal runs of equal per-position labels as segments.

    >>> [tuple(segment) for segment in segments_from_runs(["a", "a", "b"])]
    [(0, 2, 'a'), (2, 3, 'b')]
    """
    names = np.asarray(labels).astype(str)
    if names.size == 0:
        return []
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    ends = np.r_[starts[1:], names.size]
    return [NamedSegment(int(s), int(e), str(names[s])) for s, e in zip(starts, ends, strict=True)]


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sort key under which ``"2" < "10"``, for file names and labels alike.

    >>> sorted(["10", "2", "b1"], key=natural_key)
    ['2', '10', 'b1']
    """
    pieces = re.split(r"(\d+)", text)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in pieces if p]


@dataclass(frozen=True)
class LabelVocabulary:
    """The names of the labels, in the order of their integer ids.

    Args:
        names: C distinct names, C >= 1; the i-th has id i.

    Raises:
        SegmentError: no name, an empty one, or the same one twice.

    >>> vocabulary = LabelVocabulary(("P", "QRS"))
    >>> vocabulary.encode("QRS"), vocabulary.decode(0)
    (1, 'P')
    """

    names: tuple[str, ...]
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = tuple(str(name) for name in self.names)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "_ids", {name: i for i, name in enumerate(names)})
        if not names or "" in names or len(self._ids) != len(names):
            raise SegmentError(f"a vocabulary needs distinct, non-empty names, got {list(names)}")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    @classmethod
    def from_records(cls, records: Iterable[Record]) -> LabelVocabulary:
        """Every label of the labelled records, sorted (numbers by value), whatever their order.

        Raises:
            SegmentError: no record has a segment.
        """
        found = {s.label for record in records for s in record.segments or ()}
        if not found:
            raise SegmentError("no label found: none of the records is labelled")
        return cls(tuple(sorted(found, key=natural_key)))

    def encode(self, label: str, record: str | None = None) -> int:
        """Id of a name.

        Args:
            label: the name.
            record: name of the record it stands in, for the message.

        Raises:
            SegmentError: the vocabulary does not hold it.
        """
        if label not in self._ids:
            where = f"record {record!r}: " if record is not None else ""
            raise SegmentError(
                f"{where}unknown label {label!r}, expected one of {list(self.names)}"
            )
        return self._ids[label]

    def decode(self, index: int) -> str:
        """Name of an id, 0 <= index < C.

        Raises:
            SegmentError: there is no such id.
        """
        if not 0 <= index < len(self.names):
            raise SegmentError(f"label id must be in 0..C-1 = 0..{len(self) - 1}, got {index}")
        return self.names[index]

    def encode_record(self, record: Record) -> list[Segment]:
        """The segments of a labelled record with integer labels."""
        if record.segments is None:
            raise SegmentError(f"record {record.name!r} is not labelled")
        return [Segment(s, e, self.encode(label, record.name)) for s, e, label in record.segments]

    def decode_segments(self, segments: Iterable[tuple[int, int, int]]) -> list[NamedSegment]:
        """Decoded ``(start, end, label id)`` with the names of the labels."""
        return [NamedSegment(int(s), int(e), self.decode(int(c))) for s, e, c in segments]

    def to_json(self) -> list[str]:
        """The names as a list; ``LabelVocabulary(tuple(...))`` undoes it."""
        return list(self.names)


@dataclass(frozen=True, eq=False)
class Batch:
    """Records padded to one length.

    Args:
        features: (B, T, D) float32; zero past each length.
        lengths: (B,) int64, 1 <= lengths <= T.
        segments: the gold segmentations, or None.
        names: B names of the records.
    """

    features: Tensor
    lengths: Tensor
    segments: Segments | None
    names: tuple[str, ...]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        segments = None if self.segments is None else self.segments.to(device)
        return Batch(self.features.to(device), self.lengths.to(device), segments, self.names)


def collate(records: Sequence[Record], vocabulary: LabelVocabulary | None = None) -> Batch:
    """Pad records to one batch.

    Args:
        records: B >= 1 records with the same number of features D.
        vocabulary: ids of the label names; None leaves the segments out.

    Returns:
        A batch; its ``segments`` are None without a vocabulary or when no record is labelled.

    Raises:
        ShapeError: no record, or records with different D.
        SegmentError: only some records are labelled, or a label is not in the vocabulary.

    >>> short, long = Record("a", np.ones((1, 2))), Record("b", np.ones((3, 2)))
    >>> batch = collate([short, long])
    >>> batch.features.shape, batch.lengths
    (torch.Size([2, 3, 2]), tensor([1, 3]))
    """
    if not records:
        raise ShapeError("a batch needs at least one record")
    D = records[0].num_features
    problems = [
        f"record {r.name!r} has {r.num_features} features, record {records[0].name!r} has {D}"
        for r in records
        if r.num_features != D
    ]
    raise_all(ShapeError, "records do not fit into one batch", problems[:10])
    lengths = torch.tensor([record.length for record in records], dtype=torch.int64)
    features = torch.zeros(len(records), int(lengths.max()), D)
    for row, record in enumerate(records):
        features[row, : record.length] = torch.from_numpy(record.features)
    names = tuple(record.name for record in records)
    return Batch(features, lengths, _gold(records, vocabulary), names)


def _gold(records: Sequence[Record], vocabulary: LabelVocabulary | None) -> Segments | None:
    unlabelled = [record.name for record in records if record.segments is None]
    if vocabulary is None or len(unlabelled) == len(records):
        return None
    if unlabelled:
        raise SegmentError(
            f"record {unlabelled[0]!r} is not labelled while others of its batch are; "
            "leave it out, or pass vocabulary=None to batch without labels"
        )
    return Segments.from_list([vocabulary.encode_record(record) for record in records])
