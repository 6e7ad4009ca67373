"""Pictures of a comparison: the scores, an utterance with what each model found, and durations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from phone_data import Manifest
from phone_frames import Span
from phone_scores import Decoded, scored_phones
from phone_sets import SILENCE

from torch_semimarkov import plots

PANELS = {
    "phone_error_rate": ("phone error rate (%)", 100.0),
    "boundary_f1": ("boundary F1 at 20 ms (%)", 100.0),
    "segment_f1": ("segment F1 at IoU 0.5 (%)", 100.0),
    "duration_shift_ms": ("shift of durations (ms)", 1.0),
}
COLOURS = ("#0072B2", "#E69F00", "#009E73")
MOST_PHONES = 6
# Colours of the strips, so light that black text can be read on them; grey is silence.
STRIP = ("#CFE3F5", "#F6D9C2", "#CDE9DC", "#F7F1BF", "#EBD3E2", "#D9D2EA")
GREY = "#EEEEEE"


def draw(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    decoded: Mapping[str, Decoded],
    expected: Mapping[str, Mapping[str, list[float]]],
    manifest: Manifest,
) -> None:
    """Write every picture of a comparison, each whole or not at all.

    Args:
        folder: where to; it exists.
        rows: one a run.
        decoded, expected: of the first seed, by model.
        manifest: names and rate.
    """
    plots.save_figure(scores_figure(rows), folder / "scores.png")
    plots.save_figure(utterance_figure(decoded, manifest), folder / "utterance.png")
    for name, durations in expected.items():
        figure = durations_figure(decoded[name], durations, manifest)
        if figure is not None:
            plots.save_figure(figure, folder / f"durations-{name}.png")


def scores_figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A dot a run, in one panel for each of four scores."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["model"] for row in rows))
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for axis, (key, (title, factor)) in zip(
        figure.subplots(1, len(PANELS)), PANELS.items(), strict=True
    ):
        for i, name in enumerate(names):
            values = [factor * r[key] for r in rows if r["model"] == name and r[key] is not None]
            axis.plot([i] * len(values), values, "o", color=COLOURS[i % len(COLOURS)])
            if values:
                axis.plot([i - 0.25, i + 0.25], [np.mean(values)] * 2, color="#333333")
        axis.set_xticks(range(len(names)), names, rotation=20)
        axis.set_xlim(-0.6, len(names) - 0.4)
        axis.set_title(title, fontsize=11)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def utterance_figure(decoded: Mapping[str, Decoded], manifest: Manifest) -> Any:
    """The features of one test record, its phones, and those that each model found."""
    from matplotlib.figure import Figure

    first = next(iter(decoded.values()))
    # The record with the most phones shows the most.
    index = max(range(len(first.true)), key=lambda i: len(first.true[i]))
    record, rate = first.records[index], manifest.frame_rate
    strips = {"true": first.true[index], **{name: d.found[index] for name, d in decoded.items()}}
    figure = Figure(figsize=(11, 2.2 + 0.55 * len(strips)), layout="constrained")
    ratios = [2.2, *[0.55] * len(strips)]
    axes = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios)
    edges = np.arange(record.length + 1) / rate
    values = record.features - record.features.mean(0)
    values = values / np.maximum(values.std(0), 1e-6)
    axes[0].pcolormesh(
        edges, np.arange(record.num_features + 1), values.T, cmap="cividis", vmin=-2.5, vmax=2.5,
        rasterized=True,
    )  # fmt: skip
    axes[0].set_ylabel("feature")
    axes[0].set_title(f"test record {record.name}", fontsize=12, loc="left")
    code = {name: i for i, name in enumerate(scored_phones(manifest))}
    for axis, (name, spans) in zip(axes[1:], strips.items(), strict=True):
        _strip(axis, name, spans, rate, code)
    axes[-1].set_xlabel("time (s)")
    axes[-1].set_xlim(0, edges[-1])
    return figure


def _strip(
    axis: Any, name: str, spans: Sequence[Span], rate: float, code: Mapping[str, int]
) -> None:
    for start, end, phone in spans:
        colour = GREY if phone == SILENCE else STRIP[code[phone] % len(STRIP)]
        axis.axvspan(start / rate, end / rate, facecolor=colour, edgecolor="#333333", linewidth=0.8)
        if phone != SILENCE:
            middle = (start + end) / 2 / rate
            axis.text(middle, 0.5, phone, ha="center", va="center", fontsize=11, clip_on=True)
    axis.set_ylim(0, 1)
    axis.set_yticks([])
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.set_ylabel(name, rotation=0, ha="right", va="center")


def durations_figure(
    decoded: Decoded, expected: Mapping[str, list[float]], manifest: Manifest
) -> Any:
    """True durations of the most frequent phones, and those that a model expects; None of none."""
    found = Counter(phone for spans in decoded.true for _, _, phone in spans)
    common = [phone for phone, _ in found.most_common(MOST_PHONES)]
    observed = {
        i: [end - start for spans in decoded.true for start, end, one in spans if one == phone]
        for i, phone in enumerate(common)
    }
    model = {i: expected[phone] for i, phone in enumerate(common)}
    if not common:
        return None
    title = "test records: true durations, and posterior expectation"
    return plots.plot_durations(observed, model, common, manifest.frame_rate, title)
