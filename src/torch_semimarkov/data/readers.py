"""NPZ files, and the reader that fits a path: a file by its ending, or a folder of files."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from torch_semimarkov.data.records import NamedSegment, Record, natural_key, segments_from_runs
from torch_semimarkov.data.tables import SIDECAR_ENDINGS, read_table
from torch_semimarkov.data.waves import WAVE_SYMBOLS
from torch_semimarkov.data.wfdb_files import read_wfdb
from torch_semimarkov.errors import FileFormatError, SemiMarkovError


@dataclass(frozen=True)
class ReadOptions:
    """How :func:`read_any` and :func:`read_folder` read; each reader takes what concerns it.

    Args:
        channels: feature columns (CSV, TSV) or leads (WFDB); default all of them.
        label_column: column of labels (CSV, TSV).
        sample_rate: positions per second. WFDB: the signal is resampled to it. Other formats: the
            rate of the file, where the file does not say.
        annotator: ending of the annotation file (WFDB); default no annotation.
        symbols: annotation symbol -> label (WFDB).
        background: label between the waves (WFDB).
        crop: keep the annotated span only (WFDB).
        incomplete: "drop", "peak" or "error": a wave without one boundary (WFDB).
    """

    channels: tuple[str, ...] | None = None
    label_column: str = "label"
    sample_rate: float | None = None
    annotator: str | None = None
    symbols: Mapping[str, str] = field(default_factory=lambda: dict(WAVE_SYMBOLS))
    background: str = "baseline"
    crop: bool = True
    incomplete: str = "drop"


def read_npz(path: str | os.PathLike[str], sample_rate: float | None = None) -> Record:
    """A NumPy archive with the arrays of one sequence; pickled objects are never loaded.

    Arrays: ``features`` (T, D); optionally one of ``labels`` (T,), names or integers, of which
    maximal runs become segments, or ``segments`` (N, 3) rows of start, end, label; optionally
    ``label_names`` (C,) for integer labels (without them, label 3 is called "3"), ``sample_rate``
    () in positions per second, ``channels`` (D,).

    Args:
        path: the file.
        sample_rate: positions per second, > 0; used where the file holds none.

    Raises:
        FileFormatError: no file, empty or damaged, no array ``features``, arrays that do not fit
            together, or pickled objects.
    """
    path = Path(path)
    arrays = _load_npz(path)
    if "features" not in arrays:
        raise FileFormatError(path, f"no array 'features'; found {sorted(arrays)}")
    if "labels" in arrays and "segments" in arrays:
        raise FileFormatError(path, "labelled twice: by 'labels' and by 'segments'; keep one")
    features = arrays["features"]
    try:
        segments = _npz_segments(arrays, len(features) if features.ndim else 0)
        if "sample_rate" in arrays:
            sample_rate = float(arrays["sample_rate"].reshape(()))
        channels = tuple(str(name) for name in arrays.get("channels", ()))
        return Record(path.stem, features, segments, sample_rate, channels)
    except (SemiMarkovError, ValueError, TypeError) as error:
        raise FileFormatError(path, str(error)) from error


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        if path.stat().st_size == 0:
            raise FileFormatError(path, "the file is empty")
        # np.load leaves a file open that it fails to read; the one opened here is closed.
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not hasattr(archive, "files"):
                raise FileFormatError(path, "a single array; expected an .npz archive of arrays")
            with archive:
                return {name: archive[name] for name in archive.files}
    except FileFormatError:
        raise
    except OSError as error:
        raise FileFormatError(path, f"cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        raise FileFormatError(path, f"not a NumPy archive of plain arrays: {error}") from error


def _npz_segments(arrays: dict[str, np.ndarray], T: int) -> list[NamedSegment] | None:
    names = arrays.get("label_names")
    if "labels" in arrays:
        labels = arrays["labels"]
        if labels.shape != (T,):
            raise ValueError(f"labels must be (T,) = ({T},), got {labels.shape}")
        return segments_from_runs([_label_name(label, names) for label in labels.tolist()])
    if "segments" not in arrays:
        return None
    table = arrays["segments"]
    if table.ndim != 2 or table.shape[1] != 3:
        raise ValueError(f"segments must be (N, 3) rows of start, end, label, got {table.shape}")
    return [
        NamedSegment(_position(start), _position(end), _label_name(label, names))
        for start, end, label in table.tolist()
    ]


def _position(value: Any) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"segments must start and end at integer positions, got {value}")
    return int(value)


def _label_name(label: Any, names: np.ndarray | None) -> str:
    if isinstance(label, bytes):
        label = label.decode()
    if isinstance(label, float):
        if not label.is_integer():
            raise ValueError(f"labels must be names or integers, got {label}")
        label = int(label)
    if isinstance(label, str):
        return label
    if names is None and label >= 0:
        return str(label)
    if names is None:
        raise ValueError(
            f"integer labels must be >= 0, got {label}; if it marks positions without a label, cut "
            "them out, or give them a name of their own"
        )
    if not 0 <= label < len(names):
        raise ValueError(f"labels must be in 0..{len(names) - 1} as in label_names, got {label}")
    return str(names[label])


def _read_table(path: Path, o: ReadOptions) -> Record:
    return read_table(path, o.channels, o.label_column, o.sample_rate)


def _read_wfdb(path: Path, o: ReadOptions) -> Record:
    return read_wfdb(
        path,
        o.channels,
        o.annotator,
        o.symbols,
        o.background,
        o.crop,
        o.incomplete,
        o.sample_rate,
    )


Reader = Callable[[Path, ReadOptions], Record]
# Ending of a file -> what reads it. One more line is one more format, here or in a user's program.
READERS: dict[str, Reader] = {
    ".npz": lambda path, o: read_npz(path, o.sample_rate),
    ".csv": _read_table,
    ".tsv": _read_table,
    ".hea": _read_wfdb,
}


def read_any(path: str | os.PathLike[str], options: ReadOptions | None = None) -> Record:
    """Read one file of any supported format, picked by its ending.

    Args:
        path: a file with an ending of ``READERS``, or a WFDB record (.hea, .dat, or no ending).
        options: how to read; default :class:`ReadOptions` as it stands.

    Raises:
        FileFormatError: an unknown ending, or whatever the reader raises.
    """
    path, o = Path(path), options or ReadOptions()
    reader = READERS.get(path.suffix.lower())
    if reader is not None:
        return reader(path, o)
    if path.suffix.lower() == ".dat" or Path(f"{path}.hea").is_file():
        return _read_wfdb(path, o)
    raise FileFormatError(path, f"no reader for this file; endings read: {', '.join(READERS)}")


def record_paths(path: str | os.PathLike[str]) -> list[Path]:
    """The files :func:`read_folder` reads, in its order; a file stands for itself.

    Args:
        path: a folder (subfolders are not searched), or one file.

    Raises:
        FileFormatError: nothing there, or nothing readable in the folder.
    """
    path = Path(path)
    if not path.is_dir():
        if path.is_file() or Path(f"{path}.hea").is_file():
            return [path]
        raise FileFormatError(path, "no such file or folder")
    found = [
        file
        for file in path.iterdir()
        if file.suffix.lower() in READERS
        and not file.name.startswith(".")
        and not file.name.lower().endswith(SIDECAR_ENDINGS)
    ]
    if not found:
        raise FileFormatError(path, f"no readable file in this folder ({', '.join(READERS)})")
    return sorted(found, key=lambda file: natural_key(file.name))


def read_folder(
    path: str | os.PathLike[str], options: ReadOptions | None = None
) -> Iterator[Record]:
    """Read the files of a folder one at a time, sorted by name (2 before 10).

    Only one record is in memory at a time. Tables of segments beside a file
    (``<stem>.segments.tsv``) belong to that file and are no records of their own.

    Args:
        path: a folder, or one file.
        options: how to read.

    Raises:
        FileFormatError: at once when nothing is readable; later, whatever a reader raises.
    """
    paths = record_paths(path)
    return (read_any(file, options) for file in paths)
