"""Scores of boundaries: found within a tolerance or not, and how far off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torch_semimarkov.errors import ConfigError
from torch_semimarkov.metrics._tracks import (
    SegmentLists,
    Track,
    Units,
    chosen_labels,
    track_pair,
    units,
)
from torch_semimarkov.metrics.matching import grouped, match_positions
from torch_semimarkov.metrics.scores import Score, macro

KINDS = ("onset", "offset", "any")


@dataclass(frozen=True)
class BoundaryScore(Score):
    """A score with the signed errors ``predicted - true`` of the matched boundaries.

    Args:
        errors: one error per match, in the user's unit; positive: predicted too late.

    >>> BoundaryScore(true=2, predicted=2, matched=2, errors=(1.0, 3.0)).error_mean
    2.0
    """

    errors: tuple[float, ...] = field(default=(), repr=False)

    @property
    def error_mean(self) -> float | None:
        """Mean signed error; None without a match."""
        return float(np.mean(self.errors)) if self.errors else None

    @property
    def error_sd(self) -> float | None:
        """Standard deviation of the signed errors (divisor n - 1); None below two matches."""
        return float(np.std(self.errors, ddof=1)) if len(self.errors) > 1 else None

    @property
    def error_absolute(self) -> float | None:
        """Mean absolute error; None without a match."""
        return float(np.mean(np.abs(self.errors))) if self.errors else None

    @property
    def r_value(self) -> float | None:
        """R-value (Räsänen et al. 2009): 1 is perfect, surplus ones cost; None if none is true.

        >>> BoundaryScore(true=2, predicted=2, matched=2).r_value
        1.0
        """
        if not self.true:
            return None
        missed = 1 - self.matched / self.true
        surplus = self.predicted / self.true - 1
        return 1 - (np.hypot(missed, surplus).item() + abs(surplus + missed) / 2**0.5) / 2

    def to_dict(self) -> dict[str, float | int | None]:
        """Counts, ratios and errors, ready for JSON."""
        return {
            **super().to_dict(),
            "error_mean": self.error_mean,
            "error_sd": self.error_sd,
            "error_absolute": self.error_absolute,
            "r_value": self.r_value,
        }


@dataclass(frozen=True)
class BoundaryScores:
    """Scores of boundaries by label and over all labels.

    Args:
        unit: "positions", "ms" or "s".
        tolerance: largest distance of a match, in ``unit``.
        per_label: score of each label.
        micro: for onsets and offsets all labels counted together; for kind "any" every boundary
            once, whatever its labels.
        macro: precision, recall and F1, each averaged over the labels where it is defined.
    """

    unit: str
    tolerance: float
    per_label: Mapping[int, BoundaryScore]
    micro: BoundaryScore
    macro: Mapping[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """Everything ready for JSON; labels become text."""
        return {
            "unit": self.unit,
            "tolerance": self.tolerance,
            "micro": self.micro.to_dict(),
            "macro": dict(self.macro),
            "per_label": {str(label): score.to_dict() for label, score in self.per_label.items()},
        }


def boundary_scores(
    true: SegmentLists,
    predicted: SegmentLists,
    tolerance: float,
    *,
    labels: Iterable[int] | None = None,
    kind: str = "any",
    sample_rate: float | Sequence[float] | None = None,
    unit: str | None = None,
    include_edges: bool = False,
) -> BoundaryScores:
    """Precision, recall, F1 and signed error of boundaries, matched one to one.

    An onset is where a segment of a label starts, an offset one past where it ends; "any" is both.
    As many boundaries as possible are matched, and among those matchings the one with the least
    total distance counts.

    Args:
        true: one list of ``(start, end, label)`` per sequence.
        predicted: the same for the prediction.
        tolerance: largest distance of a match, >= 0, in ``unit``.
        labels: labels to judge; default all that occur.
        kind: "onset", "offset" or "any".
        sample_rate: positions per second, one number or one per sequence.
        unit: "ms", "s" or "positions"; default "ms" with a sample rate, else "positions".
        include_edges: also judge boundaries at 0 and at T, true and predicted. They are given by
            the sequence and not found, so they are left out by default. T is the larger of the
            last ends, true or predicted.

    Raises:
        ShapeError: not the same number of sequences.
        SegmentError: segments overlap or are not sorted.
        ConfigError: an unknown kind or unit, a negative tolerance.

    >>> true = [[(0, 10, 0), (10, 20, 1), (20, 30, 0)]]
    >>> predicted = [[(0, 12, 0), (12, 21, 1), (21, 30, 0)]]
    >>> onsets = boundary_scores(true, predicted, tolerance=1, kind="onset")
    >>> onsets.per_label[0].f1, onsets.per_label[1].f1
    (1.0, 0.0)
    >>> boundary_scores(true, predicted, tolerance=8, sample_rate=250).micro.error_mean
    6.0
    """
    if kind not in KINDS:
        raise ConfigError(f'kind must be "onset", "offset" or "any", got {kind!r}')
    truth, guess = track_pair(true, predicted)
    scale = units(sample_rate, unit, truth.count)
    names = chosen_labels(labels, truth, guess)
    span = np.maximum(truth.spans(), guess.spans())
    sides = [
        _events(one.take(np.isin(one.label, names)), kind, None if include_edges else span)
        for one in (truth, guess)
    ]
    by_label = _scored(*sides, scale, tolerance)
    per_label = {name: by_label.get(name, BoundaryScore(0, 0, 0)) for name in names}
    if kind == "any":
        pooled = _scored(*(_unlabelled(side) for side in sides), scale, tolerance)
        micro = pooled.get(0, BoundaryScore(0, 0, 0))
    else:
        micro = _sum(per_label.values())
    return BoundaryScores(scale.name, tolerance, per_label, micro, macro(per_label.values()))


def _events(track: Track, kind: str, span: np.ndarray | None) -> Track:
    """Boundaries as a track with start = end, each (label, sequence, position) once, in order."""
    sides = {"onset": [track.start], "offset": [track.end], "any": [track.start, track.end]}[kind]
    position = np.concatenate(sides)
    sequence = np.tile(track.sequence, len(sides))
    label = np.tile(track.label, len(sides))
    if span is not None:
        inner = (position > 0) & (position < span[sequence])
        position, sequence, label = position[inner], sequence[inner], label[inner]
    return _distinct(label, sequence, position, track.count)


def _unlabelled(events: Track) -> Track:
    return _distinct(np.zeros_like(events.label), events.sequence, events.start, events.count)


def _distinct(label: np.ndarray, sequence: np.ndarray, position: np.ndarray, count: int) -> Track:
    rows = np.unique(np.stack((label, sequence, position), axis=1), axis=0)
    return Track(rows[:, 1], rows[:, 2], rows[:, 2], rows[:, 0], count)


def _scored(
    true: Track, predicted: Track, scale: Units, tolerance: float
) -> dict[int, BoundaryScore]:
    slack = scale.tolerance(tolerance)
    groups = grouped(true, predicted, int(slack.max(initial=0)))
    rows, columns = match_positions(
        groups.of(true, true.start), groups.of(predicted, predicted.start), slack[true.sequence]
    )
    distance = predicted.start[columns] - true.start[rows]
    errors = distance / scale.positions[true.sequence[rows]]
    label = true.label[rows]
    return {
        name: BoundaryScore(
            int((true.label == name).sum()),
            int((predicted.label == name).sum()),
            int((label == name).sum()),
            tuple(errors[label == name].tolist()),
        )
        for name in chosen_labels(None, true, predicted)
    }


def _sum(scores: Iterable[BoundaryScore]) -> BoundaryScore:
    table = list(scores)
    return BoundaryScore(
        sum(score.true for score in table),
        sum(score.predicted for score in table),
        sum(score.matched for score in table),
        tuple(error for score in table for error in score.errors),
    )
