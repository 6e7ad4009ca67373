"""Delimited text: features per position (CSV, TSV) and tables of segments (TSV, CSV, JSON)."""

from __future__ import annotations

import csv
import json
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torch_semimarkov.data.records import NamedSegment, Record, segments_from_runs
from torch_semimarkov.errors import FileFormatError, SemiMarkovError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
FLOAT32_BOUND = 2.0**128  # every finite float32 lies below it
SIDECAR_ENDINGS = (".segments.tsv", ".segments.csv", ".segments.json")


@dataclass(frozen=True)
class SegmentTable:
    """The segments of one sequence as they stand in a file.

    Args:
        name: the sequence.
        segments: ``(start, end, label name)`` in positions, 0 <= start < end.
        sample_rate: positions per second; None when unknown.
        scores: one number a segment (a posterior, a confidence); None for none.
    """

    name: str
    segments: tuple[NamedSegment, ...]
    sample_rate: float | None = None
    scores: tuple[float, ...] | None = None


def read_table(
    path: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    label_column: str = "label",
    sample_rate: float | None = None,
) -> Record:
    """A CSV or TSV file: a header, then one row of numbers a position.

    Labels come from the column ``label_column`` (maximal runs of equal names become segments), or
    from a table of segments beside the file: ``<stem>.segments.tsv``, ``.csv`` or ``.json`` with
    columns start, end, label. With neither, the record is unlabelled.

    Args:
        path: file ending in .csv (commas) or .tsv (tabs), UTF-8.
        columns: names of the D feature columns; default every column but the label.
        label_column: name of the column of labels; need not be there.
        sample_rate: positions per second, > 0, if known.

    Raises:
        FileFormatError: with file and line: no file, empty file, no header, a missing or doubled
            column, a row with too few or too many cells, a cell that is no finite number, an
            empty label, labels in two places, or segments that do not tile the sequence.
    """
    path = Path(path)
    rows = _rows(path)
    header = _header(path, rows)
    used = _feature_columns(path, header, columns, label_column)
    label_at = header.index(label_column) if label_column in header else None
    values, labels = array("d"), []
    for line, cells in rows:
        for i in used:
            values.append(_number(path, line, header[i], cells[i]))
        if label_at is not None:
            labels.append(_label(path, line, cells[label_at]))
    if not values:
        raise FileFormatError(path, "a header and no row; expected one row a position", 2)
    features = np.frombuffer(values, dtype=np.float64).reshape(-1, len(used))
    segments = segments_from_runs(labels) if label_at is not None else None
    sidecar = _sidecar(path)
    if sidecar is not None and segments is not None:
        raise FileFormatError(
            path, f"labelled twice: by its column {label_column!r} and by {sidecar.name}; keep one"
        )
    if sidecar is not None:
        segments = _own_segments(sidecar, path.stem)
    names = [header[i] for i in used]
    try:
        return Record(path.stem, features, segments, sample_rate, names)
    except SemiMarkovError as error:
        raise FileFormatError(sidecar or path, str(error)) from error


def read_segments(path: str | os.PathLike[str]) -> list[SegmentTable]:
    """Segments written by :func:`write_segments_tsv` or :func:`write_segments_json`, or alike.

    A TSV or CSV needs the columns start, end and label; name, start_time with end_time, and score
    are understood, others are passed over. Without a column name, the file holds one sequence,
    called by the file's stem.

    Args:
        path: file ending in .tsv, .csv or .json, UTF-8.

    Returns:
        One table a sequence, in the order of the file.

    Raises:
        FileFormatError: with file and line (JSON: segment): no file, empty file, no header, a
            missing column or key, a broken row, or not 0 <= start < end.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        return _segments_from_json(path)
    rows = _rows(path)
    header = _header(path, rows)
    missing = [name for name in ("start", "end", "label") if name not in header]
    if missing:
        raise FileFormatError(path, f"no column {', '.join(missing)}; found {header}", 1)
    stem = path.name.split(".segments.")[0] if ".segments." in path.name else path.stem
    found: dict[str, list[tuple[int, dict[str, str]]]] = {}
    for line, cells in rows:
        row = dict(zip(header, cells, strict=True))
        found.setdefault(row.get("name", stem), []).append((line, row))
    return [_segment_table(path, name, rows) for name, rows in found.items()]


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """``(line, cells)`` of a delimited file; all rows as wide as the first, no blank between."""
    delimiter = DELIMITERS.get(path.suffix.lower())
    if delimiter is None:
        raise FileFormatError(path, f"unknown ending, expected one of {', '.join(DELIMITERS)}")
    width, blank = None, None
    with open_text(path, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            for cells in reader:
                line = reader.line_num
                if not cells or (len(cells) == 1 and not cells[0].strip()):
                    blank = blank or line
                    continue
                if blank is not None and width is not None:
                    raise FileFormatError(path, "blank line between rows", blank)
                width = width or len(cells)
                if len(cells) != width:
                    problem = f"expected {width} cells as in the header, got {len(cells)}"
                    raise FileFormatError(path, problem, line)
                yield line, [cell.strip() for cell in cells]
        except csv.Error as error:
            raise FileFormatError(path, f"broken row: {error}", reader.line_num) from error
        except UnicodeDecodeError as error:
            raise FileFormatError(path, f"not UTF-8 text: {error}", reader.line_num + 1) from error


def open_text(path: Path, newline: str | None = None):
    """The file open for reading as UTF-8, or one error that names it."""
    try:
        return open(path, encoding="utf-8-sig", newline=newline)
    except OSError as error:
        raise FileFormatError(path, f"cannot be read: {error.strerror}") from error


def _header(path: Path, rows: Iterator[tuple[int, list[str]]]) -> list[str]:
    line, header = next(rows, (1, None))
    if header is None:
        raise FileFormatError(path, "the file is empty; expected a header and rows")
    if any(_is_number(cell) for cell in header):
        raise FileFormatError(path, f"no header: the first row holds numbers, {header[:4]}", line)
    for name in header:
        if not name or header.count(name) > 1:
            raise FileFormatError(path, f"column names must be given once each, got {name!r}", line)
    return header


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # Python reads 1_0 as ten; a table does not mean that


def _feature_columns(
    path: Path, header: list[str], columns: Sequence[str] | None, label_column: str
) -> list[int]:
    if columns is None:
        columns = [name for name in header if name != label_column]
    missing = [name for name in columns if name not in header]
    if missing:
        raise FileFormatError(path, f"no column {', '.join(missing)}; found {header}", 1)
    if not columns:
        raise FileFormatError(path, f"no feature column beside {label_column!r}", 1)
    return [header.index(name) for name in columns]


def _number(path: Path, line: int, column: str, cell: str) -> float:
    if not _is_number(cell):
        raise FileFormatError(path, f"column {column!r} must be a number, got {cell!r}", line)
    value = float(cell)
    if not abs(value) < FLOAT32_BOUND:
        raise FileFormatError(
            path, f"column {column!r} must be finite in float32, got {cell!r}", line
        )
    return value


def _label(path: Path, line: int, cell: str) -> str:
    if not cell:
        raise FileFormatError(path, "empty label; a labelled file needs one on every row", line)
    return cell


def _sidecar(path: Path) -> Path | None:
    found = [path.with_name(path.stem + ending) for ending in SIDECAR_ENDINGS]
    found = [sidecar for sidecar in found if sidecar.is_file()]
    if len(found) > 1:
        names = ", ".join(sidecar.name for sidecar in found)
        raise FileFormatError(path, f"labelled by more than one table: {names}; keep one")
    return found[0] if found else None


def _own_segments(sidecar: Path, stem: str) -> tuple[NamedSegment, ...]:
    tables = {table.name: table for table in read_segments(sidecar)}
    if stem not in tables:
        raise FileFormatError(sidecar, f"no segment of {stem!r}; found {sorted(tables)[:5]}")
    return tables[stem].segments


def _segment_table(path: Path, name: str, rows: list[tuple[int, dict[str, str]]]) -> SegmentTable:
    segments = tuple(_segment(path, row, line) for line, row in rows)
    scores = None
    if all(row.get("score") for _, row in rows):
        scores = tuple(_number(path, line, "score", row["score"]) for line, row in rows)
    rate = None
    line, row = rows[-1]
    if row.get("end_time"):
        seconds = _number(path, line, "end_time", row["end_time"])
        if seconds <= 0:
            raise FileFormatError(path, f"end_time must be > 0 s, got {seconds}", line)
        # Nine digits undo the rounding of end / sample_rate in the writer.
        rate = float(f"{segments[-1].end / seconds:.9g}")
    return SegmentTable(name, segments, rate, scores)


def _segment(path: Path, row: dict, line: int | None, where: str = "") -> NamedSegment:
    bounds = []
    for column in ("start", "end"):
        try:
            bounds.append(int(str(row[column])))
        except ValueError:
            problem = f"{where}{column} must be an integer position, got {row[column]!r}"
            raise FileFormatError(path, problem, line) from None
    start, end = bounds
    if not 0 <= start < end:
        problem = f"{where}expected 0 <= start < end, got start {start}, end {end}"
        raise FileFormatError(path, problem, line)
    if not isinstance(row["label"], str) or not row["label"]:
        raise FileFormatError(path, f"{where}label must be a name, got {row['label']!r}", line)
    return NamedSegment(start, end, row["label"])


def _segments_from_json(path: Path) -> list[SegmentTable]:
    with open_text(path) as file:
        try:
            content = json.load(file)
        except json.JSONDecodeError as error:
            raise FileFormatError(path, f"not JSON: {error.msg}", error.lineno) from error
        except UnicodeDecodeError as error:
            raise FileFormatError(path, f"not UTF-8 text: {error}") from error
    entries = content if isinstance(content, list) else [content]
    return [_json_table(path, entry, i) for i, entry in enumerate(entries)]


def _json_table(path: Path, entry: object, i: int) -> SegmentTable:
    if not isinstance(entry, dict) or not isinstance(entry.get("segments"), list):
        raise FileFormatError(path, f'sequence {i}: expected {{"name", "sample_rate", "segments"}}')
    name = str(entry.get("name", path.stem))
    rate = entry.get("sample_rate")
    if rate is not None and not (isinstance(rate, int | float) and rate > 0):
        raise FileFormatError(path, f"sequence {name!r}: sample_rate must be > 0, got {rate!r}")
    segments, scores = [], []
    for k, row in enumerate(entry["segments"]):
        where = f"sequence {name!r}, segment {k}: "
        missing = [key for key in ("start", "end", "label") if key not in _as_dict(row)]
        if missing:
            raise FileFormatError(path, f"{where}no key {', '.join(missing)}")
        segments.append(_segment(path, row, None, where))
        if row.get("score") is not None:
            scores.append(row["score"])
    whole = bool(scores) and len(scores) == len(segments)
    if whole and not all(isinstance(score, int | float) for score in scores):
        raise FileFormatError(path, f"sequence {name!r}: scores must be numbers")
    return SegmentTable(name, tuple(segments), rate, tuple(scores) if whole else None)


def _as_dict(row: object) -> dict:
    return row if isinstance(row, dict) else {}
