"""The folder that ``preprocess`` writes: its manifest, its records, and their parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from phone_corpus import PARTS, TEST, TRAIN, VALIDATION

from torch_semimarkov.data import Record, natural_key, read_npz
from torch_semimarkov.errors import ConfigError, FileFormatError
from torch_semimarkov.training.folder import write_json

MANIFEST, SETTINGS, RECORDS = "manifest.json", "settings.json", "records"
FORMAT = "torch_semimarkov phones 1"
TEST_SHARE, VALIDATION_SHARE = 0.25, 0.15


@dataclass(frozen=True)
class Manifest:
    """What a folder of records holds.

    Args:
        phones: C names that a model learns.
        scored: for each the name under which it is scored.
        frame_rate: positions a second.
        settings: how the records were made.
        utterances: one dict a record: name, folder, words, part, seconds, and a digest of the
            files it was made from.
    """

    phones: tuple[str, ...]
    scored: Mapping[str, str]
    frame_rate: float
    settings: Mapping[str, Any]
    utterances: Sequence[Mapping[str, Any]]

    def digest(self) -> str:
        """What tells this data from other data."""
        content = json.dumps(vars(self), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, by which a folder counts as finished."""
    write_json(folder / MANIFEST, {"format": FORMAT, **vars(manifest)})


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping.

    Raises:
        FileFormatError: it is missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileFormatError(path, f"missing, damaged or truncated ({error})") from error
    if not isinstance(content, dict):
        raise FileFormatError(path, "expected a JSON object")
    return content


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        FileFormatError: none, as where preprocess was stopped, or a damaged one.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileFormatError(path, "missing: run preprocess, or run it again if it was stopped")
    content = read_settings(path)
    if content.pop("format", None) != FORMAT:
        raise FileFormatError(path, f"not a manifest of this version ({FORMAT})")
    try:
        return Manifest(**{**content, "phones": tuple(content["phones"])})
    except (KeyError, TypeError) as error:
        raise FileFormatError(path, f"not a manifest: {error}") from error


def parts_of(manifest: Manifest, split_by: str, seed: int) -> dict[str, list[str]]:
    """Names of the records to train on, to stop by, and to test on.

    Where the corpus fixes the parts, these hold, and only what it leaves out is drawn. Else whole
    groups are drawn: a quarter of them for the test and 15 % for validation.

    Args:
        manifest: the records.
        split_by: what one part only may hold: a "word", a "folder", such as a speaker's, or a
            "file". Of a fixed split, by whose parts there is no validation, folders are drawn.
        seed: seed of the draw.

    Raises:
        ConfigError: too few groups to draw from, or no words are known.
    """
    fixed = {part: [u for u in manifest.utterances if u["part"] == part] for part in PARTS}
    if not any(fixed.values()):
        drawn = _draw(manifest.utterances, split_by, (TEST_SHARE, VALIDATION_SHARE), seed)
        fixed = dict(zip((TEST, VALIDATION, TRAIN), drawn, strict=True))
    elif not fixed[VALIDATION]:
        drawn = _draw(fixed[TRAIN], "folder", (VALIDATION_SHARE,), seed)
        fixed |= dict(zip((VALIDATION, TRAIN), drawn, strict=True))
    empty = [part for part in PARTS if not fixed[part]]
    if empty:
        raise ConfigError(f"no record for {' and '.join(empty)}; the corpus is too small")
    return {part: [u["name"] for u in rows] for part, rows in fixed.items()}


def _draw(
    rows: Sequence[Mapping[str, Any]], split_by: str, shares: Sequence[float], seed: int
) -> list[list[Mapping[str, Any]]]:
    """Whole groups by shares, and last what is left, at least a group of each."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(_group(row, split_by), []).append(row)
    names = sorted(groups, key=natural_key)
    order = np.random.default_rng(seed).permutation(len(names)).tolist()
    counts = [max(1, round(share * len(names))) for share in shares]
    if sum(counts) >= len(names):
        raise ConfigError(
            f"{len(names)} different values of {split_by} are too few to train, validate and test"
        )
    cuts = np.cumsum([0, *counts, len(names)]).tolist()
    chosen = [{names[i] for i in order[a:b]} for a, b in pairwise(cuts)]
    return [[r for r in rows if _group(r, split_by) in part] for part in chosen]


def _group(row: Mapping[str, Any], split_by: str) -> str:
    if split_by == "word" and not row["words"]:
        raise ConfigError(
            f"record {row['name']!r} has no words to split by; choose --split-by folder or file"
        )
    # The same letters are another word in another language, and so in another folder.
    key = {"word": f"{row['folder']} {row['words']}", "folder": row["folder"], "file": row["name"]}
    return key[split_by]


def load_records(folder: Path, names: Sequence[str]) -> list[Record]:
    """The records of a folder by name.

    Raises:
        FileFormatError: a record is missing or damaged.
    """
    return [read_npz(folder / RECORDS / f"{name}.npz") for name in names]
