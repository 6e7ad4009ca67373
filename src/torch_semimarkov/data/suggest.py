"""The longest duration K a data set asks for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from torch_semimarkov.data.records import NamedSegment, Record
from torch_semimarkov.errors import ConfigError, SegmentError


@dataclass(frozen=True)
class LabelDurations:
    """Durations of one label, in positions.

    Args:
        label: its name.
        count: number of segments, >= 1.
        median: median duration.
        quantile: duration at the quantile asked for, rounded up.
        longest: longest duration.
        longer: segments longer than the suggested max_duration.
    """

    label: str
    count: int
    median: float
    quantile: int
    longest: int
    longer: int


@dataclass(frozen=True)
class DurationSuggestion:
    """A longest duration K, and what it costs.

    Args:
        max_duration: the suggestion, in positions; 1 <= max_duration <= longest.
        longer: number of segments longer than it.
        total: number of segments.
        longest: longest duration of all.
        labels: one row a label, sorted by name.
    """

    max_duration: int
    longer: int
    total: int
    longest: int
    labels: tuple[LabelDurations, ...]

    def __str__(self) -> str:
        return (
            f"max_duration {self.max_duration}: {self.longer} of {self.total} segments are longer "
            f"(longest {self.longest})"
        )


def suggest_max_duration(records: Iterable[Record], quantile: float = 0.995) -> DurationSuggestion:
    """The longest duration K that the labelled records ask for.

    The rule: for each label take the smallest duration that at least a share ``quantile`` of its
    segments does not exceed; K is the largest of these over the labels. Every label therefore
    keeps that share, rare ones too, and K is at most the longest segment.

    Args:
        records: labelled records, of the training split; unlabelled ones are passed over.
        quantile: share of each label's segments to cover, 0 < quantile <= 1; 1 covers all.

    Raises:
        ConfigError: quantile is out of its range.
        SegmentError: no record is labelled.

    >>> rows = [(i, i + 1, "short") for i in range(9)] + [(9, 14, "long")]
    >>> print(suggest_max_duration([Record("a", np.zeros((14, 1)), rows)]))
    max_duration 5: 0 of 10 segments are longer (longest 5)
    """
    if not 0 < quantile <= 1:
        raise ConfigError(f"quantile must be in (0, 1], got {quantile}")
    found: dict[str, list[int]] = {}
    for record in records:
        for segment in record.segments or ():
            found.setdefault(segment.label, []).append(segment.duration)
    if not found:
        raise SegmentError("no duration to suggest from: none of the records is labelled")
    durations = {label: np.asarray(found[label]) for label in sorted(found)}
    cut = {
        label: int(np.quantile(values, quantile, method="inverted_cdf"))
        for label, values in durations.items()
    }
    K = max(cut.values())
    table = tuple(
        LabelDurations(
            label=label,
            count=len(values),
            median=float(np.median(values)),
            quantile=cut[label],
            longest=int(values.max()),
            longer=int((values > K).sum()),
        )
        for label, values in durations.items()
    )
    longer, total = sum(row.longer for row in table), sum(row.count for row in table)
    return DurationSuggestion(K, longer, total, max(row.longest for row in table), table)


def split_long_segments(
    segments: Iterable[tuple[int, int, str]], max_duration: int
) -> list[NamedSegment]:
    """Cut segments longer than K into pieces of K positions and a remainder, all of one label.

    Args:
        segments: ``(start, end, label name)`` in positions.
        max_duration: the longest duration K, >= 1.

    Raises:
        ConfigError: max_duration is below 1.

    >>> [tuple(segment) for segment in split_long_segments([(0, 5, "a")], 2)]
    [(0, 2, 'a'), (2, 4, 'a'), (4, 5, 'a')]
    """
    if max_duration < 1:
        raise ConfigError(f"max_duration must be >= 1, got {max_duration}")
    return [
        NamedSegment(piece, min(piece + max_duration, end), label)
        for start, end, label in segments
        for piece in range(start, end, max_duration)
    ]
