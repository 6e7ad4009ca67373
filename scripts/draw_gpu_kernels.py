"""Draw docs/images/gpu-kernels.svg, the picture of docs/gpu-kernels.md.

    python scripts/draw_gpu_kernels.py

Needs matplotlib (the ``dev`` extra). Colours are those of Okabe and Ito.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from draw_cpu_kernels import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    SKY,
    TEXT,
    arrow,
    cell,
    draw_both,
    outline,
)

OUTPUT = Path(__file__).parents[1] / "docs" / "images" / "gpu-kernels.svg"
# Of the drawing: rows and labels of the tile, the longest duration, the position of the step.
ROWS, LABELS, K, NOW = 8, 4, 6, 10
POSITIONS, STRETCH = 12, 4


def draw_ring(ax: Any, x: float, top: float) -> None:
    """The tile of open segments, and beside it the bias that each row gets in this step."""
    for row in range(ROWS):
        age = (NOW - row) % ROWS
        fresh, used = age == 0, age < K
        y = top - row - 1
        for label in range(LABELS):
            cell(ax, x + label, y, RED if fresh else ORANGE if used else GREY)
            cell(ax, x + LABELS + 1.2 + label, y, SKY if used else GREY)
        ax.text(x - 0.3, y + 0.5, str(NOW - age), ha="right", va="center", fontsize=TEXT)
        words = f"d = {age + 1}" if used else "-inf"
        ax.text(x + 2 * LABELS + 1.5, y + 0.5, words, va="center", fontsize=TEXT)
    ax.text(x + LABELS + 0.6, top - ROWS / 2, "+", ha="center", va="center", fontsize=TEXT + 8)
    outline(ax, x, top - ROWS, LABELS, ROWS, BLACK)


def draw_step(ax: Any) -> None:
    """One position of one sequence in the scan."""
    x, top = 3.2, 17.0
    draw_ring(ax, x, top)
    ax.text(x - 0.3, top + 0.4, "start", ha="right", fontsize=TEXT)
    ax.text(x + LABELS / 2, top + 0.4, "ring (registers)", ha="center", fontsize=TEXT)
    ax.text(x + LABELS * 1.5 + 1.2, top + 0.4, "bias (cache)", ha="center", fontsize=TEXT)

    bottom = top - ROWS
    arrow(ax, (x + LABELS / 2, bottom - 0.1), (x + LABELS / 2, bottom - 1.6), BLACK)
    ax.text(x + LABELS / 2 + 0.5, bottom - 0.9, "log sum over the rows", va="center", fontsize=TEXT)
    for label in range(LABELS):
        cell(ax, x + label, bottom - 2.7, GREEN)
    ax.text(x - 0.3, bottom - 2.2, "alpha", ha="right", va="center", fontsize=TEXT)
    ax.text(
        x + LABELS + 0.4, bottom - 2.2, "+ prefix sum + end scores - norm", va="center",
        fontsize=TEXT,
    )  # fmt: skip
    arrow(ax, (x + LABELS / 2, bottom - 2.8), (x + LABELS / 2, bottom - 4.1), BLACK)
    ax.text(
        x + LABELS / 2 + 0.5, bottom - 3.45, "+ transition, log sum over sources", va="center",
        fontsize=TEXT,
    )  # fmt: skip
    for label in range(LABELS):
        cell(ax, x + label, bottom - 5.2, BLUE)
    ax.text(x - 0.3, bottom - 4.7, "entering", ha="right", va="center", fontsize=TEXT)
    fresh = top - (NOW + 1) % ROWS - 0.5
    style = {"arrowstyle": "-|>", "lw": 2.5, "color": RED, "mutation_scale": 22,
             "connectionstyle": "bar,angle=90,fraction=-0.32"}  # fmt: skip
    ax.annotate("", (x - 1.6, fresh), (x - 3.1 + 0.1, bottom - 4.7), arrowprops=style)
    ax.text(
        x + LABELS + 0.4, bottom - 4.7, "+ start scores - prefix sum:\nthe row of the next start",
        va="center", fontsize=TEXT, color=RED,
    )  # fmt: skip
    ax.set(xlim=(-3.0, 17.5), ylim=(3.2, 18.6))
    ax.set_title(
        f"The scan at position {NOW}: K = {K}, padded to {ROWS} rows", fontsize=TEXT + 4, loc="left"
    )


def draw_kept(ax: Any, y: float, positions: range, colour: str) -> None:
    """What lies in memory of some positions."""
    for position in positions:
        cell(ax, position + 0.08, y, colour, 0.84, 0.8)


def draw_sweeps(ax: Any) -> None:
    """A sequence, and below it what each pass does and keeps."""
    for position in range(POSITIONS):
        cell(ax, position, 14.4, GREY)
        ax.text(position + 0.5, 14.9, str(position), ha="center", va="center", fontsize=TEXT)
    ax.text(0, 15.8, "one sequence: one program (small tiles: up to four)", fontsize=TEXT)

    ax.text(0, 13.2, "scan: keeps alpha, entering, open, norm of a position", fontsize=TEXT)
    arrow(ax, (0, 12.8), (POSITIONS, 12.8), BLUE)
    draw_kept(ax, 11.6, range(POSITIONS), BLUE)

    ax.text(0, 10.3, "gradient: shares out what ends at t among its starts", fontsize=TEXT)
    arrow(ax, (POSITIONS, 9.9), (0, 9.9), GREEN)
    draw_kept(ax, 8.7, range(POSITIONS), GREEN)
    for position in range(POSITIONS):
        ax.text(position + 0.5, 9.08, "grad", ha="center", va="center", color="white", fontsize=11)

    ax.text(0, 6.9, "with checkpoint_interval, in place of the rows:", fontsize=TEXT)
    for stretch in range(0, POSITIONS, STRETCH):
        cell(ax, stretch - 0.2, 5.5, ORANGE, 0.4, 0.9)
        outline(ax, stretch + 0.3, 5.5, STRETCH - 0.6, 0.9, GREY)
    draw_kept(ax, 4.4, range(STRETCH, POSITIONS), BLUE)
    ax.text(0, 3.3, "the ring at the start of each stretch; the backward scans", fontsize=TEXT)
    ax.text(0, 2.3, "a stretch again and holds the rows of two", fontsize=TEXT)
    ax.set(xlim=(-0.4, POSITIONS + 0.3), ylim=(1.6, 17.3))
    ax.set_title("The passes over a sequence, and what is kept", fontsize=TEXT + 4, loc="left")


if __name__ == "__main__":
    draw_both(OUTPUT, draw_step, draw_sweeps, height=7.4, ratio=1.15)
