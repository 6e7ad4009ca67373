"""The five tables."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean, median

from rows import short

from benchmark_analysis.reading import (
    STREAMING,
    Row,
    backward_ratios,
    grouped,
    same_setting,
    semiring_ratios,
    timed,
    with_ratios,
)
from torch_semimarkov.data import atomic_write

COLUMNS = {
    "summary_stats": (
        "backend", "semiring", "phase", "rows", "ok", "slow", "oom", "wrong", "error",
        "unavailable", "median_ms", "least_ms", "most_ms", "median_positions_per_s",
        "median_peak_mb", "most_peak_mb",
    ),
    "backward_forward_ratios": (
        "backend", "semiring", "B", "T", "K", "C", "KC", "forward_ms", "backward_ms", "ratio",
        "backward_is",
    ),
    "semiring_overhead": (
        "backend", "phase", "semiring", "B", "T", "K", "C", "KC", "log_ms", "median_ms", "ratio",
    ),
    "crossover_points": (
        "streaming", "backend", "semiring", "phase", "B", "T", "crossover_KC", "least_KC",
        "most_KC", "in_words",
    ),
    "baseline_ratios": (
        "backend", "baseline", "semiring", "phase", "B", "T", "K", "C", "KC", "time_ratio",
        "memory_ratio",
    ),
}  # fmt: skip
SENTENCES = {
    "summary_stats": "Every backend, semiring and phase: how many sizes, what became of them, and"
    " their times and peaks.",
    "backward_forward_ratios": "What the backward costs relative to the forward, at each size.",
    "semiring_overhead": "What Max and Entropy cost relative to Log, at each size.",
    "crossover_points": "The K*C from which on a streaming backend is faster than another one, for"
    " each B and T.",
    "baseline_ratios": "Time and peak memory of each backend relative to the baseline, at each"
    " size; above 1 the baseline is better.",
}


def all_tables(rows: Sequence[Row], baseline: str) -> dict[str, list[Row]]:
    """The rows of each table, by its name."""
    return {
        "summary_stats": summary(rows),
        "backward_forward_ratios": backward_ratios(rows),
        "semiring_overhead": semiring_ratios(rows),
        "crossover_points": crossovers(rows),
        "baseline_ratios": with_ratios(rows, baseline),
    }


def write_tables(tables: dict[str, list[Row]], folder: Path) -> list[Path]:
    """Each table as a CSV; one without rows has its header."""
    paths = []
    for name, rows in tables.items():
        path = folder / f"{name}.csv"
        with atomic_write(path) as file:
            writer = csv.DictWriter(file, COLUMNS[name], extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows({key: short(value) for key, value in row.items()} for row in rows)
        paths.append(path)
    return paths


def summary(rows: Sequence[Row]) -> list[Row]:
    """What became of the rows of each backend, semiring and phase."""
    found = []
    for (backend, semiring, phase), group in grouped(rows, "backend", "semiring", "phase").items():
        row: Row = {"backend": backend, "semiring": semiring, "phase": phase, "rows": len(group)}
        for status in ("ok", "slow", "oom", "wrong", "error", "unavailable"):
            row[status] = sum(each["status"] == status for each in group)
        right = timed(group)
        if right:
            times = [each["median_ms"] for each in right]
            speeds = [1000 * each["B"] * each["T"] / each["median_ms"] for each in right]
            row.update(median_ms=median(times), least_ms=min(times), most_ms=max(times))
            row["median_positions_per_s"] = median(speeds)
        peaks = [each["peak_bytes"] / 1e6 for each in right if each["peak_bytes"]]
        if peaks:
            row.update(median_peak_mb=median(peaks), most_peak_mb=max(peaks))
        found.append(row)
    return found


def crossovers(rows: Sequence[Row]) -> list[Row]:
    """From which K * C on a streaming backend is faster than each other backend.

    A crossover holds for every K * C that was measured from there on; none is an empty cell.
    """
    right = timed(rows)
    names = list(dict.fromkeys(row["backend"] for row in right))
    found = []
    for streaming in (name for name in STREAMING if name in names):
        base = {same_setting(row): row for row in right if row["backend"] == streaming}
        others = [row for row in right if row["backend"] != streaming and same_setting(row) in base]
        for key, group in grouped(others, "backend", "semiring", "phase", "B", "T").items():
            ratios = [(r["KC"], r["median_ms"] / base[same_setting(r)]["median_ms"]) for r in group]
            found.append(_crossover(streaming, key, ratios))
    return found


def _crossover(streaming: str, key: tuple, ratios: list[tuple[int, float]]) -> Row:
    """One row, from the times of the other backend relative to the streaming one."""
    sizes = sorted({KC for KC, _ in ratios})
    means = {KC: geometric_mean([ratio for each, ratio in ratios if each == KC]) for KC in sizes}
    first = None
    for KC in reversed(sizes):
        if means[KC] <= 1:
            break
        first = KC
    words = f"faster from K*C = {first} on"
    if first == sizes[0]:
        words = "faster at every K*C measured"
    elif first is None:
        words = "not faster at the largest K*C measured"
    names = ("backend", "semiring", "phase", "B", "T")
    row = {"streaming": streaming, **dict(zip(names, key, strict=True))}
    more = {"crossover_KC": first, "least_KC": sizes[0], "most_KC": sizes[-1], "in_words": words}
    return {**row, **more}
