"""Draw the pictures of docs/concepts.md with the library: docs/images/concepts-*.svg.

    python scripts/draw_concepts.py [folder]

Needs matplotlib (the ``dev`` extra). Colours are those of Okabe and Ito.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import torch

import torch_semimarkov as ts

OUTPUT = Path(__file__).parents[1] / "docs" / "images"
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#555555"
COLOURS = (BLUE, ORANGE)
NAMES = ("rest", "beat")
T, K = 24, 12
TEXT = 13


def model() -> dict[str, Any]:
    """Two labels on 24 positions: a clear beat, and a faint one that the model is unsure of."""
    evidence = torch.zeros(T, dtype=torch.float64)
    evidence[4:9] = torch.tensor([0.8, 2.0, 2.4, 2.0, 0.6])
    evidence[14:20] = torch.tensor([0.1, 0.5, 0.9, 0.7, 0.5, 0.1])
    scores = torch.stack((torch.full_like(evidence, 0.5), evidence), 1)[None]
    mean = torch.tensor([6.0, 5.0])
    durations = ts.create_duration_distribution("poisson", K, 2, mean=mean)
    change = torch.tensor([[-torch.inf, 0.0], [0.0, -torch.inf]], dtype=torch.float64)
    bias = durations().detach().double()
    return {"scores": scores, "transition": change, "duration_bias": bias}


def strip(ax: Any, y: float, segments: list[ts.Segment], note: str) -> None:
    """One segmentation as a row of boxes."""
    for start, end, label in segments:
        ax.barh(y, end - start, 0.7, start, color=COLOURS[label], edgecolor="white", lw=2)
    ax.text(T + 0.4, y, note, va="center", fontsize=TEXT)


def dress(ax: Any, xlabel: str, ylabel: str) -> None:
    """Names of the axes, and no frame."""
    ax.set_xlabel(xlabel, fontsize=TEXT)
    ax.set_ylabel(ylabel, fontsize=TEXT)
    ax.tick_params(labelsize=TEXT - 2)
    ax.spines[["top", "right"]].set_visible(False)


def legend(ax: Any) -> None:
    """Which colour is which label, above the axes."""
    boxes = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS]
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2, "frameon": False}
    ax.legend(boxes, NAMES, fontsize=TEXT, **place)


def draw_segments() -> Any:
    """What the positions say, and the most probable ways to cut them."""
    terms = model()
    best = ts.kbest(**terms, k=4)
    shares = (best.scores[:, 0] - ts.log_partition(**terms)).exp().tolist()
    figure, (top, below) = plt.subplots(
        2, 1, figsize=(10, 5.4), sharex=True, height_ratios=(1.3, 1.6), layout="constrained"
    )
    for label in (0, 1):
        top.step(range(T + 1), [*terms["scores"][0, :, label], terms["scores"][0, -1, label]],
                 where="post", color=COLOURS[label], lw=2.5)  # fmt: skip
    dress(top, "", "score of a position\n(nats)")
    legend(top)
    for row, (paths, share) in enumerate(zip(best.segments.to_list(), shares, strict=True)):
        strip(below, -row, paths[0], f"P = {share:.3f}")
    dress(below, "position", "the four most\nprobable of all")
    below.set(yticks=[], xlim=(0, T + 5), xticks=range(0, T + 1, 2))
    return figure


def draw_durations() -> Any:
    """What each duration model says of the durations 1 to K at the same mean."""
    figure, ax = plt.subplots(figsize=(10, 3.8), layout="constrained")
    longest = 40
    styles = {"geometric": (BLUE, "o"), "negative_binomial": ("#009E73", "s"),
              "poisson": ("#D55E00", "^"), "uniform": (GREY, "")}  # fmt: skip
    for name, (colour, marker) in styles.items():
        mean = {} if name == "uniform" else {"mean": 12.0}
        bias = ts.create_duration_distribution(name, longest, 1, **mean)()[:, 0].detach()
        ax.plot(range(1, longest + 1), bias.double().exp(), color=colour, marker=marker, ms=4,
                lw=1.5, label=name)  # fmt: skip
    dress(ax, "duration (positions), K = 40", "probability")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=TEXT, frameon=False)
    return figure


def draw_posterior() -> Any:
    """What is likely at each position, beside the best segmentation and four samples."""
    terms = model()
    found = ts.marginals(**terms)
    best = ts.viterbi(**terms).segments.to_list()[0]
    drawn = ts.sample(**terms, num_samples=4, generator=torch.Generator().manual_seed(2),
                      backend="reference")  # fmt: skip
    figure, (top, middle, below) = plt.subplots(
        3, 1, figsize=(10, 6.6), sharex=True, height_ratios=(1.2, 1, 1.8), layout="constrained"
    )
    edges = list(range(T + 1))
    beat = [*found.labels[0, :, 1].tolist(), float(found.labels[0, -1, 1])]
    top.fill_between(edges, beat, 1, step="post", color=BLUE, lw=0)
    top.fill_between(edges, 0, beat, step="post", color=ORANGE, lw=0)
    top.set_ylim(0, 1)
    dress(top, "", "labels\nP(label here)")
    legend(top)
    middle.bar(range(T), found.boundaries[0].tolist(), 0.5, color=GREY)
    middle.set_ylim(0, 1)
    dress(middle, "", "boundaries\nP(a segment\nstarts here)")
    strip(below, 0, best, "viterbi")
    for row, paths in enumerate(drawn.to_list(), 1):
        strip(below, -row - 0.4, paths[0], f"sample {row}")
    dress(below, "position", "segmentations")
    below.set(yticks=[], xlim=(-0.4, T + 4), xticks=range(0, T + 1, 2))
    return figure


PICTURES = {"segments": draw_segments, "durations": draw_durations, "posterior": draw_posterior}


def main(folder: Path = OUTPUT) -> None:
    """Write the pictures."""
    plt.rcParams.update({"svg.hashsalt": "concepts", "font.family": "DejaVu Sans"})
    for name, draw in PICTURES.items():
        figure = draw()
        figure.savefig(folder / f"concepts-{name}.svg", metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
