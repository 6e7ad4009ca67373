"""Observed durations of each label beside the durations that a model expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from torch_semimarkov.errors import ConfigError, ShapeError
from torch_semimarkov.given import LabelNames, as_array, as_mapping, names_of, shown
from torch_semimarkov.plots._style import (
    FONT_SIZE,
    LINE,
    checked_rate,
    dress,
    empty_figure,
    legend_above,
    look,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_BINS = 40


def plot_durations(
    observed: Mapping[int, Sequence[int]],
    model: Any = None,
    label_names: LabelNames = None,
    sample_rate: float | None = None,
    title: str | None = None,
) -> Figure:
    """One histogram of observed durations per label, with the model's distribution as a line.

    Both are shares per bin, so the line may be compared with the bars. Bins are whole positions.

    Args:
        observed: for each label its durations in positions, each >= 1.
        model: (K, C) probabilities or expected counts >= 0, row d-1 for duration d, or a mapping
            from label to a (K,) row. Each label is normalised.
        label_names: name of each label; default its number.
        sample_rate: positions per second, for an axis in ms; default positions.
        title: heading of the picture.

    Raises:
        ConfigError: something else than durations by label.
        ShapeError: no labels, a duration below 1, or a model that is not as above.
        UnsupportedError: matplotlib is not installed.
    """
    durations = _observed(observed)
    rows = _model_rows(model)
    _check(durations, rows)
    scale = 1000.0 / checked_rate(sample_rate) if sample_rate is not None else 1.0
    names = names_of(durations, label_names)
    columns = 2 if len(names) == 4 else min(len(names), 3)
    lines = -(-len(names) // columns)
    figure = empty_figure(max(5.0, 3.6 * columns), 0.8 + 2.7 * lines)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, label in zip(grid, names, strict=False):
        row = rows.get(label)
        _draw(axis, durations[label], row, scale, label)
        dress(axis, f"{names[label]} (n = {len(durations[label])})")
    for axis in grid[len(names) :]:
        axis.set_visible(False)
    figure.supxlabel("duration" + (" (ms)" if sample_rate else ""), fontsize=FONT_SIZE)
    figure.supylabel("share of segments", fontsize=FONT_SIZE)
    legend_above(figure, _handles() if rows else [], title)
    return figure


def _observed(observed: Any) -> dict[int, np.ndarray]:
    by_label = as_mapping("observed", observed, "a mapping from label to durations")
    wrong = [x for x in by_label if not isinstance(x, (int, np.integer)) or x < 0]
    if wrong:
        raise ConfigError(f"labels of observed must be integers >= 0, got {shown(wrong[0])}")
    return {
        int(label): as_array(f"observed durations of label {label}", values).ravel()
        for label, values in by_label.items()
    }


def _model_rows(model: Any) -> dict[int, np.ndarray]:
    if model is None:
        return {}
    if isinstance(model, Mapping):
        return {int(label): as_array("model", row) for label, row in model.items()}
    table = as_array("model", model)
    if table.ndim != 2:
        raise ShapeError(f"model must be (K, C), got {table.shape}")
    return dict(enumerate(table.T))


def _check(durations: dict[int, np.ndarray], rows: dict[int, np.ndarray]) -> None:
    if not durations:
        raise ShapeError("observed must hold at least one label")
    for label, values in durations.items():
        whole = np.isfinite(values) & (values == np.rint(values))
        if not bool((whole & (values >= 1)).all()):
            raise ShapeError(f"observed durations of label {label} must be whole numbers >= 1")
    for label, row in rows.items():
        if row.ndim != 1 or not bool((np.isfinite(row) & (row >= 0)).all()):
            raise ShapeError(f"model of label {label} must be (K,) numbers >= 0, got {row.shape}")


def duration_bins(longest: int) -> np.ndarray:
    """Edges of at most 40 bins of equally many whole positions, from 1 to ``longest``.

    >>> duration_bins(3).tolist()
    [0.5, 1.5, 2.5, 3.5]
    """
    width = -(-longest // MAX_BINS)
    count = -(-longest // width)
    return np.arange(count + 1) * width + 0.5


def _draw(axis: Any, values: np.ndarray, row: np.ndarray | None, scale: float, label: int) -> None:
    total = float(row.sum()) if row is not None else 0.0
    reach = [int(values.max(initial=1))]
    if row is not None and total > 0:
        # The model's last 0.1 % would only stretch the axis.
        reach.append(int(np.searchsorted(np.cumsum(row) / total, 0.999)) + 1)
    edges = duration_bins(max(reach))
    counts, _ = np.histogram(values, edges)
    shares = counts / max(len(values), 1)
    axis.bar(
        edges[:-1] * scale,
        shares,
        np.diff(edges) * scale,
        align="edge",
        edgecolor="white",
        linewidth=0.4,
        **look(label),
    )
    if row is not None and total > 0:
        expected, _ = np.histogram(np.arange(1, len(row) + 1), edges, weights=row / total)
        axis.stairs(expected, edges * scale, color=LINE, linewidth=1.8)
    axis.set_xlim(0, edges[-1] * scale)
    axis.locator_params(nbins=4)


def _handles() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        Patch(facecolor="#BBBBBB", label="observed"),
        Line2D([], [], color=LINE, linewidth=1.8, label="model"),
    ]
