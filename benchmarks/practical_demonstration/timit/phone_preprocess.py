"""From a corpus to a folder of records: features, phones in positions, and a manifest."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from phone_audio import (
    FeatureSettings,
    audio_length,
    compute_features,
    positions_of,
    read_audio,
)
from phone_corpus import Corpus, Recording, find_corpus
from phone_data import MANIFEST, RECORDS, SETTINGS, Manifest, read_settings, write_manifest
from phone_frames import join_equal, to_positions
from phone_labels import Row, read_phn, read_textgrid
from phone_sets import PHONES_48, PHONES_61, SILENCE, SILENCES, fold_39, fold_48
from tqdm import tqdm

from torch_semimarkov.data import atomic_path
from torch_semimarkov.errors import (
    ConfigError,
    FileFormatError,
    SegmentError,
    SemiMarkovError,
    raise_all,
)
from torch_semimarkov.training.folder import write_json

SHOWN = 10
# Labels may end so many seconds after the audio; TIMIT's do by some samples.
SLACK = 0.02


@dataclass(frozen=True)
class Labelled:
    """A recording whose files were read and are in order.

    Args:
        recording: where it lies.
        rows: its phones in seconds, under the names that a model learns.
        words: what is said, where the file tells.
        seconds: length of the audio.
        rate: Hz of the audio.
    """

    recording: Recording
    rows: list[Row]
    words: str
    seconds: float
    rate: int


@dataclass(frozen=True)
class Preprocessing:
    """What ``preprocess`` is asked to do.

    Args:
        source: the corpus.
        output: the folder to make.
        features: how features are computed.
        phone_set: "timit": the 61 phones, folded; "open": as they are; "auto": the former for
            .PHN files, the latter for TextGrids.
        tier: tier of the TextGrids.
        skip_broken: leave out what cannot be used, in place of stopping.
        full_test, keep_sa: as :func:`phone_corpus.find_corpus`.
    """

    source: Path
    output: Path
    features: FeatureSettings
    phone_set: str = "auto"
    tier: str | None = None
    skip_broken: bool = False
    full_test: bool = False
    keep_sa: bool = False

    def settings(self) -> dict[str, Any]:
        """What a run that goes on must have in common with the one that was stopped."""
        chosen = {
            name: getattr(self, name) for name in ("phone_set", "tier", "full_test", "keep_sa")
        }
        return {"source": str(self.source.resolve()), **self.features.to_dict(), **chosen}


def preprocess(
    job: Preprocessing, report: Callable[[str], None], *, overwrite: bool = False
) -> Manifest:
    """Write one NPZ file a recording, and the manifest last; go on where a run was stopped.

    All labels are read before any feature is computed, so that a fault in the last file is found
    at once.

    Raises:
        SegmentError: recordings that cannot be used, each with file and line.
        ConfigError: the folder holds the output of other settings.
    """
    corpus = find_corpus(job.source, job.full_test, job.keep_sa)
    layout = "TIMIT's layout" if corpus.timit else "audio beside its labels"
    unused = f", {corpus.unused} more that no part takes" if corpus.unused else ""
    report(f"{job.source}: {layout}, {len(corpus.recordings)} recordings{unused}")
    found = _labelled(job, corpus, report)
    _tell_rates(found, job.features.sample_rate, report)
    _begin(job, overwrite)
    manifest = _manifest(job, found)
    done = _write_records(job, found, manifest)
    write_manifest(job.output, manifest)
    segments = sum(len(one.rows) for one in found)
    report(
        f"{job.output}: {len(found)} records ({done} were there), {segments} labels of "
        f"{len(manifest.phones)} phones, {sum(one.seconds for one in found):.1f} s"
    )
    return manifest


def _labelled(job: Preprocessing, corpus: Corpus, report: Callable[[str], None]) -> list[Labelled]:
    problems, found = list(corpus.problems), []
    for recording in tqdm(corpus.recordings, desc="labels", unit="file", disable=None, leave=False):
        try:
            found.append(_read(job, recording))
        except FileFormatError as error:
            problems.append(str(error))
    total = len(found) + len(problems)
    if problems and not job.skip_broken:
        more = [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        heading = f"{len(problems)} of {total} cannot be used (--skip-broken leaves them out)"
        raise_all(SegmentError, heading, problems[:SHOWN] + more)
    for problem in problems:
        report(f"left out: {problem}")
    if not found:
        raise FileFormatError(job.source, "no recording that can be used")
    return found


def _read(job: Preprocessing, recording: Recording) -> Labelled:
    samples, rate = audio_length(recording.audio)
    words = ""
    if recording.labels.suffix.lower() == ".phn":
        rows, kind = read_phn(recording.labels, rate), "timit"
    else:
        (rows, words), kind = read_textgrid(recording.labels, job.tier), "open"
    seconds = samples / rate
    if rows[-1].end > seconds + SLACK:
        raise FileFormatError(
            recording.labels,
            f"the last phone ends at {rows[-1].end:.3f} s, the audio at {seconds:.3f} s "
            f"({samples} samples at {rate} Hz); are the labels those of audio at another rate?",
            rows[-1].line,
        )
    kind = kind if job.phone_set == "auto" else job.phone_set
    renamed = _folded(recording.labels, rows) if kind == "timit" else _opened(rows)
    return Labelled(recording, renamed, words, seconds, rate)


def _folded(path: Path, rows: list[Row]) -> list[Row]:
    """Rows under the 48 names; a glottal stop goes to the phone before it, a first one after it."""
    folded: list[Row] = []
    start = None
    for row in rows:
        if row.phone not in PHONES_61 and row.phone not in SILENCES:
            known = ", ".join(PHONES_61)
            raise FileFormatError(
                path, f"unknown phone {row.phone!r}; expected one of {known}", row.line
            )
        name = SILENCE if row.phone in SILENCES else fold_48(row.phone)
        if name is not None:
            folded.append(Row(row.start if start is None else start, row.end, name, row.line))
            start = None
        elif folded:
            folded[-1] = folded[-1]._replace(end=row.end)
        elif start is None:
            start = row.start
    if not folded:
        raise FileFormatError(path, "holds no phone but glottal stops")
    return folded


def _opened(rows: list[Row]) -> list[Row]:
    return [row._replace(phone=SILENCE) if row.phone.lower() in SILENCES else row for row in rows]


def _tell_rates(found: list[Labelled], wanted: int, report: Callable[[str], None]) -> None:
    for rate, count in sorted(Counter(one.rate for one in found).items()):
        if rate == wanted:
            continue
        report(f"{count} recordings at {rate} Hz are resampled to {wanted} Hz")
        if rate < wanted:
            warnings.warn(
                f"{count} recordings have {rate} Hz, so nothing above {rate // 2} Hz; features up "
                f"to {wanted // 2} Hz are empty there: pass --sample-rate {rate}",
                stacklevel=2,
            )


def _begin(job: Preprocessing, overwrite: bool) -> None:
    """Make the folder, or check that what is in it was made by the same settings."""
    path = job.output / SETTINGS
    if job.output.exists() and not job.output.is_dir():
        raise ConfigError(f"{job.output}: the output must be a folder, this is a file")
    (job.output / RECORDS).mkdir(parents=True, exist_ok=True)
    before = read_settings(path) if path.is_file() else None
    found = list((job.output / RECORDS).glob("*.npz"))
    if before is None and found and not overwrite:
        raise ConfigError(
            f"{job.output / RECORDS} holds {len(found)} files that nothing tells the settings of; "
            "choose another folder, or add --overwrite to replace them"
        )
    if before is not None and before != job.settings() and not overwrite:
        now = job.settings()
        shown = "; ".join(
            f"{k} was {before.get(k)!r}, is {v!r}" for k, v in now.items() if before.get(k) != v
        )
        raise ConfigError(
            f"{job.output} holds records of other settings ({shown}); add --overwrite to replace "
            "them, or choose another folder"
        )
    (job.output / MANIFEST).unlink(missing_ok=True)
    if overwrite:
        for file in found:
            file.unlink()
    write_json(path, job.settings())


def _manifest(job: Preprocessing, found: list[Labelled]) -> Manifest:
    phones = {row.phone for one in found for row in one.rows} | {SILENCE}
    timit = phones <= set(PHONES_48) and (
        job.phone_set == "timit"
        or all(one.recording.labels.suffix.lower() == ".phn" for one in found)
    )
    names = PHONES_48 if timit else tuple(sorted(phones))
    scored = {name: fold_39(name) if timit else name for name in names}
    utterances = [
        {
            "name": one.recording.name,
            "folder": one.recording.folder,
            "words": one.words,
            "part": one.recording.part,
            "seconds": round(one.seconds, 4),
            "source": _digest(one),
        }
        for one in found
    ]
    return Manifest(names, scored, job.features.frame_rate, job.settings(), utterances)


def _write_records(job: Preprocessing, found: list[Labelled], manifest: Manifest) -> int:
    """Compute what is missing; how many records were there already."""
    done = 0
    sources = [utterance["source"] for utterance in manifest.utterances]
    pairs = list(zip(found, sources, strict=True))
    for one, source in tqdm(pairs, desc="features", unit="file", disable=None, leave=False):
        path = job.output / RECORDS / f"{one.recording.name}.npz"
        if _is_made_from(path, source):
            done += 1
            continue
        try:
            _write_record(path, one, job.features, manifest, source)
        except SemiMarkovError as error:
            raise FileFormatError(one.recording.audio, str(error)) from error
    return done


def _digest(one: Labelled) -> str:
    """Digest of the phones and of the audio's size and date, by which a record knows its source."""
    audio = one.recording.audio.stat()
    plain = [tuple(row[:3]) for row in one.rows]
    return hashlib.sha256(repr((plain, audio.st_size, audio.st_mtime_ns)).encode()).hexdigest()


def _is_made_from(path: Path, source: str) -> bool:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return str(arrays["source"]) == source
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return False


def _write_record(
    path: Path, one: Labelled, settings: FeatureSettings, manifest: Manifest, source: str
) -> None:
    T = positions_of(one.seconds, settings)
    spans = to_positions([(r.start, r.end, r.phone) for r in one.rows], T, settings.frame_rate)
    code = {name: i for i, name in enumerate(manifest.phones)}
    table = [(start, end, code[phone]) for start, end, phone in join_equal(spans)]
    signal = read_audio(one.recording.audio, settings.sample_rate)
    with atomic_path(path) as draft, open(draft, "wb") as file:
        np.savez(
            file,
            features=compute_features(signal, T, settings),
            segments=np.asarray(table, dtype=np.int64),
            label_names=np.asarray(manifest.phones),
            sample_rate=np.asarray(settings.frame_rate),
            channels=np.asarray(settings.names()),
            source=np.asarray(source),
        )
