"""The ten plots: what each shows, in a sentence, and how it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from benchmark_analysis.drawing import heatmap, lines_by_phase
from benchmark_analysis.reading import (
    Row,
    backward_ratios,
    grouped,
    semiring_ratios,
    timed,
    widest_slice,
    with_ratios,
)
from torch_semimarkov.plots.saving import save_figure

KC = "K·C (durations times labels)"


@dataclass(frozen=True)
class Picture:
    """A plot of a kind.

    Args:
        name: of the file, without the part that follows.
        sentence: what it shows.
        draw: from all rows, the semiring and the baseline to a figure, or None without points.
        lacks: why there are no points, if there are none.
    """

    name: str
    sentence: str
    draw: Callable[[Sequence[Row], str, str], Figure | None]
    lacks: str


def _of(rows: Sequence[Row], semiring: str) -> list[Row]:
    return [row for row in rows if row["semiring"] == semiring]


def _time(row: Row) -> float | None:
    return row["median_ms"]


def scalability_t(rows: Sequence[Row], semiring: str, _: str) -> Figure | None:
    """Time over T at the K, C and B with most T."""
    chosen, where = widest_slice(timed(_of(rows, semiring)), "T", ("B", "K", "C"))
    labels = ("T (positions)", "time (ms)", f"Time over T, {semiring}, {where}")
    return lines_by_phase(chosen, "T", _time, labels)


def scalability_kc(rows: Sequence[Row], semiring: str, _: str) -> Figure | None:
    """Time over K * C at the B and T with most K * C."""
    chosen, where = widest_slice(timed(_of(rows, semiring)), "KC", ("B", "T"))
    return lines_by_phase(chosen, "KC", _time, (KC, "time (ms)", f"Time, {semiring}, {where}"))


def throughput(rows: Sequence[Row], semiring: str, _: str) -> Figure | None:
    """Positions a second over K * C."""
    chosen, where = widest_slice(timed(_of(rows, semiring)), "KC", ("B", "T"))
    labels = (KC, "positions per second", f"Throughput, {semiring}, {where}")
    return lines_by_phase(
        chosen, "KC", lambda row: 1000 * row["B"] * row["T"] / row["median_ms"], labels
    )


def memory_efficiency(rows: Sequence[Row], semiring: str, _: str) -> Figure | None:
    """Peak bytes for each position and state."""
    chosen = [row for row in timed(_of(rows, semiring)) if row["peak_bytes"]]
    chosen, where = widest_slice(chosen, "KC", ("B", "T"))
    labels = (KC, "peak bytes / (B·T·K·C)", f"Memory per state and position, {semiring}, {where}")
    return lines_by_phase(
        chosen, "KC", lambda row: row["peak_bytes"] / (row["B"] * row["T"] * row["KC"]), labels
    )


def backward_forward(rows: Sequence[Row], semiring: str, _: str) -> Figure | None:
    """Backward relative to forward over K * C."""
    found = [{**row, "phase": "both"} for row in backward_ratios(_of(rows, semiring))]
    labels = (KC, "backward time / forward time", f"Backward over forward, {semiring}")
    figure = lines_by_phase(found, "KC", lambda row: row["ratio"], labels, line_at=1.0)
    if figure is not None:
        figure.axes[0].set_title("median over all sizes", fontsize=13, loc="left")
    return figure


def semiring_overhead(rows: Sequence[Row], semiring: str, _: str) -> Figure | None:
    """Another semiring relative to Log over K * C."""
    found = _of(semiring_ratios(rows), semiring)
    labels = (KC, f"time of {semiring} / time of Log", f"{semiring} over Log")
    return lines_by_phase(found, "KC", lambda row: row["ratio"], labels, line_at=1.0)


def _ratio_lines(kind: str, word: str) -> Callable[[Sequence[Row], str, str], Figure | None]:
    def draw(rows: Sequence[Row], semiring: str, baseline: str) -> Figure | None:
        found = with_ratios(_of(rows, semiring), baseline)
        labels = (
            KC,
            f"{word.lower()}, ratio to baseline",
            f"{word}, baseline {baseline}, {semiring}",
        )
        return lines_by_phase(found, "KC", lambda row: row[kind], labels, line_at=1.0)

    return draw


def _ratio_cells(kind: str, word: str) -> Callable[[Sequence[Row], str, str], Figure | None]:
    def draw(rows: Sequence[Row], semiring: str, baseline: str) -> Figure | None:
        found = with_ratios(_of(rows, semiring), baseline)
        title = f"{word} relative to {baseline}, {semiring}\nmedians; - is not measured"
        return heatmap(found, lambda row: row[kind], (f"{word} ratio", title))

    return draw


_FEW = "no row with a time, or no size that two backends share"
PICTURES = (
    Picture(
        "scalability_T",
        "How time grows with the number of positions: slope 1 on these axes is linear in T.",
        scalability_t, "no row with a time",
    ),
    Picture(
        "scalability_KC",
        "How time grows with the state space K·C; the median where several K and C have one K·C.",
        scalability_kc, "no row with a time",
    ),
    Picture(
        "throughput",
        "How many positions a second are worked through: higher is better.",
        throughput, "no row with a time",
    ),
    Picture(
        "memory_efficiency",
        "Peak bytes for each position and state: a line that falls needs less than K·C numbers a "
        "position.",
        memory_efficiency, "no row with a peak of memory",
    ),
    Picture(
        "backward_forward_ratio",
        "What a backward costs relative to a forward: the dashed line is as much.",
        backward_forward, "no size with a forward and a backward",
    ),
    Picture(
        "semiring_overhead",
        "What the semiring costs relative to Log: the dashed line is as much.",
        semiring_overhead, "no size in Log and in this semiring",
    ),
    Picture(
        "time_ratio_baseline",
        "Time relative to the baseline: below the dashed line a backend is faster.",
        _ratio_lines("time_ratio", "Time"), _FEW,
    ),
    Picture(
        "memory_ratio_baseline",
        "Peak memory relative to the baseline: below the dashed line a backend needs less.",
        _ratio_lines("memory_ratio", "Peak memory"), _FEW,
    ),
    Picture(
        "time_ratio_heatmap",
        "The same ratios of time as numbers: below 1 a backend is faster than the baseline.",
        _ratio_cells("time_ratio", "Time"), _FEW,
    ),
    Picture(
        "memory_ratio_heatmap",
        "The same ratios of peak memory as numbers: below 1 a backend needs less.",
        _ratio_cells("memory_ratio", "Peak memory"), _FEW,
    ),
)  # fmt: skip


def draw_all(
    rows: Sequence[Row], baseline: str, folder: Path, ending: str
) -> tuple[list[tuple[Path, str]], list[str]]:
    """Write every plot of every semiring that has points.

    Returns:
        Paths with their sentences, and a line for each plot that has nothing to show.
    """
    written, left_out = [], []
    semirings = [key[0] for key in grouped(rows, "semiring")]
    for picture in PICTURES:
        for semiring in semirings:
            if picture.name == "semiring_overhead" and semiring == "Log":
                if semirings == ["Log"]:
                    left_out.append(f"{picture.name}: only Log was measured")
                continue
            figure = picture.draw(rows, semiring, baseline)
            if figure is None:
                left_out.append(f"{picture.name}_{semiring.lower()}: {picture.lacks}")
                continue
            path = folder / f"{picture.name}_{semiring.lower()}.{ending}"
            written.append((save_figure(figure, path), picture.sentence))
    return written, left_out
