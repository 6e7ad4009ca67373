"""Made-up corpora for the tests of the speech recipe: tones for phones, in TIMIT's layout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torch_semimarkov.training import TrainConfig

RATE = 16000
REASON = "needs the extra speech: pip install torch_semimarkov[speech]"
TONES = {"h#": 0.0, "aa": 300.0, "iy": 900.0, "s": 4000.0, "hv": 1600.0, "q": 0.0, "dcl": 100.0}
Row = tuple[float, float, str]
# Seconds; the boundaries lie on positions of 10 ms.
SPOKEN: tuple[Row, ...] = (
    (0.0, 0.1, "h#"), (0.1, 0.2, "aa"), (0.2, 0.28, "s"), (0.28, 0.4, "iy"), (0.4, 0.5, "h#"),
)  # fmt: skip


def signal_of(rows: Iterable[Row], rate: int = RATE) -> np.ndarray:
    """A tone for each phone, with a little noise."""
    pieces = []
    for start, end, phone in rows:
        t = np.arange(round(start * rate), round(end * rate)) / rate
        pieces.append(0.3 * np.sin(2 * np.pi * TONES.get(phone, 600.0) * t))
    signal = np.concatenate(pieces)
    return signal + np.random.default_rng(0).normal(0, 0.01, len(signal))


def phn_text(rows: Iterable[Row], rate: int = RATE) -> str:
    return "".join(f"{round(s * rate)} {round(e * rate)} {phone}\n" for s, e, phone in rows)


def textgrid_text(rows: Sequence[Row], word: str, tier: str = "phones") -> str:
    """A long TextGrid; interval k of the phones has its heading on line 21 + 4 k."""
    end = max(row[1] for row in rows)
    head = f'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = {end}\n'
    head += "tiers? <exists>\nsize = 2\nitem []:\n"
    text = head
    for number, (name, entries) in enumerate((("words", [(0, end, word)]), (tier, rows)), 1):
        text += f'    item [{number}]:\n        class = "IntervalTier"\n        name = "{name}"\n'
        text += f"        xmin = 0\n        xmax = {end}\n"
        text += f"        intervals: size = {len(entries)}\n"
        for i, (start, stop, label) in enumerate(entries, 1):
            text += f"        intervals [{i}]:\n            xmin = {start}\n"
            text += f'            xmax = {stop}\n            text = "{label}"\n'
    return text


def write_audio(path: Path, rows: Iterable[Row], rate: int = RATE, kind: str = "WAV") -> None:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        soundfile.write(file, signal_of(rows, rate), rate, format=kind, subtype="PCM_16")


def write_utterance(
    folder: Path, name: str, rows: Sequence[Row] = SPOKEN, rate: int = RATE, kind: str = "WAV"
) -> Path:
    """NAME.WAV and NAME.PHN; the path of the latter."""
    write_audio(folder / f"{name}.WAV", rows, rate, kind)
    labels = folder / f"{name}.PHN"
    labels.write_text(phn_text(rows, rate))
    return labels


def write_timit(root: Path, sentences: int = 3) -> Path:
    """Two speakers of TRAIN, one of the development set, one of the core test set, one other."""
    speakers = {
        "TRAIN/DR1/FCJF0": "WAV", "TRAIN/DR2/MARC0": "NIST", "TEST/DR1/FAKS0": "WAV",
        "TEST/DR1/MDAB0": "NIST", "TEST/DR3/MTHC9": "WAV",
    }  # fmt: skip
    rng = np.random.default_rng(1)
    for speaker, kind in speakers.items():
        for i in range(sentences):
            write_utterance(root / speaker, f"SX{i}", varied(rng), kind=kind)
        write_utterance(root / speaker, "SA1", kind=kind)
    return root


def varied(rng: np.random.Generator) -> list[Row]:
    """Phones in another order and of other durations, between silences."""
    phones = [str(p) for p in rng.permutation(["aa", "iy", "s", "hv"])]
    rows, at = [], 0.0
    for phone in ["h#", *phones, "h#"]:
        end = round(at + 0.01 * int(rng.integers(5, 12)), 2)
        rows.append((at, end, phone))
        at = end
    return rows


def write_words(root: Path, words: Sequence[str], rate: int = RATE) -> Path:
    """One TextGrid with audio for each word, in two folders."""
    rng = np.random.default_rng(2)
    for i, word in enumerate(words):
        rows = [(s, e, "" if p == "h#" else p) for s, e, p in varied(rng)]
        folder = root / f"lang{i % 2}"
        write_audio(folder / f"w{i}.wav", rows, rate)
        (folder / f"w{i}.TextGrid").write_text(textgrid_text(rows, word), encoding="utf-8")
    return root


def prepared(
    source: Path, output: Path, features: Any = None, overwrite: bool = False, **options: Any
) -> tuple[Any, list[str]]:
    """The manifest of a corpus that was preprocessed, and the lines that were reported."""
    from phone_audio import FeatureSettings
    from phone_preprocess import Preprocessing, preprocess

    lines: list[str] = []
    job = Preprocessing(source, output, features or FeatureSettings("mel"), **options)
    return preprocess(job, lines.append, overwrite=overwrite), lines


# Records without any audio


MODELS = ("semicrf", "linear", "pytorch-crf")
PHONES = ("aa", "iy", "s", "sil")
TINY = {"hidden_dim": 8, "num_layers": 1, "epochs": 3, "batch_size": 4, "lr": 0.01, "threads": 1}


def made_data(folder: Path, count: int = 12) -> Path:
    """A folder as preprocess writes it, without any audio: each phone lifts a feature."""
    import phone_data

    rng = np.random.default_rng(0)
    (folder / "records").mkdir(parents=True)
    rows = []
    for i in range(count):
        spans, at = [], 0
        for label in [3, *rng.permutation(3).tolist(), 3]:
            end = at + int(rng.integers(3, 8))
            spans.append((at, end, label))
            at = end
        labels = np.concatenate([[label] * (end - start) for start, end, label in spans])
        features = np.eye(4)[labels] + rng.normal(0, 0.2, (at, 4))
        np.savez(
            folder / "records" / f"u{i}.npz", features=features, segments=np.asarray(spans),
            label_names=np.asarray(PHONES), sample_rate=np.asarray(100.0),
        )  # fmt: skip
        rows.append(
            {"name": f"u{i}", "folder": "f", "words": f"w{i}", "part": None, "seconds": at / 100}
        )
    scored = {**{name: name for name in PHONES}, "iy": "aa"}
    manifest = phone_data.Manifest(PHONES, scored, 100.0, {"kind": "made"}, rows)
    phone_data.write_manifest(folder, manifest)
    return folder


def job_of(
    data: Path, output: Path, model: str = "semicrf", backend: str = "auto", log_every: int = 0,
    **changes: Any,
) -> Any:  # fmt: skip
    """A job of training a tiny model."""
    import phone_models
    import phone_training

    config = TrainConfig(head=phone_models.HEADS[model], **{**TINY, **changes})
    return phone_training.Job(data, output, model, config, backend, log_every)


def compared(
    job: Any, runs: Path, seeds: Sequence[int] = (0, 1), models: Sequence[str] = MODELS,
    **asked: Any,
) -> tuple[list[dict], list[str]]:  # fmt: skip
    """The rows of a comparison, and the lines that were reported."""
    import phone_compare

    lines: list[str] = []
    comparison = phone_compare.Comparison(job, models, seeds, runs, **asked)
    return phone_compare.compare(comparison, lines.append), lines
