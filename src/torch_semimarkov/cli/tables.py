"""Segments by name, whatever they come from: tables of segments or labelled records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch_semimarkov.cli.run_predict import POSTERIORS
from torch_semimarkov.data import (
    NamedSegment,
    ReadOptions,
    read_any,
    read_segments,
    record_paths,
)
from torch_semimarkov.data.tables import DELIMITERS, SIDECAR_ENDINGS
from torch_semimarkov.errors import ConfigError, FileFormatError

TABLE_COLUMNS = {"start", "end", "label"}


@dataclass(frozen=True)
class Labelled:
    """The segments of one sequence.

    Args:
        name: the sequence.
        segments: ``(start, end, label name)`` in positions.
        sample_rate: positions per second, or None.
        offset: positions of the source before the first one here.
        length: number of positions, or None where only segments are known.
    """

    name: str
    segments: tuple[NamedSegment, ...]
    sample_rate: float | None = None
    offset: int = 0
    length: int | None = None

    def within(self, window: Labelled) -> Labelled:
        """The part that lies in the positions of a cropped record, counted from its start."""
        if window.length is None or not window.offset:
            return self
        first, last = window.offset, window.offset + window.length
        kept = tuple(
            NamedSegment(max(s, first) - first, min(e, last) - first, label)
            for s, e, label in self.segments
            if s < last and e > first
        )
        return Labelled(self.name, kept, self.sample_rate)


def load_labelled(path: Path, options: ReadOptions) -> dict[str, Labelled]:
    """Segments of a file or a folder, by the name of their sequence.

    A folder is read as records if it holds any, else as tables of segments.

    Raises:
        FileFormatError: nothing readable there, or a broken file.
        ConfigError: a record without labels, or a name that comes twice.
    """
    if not path.is_dir():
        return _by_name(path, _from_file(path, options))
    tables = sorted(file for file in path.iterdir() if is_table(file))
    try:
        records = [file for file in record_paths(path) if not file.name.endswith(POSTERIORS)]
    except FileFormatError:
        records = []
    files = records or tables
    if not files:
        raise FileFormatError(path, "no labelled record and no table of segments in this folder")
    return _by_name(path, (one for file in files for one in _from_file(file, options)))


def is_table(path: Path) -> bool:
    """True for a table of segments, by its name or its header."""
    name, ending = path.name.lower(), path.suffix.lower()
    if name.endswith(SIDECAR_ENDINGS) or ending == ".json":
        return path.is_file()
    if ending not in DELIMITERS or not path.is_file():
        return False
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        header = {cell.strip() for cell in file.readline().split(DELIMITERS[ending])}
    return header >= TABLE_COLUMNS


def _from_file(path: Path, options: ReadOptions) -> list[Labelled]:
    if is_table(path):
        return [Labelled(t.name, t.segments, t.sample_rate) for t in read_segments(path)]
    record = read_any(path, options)
    if record.segments is None:
        raise ConfigError(f"{path}: the record is not labelled (WFDB: give --annotator)")
    return [
        Labelled(record.name, record.segments, record.sample_rate, record.offset, record.length)
    ]


def _by_name(path: Path, found: Iterable[Labelled]) -> dict[str, Labelled]:
    result: dict[str, Labelled] = {}
    for one in found:
        if one.name in result:
            raise ConfigError(f"{path}: the sequence {one.name!r} comes twice")
        result[one.name] = one
    return result
