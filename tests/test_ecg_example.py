"""The ECG example: the variations that it trains on, and the scores that it prints."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from torch_semimarkov.data import LabelVocabulary, Record

ecg_scores = pytest.importorskip("ecg_scores")
ecg_variations = pytest.importorskip("ecg_variations")

BEAT = (("QRS", 12), ("baseline", 9), ("T", 24), ("baseline", 30), ("P", 11), ("baseline", 6))
HEIGHTS = {"P": 0.5, "QRS": 5.0, "T": 1.5, "baseline": 0.0}


@pytest.fixture
def record():
    """Eight equal beats of half sines, 4 samples at 500 Hz to a position."""
    rows, segments, at = [], [], 0
    for label, length in BEAT * 8:
        rows.append(HEIGHTS[label] * np.sin(np.pi * np.arange(4 * length) / (4 * length - 1)))
        segments.append((at, at + length, label))
        at += length
    return Record("made", np.concatenate(rows).reshape(at, 4), segments, 125.0)


def fibrillating(record, seed=0):
    signal = record.features.ravel().copy()
    segments = [(4 * start, 4 * end, label) for start, end, label in record.segments]
    return ecg_variations.fibrillating(signal, segments, 500.0, np.random.default_rng(seed))


def test_a_variation_is_tiled_by_the_same_waves_or_by_all_but_p(record):
    rng, seen = np.random.default_rng(0), set()
    names = [label for _, _, label in record.segments]
    for _ in range(40):
        copy = ecg_variations.varied(record, rng)
        found = [label for _, _, label in copy.segments]
        assert copy.segments[0].start == 0 and copy.segments[-1].end == copy.length
        assert found == names or "P" not in found
        seen.add("P" in found)
    assert seen == {True, False}


def test_fibrillation_keeps_qrs_and_t_and_joins_what_p_divided(record):
    signal, segments = fibrillating(record)
    assert [label for _, _, label in segments] == ["QRS", "baseline", "T", "baseline"] * 8
    assert segments[0][0] == 0 and segments[-1][1] == len(signal)
    assert all(a[1] == b[0] for a, b in pairwise(segments))
    lengths = {label: {e - s for s, e, name in segments if name == label} for label in ("QRS", "T")}
    assert lengths == {"QRS": {48}, "T": {96}}
    for start, end, label in segments:
        if label == "QRS":
            assert signal[start:end].max() == pytest.approx(5.0, abs=0.5)


def test_fibrillation_makes_an_even_beat_uneven(record):
    starts = [start for start, _, label in fibrillating(record)[1] if label == "QRS"]
    before = [start for start, _, label in record.segments if label == "QRS"]
    assert np.ptp(np.diff(before)) == 0 and np.ptp(np.diff(starts)) > 50


def test_a_wave_is_scaled_over_the_line_between_its_ends():
    wave = np.array([1.0, 4.0, 3.0])
    ecg_variations.scale(wave, 0.0)
    assert wave.tolist() == [1.0, 2.0, 3.0]


def test_each_wave_has_a_row_for_its_onset_and_one_for_its_offset_in_milliseconds(record):
    """All of QRS but the first starts a position late, that is 8 ms."""
    late = [
        (
            start + (label == "QRS" and start > 0),
            end + (label == "baseline" and after == "QRS"),
            label,
        )
        for (start, end, label), (_, _, after) in pairwise([*record.segments, (0, 0, "")])
    ]
    vocabulary = LabelVocabulary(sorted(HEIGHTS))
    model = SimpleNamespace(architecture=SimpleNamespace(head="semi-crf"))
    saved = SimpleNamespace(vocabulary=vocabulary, model=model)
    rows = list(ecg_scores.score(saved, [record], [SimpleNamespace(segments=late)]))
    assert [row["boundary"] for row in rows] == [
        f"{wave} {side}" for wave in ("P", "QRS", "T") for side in ("onset", "offset")
    ]
    assert all(row["F1 20 ms"] == row["segment F1"] == 100 for row in rows)
    errors = {row["boundary"]: row["mean ms"] for row in rows}
    assert errors.pop("QRS onset") == 8
    assert set(errors.values()) == {0}
