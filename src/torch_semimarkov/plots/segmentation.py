"""A picture of one sequence: signal, segments and posteriors above each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from torch_semimarkov.errors import ShapeError, raise_all
from torch_semimarkov.given import LabelNames, as_array, names_of, shown
from torch_semimarkov.plots._style import (
    FONT_SIZE,
    LINE,
    PALETTE,
    checked_rate,
    dress,
    empty_figure,
    legend_above,
    look,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SegmentList = Sequence[tuple[int, int, int]]
MAX_LINES = 4
MAX_AREAS = 7
MAX_LEGEND = 28
MAX_COLUMNS = 5000
MAX_EDGES = 300
# Probabilities may leave 0..1 by the rounding of float32.
ROUNDING = 1e-3
HEIGHTS = {"signal": 2.2, "true": 0.55, "decoded": 0.55, "posterior": 1.5, "boundaries": 1.0}


def plot_segmentation(
    signal: Any,
    true: SegmentList | None = None,
    decoded: SegmentList | None = None,
    posterior: Any = None,
    boundaries: Any = None,
    label_names: LabelNames = None,
    sample_rate: float | None = None,
    title: str | None = None,
) -> Figure:
    """Signal, true and decoded segments, and posteriors of one sequence on one time axis.

    The axes are shared: ``figure.axes[0].set_xlim(2, 4)`` shows two seconds of everything.
    Up to 28 labels have a legend. Beyond 20,000 positions the arrays are thinned before they are
    drawn: signals and boundaries keep their extremes, posteriors and heat maps are averaged.

    Args:
        signal: (T,) or (T, D) float. Up to four features are lines, more a heat map.
        true: list of ``(start, end, label)``.
        decoded: the same for the prediction.
        posterior: (T, C) float in [0, 1]. P(label c at position t): stacked areas up to seven
            labels, else a heat map.
        boundaries: (T,) float in [0, 1]. P(some segment starts at t).
        label_names: name of each label; default its number.
        sample_rate: positions per second; default: the axis counts positions.
        title: heading of the picture.

    Raises:
        ShapeError: the arrays do not fit together, posterior or boundaries are no probabilities,
            or a segment overlaps the one before it or ends after T.
        UnsupportedError: matplotlib is not installed.
    """
    true, decoded = _strip("true", true), _strip("decoded", decoded)
    arrays = _checked(signal, true, decoded, posterior, boundaries)
    rate = checked_rate(sample_rate)
    labels = {label for strip in (true, decoded) for _, _, label in strip or ()}
    if posterior is not None:
        labels |= set(range(arrays["posterior"].shape[1]))
    names = names_of(labels, label_names)
    panels = [
        name
        for name, given in zip(HEIGHTS, (signal, true, decoded, posterior, boundaries), strict=True)
        if given is not None
    ]
    ratios = [HEIGHTS[name] for name in panels]
    figure = empty_figure(10, 1.3 + sum(ratios))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    strips = {"true": true, "decoded": decoded}
    edges = np.arange(len(arrays["signal"]) + 1) / rate
    for axis, panel in zip(axes, panels, strict=True):
        if panel == "signal":
            _draw_signal(axis, arrays[panel], edges)
        elif panel in strips:
            _draw_strip(axis, panel, strips[panel] or (), rate)
        elif panel == "posterior":
            _draw_posterior(axis, arrays[panel], edges, names)
        else:
            _draw_boundaries(axis, arrays[panel], edges)
        dress(axis)
    axes[-1].set_xlim(0, edges[-1])
    axes[-1].set_xlabel("position" if sample_rate is None else "time (s)", fontsize=FONT_SIZE)
    figure.align_ylabels(axes)
    legend_above(figure, _patches(names), title)
    return figure


def _strip(name: str, segments: Any) -> SegmentList | None:
    """The segments as tuples of integers; None if there is no such strip."""
    if segments is None:
        return None
    try:
        table = as_array(name, [tuple(entry) for entry in segments])
    except (ShapeError, TypeError):
        table = None
    if table is not None and not table.size:
        return []
    if table is None or table.ndim != 2 or table.shape[1] != 3 or (table != np.rint(table)).any():
        raise ShapeError(f"{name} must hold integers (start, end, label), got {shown(segments)}")
    return [(int(start), int(end), int(label)) for start, end, label in table]


def _checked(
    signal: Any,
    true: SegmentList | None,
    decoded: SegmentList | None,
    posterior: Any,
    boundaries: Any,
) -> dict[str, np.ndarray]:
    if signal is None:
        raise ShapeError("signal must be (T,) or (T, D), got None")
    given = {"signal": signal, "posterior": posterior, "boundaries": boundaries}
    arrays = {name: as_array(name, value) for name, value in given.items() if value is not None}
    if arrays["signal"].ndim == 1:
        arrays["signal"] = arrays["signal"][:, None]
    problems = []
    if arrays["signal"].ndim != 2 or 0 in arrays["signal"].shape:
        problems.append(f"signal must be (T,) or (T, D), got {np.shape(signal)}")
    T = len(arrays["signal"]) if arrays["signal"].ndim else 0
    for name, shape, wanted in (("posterior", 2, f"({T}, C)"), ("boundaries", 1, f"({T},)")):
        array = arrays.get(name)
        if array is not None and (array.ndim != shape or len(array) != T or 0 in array.shape):
            problems.append(f"{name} must be {wanted}, got {array.shape}")
        elif array is not None and not bool(((array > -ROUNDING) & (array < 1 + ROUNDING)).all()):
            problems.append(f"{name} must be probabilities within 0..1, got {shown(array)}")
    for name, strip in (("true", true), ("decoded", decoded)):
        before = 0
        for start, end, label in strip or ():
            if not before <= start < end <= T or label < 0:
                problems.append(
                    f"{name} must hold sorted (start, end, label) without overlap, label >= 0 and "
                    f"0 <= start < end <= T = {T}, got {(start, end, label)}"
                )
                break
            before = end
    raise_all(ShapeError, "a picture of one sequence does not fit together", problems)
    return arrays


def _blocks(T: int) -> np.ndarray:
    """First position of each column that is drawn: all of them, or about 5,000."""
    return np.arange(0, T, -(-T // MAX_COLUMNS) if T > 4 * MAX_COLUMNS else 1)


def _averaged(values: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Block means of (T, N) values, and the edges of the blocks."""
    first = _blocks(len(values))
    size = np.diff(np.append(first, len(values)))
    return np.add.reduceat(values, first) / size[:, None], edges[np.append(first, len(values))]


def _draw_signal(axis: Any, signal: np.ndarray, edges: np.ndarray) -> None:
    D = signal.shape[1]
    if D > MAX_LINES:
        signal, edges = _averaged(signal, edges)
        axis.pcolormesh(edges, np.arange(D + 1), signal.T, cmap="cividis", rasterized=True)
        axis.set_ylabel("feature")
        return
    first = _blocks(len(signal))
    if len(first) < len(signal):
        extremes = np.minimum.reduceat(signal, first), np.maximum.reduceat(signal, first)
        signal = np.stack(extremes, axis=1).reshape(-1, D)
        first = np.repeat(first, 2)
    colours = (LINE, PALETTE[5], PALETTE[1], PALETTE[4])
    for channel, colour in zip(range(D), colours, strict=False):
        axis.plot(edges[first], signal[:, channel], color=colour, linewidth=1.1)
    axis.set_ylabel("signal")
    axis.margins(y=0.08)


def _draw_strip(axis: Any, name: str, segments: SegmentList, rate: float) -> None:
    # White edges would wash out a strip of very many segments.
    width = 0.6 if len(segments) <= MAX_EDGES else 0.0
    for label in sorted({label for _, _, label in segments}):
        spans = [(s / rate, (e - s) / rate) for s, e, one in segments if one == label]
        axis.broken_barh(
            spans,
            (0, 1),
            edgecolor="white",
            linewidth=width,
            rasterized=len(spans) > 2000,
            **look(label),
        )
    axis.set_ylim(0, 1)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.set_ylabel(name, rotation=0, ha="right", va="center")


def _draw_posterior(
    axis: Any, posterior: np.ndarray, edges: np.ndarray, names: dict[int, str]
) -> None:
    C = posterior.shape[1]
    posterior, edges = _averaged(posterior, edges)
    if C > MAX_AREAS:
        axis.pcolormesh(
            edges,
            np.arange(C + 1) - 0.5,
            posterior.T,
            cmap="Greys",
            vmin=0,
            vmax=1,
            rasterized=True,
        )
        ticks = np.unique(np.linspace(0, C - 1, min(C, 6)).round().astype(int))
        axis.set_yticks(ticks, [names[int(tick)] for tick in ticks])
        axis.invert_yaxis()
        axis.set_ylabel("P(label)")
        return
    # Repeating the last value and stepping draws each position over its whole width.
    stacked = np.concatenate((posterior, posterior[-1:])).T
    colours = [look(label)["facecolor"] for label in range(C)]
    axis.stackplot(edges, stacked, colors=colours, step="post", linewidth=0)
    axis.set_ylim(0, 1)
    axis.set_yticks([0, 0.5, 1])
    axis.set_ylabel("P(label)")


def _draw_boundaries(axis: Any, boundaries: np.ndarray, edges: np.ndarray) -> None:
    first = _blocks(len(boundaries))
    boundaries = np.maximum.reduceat(boundaries, first)
    axis.fill_between(edges[first], boundaries, color="#999999", linewidth=0)
    axis.plot(edges[first], boundaries, color=LINE, linewidth=1.0)
    axis.set_ylim(0, 1.05)
    axis.set_yticks([0, 1])
    axis.set_ylabel("P(start)")


def _patches(names: dict[int, str]) -> list[Any]:
    from matplotlib.patches import Patch

    if len(names) > MAX_LEGEND:
        return []
    return [
        Patch(label=name, edgecolor="white", linewidth=0.6, **look(label))
        for label, name in names.items()
    ]
