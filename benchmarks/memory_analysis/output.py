"""The three files of a run: every row, feasibility by T and K * C, and memory by kind."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rows as common
from workload import Size

from memory_analysis.plan import Config
from torch_semimarkov.data import atomic_write
from torch_semimarkov.errors import FileFormatError

FULL, HEATMAP, BREAKDOWN = "benchmark_full.csv", "heatmap_data.json", "memory_breakdown.csv"
BYTES = ("input_bytes", "working_bytes", "gradient_bytes", "peak_bytes")
COLUMNS = (
    "date", "commit", "backend", "semiring", "phase", "measured", "B", "T", "K", "C", "KC", "dtype",
    "seed", "threads", "status", "reason", "median_ms", "q1_ms", "q3_ms", "repeats",
    "positions_per_s", *BYTES, "value_error", "gradient_error", "checked", "load", "device",
    "cores", "python", "torch", "numba", "triton", "torch_semimarkov", "backend_version",
)  # fmt: skip
SETTING = ("semiring", "B", "T", "K", "C")
BREAKDOWN_COLUMNS = ("backend", "phase", *SETTING, "KC", "dtype", "device", "status", *BYTES)
# From the best to the worst that can be said of a backend at a size.
ORDER = ("ok", "slow", "oom", "wrong", "error", "unavailable")
Row = dict[str, Any]


def new_row(config: Config, backend: str, phase: str, **more: Any) -> Row:
    """A row with the machine and the versions; what is not given is empty."""
    size = config.size
    base = common.new_row("", size, phase, backend)
    facts = {**base, "semiring": config.semiring, "KC": size.K * size.C, **more}
    return {name: facts.get(name) for name in COLUMNS}


def require_writable(folder: Path) -> None:
    """Make the folder if it is not there.

    Raises:
        FileFormatError: it cannot be made or written.
    """
    if folder.exists() and not folder.is_dir():
        raise FileFormatError(folder, "the output must be a folder, this is a file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileFormatError(folder, f"the folder cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FileFormatError(folder, "the folder cannot be written")


def read_rows(path: Path) -> list[Row]:
    """The rows of an earlier run, as texts.

    Raises:
        FileFormatError: no such columns.
    """
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns, found = tuple(reader.fieldnames or ()), list(reader)
    if columns != COLUMNS:
        raise FileFormatError(path, "holds other columns; choose another --output-dir", 1)
    return found


def key_of(row: Row) -> tuple[str, ...]:
    """What a row is the measurement of."""
    names = ("backend", "phase", *SETTING, "dtype", "seed")
    return tuple(str(row[name]) for name in names)


class Results:
    """Rows on disk; the files are whole after each configuration.

    Args:
        folder: is there.
        resume: keep the rows that the folder holds; else they are moved to a file of another name.
    """

    def __init__(self, folder: Path, resume: bool = False) -> None:
        self.folder, self.rows, self.moved = folder, [], None
        path = folder / FULL
        if resume:
            self.rows = read_rows(path)
        elif path.exists():
            self.moved = _free_name(path)
            path.rename(self.moved)

    def measured(self) -> set[tuple[str, ...]]:
        """What there are rows of."""
        return {key_of(row) for row in self.rows}

    def add(self, rows: Sequence[Row]) -> None:
        """Keep the rows of a configuration, in the place of earlier ones of the same."""
        fresh = {key_of(row) for row in rows}
        self.rows = [row for row in self.rows if key_of(row) not in fresh] + list(rows)
        write_csv(self.folder / FULL, self.rows, COLUMNS)
        known = [row for row in self.rows if row["peak_bytes"] not in (None, "")]
        write_csv(self.folder / BREAKDOWN, known, BREAKDOWN_COLUMNS)
        with atomic_write(self.folder / HEATMAP) as file:
            json.dump(heatmap(self.rows), file, indent=1)


def _free_name(path: Path) -> Path:
    number = 1
    while (path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return path.with_name(f"{path.stem}.{number}{path.suffix}")


def write_csv(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Some columns of the rows, the file whole or as before."""
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: common.short(x) for name, x in row.items()} for row in rows)


def heatmap(rows: Sequence[Row]) -> dict[str, Any]:
    """Feasibility by T, K * C and backend: the worst status of the phases and batches there.

    ``status[backend][i][j]`` is that at ``T[i]`` and ``KC[j]``; null where nothing was measured.
    """
    T = sorted({int(row["T"]) for row in rows})
    KC = sorted({int(row["KC"]) for row in rows})
    backends = list(dict.fromkeys(row["backend"] for row in rows))
    status: dict[str, list[list[str | None]]] = {
        name: [[None] * len(KC) for _ in T] for name in backends
    }
    for row in rows:
        cells = status[row["backend"]][T.index(int(row["T"]))]
        j = KC.index(int(row["KC"]))
        cells[j] = max((x for x in (cells[j], row["status"]) if x), key=ORDER.index)
    return {"T": T, "KC": KC, "backends": backends, "status": status}


def size_of(row: Row) -> Size:
    """The sizes of a row, also of one that was read."""
    return Size(*(int(row[name]) for name in "BTKC"))
