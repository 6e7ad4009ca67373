"""Phones as they stand in a file: TIMIT's .PHN, and a tier of a Praat TextGrid."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from torch_semimarkov.errors import FileFormatError, UnsupportedError

TIERS = ("phones", "phone", "phonetic", "phoneme", "phonemes", "segments")


class Row(NamedTuple):
    """A phone of a file: ``[start, end)`` in seconds, its name, and the line it stands on."""

    start: float
    end: float
    phone: str
    line: int | None


def read_phn(path: Path, rate: float) -> list[Row]:
    """Lines "start end phone" in samples.

    Args:
        path: the file.
        rate: samples a second of the audio beside it.

    Raises:
        FileFormatError: with file and line: no phone, a line that is not as above, a reversed or
            empty segment, or one that overlaps the one before it.
    """
    rows = []
    for line, text in enumerate(_text(path).splitlines(), start=1):
        cells = text.split()
        if not cells:
            continue
        if len(cells) != 3 or not (_whole(cells[0]) and _whole(cells[1])):
            raise FileFormatError(
                path, f"expected 'start end phone' in samples, got {text!r}", line
            )
        rows.append(Row(int(cells[0]) / rate, int(cells[1]) / rate, cells[2].lower(), line))
    return _checked(path, rows)


def read_textgrid(path: Path, tier: str | None = None) -> tuple[list[Row], str]:
    """The phones of a TextGrid, and its words.

    Args:
        path: the file; UTF-8 or UTF-16, long or short.
        tier: name of the tier of phones; default the first that is called as one usually is.

    Returns:
        The phones, with silence as empty text, and the text of the tier "words" or "word".

    Raises:
        FileFormatError: with file and line: not a TextGrid, no such tier, no phone, a reversed or
            empty segment, or one that overlaps the one before it.
    """
    text = _text(path)
    tiers = _tiers(path, text)
    found = _tier_of(path, tiers, tier)
    lines = _lines_of(text, found["name"], len(found["entries"]))
    rows = [
        Row(_seconds(path, start, line), _seconds(path, end, line), _plain(phone), line)
        for (start, end, phone), line in zip(found["entries"], lines, strict=True)
    ]
    words = [one for one in tiers if one["name"].lower() in ("words", "word")]
    spoken = [_plain(entry[-1]) for one in words[:1] for entry in one["entries"]]
    return _checked(path, rows), " ".join(word for word in spoken if word)


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise FileFormatError(path, f"cannot be read: {error.strerror}") from error
    wide = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        return raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeError as error:
        raise FileFormatError(path, f"neither UTF-8 nor UTF-16 text: {error}") from error


def _whole(cell: str) -> bool:
    return cell.removeprefix("-").isdecimal()


def _plain(text: str) -> str:
    """Without outer blanks, and one spelling for letters that Unicode spells in two ways."""
    return unicodedata.normalize("NFC", text.strip())


def _seconds(path: Path, value: Any, line: int | None) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise FileFormatError(path, f"expected a time in seconds, got {value!r}", line) from error


def _tiers(path: Path, text: str) -> list[dict[str, Any]]:
    """Tiers of intervals, with their entries in the order of the file."""
    try:
        from praatio.utilities import textgrid_io
    except ImportError as error:
        raise UnsupportedError(
            "TextGrids need praatio: pip install torch_semimarkov[speech]"
        ) from error
    if "TextGrid" not in text[:200]:
        raise FileFormatError(path, 'not a TextGrid: expected Object class = "TextGrid"', 1)
    try:
        parsed = textgrid_io.parseTextgridStr(text, includeEmptyIntervals=True)
        return [tier for tier in parsed["tiers"] if tier["class"] == "IntervalTier"]
    except Exception as error:  # praatio raises whatever its parser meets
        raise FileFormatError(path, f"a broken TextGrid: {error}") from error


def _tier_of(path: Path, tiers: Sequence[dict[str, Any]], wanted: str | None) -> dict[str, Any]:
    names = [tier["name"] for tier in tiers]
    for name in (wanted,) if wanted is not None else TIERS:
        for tier in tiers:
            if tier["name"].lower() == name.lower():
                return tier
    what = f"no tier {wanted!r}" if wanted else "no tier that is called as one of phones"
    raise FileFormatError(path, f"{what}; choose with --tier from {', '.join(names) or 'none'}")


def _lines_of(text: str, tier: str, count: int) -> list[int | None]:
    """Line of each interval of a tier; None where a text of several lines makes that unclear."""
    lines = text.splitlines()
    named = re.compile(r'\s*name\s*=\s*"' + re.escape(tier) + r'"\s*$')
    first = next((i for i, line in enumerate(lines) if named.match(line)), None)
    if first is None:
        return _lines_of_short(lines, tier, count)
    heads = (i + 1 for i, line in enumerate(lines) if i > first and "intervals [" in line)
    found = [line for line, _ in zip(heads, range(count), strict=False)]
    return found if len(found) == count else [None] * count


def _lines_of_short(lines: Sequence[str], tier: str, count: int) -> list[int | None]:
    """The same for a short TextGrid: class, name, two times, a count, and three lines a row."""
    heads = ('"IntervalTier"', f'"{tier}"')
    for i, pair in enumerate(pairwise(lines)):
        if tuple(line.strip() for line in pair) == heads:
            texts = [line.strip() for line in lines[i + 7 : i + 5 + 3 * count : 3]]
            if len(texts) == count and all(re.fullmatch('".*"', line) for line in texts):
                return [i + 6 + 3 * k for k in range(count)]
    return [None] * count


def _checked(path: Path, rows: list[Row]) -> list[Row]:
    if not rows:
        raise FileFormatError(path, "holds no phone")
    before = Row(0.0, 0.0, "", None)
    for row in rows:
        shown = f"{row.phone!r} from {row.start:g} s to {row.end:g} s"
        if row.end <= row.start:
            raise FileFormatError(path, f"a reversed or empty segment: {shown}", row.line)
        # A rounding error of the file is no overlap.
        if row.start < before.end - 1e-6:
            reason = "starts before 0" if row.start < 0 else f"starts before {before.end:g} s"
            raise FileFormatError(
                path, f"overlapping or unsorted segments: {shown} {reason}", row.line
            )
        before = row
    return rows
