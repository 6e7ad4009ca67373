"""Variations of ECG records to train on: other hearts, other sizes of waves, worse electrodes."""

import numpy as np
from ludb import FRAME, LEADS, WAVES, frames, read_leads


def training_records(folder, numbers, seed, copies=12, others=2):
    """Variations of lead II, and fewer of each other lead, of some records."""
    rng, chosen, rest = np.random.default_rng(seed), [], []
    for number in numbers:
        for lead, record in zip(LEADS, read_leads(folder, number, LEADS), strict=True):
            part, count = (chosen, copies) if lead == "ii" else (rest, others)
            part += [varied(record, rng) for _ in range(count)]
    return chosen, rest


def varied(record, rng):
    """A copy to train on; the P waves may nearly vanish, and in a fifth the atria fibrillate."""
    segments = [(s * FRAME, e * FRAME, label) for s, e, label in record.segments]
    signal, rate = record.features.ravel().copy(), record.sample_rate * FRAME
    if rng.random() < 0.2:
        signal, segments = fibrillating(signal, segments, rate, rng)
    gains = {wave: 2 ** rng.uniform(-2 if wave == "P" else -1, 1) for wave in WAVES}
    for start, end, label in segments:
        scale(signal[start:end], gains.get(label, 1.0))
    time = np.arange(len(signal)) / rate
    wander = rng.uniform(0, 0.3) * np.sin(
        2 * np.pi * (rng.uniform(0.15, 0.8) * time + rng.random())
    )
    noise = rng.normal(0, rng.uniform(0, 0.08), len(signal))
    signal = signal * 2 ** rng.uniform(-1, 1) + wander + noise
    return frames(f"{record.name}+", signal, segments, rate, rng.uniform(0.7, 1.3))


def scale(wave, gain):
    """Make a wave ``gain`` times as large over the chord of its ends, in place."""
    chord = np.linspace(wave[0], wave[-1], len(wave))
    wave += (gain - 1) * (wave - chord)


def fibrillating(signal, segments, rate, rng):
    """No P waves, pauses of any length before each QRS, and waves of 4 to 9 Hz all along."""
    kept = []
    for start, end, label in segments:
        if label == "P":
            scale(signal[start:end], 0.0)
            label = "baseline"
        if label == "baseline" and kept and kept[-1][2] == label:
            start, _, _ = kept.pop()
        kept.append((start, end, label))
    names = [label for _, _, label in kept]
    paused = [pair == ("baseline", "QRS") for pair in zip(names, [*names[1:], ""], strict=True)]
    old = np.array([kept[0][0], *(end for _, end, _ in kept)])
    stretch = np.where(paused, 2 ** rng.uniform(-1.2, 1, len(kept)), 1.0)
    new = np.concatenate(([0], np.cumsum(np.round(np.diff(old) * stretch)))).astype(int)
    time = np.arange(new[-1])
    signal = np.interp(np.interp(time, new, old), np.arange(len(signal)), signal)

    def slow(low, high):
        knots = np.arange(0, len(time) + 150, 150)
        return np.interp(time, knots, rng.uniform(low, high, len(knots)))

    phase = 2 * np.pi * np.cumsum(rng.uniform(4.5, 8.5) * slow(0.8, 1.2)) / rate
    shape = np.sin(phase) + rng.uniform(0, 0.5) * np.sin(2 * phase + rng.uniform(0, 2 * np.pi))
    signal += rng.uniform(0, 0.3) * slow(0.3, 1.0) * shape
    return signal, list(zip(new[:-1].tolist(), new[1:].tolist(), names, strict=True))
