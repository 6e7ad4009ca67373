"""Rows of measurements: what stands in one, the CSV they go to, and a table to read."""

from __future__ import annotations

import csv
import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from truth import Verdict
from workload import Size

import torch_semimarkov
from torch_semimarkov.cli.timing import summarize
from torch_semimarkov.data import atomic_write
from torch_semimarkov.errors import FileFormatError
from torch_semimarkov.metrics import format_table

COLUMNS = (
    "date", "commit", "case", "backend", "phase", "measured", "B", "T", "K", "C", "dtype",
    "threads", "status", "reason", "median_ms", "q1_ms", "q3_ms", "repeats", "ratio",
    "ns_per_position", "value_error", "gradient_error", "checked", "load", "device", "cores",
    "python", "torch", "numba", "torch_semimarkov", "backend_version",
)  # fmt: skip
HEADINGS = {
    "case": "case", "size": "B,T,K,C", "phase": "phase", "threads": "threads",
    "backend": "backend", "measured": "measured", "median_ms": "median ms", "q1_ms": "q1",
    "q3_ms": "q3", "repeats": "n", "ns_per_position": "ns/pos", "ratio": "ratio",
    "wanted": "wanted", "met": "met", "status": "status",
}  # fmt: skip
Row = dict[str, Any]


def new_row(case: str, size: Size, phase: str, backend: str, **more: Any) -> Row:
    """One row; what is not given stays None, and the machine and the versions are filled in."""
    given = {"case": case, "phase": phase, "backend": backend, **size._asdict(), **more}
    unknown = set(given) - set(COLUMNS)
    if unknown:
        raise KeyError(f"no such columns: {sorted(unknown)}")
    facts = {**machine(), "date": now(), "load": load()}
    facts.update(threads=torch.get_num_threads(), status="ok")
    return {name: {**facts, **given}.get(name) for name in COLUMNS}


def measured_row(row: Row, verdict: Verdict, seconds: list[float]) -> Row:
    """A row with the comparison, and with its times if there is nothing wrong with the result."""
    row = {
        **row,
        "value_error": verdict.value_error,
        "gradient_error": verdict.gradient_error,
        "checked": verdict.checked,
    }
    if verdict.problem:
        return {**row, "status": "wrong", "reason": verdict.problem}
    return with_times(row, seconds)


def with_times(row: Row, seconds: list[float]) -> Row:
    """A row with median and quartiles, if anything was measured."""
    if not seconds:
        return row
    times = summarize(seconds)
    return {
        **row,
        "median_ms": times.median,
        "q1_ms": times.q1,
        "q3_ms": times.q3,
        "repeats": times.repeats,
        "ns_per_position": 1e6 * times.median / (row["B"] * row["T"]),
    }


def with_ratios(rows: Sequence[Row], ours: str) -> list[Row]:
    """The rows of one size and phase, each peer's with the ratio of its median to ours."""
    own = next((row["median_ms"] for row in rows if row["backend"] == ours), None)
    return [
        {**row, "ratio": row["median_ms"] / own}
        if own and row["median_ms"] and row["backend"] != ours
        else row
        for row in rows
    ]


class Sheet:
    """A CSV that rows are added to; after each addition the file is whole.

    Raises:
        FileFormatError: ``path`` cannot be written, or holds other columns.
    """

    def __init__(self, path: Path | None, columns: tuple[str, ...] = COLUMNS) -> None:
        self.path, self.columns, self.before, self.rows = path, columns, "", []
        if path is None:
            return
        if not path.parent.is_dir() or path.is_dir():
            raise FileFormatError(path, "must be the name of a file in a folder that exists")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise FileFormatError(path, "cannot be written")
        if path.exists():
            self.before = _checked_text(path, columns)

    def add(self, rows: Sequence[Row]) -> None:
        """Keep the rows, and write them below what the file held at first."""
        self.rows.extend(rows)
        if self.path is None:
            return
        with atomic_write(self.path) as file:
            file.write(self.before)
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            if not self.before:
                writer.writeheader()
            writer.writerows({name: short(x) for name, x in row.items()} for row in self.rows)


def short(value: Any) -> Any:
    """Numbers with six digits."""
    return f"{value:.6g}" if isinstance(value, float) else value


def _checked_text(path: Path, columns: tuple[str, ...]) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FileFormatError(path, f"is no text: {error}") from error
    header = tuple(next(csv.reader(text.splitlines()), ()))
    if text and header != columns:
        raise FileFormatError(path, "holds other columns; give the name of another file", 1)
    return text if text.endswith("\n") or not text else f"{text}\n"


def as_table(rows: Sequence[Row], wanted: Any, headings: dict[str, str] = HEADINGS) -> str:
    """The rows as text.

    Args:
        rows: to show; columns that are empty in all of them are left out.
        wanted: from a row to what is wanted of it, in words, and whether that is met.
        headings: the columns to show, with their headings.
    """
    shown = []
    for row in rows:
        text, met = wanted(row)
        size = ",".join(str(row[name]) for name in "BTKC")
        verdict = None if met is None else "yes" if met else "NO"
        shown.append({**row, "size": size, "wanted": text, "met": verdict})
        if row["case"] != "scaling":
            shown[-1]["ns_per_position"] = None
    filled = {
        key: heading
        for key, heading in headings.items()
        if any(row[key] not in (None, "") for row in shown)
    }
    notes = dict.fromkeys(
        f"{row['backend']} {row['size']} {row['phase']}: {row['reason']}"
        for row in shown
        if row["reason"]
    )
    busy = [row["load"] for row in rows if row["load"] and row["load"] > row["cores"] + 1]
    if busy:
        notes[f"load {max(busy):g} on {rows[0]['cores']} cores: other work slowed these calls"] = (
            None
        )
    return "\n".join([format_table(shown, filled), *notes])


# What every row says of where and when it was measured


def now() -> str:
    """Date and time with its zone, to the second."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def load() -> float | None:
    """Processes that wanted to run in the last minute, this one among them."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


_MACHINE: Row = {}


def machine() -> Row:
    """The device, the versions and the commit; looked up once."""
    if not _MACHINE:
        _MACHINE.update(
            commit=_commit(),
            device=_cpu_model(),
            cores=_cores(),
            python=platform.python_version(),
            torch=torch.__version__,
            numba=_version("numba"),
            torch_semimarkov=torch_semimarkov.__version__,
        )
    return _MACHINE


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    """The processor's name where Linux tells it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str:
    """Short name of the commit, with "+" where tracked files differ from it."""
    folder = Path(__file__).parent
    try:
        name = _git(folder, "rev-parse", "--short", "HEAD")
        return f"{name}+" if _git(folder, "status", "--porcelain", "-uno") else name
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
