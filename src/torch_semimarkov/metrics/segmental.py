"""Scores of whole segments: precision, recall and F1, and the edit rate of the label sequence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torch_semimarkov.errors import ConfigError
from torch_semimarkov.given import as_number
from torch_semimarkov.metrics._tracks import (
    SegmentLists,
    Track,
    chosen_labels,
    track_pair,
    units,
)
from torch_semimarkov.metrics.matching import Pairs, grouped, match_overlap, match_within
from torch_semimarkov.metrics.scores import Score, macro


@dataclass(frozen=True)
class SegmentScores:
    """Scores of segments by label and over all labels.

    Args:
        per_label: score of each label.
        micro: all labels counted together.
        macro: precision, recall and F1, each averaged over the labels where it is defined.
    """

    per_label: Mapping[int, Score]
    micro: Score
    macro: Mapping[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """Everything ready for JSON; labels become text."""
        return {
            "micro": self.micro.to_dict(),
            "macro": dict(self.macro),
            "per_label": {str(label): score.to_dict() for label, score in self.per_label.items()},
        }


def segment_scores(
    true: SegmentLists,
    predicted: SegmentLists,
    tolerance: float | None = None,
    iou: float | None = None,
    *,
    labels: Iterable[int] | None = None,
    sample_rate: float | Sequence[float] | None = None,
    unit: str | None = None,
) -> SegmentScores:
    """Precision, recall and F1 of segments, matched one to one within a label.

    Without ``tolerance`` and ``iou``, a match is a segment with the same start, end and label. As
    many pairs as possible are matched.

    Args:
        true: one list of ``(start, end, label)`` per sequence.
        predicted: the same for the prediction.
        tolerance: match if both boundaries are at most this far off, in ``unit``.
        iou: match if the intersection over the union is at least this, 0 < iou <= 1.
        labels: labels to judge; default all that occur.
        sample_rate: positions per second, one number or one per sequence.
        unit: "ms", "s" or "positions"; default "ms" with a sample rate, else "positions".

    Raises:
        ShapeError: not the same number of sequences.
        SegmentError: segments overlap or are not sorted.
        ConfigError: both ``tolerance`` and ``iou``, or one out of its range.

    >>> true = [[(0, 4, 0), (4, 9, 1)]]
    >>> predicted = [[(0, 5, 0), (5, 9, 1)]]
    >>> segment_scores(true, predicted).micro.f1
    0.0
    >>> segment_scores(true, predicted, tolerance=1).micro.f1
    1.0
    """
    truth, guess = track_pair(true, predicted)
    scale = units(sample_rate, unit, truth.count)
    if tolerance is not None and iou is not None:
        raise ConfigError("give tolerance or iou, not both")
    if iou is not None:
        iou = as_number("iou", iou)
        if not 0 < iou <= 1:
            raise ConfigError(f"iou must be in (0, 1], got {iou}")
    slack = scale.tolerance(0 if tolerance is None else tolerance)
    names = chosen_labels(labels, truth, guess)
    matched = _matched_labels(truth, guess, slack, iou)
    per_label = {}
    for name in names:
        counts = ((one == name).sum() for one in (truth.label, guess.label, matched))
        per_label[name] = Score(*(int(count) for count in counts))
    table = list(per_label.values())
    micro = Score(
        sum(s.true for s in table), sum(s.predicted for s in table), sum(s.matched for s in table)
    )
    return SegmentScores(per_label, micro, macro(table))


def _matched_labels(truth: Track, guess: Track, slack: np.ndarray, iou: float | None) -> np.ndarray:
    groups = grouped(truth, guess, int(slack.max(initial=0)))
    truth, guess = groups.ordered(truth), groups.ordered(guess)
    pairs: Pairs
    if iou is None:
        pairs = match_within(truth, guess, slack[truth.sequence], groups)
    else:
        pairs = match_overlap(truth, guess, iou, groups)
    return truth.label[pairs[0]]


def label_edit_rate(true: SegmentLists, predicted: SegmentLists) -> float | None:
    """Edit distance of the label sequences, divided by the number of true segments.

    The phone or word error rate of speech: insertions, deletions and substitutions cost 1. It is
    summed over the sequences before the division, so it can exceed 1. None without true segments.

    >>> label_edit_rate([[(0, 2, 0), (2, 4, 1)]], [[(0, 1, 0), (1, 3, 2), (3, 4, 1)]])
    0.5
    """
    truth, guess = track_pair(true, predicted)
    from rapidfuzz.distance import Levenshtein

    cuts = np.arange(1, truth.count)
    total = 0
    for left, right in zip(
        np.split(truth.label, np.searchsorted(truth.sequence, cuts)),
        np.split(guess.label, np.searchsorted(guess.sequence, cuts)),
        strict=True,
    ):
        total += Levenshtein.distance(left.tolist(), right.tolist())
    return total / len(truth) if len(truth) else None
