"""How well predicted or modelled durations agree with the observed ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from torch_semimarkov.errors import ConfigError, ShapeError
from torch_semimarkov.given import as_array
from torch_semimarkov.metrics._tracks import (
    SegmentLists,
    Track,
    Units,
    chosen_labels,
    track,
    track_pair,
    units,
)

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
Weighted = tuple[np.ndarray, np.ndarray]


def duration_calibration(
    true: SegmentLists,
    predicted: SegmentLists | None = None,
    *,
    model: np.ndarray | Mapping[int, Sequence[float]] | None = None,
    labels: Iterable[int] | None = None,
    sample_rate: float | Sequence[float] | None = None,
    unit: str | None = None,
) -> dict[str, Any]:
    """Observed durations of each label beside the predicted ones, or beside a model's distribution.

    Every segment counts, also those that the edges of a sequence may have cut short.

    Args:
        true: one list of ``(start, end, label)`` per sequence.
        predicted: the same for the prediction; give this or ``model``.
        model: (K, C) probabilities or expected counts >= 0, row d-1 for duration d; or one (K,) row
            per label. Each label is normalised.
        labels: labels to judge; default all that occur.
        sample_rate: positions per second, one number or one per sequence (one number with a model).
        unit: "ms", "s" or "positions"; default "ms" with a sample rate, else "positions".

    Returns:
        "unit", and ``per_label[label]`` with "true" and "predicted" (or "model"), each a dict of
        "count", "mean", "sd" (divisor n) and "quantiles" (the smallest duration that at least the
        share q does not exceed); "ks", the largest difference of the two distribution functions
        (Kolmogorov-Smirnov); "wasserstein", the mean shift of duration in ``unit`` that turns one
        distribution into the other. None where a side has no segments.

    Raises:
        ConfigError: not exactly one of ``predicted`` and ``model``.
        ShapeError: the model's shape is wrong, or it holds a negative or non-finite number.

    >>> result = duration_calibration([[(0, 2, 0), (2, 6, 0)]], [[(0, 3, 0), (3, 6, 0)]])
    >>> result["per_label"][0]["true"]["mean"], result["per_label"][0]["wasserstein"]
    (3.0, 1.0)
    """
    if (predicted is None) == (model is None):
        raise ConfigError("give exactly one of predicted and model")
    if predicted is not None:
        truth, guess = track_pair(true, predicted)
    else:
        truth = guess = track("true", true)
    scale = units(sample_rate, unit, truth.count)
    names = chosen_labels(labels, truth, guess)
    if model is None:
        side, other = "predicted", {name: _observed(guess, name, scale) for name in names}
    else:
        side, other = "model", _modelled(model, names, scale)
    per_label = {}
    for name in names:
        left, right = _observed(truth, name, scale), other[name]
        per_label[name] = {
            "true": _summary(*left),
            side: _summary(*right),
            **_distances(left, right),
        }
    return {"unit": scale.name, "per_label": per_label}


def _observed(one: Track, label: int, scale: Units) -> Weighted:
    chosen = one.take(one.label == label)
    durations = (chosen.end - chosen.start) / scale.positions[chosen.sequence]
    return np.unique(durations, return_counts=True)


def _modelled(
    model: np.ndarray | Mapping[int, Sequence[float]], names: list[int], scale: Units
) -> dict[int, Weighted]:
    rates = np.unique(scale.positions)
    if len(rates) > 1:
        raise ConfigError("with a model, sample_rate must be the same for all sequences")
    rate = rates[0] if len(rates) else 1.0
    if isinstance(model, Mapping):
        columns = {name: as_array(f"model of label {name}", row) for name, row in model.items()}
    else:
        table = as_array("model", model)
        if table.ndim != 2:
            raise ShapeError(f"model must be (K, C), got {table.shape}")
        columns = dict(enumerate(table.T))
    result = {}
    for name in names:
        weights = columns.get(name, np.zeros(0))
        if weights.ndim != 1 or not bool((np.isfinite(weights) & (weights >= 0)).all()):
            raise ShapeError(f"model of label {name} must be (K,) numbers >= 0, got {weights}")
        kept = np.flatnonzero(weights)
        result[name] = ((kept + 1) / rate, weights[kept])
    return result


def _summary(values: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    if not len(values):
        return {"count": 0, "mean": None, "sd": None, "quantiles": None}
    share = weights / weights.sum()
    mean = float(share @ values)
    reached = np.cumsum(share)
    picks = np.searchsorted(reached, np.asarray(QUANTILES) - 1e-9)
    quantiles = values[np.minimum(picks, len(values) - 1)]
    return {
        "count": int(weights.sum()) if weights.dtype.kind == "i" else None,
        "mean": mean,
        "sd": float(np.sqrt(share @ (values - mean) ** 2)),
        "quantiles": {str(q): float(v) for q, v in zip(QUANTILES, quantiles, strict=True)},
    }


def _distances(left: Weighted, right: Weighted) -> dict[str, float | None]:
    if not len(left[0]) or not len(right[0]):
        return {"ks": None, "wasserstein": None}
    from scipy.stats import wasserstein_distance

    grid = np.union1d(left[0], right[0])
    steps = [
        np.concatenate(([0.0], np.cumsum(weights) / weights.sum()))[
            np.searchsorted(values, grid, side="right")
        ]
        for values, weights in (left, right)
    ]
    moved = wasserstein_distance(left[0], right[0], left[1], right[1])
    return {"ks": float(np.abs(steps[0] - steps[1]).max()), "wasserstein": float(moved)}
