"""Songs of the Bengalese finch repository: raw audio, its header, and annotated syllables."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from three_heads import collect

from torch_semimarkov.data import Record
from torch_semimarkov.errors import FileFormatError

ENDING, LABELS = ".cbin", ".not.mat"
GAP = "gap"
FIELDS = {"ADFREQ": "the sample rate", "Chans": "the number of channels"}
FLOOR = 1e-10  # below any real power, so that silence has a logarithm


class Spectrogram(NamedTuple):
    """Settings of the features.

    window_ms, hop_ms: length and distance of the frames, > 0.
    low_hz, high_hz: what is kept.
    bins_a_band: neighbouring frequencies that are averaged, >= 1.
    """

    window_ms: float
    hop_ms: float
    low_hz: float
    high_hz: float
    bins_a_band: int


def read_songs(folder: Path, features: Spectrogram) -> list[Record]:
    """Every song below a folder, in the order of the names.

    Raises:
        FileFormatError: no song there.
        SegmentError: files that cannot be used; every one is named.
    """
    songs = sorted(folder.rglob(f"*{ENDING}"))
    labels = sorted(folder.rglob(f"*{ENDING}{LABELS}"))
    alone = [p for p in labels if not p.with_name(p.name[: -len(LABELS)]).is_file()]
    if not songs and not alone:
        raise FileFormatError(folder, f"no {ENDING} files there")
    return collect([*songs, *alone], lambda path: read_song(path, features), "songs")


def read_song(path: Path, features: Spectrogram) -> Record:
    """One song with its syllables; what lies between them is "gap".

    Raises:
        FileFormatError: audio, header or labels are missing, broken or do not fit together.
    """
    if path.name.endswith(LABELS):
        raise FileFormatError(path, "labels without their audio")
    signal, rate = read_audio(path)
    rows = read_syllables(Path(f"{path}{LABELS}"), 1000 * len(signal) / rate)
    table = spectrogram(signal, rate, features)
    segments = tiled(rows, features.hop_ms, len(table))
    return Record(path.name, table, segments, 1000 / features.hop_ms)


def read_audio(path: Path) -> tuple[np.ndarray, int]:
    """(N,) samples of channel 0, and their rate in Hz.

    Raises:
        FileFormatError: no header, a header without rate or channels, or another number of bytes
            than it says; names file and line.
    """
    header = path.with_suffix(".rec")
    if not header.is_file():
        raise FileFormatError(path, f"no header {header.name} beside it")
    found, lines = {}, {}
    for number, text in enumerate(header.read_text(encoding="latin-1").splitlines(), 1):
        name, _, value = (part.strip() for part in text.partition("="))
        if name in (*FIELDS, "Samples"):
            found[name], lines[name] = _whole(value), number
            if found[name] < 1:
                problem = f"{name} must be an integer >= 1, got {value!r}"
                raise FileFormatError(header, problem, number)
    for name, what in FIELDS.items():
        if name not in found:
            raise FileFormatError(header, f"no line '{name} = ...', which gives {what}")
    samples = np.fromfile(path, dtype=">i2")
    channels = found["Chans"]
    expected = found.get("Samples", len(samples) // channels) * channels
    if len(samples) != expected or path.stat().st_size % 2 or not len(samples):
        raise FileFormatError(
            header,
            f"says {expected // channels} samples of {channels} channels, that is {2 * expected} "
            f"bytes; {path.name} has {path.stat().st_size}",
            lines.get("Samples"),
        )
    return samples.reshape(-1, channels)[:, 0].astype(np.float64), found["ADFREQ"]


def _whole(text: str) -> int:
    """An integer, also as 3.2e+004; 0 if it is none."""
    try:
        value = float(text)
    except ValueError:
        return 0
    return int(value) if value.is_integer() else 0


def read_syllables(path: Path, duration_ms: float) -> list[tuple[float, float, str]]:
    """``(onset, offset, label)`` in ms of a ``.not.mat`` file.

    Raises:
        FileFormatError: the file is missing or broken, or a syllable is reversed, overlaps the one
            before it or ends after the audio; names the file and the syllable, counted from 1.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise FileFormatError(path, "audio without its labels")
    try:
        content: dict[str, Any] = loadmat(path, squeeze_me=True)
    except Exception as error:  # scipy raises whatever the bytes lead it to
        raise FileFormatError(path, f"not a MATLAB file: {error}") from error
    missing = [name for name in ("onsets", "offsets", "labels") if name not in content]
    if missing:
        raise FileFormatError(path, f"no variable {', '.join(missing)}")
    onsets, offsets = (np.atleast_1d(content[name]).astype(float) for name in ("onsets", "offsets"))
    labels = list(str(content["labels"]))
    if not len(onsets) == len(offsets) == len(labels):
        counts = f"{len(onsets)} onsets, {len(offsets)} offsets, {len(labels)} labels"
        raise FileFormatError(path, f"expected as many of each, got {counts}")
    rows, before = [], 0.0
    for i, (start, end, label) in enumerate(zip(onsets, offsets, labels, strict=True), 1):
        here = f"syllable {i} {label!r}, {start:g} to {end:g} ms,"
        if not end > start:
            raise FileFormatError(path, f"{here} ends before it starts")
        if start < before:
            raise FileFormatError(path, f"{here} starts before {before:g} ms, the end of the last")
        if end > duration_ms:
            raise FileFormatError(path, f"{here} ends after the audio ({duration_ms:g} ms)")
        rows.append((float(start), float(end), label))
        before = end
    return rows


def tiled(
    rows: list[tuple[float, float, str]], hop_ms: float, length: int
) -> list[tuple[int, int, str]]:
    """Syllables rounded to positions, with gaps between them; each keeps one position at least."""
    segments, at = [], 0
    for onset, offset, label in rows:
        start = min(max(at, round(onset / hop_ms)), length - 1)
        end = min(max(start + 1, round(offset / hop_ms)), length)
        if start < at:
            continue
        if start > at:
            segments.append((at, start, GAP))
        segments.append((start, end, label))
        at = end
    return segments + ([(at, length, GAP)] if at < length else [])


def spectrogram(signal: np.ndarray, rate: int, s: Spectrogram) -> np.ndarray:
    """(T, D) log power; position t stands for the samples of ``[t, t + 1)`` hops."""
    from scipy.signal import spectrogram as short_time

    width, hop = round(s.window_ms * rate / 1000), round(s.hop_ms * rate / 1000)
    before = (width - hop) // 2  # the middle of a frame is the middle of its position
    T = max(1, len(signal) // hop)
    after = max(0, (T - 1) * hop + width - before - len(signal))
    padded = np.pad(signal, (before, after))
    hertz, _, power = short_time(padded, rate, "hann", nperseg=width, noverlap=width - hop)
    kept = power[(hertz >= s.low_hz) & (hertz <= s.high_hz), :T]
    bands = len(kept) // s.bins_a_band
    kept = kept[: bands * s.bins_a_band].reshape(bands, s.bins_a_band, -1).mean(1)
    return np.log(kept + FLOOR).T
