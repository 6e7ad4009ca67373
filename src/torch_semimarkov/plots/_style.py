"""Colours, legends and empty figures shared by the plots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from torch_semimarkov.errors import ConfigError, UnsupportedError
from torch_semimarkov.given import as_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito 2008: told apart under every common colour blindness. Black is left for lines.
PALETTE = ("#56B4E9", "#D55E00", "#009E73", "#F0E442", "#CC79A7", "#0072B2", "#E69F00")
HATCHES = ("", "///", "...", "xxx")
LINE = "#333333"
FONT_SIZE = 13
DPI = 150


def empty_figure(width: float, height: float) -> Figure:
    """A figure in inches that spaces its axes by itself.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedError(
            "plots need matplotlib: pip install torch_semimarkov[plots]"
        ) from error
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def dress(axes: Any, title: str | None = None) -> None:
    """Large enough type to read at half size, and no frame where no axis is."""
    axes.tick_params(labelsize=FONT_SIZE - 2)
    axes.xaxis.label.set_size(FONT_SIZE)
    axes.yaxis.label.set_size(FONT_SIZE)
    axes.spines[["top", "right"]].set_visible(False)
    if title:
        axes.set_title(title, fontsize=FONT_SIZE, loc="left")


def look(label: int) -> dict[str, str]:
    """Face colour and hatch of a label; 28 labels look different from each other.

    >>> look(0) == look(7)
    False
    """
    return {
        "facecolor": PALETTE[label % len(PALETTE)],
        "hatch": HATCHES[label // len(PALETTE) % len(HATCHES)],
    }


def legend_above(figure: Figure, handles: list[Any], title: str | None = None) -> None:
    """A legend above all axes that reads row by row, with the picture's title on top of it.

    Title and legend are one box: two would overlap.
    """
    if not handles:
        if title:
            figure.suptitle(title, fontsize=FONT_SIZE + 1)
        return
    longest = max(len(handle.get_label()) for handle in handles)
    fitting = max(1, int(figure.get_figwidth() * 9 / (longest + 6)))
    rows = -(-len(handles) // fitting)
    columns = -(-len(handles) // rows)
    by_row = [handle for first in range(columns) for handle in handles[first::columns]]
    figure.legend(
        handles=by_row,
        loc="outside upper center",
        ncols=columns,
        fontsize=FONT_SIZE - 1,
        title=title,
        title_fontsize=FONT_SIZE + 1,
        frameon=False,
        handlelength=1.4,
        columnspacing=1.4,
    )


def checked_rate(sample_rate: float | None) -> float:
    """Positions per unit of the time axis; 1 without a sample rate."""
    if sample_rate is None:
        return 1.0
    rate = as_number("sample_rate", sample_rate)
    if not (np.isfinite(rate) and rate > 0):
        raise ConfigError(f"sample_rate must be > 0, got {sample_rate}")
    return rate
