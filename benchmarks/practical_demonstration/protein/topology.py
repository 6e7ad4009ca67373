"""Membrane proteins with a label for each residue: inside, outside, helix, signal, or unknown."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from torch_semimarkov.data import Record, segments_from_runs
from torch_semimarkov.errors import FileFormatError, SegmentError, raise_all

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
# Letters of the alphabet that name no single residue: no feature is set for them.
UNSURE = "XBZJUO"
HELIX, UNKNOWN = "helix", "unknown"
NAMES = {"H": HELIX, "1": "inside", "2": "outside", "S": "signal", "U": UNKNOWN}
LABELS = (HELIX, "inside", "outside", "signal")


def read_topology(path: Path) -> list[Record]:
    """Proteins of a file with three lines each: ``>name``, residues, labels.

    Args:
        path: the file. Upper and lower case are the same.

    Returns:
        Records of one-hot residues, (T, 20); "unknown" is a label of its own.

    Raises:
        FileFormatError: the file cannot be read, or holds no protein.
        SegmentError: lines that do not fit; each is named with file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(path, f"cannot be read: {error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise FileFormatError(path, "holds no protein")
    records, problems, seen = [], [], {}
    for first in range(0, len(lines), 3):
        rows = [line.strip() for line in lines[first : first + 3]]
        number, problem = _problem(rows, first + 1)
        name = rows[0][1:]
        if not problem and name in seen:
            number, problem = first + 1, f"{name!r} stands on line {seen[name]} already"
        if problem:
            problems.append(f"{path}:{number}: {problem}")
            if not rows[0].startswith(">"):
                break  # what follows is out of step, and its complaints would mean nothing
            continue
        seen[name] = first + 1
        records.append(record_of(name, rows[1], rows[2]))
    raise_all(SegmentError, "proteins cannot be used", problems)
    return records


def _problem(rows: list[str], number: int) -> tuple[int, str]:
    """Line and text of the first thing that is wrong with a protein; an empty text if nothing."""
    if not rows[0].startswith(">") or len(rows[0]) < 2:
        return number, f"expected '>' and a name, got {rows[0][:20]!r}"
    if len(rows) < 3:
        return number + len(rows) - 1, "the file ends before residues and labels of this protein"
    residues, labels = rows[1].upper(), rows[2].upper()
    for i, known in ((1, RESIDUES + UNSURE), (2, "".join(NAMES))):
        row = rows[i].upper()
        wrong = next((j for j, letter in enumerate(row) if letter not in known), None)
        if wrong is not None:
            what = ("residue", "label")[i - 1]
            return number + i, f"column {wrong + 1}: unknown {what} {rows[i][wrong]!r}"
    if len(residues) != len(labels) or not residues:
        return number + 2, f"{len(labels)} labels for {len(residues)} residues"
    return number, ""


def record_of(name: str, residues: str, labels: str) -> Record:
    """One protein; letters that name no single residue have no feature."""
    letters = np.array(list(residues.upper()))
    features = (letters[:, None] == np.array(list(RESIDUES))).astype(np.float32)
    return Record(name, features, segments_from_runs([NAMES[letter] for letter in labels.upper()]))


def known(segments: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """The segments whose label is known."""
    return [row for row in segments if row[2] != UNKNOWN]


def judged(
    found: list[tuple[int, int, str]], true: list[tuple[int, int, str]]
) -> list[tuple[int, int, str]]:
    """What was found, without the residues whose true label is unknown.

    >>> judged([(0, 9, "helix")], [(0, 4, "helix"), (4, 9, "unknown")])
    [(0, 4, 'helix')]
    """
    hidden = [(start, end) for start, end, label in true if label == UNKNOWN]
    left = []
    for start, end, label in found:
        for low, high in hidden:
            if low < end and start < high:
                if start < low:
                    left.append((start, low, label))
                start = max(start, high)
        if start < end:
            left.append((start, end, label))
    return left
