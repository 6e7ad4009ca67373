"""Audio as features: MFCC or log mel energies, one row for each 10 ms."""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torch_semimarkov.errors import ConfigError, FileFormatError, UnsupportedError

WINDOW_SECONDS = 0.025


@dataclass(frozen=True)
class FeatureSettings:
    """How features are computed.

    Args:
        kind: "mfcc", with first and second differences over time, or "mel".
        n_mfcc: cepstral coefficients, 1 <= n_mfcc <= n_mels.
        n_mels: mel filters.
        sample_rate: Hz that all audio is brought to.
        frame_ms: milliseconds a position.

    Raises:
        ConfigError: a value out of its range.
    """

    kind: str = "mfcc"
    n_mfcc: int = 13
    n_mels: int = 40
    sample_rate: int = 16000
    frame_ms: float = 10.0

    def __post_init__(self) -> None:
        if self.kind == "mfcc" and not 1 <= self.n_mfcc <= self.n_mels:
            raise ConfigError(f"n_mfcc must be in 1..n_mels = 1..{self.n_mels}, got {self.n_mfcc}")
        if self.hop < 1:
            raise ConfigError(f"frame_ms is shorter than a sample: {self.frame_ms}")

    @property
    def hop(self) -> int:
        """Samples a position."""
        return round(self.sample_rate * self.frame_ms / 1000)

    @property
    def frame_rate(self) -> float:
        """Positions a second."""
        return self.sample_rate / self.hop

    def names(self) -> list[str]:
        """A name for each feature."""
        if self.kind == "mel":
            return [f"mel{i}" for i in range(self.n_mels)]
        return [f"{kind}{i}" for kind in ("c", "d", "dd") for i in range(self.n_mfcc)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def library(name: str) -> Any:
    """A library of the extra ``speech``.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnsupportedError(
            f"speech needs {name}: pip install torch_semimarkov[speech]"
        ) from error


def audio_length(path: Path) -> tuple[int, int]:
    """Samples of a file, and its rate in Hz, from its header.

    Raises:
        FileFormatError: not audio that libsndfile reads.
    """
    soundfile = library("soundfile")
    try:
        header = soundfile.info(str(path))
    except soundfile.LibsndfileError as error:
        raise FileFormatError(path, _unreadable(error)) from error
    if header.frames < 1:
        raise FileFormatError(path, "holds no sample")
    return header.frames, header.samplerate


def _unreadable(error: Exception) -> str:
    return (
        f"cannot be read as audio ({str(error).rstrip('.')}); a SPHERE file that is compressed "
        "must be expanded first, with sph2pipe"
    )


def read_audio(path: Path, sample_rate: int) -> np.ndarray:
    """(N,) float32 samples of one channel at ``sample_rate``; channels are averaged.

    Raises:
        FileFormatError: not audio that libsndfile reads.
    """
    soundfile, librosa = library("soundfile"), library("librosa")
    try:
        signal, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise FileFormatError(path, _unreadable(error)) from error
    mono = signal.mean(1)
    if rate == sample_rate:
        return mono
    return librosa.resample(mono, orig_sr=rate, target_sr=sample_rate, res_type="soxr_hq")


def positions_of(seconds: float, settings: FeatureSettings) -> int:
    """Positions of so many seconds of audio; at least 1."""
    return max(1, round(seconds * settings.frame_rate))


def compute_features(signal: np.ndarray, T: int, settings: FeatureSettings) -> np.ndarray:
    """(T, D) float32 features; position t stands for samples ``[t * hop, (t + 1) * hop)``.

    Args:
        signal: (N,) samples at the settings' rate.
        T: number of positions.
        settings: how.
    """
    librosa = library("librosa")
    hop, window = settings.hop, round(WINDOW_SECONDS * settings.sample_rate)
    size = 1 << (window - 1).bit_length()
    # The window of a position lies around its middle.
    left = (size - hop) // 2
    right = max(0, (T - 1) * hop + size - left - len(signal))
    padded = np.pad(signal, (left, right))[: (T - 1) * hop + size]
    mel = librosa.feature.melspectrogram(
        y=padded, sr=settings.sample_rate, n_fft=size, hop_length=hop, win_length=window,
        center=False, n_mels=settings.n_mels,
    )  # fmt: skip
    decibels = librosa.power_to_db(mel, top_db=None)
    if settings.kind == "mel":
        return decibels.T.astype(np.float32)
    cepstra = librosa.feature.mfcc(S=decibels, n_mfcc=settings.n_mfcc)
    changes = [librosa.feature.delta(cepstra, order=order, mode="nearest") for order in (1, 2)]
    return np.concatenate((cepstra, *changes)).T.astype(np.float32)
