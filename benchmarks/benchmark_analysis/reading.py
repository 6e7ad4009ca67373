"""The rows of a benchmark as numbers, and the groups that tables and plots are made of."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from torch_semimarkov.errors import ConfigError, FileFormatError

NEEDED = ("backend", "semiring", "phase", "B", "T", "K", "C", "status", "median_ms", "peak_bytes")
WHOLE, NUMBERS = ("B", "T", "K", "C"), ("median_ms", "q1_ms", "q3_ms", "peak_bytes", "input_bytes")
STREAMING = ("linear_scan_streaming", "cpu", "triton", "triton_checkpointing")
DEFAULT_BASELINE = STREAMING[0]
PHASES = ("forward", "backward", "both")
Row = dict[str, Any]


def load(path: Path) -> list[Row]:
    """The rows of a CSV, sizes and times as numbers, with ``KC`` and ``work_bytes``.

    Raises:
        FileFormatError: it cannot be read, lacks columns, or has no row with a time.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or (), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FileFormatError(path, f"cannot be read: {reason}") from error
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise FileFormatError(path, f"lacks the columns {', '.join(missing)}", 1)
    found = [_numbers(path, line, row) for line, row in enumerate(rows, 2)]
    if not any(is_timed(row) for row in found):
        raise FileFormatError(path, f"none of its {len(found)} rows has status=ok and a time")
    return found


def _numbers(path: Path, line: int, row: Row) -> Row:
    try:
        whole = {name: int(row[name]) for name in WHOLE}
        numbers = {name: float(row[name]) if row.get(name) else None for name in NUMBERS}
    except (TypeError, ValueError) as error:
        raise FileFormatError(path, f"is no row of a benchmark: {error}", line) from error
    if min(whole.values()) < 1:
        raise FileFormatError(path, "B, T, K and C must be at least 1", line)
    return {**row, **whole, **numbers, "KC": whole["K"] * whole["C"]}


def is_timed(row: Row) -> bool:
    """True if the row has a time of a right result."""
    return row["status"] == "ok" and bool(row["median_ms"])


def timed(rows: Iterable[Row]) -> list[Row]:
    """The rows with a time."""
    return [row for row in rows if is_timed(row)]


def choose_baseline(rows: Sequence[Row], asked: str | None) -> str:
    """The backend that others are compared with.

    Raises:
        ConfigError: the one asked for has no row with a time.
    """
    there = list(dict.fromkeys(row["backend"] for row in timed(rows)))
    if asked is None:
        return DEFAULT_BASELINE if DEFAULT_BASELINE in there else there[0]
    if asked not in there:
        raise ConfigError(
            f"--baseline {asked}: no row with a time is of that backend, only of {', '.join(there)}"
        )
    return asked


def grouped(rows: Iterable[Row], *names: str) -> dict[tuple, list[Row]]:
    """Rows by the values of some columns, in the order of their appearance."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def curve(
    rows: Iterable[Row], x: str, y: Callable[[Row], float | None]
) -> tuple[list[float], list[float]]:
    """Medians of ``y`` over the rows of each ``x``."""
    found: dict[float, list[float]] = {}
    for row in rows:
        value = y(row)
        if value is not None and value > 0:
            found.setdefault(row[x], []).append(value)
    xs = sorted(found)
    return xs, [median(found[each]) for each in xs]


def widest_slice(rows: Sequence[Row], x: str, fixed: Sequence[str]) -> tuple[list[Row], str]:
    """The rows at the fixed sizes where ``x`` takes most values, and these sizes in words."""
    groups = grouped(rows, *fixed)
    if not groups:
        return [], ""

    def worth(key: tuple) -> tuple[int, int]:
        by_backend = grouped(groups[key], "backend")
        counts = [len({row[x] for row in each}) for each in by_backend.values()]
        return max(counts), sum(counts)

    best = max(groups, key=worth)
    words = ", ".join(f"{name}={value}" for name, value in zip(fixed, best, strict=True))
    return groups[best], words


def same_setting(row: Row) -> tuple:
    """What two rows must share to be compared."""
    names = ("semiring", "phase", "B", "T", "K", "C", "dtype", "device")
    return tuple(row.get(name) for name in names)


def with_ratios(rows: Sequence[Row], baseline: str) -> list[Row]:
    """Rows of every backend but the baseline, with ``time_ratio`` and ``memory_ratio`` to it."""
    base = {same_setting(row): row for row in timed(rows) if row["backend"] == baseline}
    found = []
    for row in timed(rows):
        other = base.get(same_setting(row))
        if other is None or row["backend"] == baseline:
            continue
        memory = None
        if row["peak_bytes"] and other["peak_bytes"]:
            memory = row["peak_bytes"] / other["peak_bytes"]
        ratio = row["median_ms"] / other["median_ms"]
        found.append({**row, "baseline": baseline, "time_ratio": ratio, "memory_ratio": memory})
    return found


def backward_ratios(rows: Sequence[Row]) -> list[Row]:
    """Time of the backward relative to the forward; where only ``both`` was measured, less it."""
    found = []
    names = ("backend", "semiring", "B", "T", "K", "C")
    for group in grouped(timed(rows), *names, "dtype" if _has(rows, "dtype") else "B").values():
        times = {row["phase"]: row["median_ms"] for row in group}
        forward = times.get("forward")
        derived = "backward" not in times
        backward = times.get("backward")
        if derived and forward and "both" in times:
            backward = times["both"] - forward
        if forward and backward and backward > 0:
            kept = {name: group[0][name] for name in (*names, "KC")}
            kept.update(forward_ms=forward, backward_ms=backward, ratio=backward / forward)
            found.append({**kept, "backward_is": "both less forward" if derived else "measured"})
    return found


def semiring_ratios(rows: Sequence[Row]) -> list[Row]:
    """Time of Max and Entropy relative to that of Log, for the same backend, phase and size."""
    names = ("backend", "phase", "B", "T", "K", "C")
    log = {tuple(r[n] for n in names): r for r in timed(rows) if r["semiring"] == "Log"}
    found = []
    for row in timed(rows):
        base = log.get(tuple(row[name] for name in names))
        if base is not None and row["semiring"] != "Log":
            kept = {name: row[name] for name in (*names, "semiring", "KC")}
            ratio = row["median_ms"] / base["median_ms"]
            kept.update(log_ms=base["median_ms"], median_ms=row["median_ms"], ratio=ratio)
            found.append(kept)
    return found


def _has(rows: Sequence[Row], name: str) -> bool:
    return bool(rows) and name in rows[0]
