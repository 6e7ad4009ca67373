"""How far predicted probabilities can be believed, and what they are good for.

``probabilities`` are (N,) of an event with ``outcomes`` (N,) 0 or 1; or (N, C) of labels, rows of
sum 1, with ``outcomes`` (N,) the true labels, of which the most probable label is judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from torch_semimarkov.errors import ConfigError, ShapeError
from torch_semimarkov.given import as_array, as_integers, as_number, shown
from torch_semimarkov.segments import as_count

# Rows may miss a sum of 1 by the rounding of float32 posteriors.
_ROUNDING = 1e-3


class Reliability(NamedTuple):
    """Reliability diagram: one entry a bin that is not empty, and its summary.

    confidence, frequency: mean predicted probability, and share of those that came true.
    counts: how many predictions.
    ece, mce: expected and maximum calibration error, 0..1: the mean (by counts) and the largest
        distance of the two.
    """

    confidence: np.ndarray
    frequency: np.ndarray
    counts: np.ndarray
    ece: float
    mce: float


class SelectiveCurve(NamedTuple):
    """Accuracy of the most certain share ``coverage`` of predictions, in steps of one prediction.

    ``area`` is the mean error over the steps, 0 at best.
    """

    coverage: np.ndarray
    accuracy: np.ndarray
    area: float


def reliability(probabilities: Any, outcomes: Any, bins: int = 10) -> Reliability:
    """Reliability diagram with expected and maximum calibration error, bins of equal width.

    Args:
        probabilities, outcomes: see the module.
        bins: >= 1.

    Raises:
        ConfigError: ``bins`` out of its range.
        ShapeError: shapes that do not fit, numbers that are no probabilities or outcomes.

    Source: Guo et al., On calibration of modern neural networks, ICML 2017.

    >>> found = reliability([0.1, 0.1, 0.9, 0.9], [0, 0, 1, 0])
    >>> found.frequency.tolist(), round(found.ece, 3), round(found.mce, 3)
    ([0.0, 0.5], 0.25, 0.4)
    """
    bins = as_count("bins", bins, ConfigError)
    p, y = _checked(probabilities, outcomes)
    if p.ndim == 2:
        p, y = p.max(1), (p.argmax(1) == y).astype(float)
    from sklearn.calibration import calibration_curve

    frequency, confidence = calibration_curve(y, p, n_bins=bins)
    # As calibration_curve puts them into bins.
    inner = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    counts = np.bincount(np.searchsorted(inner, p), minlength=bins)
    counts = counts[counts > 0]
    gap = np.abs(frequency - confidence)
    ece = float((gap * counts).sum() / counts.sum())
    return Reliability(confidence, frequency, counts, ece, float(gap.max()))


def brier_score(probabilities: Any, outcomes: Any) -> float:
    """Mean squared distance from probabilities to outcomes: 0..1 of an event, 0..2 of labels.

    Args:
        probabilities, outcomes: see the module.

    Raises:
        ShapeError: as :func:`reliability`.

    Source: Brier, Verification of forecasts expressed in terms of probability, 1950.

    >>> brier_score([0.5, 1.0], [1, 1]), brier_score([[0.0, 1.0]], [0])
    (0.125, 2.0)
    """
    p, y = _checked(probabilities, outcomes)
    if p.ndim == 1:
        return float(((p - y) ** 2).mean())
    return float(((p - np.eye(p.shape[1])[y.astype(int)]) ** 2).sum(1).mean())


def apply_temperature(probabilities: Any, temperature: float) -> np.ndarray:
    """Probabilities with their logits divided by a temperature > 0; 1 changes nothing.

    Args:
        probabilities: (N,) or (N, C), see the module.
        temperature: above 1 makes them less certain, below 1 more.

    Raises:
        ConfigError: the temperature is not > 0 and finite.
        ShapeError: numbers that are no probabilities.

    >>> apply_temperature([[0.2, 0.8]], 0.5).round(3).tolist()
    [[0.059, 0.941]]
    """
    temperature = as_number("temperature", temperature)
    if not 0 < temperature < np.inf:
        raise ConfigError(f"temperature must be > 0 and finite, got {temperature}")
    p = _probabilities(probabilities)
    rows = np.stack([1 - p, p], -1) if p.ndim == 1 else p
    scaled = np.exp(_log_tempered(rows, temperature))
    return scaled[:, 1] if p.ndim == 1 else scaled


def fit_temperature(probabilities: Any, outcomes: Any) -> float:
    """The temperature with the highest likelihood, 0.01..100; fit it on held-out data.

    Args:
        probabilities, outcomes: see the module.

    Returns:
        The temperature; 1 where none is better, as of probabilities that are all 0.5, or 0 and 1.

    Raises:
        ShapeError: as :func:`reliability`.

    Source: Guo et al., On calibration of modern neural networks, ICML 2017.

    >>> round(fit_temperature([0.9] * 4, [1, 1, 1, 0]), 3)
    2.0
    """
    from scipy.optimize import minimize_scalar

    p, y = _checked(probabilities, outcomes)
    rows = np.stack([1 - p, p], -1) if p.ndim == 1 else p
    true = y.astype(int)

    def loss(log_temperature: float) -> float:
        logs = _log_tempered(rows, float(np.exp(log_temperature)))
        return -float(logs[np.arange(len(true)), true].mean())

    most = np.log(100.0)
    found = minimize_scalar(loss, bounds=(-most, most), method="bounded", options={"xatol": 1e-6})
    # The same to rounding is no better.
    better = found.fun < loss(0.0) - 1e-12
    return float(np.exp(found.x)) if better else 1.0


def selective_curve(certainty: Any, correct: Any) -> SelectiveCurve:
    """Accuracy of what is kept if the least certain predictions are handed over.

    Args:
        certainty: (N,), higher is more certain; equal ones keep their order.
        correct: (N,), 1 where the prediction is right, else 0; or a share of it.

    Raises:
        ShapeError: not two arrays of one length >= 1, a NaN in them, or no share.

    Source: Geifman and El-Yaniv, Selective classification for deep neural networks, NIPS 2017.

    >>> selective_curve([0.9, 0.2], [1, 0]).accuracy.tolist()
    [1.0, 0.5]
    """
    c, y = as_array("certainty", certainty), as_array("correct", correct)
    if c.ndim != 1 or c.shape != y.shape or not len(c):
        raise ShapeError(f"certainty and correct must be (N,), N >= 1, got {c.shape}, {y.shape}")
    if np.isnan(c).any() or np.isnan(y).any():
        raise ShapeError("certainty and correct must be numbers, got NaN")
    if ((y < 0) | (y > 1)).any():
        raise ShapeError(f"correct must be within 0..1, got {shown(y)}")
    steps = np.arange(1, len(c) + 1)
    accuracy = np.cumsum(y[np.argsort(-c, kind="stable")]) / steps
    return SelectiveCurve(steps / len(c), accuracy, float((1 - accuracy).mean()))


def boundary_intervals(boundaries: Any, predicted: Sequence[int], level: float) -> np.ndarray:
    """Intervals around predicted boundaries that should hold the true one with probability level.

    Each predicted boundary has the positions that are nearer to it than to its neighbours. Of their
    boundary probabilities, which are taken to be of one boundary and scaled to sum 1, the smallest
    symmetric interval holds ``level`` at least.

    Args:
        boundaries: (T,), probability of a boundary at each position.
        predicted: M increasing positions in 0..T-1.
        level: 0 < level < 1.

    Returns:
        (M, 2) int, first and last position of each.

    Raises:
        ConfigError: ``level`` out of its range.
        ShapeError: positions that are not whole, do not increase or lie outside; numbers that are
            no probabilities.

    >>> boundary_intervals([0, 0.1, 0.2, 0.5, 0.2, 0.1, 0], [3], 0.8).tolist()
    [[2, 4]]
    """
    level = _level(level)
    p = as_array("boundaries", boundaries)
    if p.ndim != 1 or not ((p >= -_ROUNDING) & (p <= 1 + _ROUNDING)).all():
        raise ShapeError(f"boundaries must be (T,) within 0..1, got {shown(boundaries)}")
    p, at = p.clip(0, 1), _positions("predicted", predicted, len(p))
    found = []
    for t, (first, last) in zip(at, _cells(at, len(p)), strict=True):
        far = np.abs(np.arange(first, last + 1) - t)
        held = np.cumsum(np.bincount(far, p[first : last + 1]))
        # A tiny slack keeps rounding from widening an interval that holds the level exactly.
        radius = int(np.searchsorted(held, level * held[-1] * (1 - 1e-9)))
        found.append((max(first, t - radius), min(last, t + radius)))
    return np.array(found, dtype=int).reshape(-1, 2)


def interval_coverage(
    boundaries: Sequence[Any], predicted: Sequence[Any], true: Sequence[Any], level: float
) -> dict[str, float | int | None]:
    """How often :func:`boundary_intervals` hold the true boundary.

    A predicted boundary is judged by the true one nearest to it of those nearer to it than to its
    neighbours; where there is none, it counts under "without", not in the coverage.

    Args:
        boundaries, predicted, true: one entry a sequence; ``true`` as ``predicted``.
        level: as in :func:`boundary_intervals`.

    Returns:
        "coverage" (None without a judged one), "width" (mean, in positions), "judged", "without".

    Raises:
        ConfigError, ShapeError: as :func:`boundary_intervals`, or not one entry a sequence.

    >>> p = [0, 0.1, 0.2, 0.5, 0.2, 0.1, 0]
    >>> interval_coverage([p], [[3]], [[4]], 0.8)["coverage"]
    1.0
    """
    level = _level(level)
    counts = [len(x) if hasattr(x, "__len__") else None for x in (boundaries, predicted, true)]
    if counts[0] is None or len(set(counts)) > 1:
        raise ShapeError(
            f"boundaries, predicted and true must have one entry a sequence, got {counts}"
        )
    held, widths, without = [], [], 0
    for p, guess, truth in zip(boundaries, predicted, true, strict=True):
        spans = boundary_intervals(p, guess, level)
        at, real = (_positions(n, x, len(p)) for n, x in (("predicted", guess), ("true", truth)))
        cells = _cells(at, len(p))
        for t, (low, high), (first, last) in zip(at, spans, cells, strict=True):
            widths.append(high - low + 1)
            inside = real[(real >= first) & (real <= last)]
            if not len(inside):
                without += 1
                continue
            nearest = inside[np.abs(inside - t).argmin()]
            held.append(low <= nearest <= high)
    return {
        "coverage": float(np.mean(held)) if held else None,
        "width": float(np.mean(widths)) if widths else None,
        "judged": len(held),
        "without": without,
    }


def _level(level: float) -> float:
    level = as_number("level", level)
    if not 0 < level < 1:
        raise ConfigError(f"level must be between 0 and 1, got {level}")
    return level


def _positions(name: str, values: Any, length: int) -> np.ndarray:
    at = as_integers(name, values)
    if len(at) and (at[0] < 0 or at[-1] >= length or (np.diff(at) < 1).any()):
        raise ShapeError(f"{name} must increase within 0..{length - 1}, got {shown(at.tolist())}")
    return at


def _cells(at: np.ndarray, length: int) -> list[tuple[int, int]]:
    middle = (at[:-1] + at[1:]) // 2
    first, last = [0, *(middle + 1).tolist()], [*middle.tolist(), length - 1]
    return list(zip(first, last, strict=True))[: len(at)]


def _log_tempered(rows: np.ndarray, temperature: float) -> np.ndarray:
    from scipy.special import log_softmax

    # The smallest normal number keeps a certain miss at a finite, heavy loss.
    logs = np.log(np.maximum(rows, np.finfo(np.float64).tiny))
    return log_softmax(logs / temperature, axis=-1)


def _checked(probabilities: Any, outcomes: Any) -> tuple[np.ndarray, np.ndarray]:
    p, y = _probabilities(probabilities), as_array("outcomes", outcomes)
    if y.shape != p.shape[:1]:
        raise ShapeError(f"outcomes must be (N,) = ({len(p)},), got {y.shape}")
    labels = 2 if p.ndim == 1 else p.shape[1]
    if not np.isin(y, np.arange(labels)).all():
        raise ShapeError(f"outcomes must be integers in 0..{labels - 1}")
    return p, y


def _probabilities(probabilities: Any) -> np.ndarray:
    p = as_array("probabilities", probabilities)
    if p.ndim not in (1, 2) or not p.size:
        raise ShapeError(f"probabilities must be (N,) or (N, C), N >= 1, got {p.shape}")
    wrong_sum = p.ndim == 2 and (np.abs(p.sum(1) - 1) > _ROUNDING).any()
    if not ((p >= -_ROUNDING) & (p <= 1 + _ROUNDING)).all() or wrong_sum:
        raise ShapeError("probabilities must be within 0..1, and rows of labels of sum 1")
    return p.clip(0, 1)
