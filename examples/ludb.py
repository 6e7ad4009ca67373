"""LUDB (doi 10.13026/eegm-h675) as records of frames: 4 samples, 8 ms at 500 Hz, to a position."""

import warnings
from pathlib import Path

import numpy as np
from scipy.ndimage import median_filter
from scipy.signal import butter, sosfiltfilt

from torch_semimarkov.data import Record, read_wfdb, unpack

FRAME = 4
WAVES = ("P", "QRS", "T")
LEADS = ("i", "ii", "iii", "avr", "avl", "avf", "v1", "v2", "v3", "v4", "v5", "v6")


def open_ludb(path, cache):
    """The folder of WFDB files: itself, or unpacked once from ``ludb_data.tar.gz`` in it."""
    archive = Path(path) / "ludb_data.tar.gz"
    return unpack(archive, Path(cache) / "ludb") / "data" if archive.is_file() else Path(path)


def split_numbers(seed=0):
    """Record numbers 1..200 as 140 for training, 20 for validation and 40 for the test."""
    order = (np.random.default_rng(seed).permutation(200) + 1).tolist()
    return order[:140], order[140:160], order[160:]


def read_leads(folder, number, leads=("ii",)):
    """The annotated span of each lead: below 40 Hz, without wander, scaled by its deviation."""
    path = Path(folder) / str(number)
    whole = read_wfdb(path, leads)
    smooth = butter(2, 40.0, fs=whole.sample_rate, output="sos")
    for lead, signal in zip(leads, sosfiltfilt(smooth, whole.features, axis=0).T, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of waves without one boundary
            span = read_wfdb(path, [lead], lead, incomplete="peak")
        wander = signal
        for seconds in (0.2, 0.6):  # past QRS and P, then past T
            wander = median_filter(wander, int(seconds * whole.sample_rate))
        cut = (signal - wander)[span.offset : span.offset + span.length]
        yield frames(f"{number}.{lead}", cut / cut.std(), span.segments, whole.sample_rate)


def frames(name, signal, segments, rate, factor=1.0):
    """Resample to ``factor`` times as many samples, in frames; cuts go to the nearest frame."""
    count = round(len(signal) * factor / FRAME)
    at = (np.arange(count * FRAME) + 0.5) * len(signal) / (count * FRAME) - 0.5
    rows = np.interp(at, np.arange(len(signal)), signal).reshape(count, FRAME)
    edges = [(round(s * count / len(signal)), round(e * count / len(signal)), label)
             for s, e, label in segments]  # fmt: skip
    return Record(name, rows, [edge for edge in edges if edge[0] < edge[1]], rate / FRAME)
