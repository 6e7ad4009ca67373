"""Made-up songs and proteins for the tests of the small recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

RATE = 8000
PITCH = {"a": 800.0, "b": 1600.0, "c": 2400.0}
TINY = {
    "encoder": "conv", "hidden_dim": 8, "num_layers": 2, "batch_size": 4, "epochs": 2, "lr": 0.01,
    "threads": 1, "device": "cpu",
}  # fmt: skip
COMMON: dict[str, Any] = {
    "seeds": [0], "validation": 0.2, "test": 0.2, "model": TINY, "start_from_argmax": True,
    "heads": {"argmax": {}, "linear-crf": {}, "semi-crf": {"max_duration": 20}},
}  # fmt: skip
SONG: dict[str, Any] = {
    **COMMON, "tolerance_ms": 8.0,
    "spectrogram": {
        "window_ms": 16.0, "hop_ms": 4.0, "low_hz": 500.0, "high_hz": 3000.0, "bins_a_band": 4,
    },
}  # fmt: skip
PROTEIN: dict[str, Any] = {**COMMON, "file": "made.fasta", "longest": 100}


def write_config(path: Path, settings: dict[str, Any], **changes: Any) -> Path:
    import yaml

    path.write_text(yaml.safe_dump({**settings, **changes}, sort_keys=False))
    return path


def write_song(
    folder: Path, name: str, rows: list[tuple[float, float, str]], **labels: Any
) -> Path:
    """Two channels of big-endian audio, its header, and labels; tones for syllables, in ms."""
    from scipy.io import savemat

    folder.mkdir(parents=True, exist_ok=True)
    samples = int((rows[-1][1] + 40) * RATE / 1000)
    signal = np.random.default_rng(0).normal(0, 10, samples)
    for start, end, label in rows:
        t = np.arange(int(start * RATE / 1000), int(end * RATE / 1000))
        signal[t] += 3000 * np.sin(2 * np.pi * PITCH[label] * t / RATE)
    both = np.stack([signal, np.zeros(samples)], axis=1)
    path = folder / f"{name}.cbin"
    both.astype(">i2").tofile(path)
    header = f"made\n\nADFREQ = {RATE}\nChans = 2\nSamples = {samples}\n"
    path.with_suffix(".rec").write_text(header)
    onsets, offsets = (np.array([row[i] for row in rows]) for i in (0, 1))
    names = "".join(row[2] for row in rows)
    content = {"onsets": onsets, "offsets": offsets, "labels": names, **labels}
    with open(f"{path}.not.mat", "wb") as file:
        savemat(file, content)
    return path


def write_songs(folder: Path, count: int = 6) -> Path:
    rng = np.random.default_rng(1)
    for i in range(count):
        rows, at = [], 20.0
        for label in "abcabc":
            end = at + 4 * int(rng.integers(8, 12))
            rows.append((at, end, label))
            at = end + 20
        write_song(folder, f"song{i}", rows)
    return folder


def write_proteins(folder: Path, count: int = 12) -> Path:
    """Helices are of leucine, what is inside of lysine, outside of aspartate, in part unknown."""
    rng, lines = np.random.default_rng(0), []
    letters = {"1": "K", "H": "L", "2": "D"}
    for i in range(count):
        labels = "".join(label * int(rng.integers(6, 12)) for label in "1H2H1")
        residues = "".join(letters[label] for label in labels)
        lines += [f">p{i}", residues, "UUU" + labels[3:]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "made.fasta").write_text("\n".join(lines) + "\n")
    return folder
