"""Draw docs/images/cpu-kernels.svg, the picture of docs/cpu-kernels.md.

    python scripts/draw_cpu_kernels.py

Needs matplotlib (the ``dev`` extra). Colours are those of Okabe and Ito.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

OUTPUT = Path(__file__).parents[1] / "docs" / "images" / "cpu-kernels.svg"
BLUE, SKY, ORANGE, GREEN = "#0072B2", "#56B4E9", "#E69F00", "#009E73"
RED, BLACK, GREY = "#D55E00", "#000000", "#E8E8E8"
TILE, ROWS, K = 16, 8, 12  # K of the drawing
TILES, STRETCH = 12, 4
TEXT = 14


def cell(ax: Any, x: float, y: float, colour: str, width: float = 1, height: float = 1) -> None:
    """A filled box with its corner at (x, y)."""
    ax.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="white", lw=1))


def outline(ax: Any, x: float, y: float, width: float, height: float, colour: str) -> None:
    """A thick frame."""
    ax.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=colour, lw=2.5))


def arrow(ax: Any, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    """A thick arrow."""
    style = {"arrowstyle": "-|>", "lw": 2.5, "color": colour, "mutation_scale": 22}
    ax.annotate("", end, start, arrowprops=style)


def draw_tile(ax: Any) -> None:
    """Starts down the page, ends across it; a cell is one product E * D of one label."""
    for start in range(1 - K, TILE):
        row = -start
        cell(ax, -2.4, row, SKY if start < 0 else ORANGE, 1.4)
        for end in range(max(0, start), min(TILE, start + K)):
            colour = SKY if start < 0 else RED if end == start else ORANGE
            cell(ax, end, row, colour)
    for block in range(0, TILE, ROWS):
        outline(ax, block, 1, ROWS, K - 1, BLUE)
    for end in range(TILE):
        cell(ax, end, -TILE - 1.2, GREEN)
    ax.text(-1.7, K + 0.5, "E", ha="center", fontsize=TEXT + 2, style="italic")
    ax.text(-2.8, K / 2 + 0.5, "window:\nK - 1 rows", ha="right", va="center", fontsize=TEXT)
    ax.text(-2.8, 0.5 - TILE / 2, "the tile's own\n16 rows", ha="right", va="center", fontsize=TEXT)
    ax.text(-0.4, -TILE - 0.7, "P, then Q = P @ X", ha="right", va="center", fontsize=TEXT)
    ax.text(8, K + 0.5, "w: segments that end in the tile", ha="center", fontsize=TEXT)
    notes = (
        (K / 2 + 1, BLUE, "history\none dense sum a tile:\nROWS ends x 8 labels\nin registers"),
        (-4.5, "#9C6B00", "then one position\nafter the other:\nE is added to the\nends to come"),
        (-12.5, RED, "on the way to\nthe next position:\nduration 1, and P @ X"),
    )
    for y, colour, note in notes:
        ax.text(16.6, y, note, va="center", fontsize=TEXT, color=colour)
    ax.set(xlim=(-10.2, 26), ylim=(-TILE - 2, K + 4))
    ax.set_title("One tile of 16 positions, one label, K = 12", fontsize=TEXT + 4, loc="left")


def draw_row(ax: Any, y: float, tiles: range, colour: str, rows: int = 4) -> None:
    """Boxes under some tiles: what is kept of each."""
    for tile in tiles:
        for i in range(rows):
            width = 0.84 / rows
            cell(ax, tile + 0.08 + i * width, y, colour, width, 0.8)


def draw_sweeps(ax: Any) -> None:
    """A sequence in tiles, and below it what each pass does and keeps."""
    half = TILES // 2
    for tile in range(TILES):
        cell(ax, tile, 14.4, GREY, 1, 1)
        ax.text(tile + 0.5, 14.9, str(tile), ha="center", va="center", fontsize=TEXT)
    ax.text(0, 15.8, "a sequence in tiles", fontsize=TEXT)

    ax.text(0, 13.2, "forward, left to right: keeps P of every position", fontsize=TEXT)
    arrow(ax, (0, 12.8), (TILES, 12.8), BLUE)
    draw_row(ax, 11.6, range(TILES), BLUE)

    ax.text(0, 10.4, "a lone long sequence: a second core keeps P of the", fontsize=TEXT)
    ax.text(0, 9.35, "right half as well", fontsize=TEXT)
    arrow(ax, (TILES, 9.55), (half, 9.55), SKY)
    draw_row(ax, 8.3, range(half, TILES), SKY)

    ax.text(0, 7.0, "backward, right to left: combines a tile at a time", fontsize=TEXT)
    arrow(ax, (TILES, 6.6), (0, 6.6), GREEN)
    draw_row(ax, 5.4, range(TILES), GREEN, 1)
    for tile in range(TILES):
        ax.text(tile + 0.5, 5.78, "grad", ha="center", va="center", color="white", fontsize=11)

    ax.text(0, 3.6, "with checkpoint_interval, in place of P:", fontsize=TEXT)
    for stretch in range(STRETCH, TILES, STRETCH):
        cell(ax, stretch - 0.25, 2.2, ORANGE, 0.5, 0.9)
    outline(ax, STRETCH, 2.2, STRETCH, 0.9, BLACK)
    ax.text(1.5 * STRETCH, 2.65, "one stretch", ha="center", va="center", fontsize=TEXT)
    ax.text(0, 1.2, "a snapshot of the sweep at the start of each stretch;", fontsize=TEXT)
    ax.text(0, 0.2, "the backward does one stretch of the forward again", fontsize=TEXT)
    ax.set(xlim=(-0.3, TILES + 0.3), ylim=(-0.3, 17))
    ax.set_title("The sweeps of a sequence, and what is kept", fontsize=TEXT + 4, loc="left")


def draw_both(
    output: Path,
    draw_left: Callable[[Any], None],
    draw_right: Callable[[Any], None],
    height: float,
    ratio: float,
) -> None:
    """Write a picture of two drawings side by side; ``ratio`` is left's width by right's."""
    plt.rcParams.update({"svg.hashsalt": output.stem, "font.family": "DejaVu Sans"})
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(14.5, height), width_ratios=(ratio, 1), layout="constrained"
    )
    draw_left(left)
    draw_right(right)
    left.set_aspect("equal", anchor="NW")
    for ax in (left, right):
        ax.axis("off")
    figure.savefig(output, metadata={"Date": None})


if __name__ == "__main__":
    draw_both(OUTPUT, draw_tile, draw_sweeps, height=8, ratio=1.22)
