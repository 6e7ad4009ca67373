"""Wave annotations ``( peak )`` as segments, without any file format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from torch_semimarkov.data.records import NamedSegment
from torch_semimarkov.errors import SegmentError

WAVE_SYMBOLS: Mapping[str, str] = {"p": "P", "N": "QRS", "t": "T"}
# What may stand between "(" and ")": waves, and the beat codes of the WFDB manual.
_PEAKS = frozenset("ptuNLRBAaJSVrFejnE/fQ?")
# A wave: its peak inside, before or after its boundaries, with one boundary, none, or no peak.
_WAVE = re.compile(r"\(w\)|w\(\)|\(\)w(?!\))|w\)|\(w|w|\(\)|[()]")


class Wave(NamedTuple):
    """One annotated wave: half-open ``[start, end)`` in samples, and the symbol of its peak."""

    start: int
    end: int
    symbol: str


@dataclass(frozen=True)
class WaveList:
    """What :func:`parse_waves` found.

    Args:
        waves: waves in order of time.
        incomplete: ``(sample, marks)`` of each wave that lacks a boundary or its peak.
    """

    waves: tuple[Wave, ...]
    incomplete: tuple[tuple[int, str], ...]


def parse_waves(
    samples: Sequence[int],
    marks: Sequence[str],
    symbols: Mapping[str, str] = WAVE_SYMBOLS,
    repair: bool = False,
) -> WaveList:
    """Group marks ``( peak )`` into waves.

    Args:
        samples: sample of each mark.
        marks: "(", ")", or a symbol; those that are neither a beat, a wave nor in ``symbols``
            are passed over.
        symbols: symbols that are peaks beside the known ones.
        repair: put a missing boundary at the peak; without it such waves are left out.

    >>> parse_waves([5, 9, 20, 24, 30], ["N", ")", "(", "t", ")"])
    WaveList(waves=(Wave(start=20, end=30, symbol='t'),), incomplete=((5, 'N )'),))
    >>> parse_waves([5, 9], ["N", ")"], repair=True).waves
    (Wave(start=5, end=9, symbol='N'),)
    """
    known = _PEAKS | set(symbols)
    order = np.argsort(np.asarray(samples, dtype=np.int64), kind="stable")
    track = [(int(samples[i]), marks[i]) for i in order if marks[i] in known | {"(", ")"}]
    shape = "".join(mark if mark in "()" else "w" for _, mark in track)
    waves, incomplete = [], []
    for match in _WAVE.finditer(shape):
        group = track[match.start() : match.end()]
        wave = _as_wave(group)
        if match.group() != "(w)" or wave is None:
            incomplete.append((group[0][0], " ".join(mark for _, mark in group)))
        if wave is not None and (match.group() == "(w)" or repair):
            waves.append(wave)
    return WaveList(tuple(waves), tuple(incomplete))


def _as_wave(group: list[tuple[int, str]]) -> Wave | None:
    """From the first mark to the last; None without a peak or without a position."""
    symbol = [mark for _, mark in group if mark not in "()"]
    start, end = group[0][0], group[-1][0]
    return Wave(start, end, symbol[0]) if symbol and start < end else None


def fill(
    waves: Sequence[NamedSegment], background: str, first: int, last: int
) -> list[NamedSegment]:
    """Segments that tile ``[first, last)``, counted from ``first``: the waves, background between.

    Raises:
        SegmentError: waves overlap or leave ``[first, last)``.

    >>> [tuple(s) for s in fill([NamedSegment(2, 3, "P")], "rest", 1, 4)]
    [(0, 1, 'rest'), (1, 2, 'P'), (2, 3, 'rest')]
    """
    segments, position = [], first
    for start, end, label in [s for s in waves if s.label != background]:
        if not position <= start < end <= last:
            raise SegmentError(
                f"wave [{start}, {end}) {label!r}: expected {position} <= start < end <= {last}"
            )
        if start > position:
            segments.append(NamedSegment(position - first, start - first, background))
        segments.append(NamedSegment(start - first, end - first, label))
        position = end
    if position < last:
        segments.append(NamedSegment(position - first, last - first, background))
    return segments


def wave_marks(
    waves: Sequence[NamedSegment], symbols: Mapping[str, str], peaks: Sequence[int] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Samples and marks ``( peak )`` of waves; the inverse of :func:`parse_waves`.

    Args:
        waves: in order, without overlap.
        symbols: symbol -> label; of several symbols for a label the first is written.
        peaks: one position in each wave; default its middle.

    Raises:
        SegmentError: no wave, a label without symbol, disorder, or a peak outside its wave.
    """
    if not waves:
        raise SegmentError("no segment to write: all of them are background")
    peaks = [(start + end) // 2 for start, end, _ in waves] if peaks is None else peaks
    if len(peaks) != len(waves):
        raise SegmentError(f"peaks must be one a wave = {len(waves)}, got {len(peaks)}")
    symbol_of = {label: symbol for symbol, label in reversed(list(symbols.items()))}
    samples, marks, position = [], [], 0
    for i, ((start, end, label), peak) in enumerate(zip(waves, peaks, strict=True)):
        if label not in symbol_of:
            raise SegmentError(f"wave {i}: no symbol for label {label!r} in {dict(symbols)}")
        if not position <= start <= peak < end:
            raise SegmentError(
                f"wave {i} [{start}, {end}): expected {position} <= start <= peak < end, "
                f"got peak {peak}"
            )
        samples += [start, int(peak), end]
        marks += ["(", symbol_of[label], ")"]
        position = end
    return np.asarray(samples, dtype=np.int64), marks
