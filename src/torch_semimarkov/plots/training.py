"""Loss curves of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from torch_semimarkov.errors import ConfigError, ShapeError
from torch_semimarkov.given import as_array, shown
from torch_semimarkov.plots._style import FONT_SIZE, LINE, PALETTE, dress, empty_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = (LINE, PALETTE[1], PALETTE[5], PALETTE[2], PALETTE[4])
STYLES = ("-", "--", "-.", ":")
AXES = ("step", "epoch")


def plot_training(
    history: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[float]],
    keys: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Loss curves; the lowest point of each validation curve is marked.

    Args:
        history: one mapping per epoch, such as ``{"epoch": 1, "train_loss": 2.0}``, or one list per
            name. The axis is "step" or "epoch" where there is one, else the row number from 1.
            None and missing values leave a gap.
        keys: curves to draw; default every name that holds "loss".
        title: heading of the picture.

    Raises:
        ConfigError: no curve to draw, an unknown key, something else than numbers, or lists of
            different lengths.
        UnsupportedError: matplotlib is not installed.
    """
    curves = _columns(history)
    keys = [name for name in curves if "loss" in name.lower()] if keys is None else list(keys)
    unknown = [name for name in keys if name not in curves]
    if unknown or not keys:
        reason = f"no curves {unknown}" if unknown else 'no curve has "loss" in its name'
        raise ConfigError(f"history: {reason}; it holds {sorted(curves)}")
    if len({len(values) for values in curves.values()}) > 1:
        raise ConfigError("history: all lists must have the same length")
    step = next((name for name in AXES if name in curves), None)
    x = _numbers(step, curves[step]) if step else np.arange(1, len(curves[keys[0]]) + 1)
    figure = empty_figure(8, 4)
    axis = figure.subplots()
    for i, name in enumerate(keys):
        _draw(axis, x, _numbers(name, curves[name]), name, i)
    axis.set_xlabel(step or "epoch")
    axis.set_ylabel("loss")
    axis.legend(fontsize=FONT_SIZE - 1, frameon=False)
    axis.locator_params(axis="x", integer=True)
    dress(axis, title)
    return figure


def _columns(history: Any) -> dict[str, list[Any]]:
    try:
        if isinstance(history, Mapping):
            return {name: list(values) for name, values in history.items()}
        names = dict.fromkeys(name for row in history for name in row)
        return {name: [row.get(name) for row in history] for name in names}
    except (AttributeError, TypeError):
        raise ConfigError(
            f"history must be one mapping per epoch or one list per name, got {shown(history)}"
        ) from None


def _numbers(name: str, values: list[Any]) -> np.ndarray:
    """One number per row, NaN where there is none."""
    try:
        numbers = as_array(name, values)
    except ShapeError as error:
        raise ConfigError(f"history: {error}") from None
    if numbers.ndim != 1:
        raise ConfigError(f"history: {name} must be (N,) numbers, got {numbers.shape}")
    return numbers


def _draw(axis: Any, x: np.ndarray, y: np.ndarray, name: str, index: int) -> None:
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    colour = COLOURS[index % len(COLOURS)]
    label = name.replace("_", " ")
    few = "o" if len(x) < 3 else None
    style = STYLES[index % len(STYLES)]
    if name.lower().startswith("val") and len(y):
        best = int(y.argmin())
        label += f" (lowest {y[best]:.4g} at {x[best]:g})"
        axis.plot(x[best], y[best], "o", color=colour, markersize=7)
    axis.plot(x, y, style, color=colour, linewidth=1.8, marker=few, label=label)
