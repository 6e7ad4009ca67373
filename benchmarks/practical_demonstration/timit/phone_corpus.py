"""Which recordings a folder holds: TIMIT's layout, or audio with its labels beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from phone_sets import CORE_TEST, DEVELOPMENT

from torch_semimarkov.data import natural_key
from torch_semimarkov.errors import FileFormatError

AUDIO, LABELS = (".wav", ".flac"), (".phn", ".textgrid")
TRAIN, VALIDATION, TEST = PARTS = ("train", "validation", "test")
_TIMIT = re.compile(r"(?:^|.*/)(train|test)/(dr[1-8])/([a-z]{4}\d)/([a-z0-9]+)$")


@dataclass(frozen=True)
class Recording:
    """One utterance of a corpus.

    Args:
        name: how it is called here, different from all others.
        audio: the file of the signal.
        labels: the file of its phones.
        folder: the folder it lies in, relative to the corpus.
        part: "train", "validation" or "test" where the corpus fixes it, else None.
    """

    name: str
    audio: Path
    labels: Path
    folder: str
    part: str | None = None


@dataclass(frozen=True)
class Corpus:
    """What a folder holds.

    Args:
        recordings: audio with labels, in order.
        timit: the folder has TIMIT's layout.
        problems: one line for each file without its partner.
        unused: recordings of TIMIT that no part takes.
    """

    recordings: list[Recording]
    timit: bool
    problems: list[str]
    unused: int = 0


def find_corpus(folder: Path, full_test: bool = False, keep_sa: bool = False) -> Corpus:
    """Search a folder and all below it.

    TIMIT's layout is known by ``TRAIN/DR1/FCJF0/SA1.WAV``, in upper or lower case, at any depth.
    Train is TRAIN, test the core test set, validation a set of 50 other speakers of TEST; the two
    sentences that every speaker reads (SA) are left out of all.

    Args:
        folder: the corpus.
        full_test: test on all of TEST that is not validation.
        keep_sa: keep the SA sentences.

    Raises:
        FileFormatError: no such folder, or no audio in it.
    """
    if not folder.is_dir():
        raise FileFormatError(folder, "no such folder")
    files = [path for path in folder.rglob("*") if path.is_file() and not _hidden(folder, path)]
    audio, labels = _by_key(folder, files, AUDIO), _by_key(folder, files, LABELS)
    if not audio:
        raise FileFormatError(folder, f"no audio in it or below it ({', '.join(AUDIO)})")
    timit = any(_TIMIT.match(key) for key in audio)
    if timit:
        audio, labels = ({k: p for k, p in d.items() if _TIMIT.match(k)} for d in (audio, labels))
    problems = [
        f"{path}: no labels beside it ({path.stem}.PHN or {path.stem}.TextGrid)"
        for key, path in audio.items()
        if key not in labels
    ]
    problems += [f"{labels[k]}: no audio beside it" for k in labels.keys() - audio]
    both = sorted(audio.keys() & labels, key=natural_key)
    found = [_recording(key, audio[key], labels[key], timit, full_test) for key in both]
    kept = [r for r in found if not timit or (r.part and (keep_sa or not _is_sa(r)))]
    return Corpus(kept, timit, sorted(problems), len(found) - len(kept))


def _hidden(folder: Path, path: Path) -> bool:
    return any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)


def _by_key(folder: Path, files: Iterable[Path], endings: tuple[str, ...]) -> dict[str, Path]:
    """Files by their path in lower case without the ending.

    Some copies of TIMIT hold SA1.WAV and, converted, SA1.WAV.wav: the one with the short name
    counts.
    """
    found: dict[str, Path] = {}
    for path in sorted(files, key=lambda path: (len(path.name), path)):
        if path.suffix.lower() not in endings:
            continue
        key = path.relative_to(folder).with_suffix("").as_posix().lower()
        for ending in endings:
            key = key.removesuffix(ending)
        found.setdefault(key, path)
    return found


def _recording(key: str, audio: Path, labels: Path, timit: bool, full_test: bool) -> Recording:
    name, folder = key.replace("/", "-").replace(" ", "_"), key.rpartition("/")[0]
    match = _TIMIT.match(key)
    if not timit or match is None:
        return Recording(name, audio, labels, folder)
    part, region, speaker, sentence = match.groups()
    if part == TEST and speaker in DEVELOPMENT:
        part = VALIDATION
    elif part == TEST and speaker not in CORE_TEST and not full_test:
        part = None
    return Recording(f"{region}-{speaker}-{sentence}", audio, labels, folder, part)


def _is_sa(recording: Recording) -> bool:
    return recording.name.rpartition("-")[2].startswith("sa")
