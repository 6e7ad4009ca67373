"""WFDB records and annotations (PhysioNet), through the ``wfdb`` library."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from torch_semimarkov.data.records import NamedSegment, Record
from torch_semimarkov.data.waves import WAVE_SYMBOLS, fill, parse_waves, wave_marks
from torch_semimarkov.errors import (
    ConfigError,
    FileFormatError,
    SegmentError,
    ShapeError,
    UnsupportedError,
)

_INCOMPLETE = ("drop", "peak", "error")


def read_wfdb(
    path: str | os.PathLike[str],
    channels: Sequence[str] | None = None,
    annotator: str | None = None,
    symbols: Mapping[str, str] | None = None,
    background: str = "baseline",
    crop: bool = True,
    incomplete: str = "drop",
    sample_rate: float | None = None,
) -> Record:
    """A WFDB record, with the waves of one annotation file as segments.

    A wave is annotated as ``( peak )``: onset, peak, offset. It becomes the segment
    [onset, offset) named by its peak's symbol; what lies between waves becomes ``background``, and
    so do waves whose symbol is not in ``symbols`` (a warning counts them).

    A wave that lacks a boundary, or whose peak lies outside its boundaries, is treated as
    ``incomplete`` says. "drop" leaves it to the background. "peak" takes the peak for the missing
    boundary (and lets a wave reach to a peak outside it): right for LUDB, where a QRS that starts
    at its peak lost its onset; waves without a peak have no label and are dropped. Both warn, with
    the count. "error" raises.

    Args:
        path: the record: ``folder/name``, with or without ``.hea`` or ``.dat``.
        channels: D leads, in this order; upper and lower case are the same; default all.
        annotator: ending of the annotation file (LUDB: the lead, "ii"); default unlabelled.
        symbols: annotation symbol -> label; default p -> P, N -> QRS, t -> T.
        background: label of the positions between waves.
        crop: keep the span from the first wave's onset to the last one's offset; ``offset`` of
            the record counts the positions before it. Has no effect without an annotator.
        incomplete: "drop", "peak" or "error".
        sample_rate: resample to this many positions per second (polyphase filter), and the
            boundaries with it, rounded to the nearest position; default as recorded.

    Returns:
        A record with features in physical units (ECG: mV).

    Raises:
        FileFormatError: no or broken header, signal or annotation, an unknown lead, no wave, NaN
            in the span, or (``incomplete="error"``) the first incomplete wave.
        ConfigError: ``incomplete`` or ``sample_rate`` is out of its range.
        UnsupportedError: wfdb is not installed.
    """
    if incomplete not in _INCOMPLETE:
        raise ConfigError(f"incomplete must be one of {_INCOMPLETE}, got {incomplete!r}")
    if sample_rate is not None and not 0 < sample_rate < float("inf"):
        raise ConfigError(f"sample_rate must be > 0 positions per second, got {sample_rate}")
    stem = _stem(path)
    features, rate, names = _signal(stem, channels)
    wanted = float(sample_rate or rate)
    features = _resample(features, rate, wanted)
    segments, first = None, 0
    try:
        if annotator is not None:
            waves, ticks = _waves(stem, annotator, symbols or WAVE_SYMBOLS, background, incomplete)
            waves = [_rescale(wave, ticks or rate, wanted) for wave in waves]
            first, last = (waves[0].start, waves[-1].end) if crop else (0, len(features))
            segments = fill(waves, background, first, min(last, len(features)))
            features = features[first:last]
        return Record(stem.name, features, segments, wanted, names, first)
    except SegmentError as error:
        raise FileFormatError(_annotation(stem, annotator), str(error)) from error
    except ShapeError as error:
        raise FileFormatError(_annotation(stem, None), str(error)) from error


def write_wfdb_annotations(
    path: str | os.PathLike[str],
    segments: Iterable[tuple[int, int, str]],
    annotator: str,
    *,
    sample_rate: float,
    symbols: Mapping[str, str] | None = None,
    background: str = "baseline",
    offset: int = 0,
    peaks: Sequence[int] | None = None,
) -> Path:
    """Write segments as a WFDB annotation file ``<path>.<annotator>``: ``( peak )`` per wave.

    Args:
        path: the record: ``folder/name``, with or without ``.hea``; only its folder must exist.
        segments: ``(start, end, label name)`` in positions; those of ``background`` are left out.
        annotator: ending of the file, letters only.
        sample_rate: positions per second, > 0.
        symbols: annotation symbol -> label, as for :func:`read_wfdb`.
        background: label that gets no annotation.
        offset: added to every position (the ``offset`` of a cropped record).
        peaks: one position in each segment that is written; default its middle.

    Returns:
        The file written.

    Raises:
        SegmentError: no segment to write, a label without symbol, or a peak outside its segment.
        FileFormatError: the folder does not exist, or WFDB cannot hold the names.
        UnsupportedError: wfdb is not installed.
    """
    wfdb, stem = _wfdb(), _stem(path)
    target = _annotation(stem, annotator)
    waves = [NamedSegment(*segment) for segment in segments if segment[2] != background]
    samples, marks = wave_marks(waves, symbols or WAVE_SYMBOLS, peaks)
    if not stem.parent.is_dir():
        raise FileFormatError(target, f"cannot be written: no folder {stem.parent}")
    scratch = tempfile.mkdtemp(prefix=".wfdb-", dir=stem.parent)
    try:
        with _calls(target, "cannot be written"):
            wfdb.wrann(
                stem.name,
                annotator,
                samples + offset,
                symbol=marks,
                fs=sample_rate,
                write_dir=scratch,
            )
            os.replace(Path(scratch) / target.name, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _wfdb() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module("wfdb")
    except ImportError as error:
        raise UnsupportedError(
            "WFDB files need the wfdb library: pip install torch_semimarkov[ecg]"
        ) from error


@contextmanager
def _calls(file: Path, problem: str) -> Iterator[None]:
    """Calls of wfdb: its errors, whatever they are, name the file; its deprecations are its own."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    except Exception as error:
        raise FileFormatError(file, f"{problem}: {error}") from error


def _stem(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path.with_suffix("") if path.suffix.lower() in (".hea", ".dat") else path


def _annotation(stem: Path, annotator: str | None) -> Path:
    return stem.with_name(f"{stem.name}.{annotator or 'hea'}")


def _signal(stem: Path, channels: Sequence[str] | None) -> tuple[np.ndarray, float, list[str]]:
    """Physical signal (T, D), its rate in Hz, the names of the leads."""
    wfdb, header_file = _wfdb(), _annotation(stem, "hea")
    if not header_file.is_file():
        raise FileFormatError(
            header_file, "no such header; a WFDB record is NAME.hea with its .dat"
        )
    _refuse_empty(header_file)
    with _calls(header_file, "not a WFDB header"):
        header = wfdb.rdheader(str(stem))
        names, rate = list(header.sig_name or ()), float(header.fs or 0)
    if not names or not rate > 0:
        raise FileFormatError(header_file, "the header names no signal or no sampling frequency")
    chosen = [_lead(header_file, names, channel) for channel in channels or names]
    for data in sorted(set(getattr(header, "file_name", None) or ())):
        if not (stem.parent / data).is_file():
            raise FileFormatError(header_file, f"its signal file {data} is missing")
    with _calls(header_file, "its signal cannot be read"):
        record = wfdb.rdrecord(str(stem), channel_names=chosen)
        signal = np.asarray(record.p_signal, dtype=np.float64)
        order = [record.sig_name.index(name) for name in chosen]
    return signal[:, order], rate, chosen


def _refuse_empty(file: Path) -> None:
    if file.stat().st_size == 0:
        raise FileFormatError(file, "the file is empty")


def _lead(header_file: Path, names: list[str], channel: str) -> str:
    for name in names:
        if name == channel:
            return name
    for name in names:
        if name.lower() == str(channel).lower():
            return name
    raise FileFormatError(header_file, f"no lead {channel!r}; found {', '.join(names)}")


def _resample(features: np.ndarray, source: float, target: float) -> np.ndarray:
    if source == target:
        return features
    signal = importlib.import_module("scipy.signal")
    ratio = _ratio(source, target)
    return signal.resample_poly(
        features, ratio.numerator, ratio.denominator, axis=0, padtype="line"
    )


def _ratio(source: float, target: float) -> Fraction:
    return (Fraction(target) / Fraction(source)).limit_denominator(10_000)


def _rescale(wave: NamedSegment, source: float, target: float) -> NamedSegment:
    ratio, half = _ratio(source, target), Fraction(1, 2)
    start, end = (int(bound * ratio + half) for bound in (wave.start, wave.end))
    return NamedSegment(start, end, wave.label)


def _waves(
    stem: Path, annotator: str, symbols: Mapping[str, str], background: str, incomplete: str
) -> tuple[list[NamedSegment], float | None]:
    """The annotated waves, named, and their ticks per second; warns of those left out."""
    file, annotation = _annotation(stem, annotator), _rdann(stem, annotator)
    found = parse_waves(
        annotation.sample.tolist(), annotation.symbol, symbols, repair=incomplete == "peak"
    )
    if found.incomplete and incomplete == "error":
        sample, marks = found.incomplete[0]
        raise FileFormatError(
            file, f"incomplete wave {marks!r} at sample {sample}; pass incomplete='drop' or 'peak'"
        )
    if found.incomplete:
        done = "dropped" if incomplete == "drop" else "bounded by their peaks, or dropped"
        _warn(file, f"{len(found.incomplete)} incomplete waves are {done}")
    others = [wave.symbol for wave in found.waves if wave.symbol not in symbols]
    if others:
        kinds = ", ".join(sorted(set(others)))
        _warn(file, f"{len(others)} waves of other symbols ({kinds}) become {background!r}")
    waves = [NamedSegment(s, e, symbols[m]) for s, e, m in found.waves if m in symbols]
    if not waves:
        raise FileFormatError(file, f"no complete wave of the symbols {', '.join(symbols)}")
    return waves, annotation.fs


def _warn(file: Path, problem: str) -> None:
    warnings.warn(f"{file}: {problem}", stacklevel=4)


def _rdann(stem: Path, annotator: str) -> Any:
    wfdb, file = _wfdb(), _annotation(stem, annotator)
    if not file.is_file():
        raise FileFormatError(file, "no such annotation file; check the annotator")
    _refuse_empty(file)
    with _calls(file, "not a WFDB annotation file"):
        return wfdb.rdann(str(stem), annotator)
