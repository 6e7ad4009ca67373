"""Pictures of calibration: reliability, coverage of intervals, selective prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch_semimarkov.errors import ConfigError
from torch_semimarkov.given import as_array, as_mapping, shown
from torch_semimarkov.plots._style import FONT_SIZE, LINE, PALETTE, dress, empty_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = (PALETTE[5], PALETTE[1], PALETTE[2], PALETTE[4], PALETTE[6])
MARKERS = ("o", "s", "^", "D", "v")
# Predictions below which the frequency of a bin is off by up to 0.1 by chance alone.
FEW = 100


def plot_reliability(
    curves: Mapping[str, Any], title: str | None = None, legend_title: str | None = None
) -> Figure:
    """Reliability diagrams over each other; the dashed diagonal is perfect.

    A bin of fewer than 100 predictions has an empty marker: chance alone may move it by 0.1.

    Args:
        curves: name -> result of ``metrics.reliability``.
        title: heading of the picture.
        legend_title: heading of the names.

    Raises:
        ConfigError: no curve, or something else.
        UnsupportedError: matplotlib is not installed.
    """
    lines = {
        f"{name} (ECE {curve.ece:.3f})": (curve.confidence, curve.frequency)
        for name, curve in _results(curves, "reliability", ("ece", "confidence", "frequency"))
    }
    figure = _draw(lines, ("predicted probability", "observed frequency"), title, diagonal=True)
    axis, any_few = figure.axes[0], False
    for i, curve in enumerate(curves.values()):
        few = as_array("counts", curve.counts) < FEW
        x, y = (as_array("curves", values)[few] for values in (curve.confidence, curve.frequency))
        marker, colour = MARKERS[i % len(MARKERS)], COLOURS[i % len(COLOURS)]
        axis.plot(x, y, marker, color=colour, markerfacecolor="white")
        any_few = any_few or bool(few.any())
    if any_few:
        name = f"fewer than {FEW} predictions"
        axis.plot([], [], "o", color=LINE, markerfacecolor="white", label=name)
    sizes = {"fontsize": FONT_SIZE - 2, "title_fontsize": FONT_SIZE - 2}
    axis.legend(title=legend_title, alignment="left", frameon=False, **sizes)
    return figure


def plot_coverage(curves: Mapping[str, Mapping[float, float]], title: str | None = None) -> Figure:
    """Coverage of boundary intervals by their level; the dashed diagonal is perfect.

    Args:
        curves: name -> level -> coverage, as of ``metrics.interval_coverage``.
        title: heading of the picture.

    Raises:
        ConfigError: no curve, or something else.
        UnsupportedError: matplotlib is not installed.
    """
    lines = {}
    for name, curve in as_mapping("curves", curves, "curves by name").items():
        levels = as_mapping(f"curves[{name!r}]", curve, "a mapping from level to coverage")
        if not levels:
            raise ConfigError(f"curves[{name!r}] must hold at least one level")
        lines[name] = list(levels), list(levels.values())
    return _draw(lines, ("level of the interval", "coverage"), title, diagonal=True)


def plot_selective(curves: Mapping[str, Any], title: str | None = None) -> Figure:
    """Accuracy of the most certain share of the predictions.

    Args:
        curves: name -> result of ``metrics.selective_curve``.
        title: heading of the picture.

    Raises:
        ConfigError: no curve, or something else.
        UnsupportedError: matplotlib is not installed.
    """
    results = _results(curves, "selective_curve", ("coverage", "accuracy"))
    lines = {name: (curve.coverage, curve.accuracy) for name, curve in results}
    return _draw(lines, ("share kept, most certain first", "accuracy"), title, diagonal=False)


def _results(curves: Any, metric: str, parts: Sequence[str]) -> list[tuple[str, Any]]:
    """The curves by name, if each is a result of that metric."""
    named = list(as_mapping("curves", curves, f"results of metrics.{metric} by name").items())
    for name, curve in named:
        if not all(hasattr(curve, part) for part in parts):
            raise ConfigError(
                f"curves[{name!r}] must be a result of metrics.{metric}, got {shown(curve)}"
            )
    return named


def _draw(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    names: tuple[str, str],
    title: str | None,
    diagonal: bool,
) -> Figure:
    if not lines:
        raise ConfigError("curves must hold at least one curve")
    figure = empty_figure(5.5, 5)
    axis = figure.subplots()
    if diagonal:
        axis.plot([0, 1], [0, 1], "--", color=LINE, linewidth=1)
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    for i, (name, (x, y)) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        marker = MARKERS[i % len(MARKERS)] if diagonal else None
        axis.plot(as_array("x", x), as_array("y", y), color=colour, marker=marker, label=name)
    axis.set_xlabel(names[0])
    axis.set_ylabel(names[1])
    axis.legend(fontsize=FONT_SIZE - 2, frameon=False)
    dress(axis, title)
    return figure
