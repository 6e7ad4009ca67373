"""Segments as TSV and JSON, written whole or not at all."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable

from torch_semimarkov.data.files import atomic_write
from torch_semimarkov.data.tables import SegmentTable
from torch_semimarkov.errors import SegmentError, ShapeError


def write_segments_tsv(
    path: str | os.PathLike[str], tables: SegmentTable | Iterable[SegmentTable]
) -> None:
    """Write one row a segment: name, start, end, label; times and score where they are known.

    ``start_time`` and ``end_time`` are seconds from the first position, there when a table has a
    sample rate; ``score`` is there when a table has scores. A cell is empty where its table has
    no such value. :func:`read_segments` gives the tables back.

    Args:
        path: the file to write; its folder must exist.
        tables: one table, or several with different names.

    Raises:
        SegmentError: a segment is not 0 <= start < end, a name or label is empty or holds a tab
            or a line end, or two tables have one name.
        ShapeError: scores are not one finite number a segment.
        FileFormatError: the folder does not exist.
    """
    tables = _checked(tables)
    timed = any(table.sample_rate is not None for table in tables)
    scored = any(table.scores is not None for table in tables)
    header = ["name", "start", "end", "label"]
    header += ["start_time", "end_time"] * timed + ["score"] * scored
    with atomic_write(path) as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(header)
        for table in tables:
            for i, (start, end, label) in enumerate(table.segments):
                row = [table.name, start, end, label]
                if timed:
                    row += [_seconds(start, table), _seconds(end, table)]
                if scored:
                    row += ["" if table.scores is None else repr(float(table.scores[i]))]
                writer.writerow(row)


def write_segments_json(
    path: str | os.PathLike[str], tables: SegmentTable | Iterable[SegmentTable]
) -> None:
    """Write ``{"name", "sample_rate", "segments": [{"start", "end", "label"[, "score"]}]}``.

    One table is written as one object, several as a list of them. :func:`read_segments` gives
    the tables back.

    Args:
        path: the file to write; its folder must exist.
        tables: one table, or several with different names.

    Raises:
        SegmentError, ShapeError, FileFormatError: as :func:`write_segments_tsv`.
    """
    single = isinstance(tables, SegmentTable)
    content = [_as_json(table) for table in _checked(tables)]
    with atomic_write(path) as file:
        json.dump(content[0] if single else content, file, indent=1, ensure_ascii=False)
        file.write("\n")


def _seconds(position: int, table: SegmentTable) -> str:
    return "" if table.sample_rate is None else repr(position / float(table.sample_rate))


def _as_json(table: SegmentTable) -> dict:
    segments = [{"start": s, "end": e, "label": label} for s, e, label in table.segments]
    for segment, score in zip(segments, table.scores or (), strict=False):
        segment["score"] = float(score)
    return {"name": table.name, "sample_rate": table.sample_rate, "segments": segments}


def _checked(tables: SegmentTable | Iterable[SegmentTable]) -> list[SegmentTable]:
    tables = [tables] if isinstance(tables, SegmentTable) else list(tables)
    names = set()
    for table in tables:
        here = f"sequence {table.name!r}"
        if table.name in names:
            raise SegmentError(f"{here}: given twice; names tell the sequences of a file apart")
        names.add(table.name)
        for i, (start, end, label) in enumerate(table.segments):
            if not 0 <= start < end:
                raise SegmentError(
                    f"{here}, segment {i}: expected 0 <= start < end, got {start}, {end}"
                )
            for text in (table.name, label):
                # The reader strips cells, so an outer blank would not come back either.
                if not text or text != text.strip() or any(c in text for c in "\t\r\n"):
                    raise SegmentError(f"{here}, segment {i}: {text!r} cannot stand in a table")
        if table.scores is not None:
            _check_scores(here, table)
    return tables


def _check_scores(here: str, table: SegmentTable) -> None:
    if len(table.scores) != len(table.segments) or not all(map(math.isfinite, table.scores)):
        raise ShapeError(
            f"{here}: scores must be one finite number for each of the {len(table.segments)} "
            f"segments, got {len(table.scores)}"
        )
