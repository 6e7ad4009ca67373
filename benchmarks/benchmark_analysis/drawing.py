"""Panels that the plots share: axes with units, one look for each backend, no empty panel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmark_analysis.reading import PHASES, Row, curve, grouped
from torch_semimarkov.plots._style import DPI, FONT_SIZE, dress, legend_above

# Okabe and Ito 2008, but for their yellow, which is too pale on white; markers tell them apart too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<")
ORDER = (
    "cpu", "linear_scan_streaming", "exact", "flash_semicrf", "torch_struct", "triton",
    "pytorch_crf", "triton_pytorch", "triton_checkpointing",
)  # fmt: skip
GREY = "#9A9A9A"
Y = Callable[[Row], float | None]


def looks(backends: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each backend; the same in every plot."""
    found = {}
    for name in backends:
        i = ORDER.index(name) if name in ORDER else len(ORDER) + sum(map(ord, name))
        found[name] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
    return found


def in_order(names: Sequence[str]) -> list[str]:
    """Backends in the order of their looks."""
    return sorted(set(names), key=lambda x: (ORDER.index(x) if x in ORDER else len(ORDER), x))


def lines_by_phase(
    rows: Sequence[Row], x: str, y: Y, labels: tuple[str, str, str], *, line_at: float | None = None
) -> Figure | None:
    """A panel for each phase that has points, a line for each backend; None without points.

    Args:
        rows: of one semiring.
        x: column of the horizontal axis.
        y: from a row to the vertical axis, or None.
        labels: of the axes, with their units, and the title.
        line_at: draw a level line there.
    """
    by_phase = {phase: _curves(rows, phase, x, y) for phase in PHASES}
    by_phase = {phase: curves for phase, curves in by_phase.items() if curves}
    if not by_phase:
        return None
    figure = Figure(
        figsize=(max(6.4, 1.0 + 4.3 * len(by_phase)), 4.8), dpi=DPI, layout="constrained"
    )
    all_axes = figure.subplots(1, len(by_phase), squeeze=False, sharey=True)[0]
    names = in_order([name for curves in by_phase.values() for name in curves])
    style = looks(names)
    for axes, (phase, curves) in zip(all_axes, by_phase.items(), strict=True):
        for name in (name for name in names if name in curves):
            axes.plot(*curves[name], lw=2.4, ms=8, **style[name])
        if line_at is not None:
            axes.axhline(line_at, color=GREY, lw=1.5, ls="--")
        log_axes(axes, [v for xs, _ in curves.values() for v in xs])
        axes.set_xlabel(labels[0])
        dress(axes, phase)
    all_axes[0].set_ylabel(labels[1])
    level_axis(
        all_axes[0], [v for curves in by_phase.values() for _, ys in curves.values() for v in ys]
    )
    handles = [Line2D([], [], lw=2.4, ms=8, label=name, **style[name]) for name in names]
    legend_above(figure, handles, labels[2])
    return figure


def _curves(rows: Sequence[Row], phase: str, x: str, y: Y) -> dict[str, tuple[list, list]]:
    found = {}
    for (name,), group in grouped((r for r in rows if r["phase"] == phase), "backend").items():
        xs, ys = curve(group, x, y)
        if xs:
            found[name] = (xs, ys)
    return found


def number(value: float, _: Any = None) -> str:
    """A number for a tick: 2048, 1e5, 0.5.

    >>> number(2048.0), number(100000.0), number(0.25)
    ('2048', '1e5', '0.25')
    """
    if value >= 1e4 or 0 < value < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:g}"


def log_axes(axes: Any, xs: Sequence[float]) -> None:
    """Log axes; few different values are ticks themselves."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(color="#DDDDDD", lw=0.8)
    values = sorted(set(xs))
    spread = np.log(values[-1] / values[0]) if len(values) > 1 else 0.0
    kept: list[float] = []
    for value in values:
        if not kept or np.log(value / kept[-1]) >= spread / 6.5:
            kept.append(value)
    axes.set_xticks(kept)
    axes.xaxis.set_major_formatter(FuncFormatter(number))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    if len(values) == 1:
        axes.set_xlim(values[0] / 2, values[0] * 2)


def level_axis(axes: Any, ys: Sequence[float]) -> None:
    """Labels on the vertical axis also where it spans less than a decade."""
    narrow = max(ys) / min(ys) < 30
    subs = (1, 2, 5) if narrow else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=9))
    axes.yaxis.set_major_formatter(FuncFormatter(number))
    axes.yaxis.set_minor_formatter(NullFormatter())
    if narrow:
        axes.set_ylim(min(ys) / 1.5, max(ys) * 1.5)


def heatmap(rows: Sequence[Row], y: Y, labels: tuple[str, str]) -> Figure | None:
    """Backend by K * C for each phase, medians written into the cells; None without points.

    Args:
        rows: of one semiring.
        y: the ratio of a row, or None.
        labels: what the colour is, and the title.
    """
    by_phase = {phase: _curves(rows, phase, "KC", y) for phase in PHASES}
    by_phase = {phase: curves for phase, curves in by_phase.items() if curves}
    if not by_phase:
        return None
    names = in_order([name for curves in by_phase.values() for name in curves])
    sizes = sorted({x for curves in by_phase.values() for xs, _ in curves.values() for x in xs})
    width = 3.6 + 0.85 * len(sizes)
    figure = Figure(
        figsize=(max(8.0, width), 1.7 + (1.1 + 0.55 * len(names)) * len(by_phase)),
        dpi=DPI, layout="constrained",
    )  # fmt: skip
    all_axes = figure.subplots(len(by_phase), 1, squeeze=False, sharex=True)[:, 0]
    values = [v for curves in by_phase.values() for _, ys in curves.values() for v in ys]
    most = max(0.5, max(abs(np.log10(v)) for v in values))
    image = None
    for axes, (phase, curves) in zip(all_axes, by_phase.items(), strict=True):
        image = _cells(axes, curves, names, sizes, most)
        dress(axes, phase)
    all_axes[-1].set_xlabel("K·C (durations times labels)")
    bar = figure.colorbar(image, ax=list(all_axes), shrink=0.9, pad=0.02)
    bar.set_label(labels[0], fontsize=FONT_SIZE)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: number(float(f"{10**v:.2g}"))))
    bar.ax.tick_params(labelsize=FONT_SIZE - 2)
    figure.suptitle(labels[1], fontsize=FONT_SIZE + 1)
    return figure


def _cells(axes: Any, curves: dict, names: Sequence[str], sizes: Sequence[int], most: float) -> Any:
    grid = np.full((len(names), len(sizes)), np.nan)
    for name, (xs, ys) in curves.items():
        for x, y in zip(xs, ys, strict=True):
            grid[names.index(name), sizes.index(x)] = np.log10(y)
    axes.set_facecolor("#F0F0F0")
    # blue to orange by way of white: told apart under every common colour blindness
    image = axes.imshow(grid, cmap="PuOr_r", vmin=-most, vmax=most, aspect="auto")
    for i, j in np.ndindex(*grid.shape):
        known = not np.isnan(grid[i, j])
        text = f"{10 ** grid[i, j]:.2g}" if known else "-"
        if known and 10 ** grid[i, j] >= 100:
            text = number(float(f"{10 ** grid[i, j]:.2g}"))
        dark = known and abs(grid[i, j]) > 0.65 * most
        axes.text(
            j, i, text, ha="center", va="center", fontsize=FONT_SIZE - 2,
            color="white" if dark else "black",
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    return image
