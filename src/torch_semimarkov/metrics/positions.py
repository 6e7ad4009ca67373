"""Scores of the label at every position."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from torch_semimarkov.metrics._tracks import (
    SegmentLists,
    Track,
    chosen_labels,
    track_pair,
)

UNCOVERED = -1


def overlay(truth: Track, guess: Track) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pieces on which both labels are constant: true label, predicted label (or -1), positions.

    Only what the truth covers is kept. The number of pieces does not grow with the durations.
    """
    stride = int(max(truth.end.max(initial=0), guess.end.max(initial=0))) + 1
    keys = [
        (one.sequence * stride + one.start, one.sequence * stride + one.end)
        for one in (truth, guess)
    ]
    cuts = np.unique(np.concatenate([*keys[0], *keys[1]]))
    left, length = cuts[:-1], np.diff(cuts)
    labels = []
    for one, (start, end) in zip((truth, guess), keys, strict=True):
        index = np.searchsorted(start, left, side="right") - 1
        labels.append(np.full(len(left), UNCOVERED))
        if len(one):
            covered = (index >= 0) & (left < end[index])
            labels[-1][covered] = one.label[index[covered]]
    known = labels[0] != UNCOVERED
    return labels[0][known], labels[1][known], length[known]


def position_accuracy(true: SegmentLists, predicted: SegmentLists) -> float | None:
    """Share of the positions that carry the true label.

    Positions that the truth does not cover are not judged; those that only the truth covers count
    as wrong. None if the truth covers nothing.

    >>> position_accuracy([[(0, 3, 0), (3, 4, 1)]], [[(0, 2, 0), (2, 4, 1)]])
    0.75
    """
    left, right, length = overlay(*track_pair(true, predicted))
    total = int(length.sum())
    return int(length[left == right].sum()) / total if total else None


def label_f1(
    true: SegmentLists, predicted: SegmentLists, *, labels: Iterable[int] | None = None
) -> dict[str, Any]:
    """Precision, recall and F1 of each label over positions, by scikit-learn.

    Args:
        true: one list of ``(start, end, label)`` per sequence. Positions that it leaves out are not
            judged.
        predicted: the same for the prediction; positions that it leaves out are misses.
        labels: labels to judge; default all that occur.

    Returns:
        ``per_label[label]`` with "precision", "recall", "f1" and "support" (true positions);
        "macro", the mean F1 over labels where it is defined; "weighted", the mean F1 weighted by
        support. Undefined values are None.

    >>> scores = label_f1([[(0, 3, 0), (3, 4, 1)]], [[(0, 2, 0), (2, 4, 1)]])
    >>> scores["per_label"][0]["f1"], scores["per_label"][0]["support"]
    (0.8, 3)
    """
    truth, guess = track_pair(true, predicted)
    left, right, length = overlay(truth, guess)
    names = chosen_labels(labels, truth, guess)
    if not names or not len(left):
        missing = dict.fromkeys(("precision", "recall", "f1"))
        per_label = {name: {**missing, "support": 0} for name in names}
        return {"per_label": per_label, "macro": None, "weighted": None}
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(
        left, right, labels=names, sample_weight=length, zero_division=np.nan
    )
    per_label = {}
    for name, precision, recall, f1, support in zip(names, *columns, strict=True):
        ratios = {"precision": precision, "recall": recall, "f1": f1}
        per_label[name] = {key: _defined(value) for key, value in ratios.items()}
        per_label[name]["support"] = round(float(support))
    f1, support = columns[2], columns[3]
    known = ~np.isnan(f1)
    weighted = known & (support > 0)
    return {
        "per_label": per_label,
        "macro": float(f1[known].mean()) if known.any() else None,
        "weighted": float(np.average(f1[weighted], weights=support[weighted]))
        if weighted.any()
        else None,
    }


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
