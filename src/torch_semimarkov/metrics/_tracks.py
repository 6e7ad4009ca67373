"""Checked inputs of the metrics: all sequences as one set of flat arrays, and the user's units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torch_semimarkov.errors import ConfigError, SegmentError, ShapeError, raise_all
from torch_semimarkov.given import as_array, as_integers, as_number, shown
from torch_semimarkov.segments import Segment, Segments

SegmentLists = Segments | Sequence[Sequence[tuple[int, int, int]]]
UNITS_PER_SECOND = {"s": 1.0, "ms": 1000.0}
# More than any sequence has, so that keys of positions in many sequences fit 64 bits.
LARGEST = 2**40


@dataclass(frozen=True)
class Track:
    """The segments of all sequences, ordered by sequence and start.

    Args:
        sequence: (N,) int64. Index of the sequence.
        start: (N,) int64. First position.
        end: (N,) int64. One past the last position.
        label: (N,) int64.
        count: number of sequences, empty ones included.
    """

    sequence: np.ndarray
    start: np.ndarray
    end: np.ndarray
    label: np.ndarray
    count: int

    def __len__(self) -> int:
        return len(self.start)

    def take(self, index: np.ndarray) -> Track:
        """The segments at ``index`` (integers or a mask)."""
        columns = (self.sequence, self.start, self.end, self.label)
        return Track(*(column[index] for column in columns), self.count)

    def spans(self) -> np.ndarray:
        """(count,) int64. End of the last segment of each sequence, 0 without segments."""
        spans = np.zeros(self.count, dtype=np.int64)
        np.maximum.at(spans, self.sequence, self.end)
        return spans


def track_pair(true: SegmentLists, predicted: SegmentLists) -> tuple[Track, Track]:
    """Both inputs checked and flattened.

    Raises:
        ShapeError: not the same number of sequences, or not lists of sequences.
        SegmentError: a segment is not three integers, is empty, or overlaps the one before it.
    """
    pair = track("true", true), track("predicted", predicted)
    if pair[0].count != pair[1].count:
        raise ShapeError(
            "true and predicted must hold the same number of sequences, "
            f"got {pair[0].count} and {pair[1].count}"
        )
    return pair


def track(name: str, sequences: SegmentLists) -> Track:
    """One input checked and flattened; ``name`` is what errors call it."""
    try:
        given = sequences.to_list() if isinstance(sequences, Segments) else sequences
        lists = [[tuple(entry) for entry in entries] for entries in given]
    except TypeError:
        raise ShapeError(
            f"{name} must be one list of (start, end, label) per sequence, got {shown(sequences)}; "
            f"a single sequence: wrap it as [{name}]"
        ) from None
    counts = [len(entries) for entries in lists]
    flat = [entry for entries in lists for entry in entries]
    sequence = np.repeat(np.arange(len(lists), dtype=np.int64), counts)
    if not flat:
        empty = np.zeros(0, dtype=np.int64)
        return Track(sequence, empty, empty, empty, len(lists))
    table = _table(name, flat, sequence)
    result = Track(sequence, table[:, 0], table[:, 1], table[:, 2], len(lists))
    _check_order(name, result)
    return result


def _table(name: str, flat: list[tuple], sequence: np.ndarray) -> np.ndarray:
    wrong = next((i for i, entry in enumerate(flat) if len(entry) != 3), None)
    if wrong is None:
        raw = np.asarray(flat)
        numbers = raw.ndim == 2 and raw.dtype.kind in "iuf"
        if numbers and bool(((np.abs(raw) < LARGEST) & (raw == np.rint(raw))).all()):
            return raw.astype(np.int64)
        wrong = next((i for i, entry in enumerate(flat) if not _whole(entry)), 0)
    raise SegmentError(
        f"{name}, sequence {sequence[wrong]}: expected integers (start, end, label) below 2**40, "
        f"got {shown(flat[wrong])}"
    )


def _whole(entry: Iterable[Any]) -> bool:
    return all(
        isinstance(v, (int, float, np.number)) and abs(v) < LARGEST and v == np.rint(v)
        for v in entry
    )


def _check_order(name: str, result: Track) -> None:
    first = np.searchsorted(result.sequence, np.arange(result.count))
    bad = (result.start < 0) | (result.end <= result.start) | (result.label < 0)
    overlap = np.zeros(len(result), dtype=bool)
    same = result.sequence[1:] == result.sequence[:-1]
    overlap[1:] = same & (result.start[1:] < result.end[:-1])
    problems = []
    for i in np.flatnonzero(bad | overlap)[:10]:
        entry = (int(result.start[i]), int(result.end[i]), int(result.label[i]))
        where = f"sequence {result.sequence[i]}, segment {i - first[result.sequence[i]]}"
        reason = "0 <= start < end and label >= 0" if bad[i] else "start >= the end before it"
        problems.append(f"{where}: expected {reason}, got {entry}")
    raise_all(SegmentError, f"{name} must be sorted segments without overlap", problems)


@dataclass(frozen=True)
class Units:
    """The user's unit of time and what one unit is in positions, for each sequence.

    Args:
        name: "positions", "ms" or "s".
        positions: (count,) float64 > 0. Positions per unit.
    """

    name: str
    positions: np.ndarray

    def tolerance(self, value: float) -> np.ndarray:
        """(count,) int64. The tolerance in whole positions (150 ms at 500 Hz is 75)."""
        number = as_number("tolerance", value)
        if not 0 <= number < np.inf:
            raise ConfigError(f"tolerance must be a number >= 0 in {self.name}, got {value}")
        wide = np.minimum(number, LARGEST) * self.positions
        return np.minimum(np.floor(wide + 1e-6), LARGEST).astype(np.int64)


def units(sample_rate: float | Sequence[float] | None, unit: str | None, count: int) -> Units:
    """The unit that tolerances and errors are in.

    Args:
        sample_rate: positions per second, one number or one per sequence; None: unknown.
        unit: "ms", "s" or "positions"; default "ms" with a sample rate, else "positions".
        count: number of sequences.

    Raises:
        ConfigError: an unknown unit, a unit of time without a sample rate, a rate not > 0.

    >>> units(500.0, "ms", 1).tolerance(150)
    array([75])
    """
    unit = ("positions" if sample_rate is None else "ms") if unit is None else unit
    if unit not in (*UNITS_PER_SECOND, "positions"):
        raise ConfigError(f'unit must be "ms", "s" or "positions", got {unit!r}')
    if unit == "positions":
        return Units(unit, np.ones(count))
    if sample_rate is None:
        raise ConfigError(f"unit={unit!r} needs sample_rate, in positions per second")
    try:
        rates = as_array("sample_rate", sample_rate)
    except ShapeError as error:
        raise ConfigError(str(error)) from None
    if rates.ndim == 0:
        rates = np.full(count, rates)
    if rates.shape != (count,):
        raise ConfigError(f"sample_rate must be a number or ({count},), got {rates.shape}")
    if not bool((np.isfinite(rates) & (rates > 0)).all()):
        raise ConfigError(f"sample_rate must be > 0, got {sample_rate}")
    return Units(unit, rates / UNITS_PER_SECOND[unit])


def merge_neighbours(sequences: SegmentLists) -> list[list[Segment]]:
    """Join segments that touch and carry the same label.

    The metrics judge segments as they are given; use this first where only runs of labels matter,
    for example after long runs were split.

    >>> merge_neighbours([[(0, 2, 1), (2, 5, 1), (5, 6, 0)]])
    [[Segment(start=0, end=5, label=1), Segment(start=5, end=6, label=0)]]
    """
    one = track("sequences", sequences)
    columns = (one.sequence, one.start, one.end, one.label)
    result: list[list[Segment]] = [[] for _ in range(one.count)]
    for sequence, start, end, label in zip(*(column.tolist() for column in columns), strict=True):
        joined = result[sequence]
        if joined and joined[-1].end == start and joined[-1].label == label:
            joined[-1] = Segment(joined[-1].start, end, label)
        else:
            joined.append(Segment(start, end, label))
    return result


def chosen_labels(labels: Iterable[int] | None, *tracks: Track) -> list[int]:
    """``labels`` as a sorted list, by default every label that occurs.

    Raises:
        ConfigError: something else than integers >= 0.
    """
    if labels is None:
        return np.unique(np.concatenate([one.label for one in tracks])).tolist()
    try:
        found = as_integers("labels", list(labels))
    except (ShapeError, TypeError):
        found = None
    if found is None or (found < 0).any():
        raise ConfigError(f"labels must be integers >= 0, got {shown(labels)}")
    return np.unique(found).tolist()
