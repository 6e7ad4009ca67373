"""The speech recipe, from files to records: TIMIT's layout, TextGrids, audio, and what is wrong."""

import shutil

import numpy as np
import pytest
from timit_cases import (
    REASON,
    SPOKEN,
    phn_text,
    prepared,
    textgrid_text,
    write_audio,
    write_timit,
    write_utterance,
)

from torch_semimarkov.data import read_npz
from torch_semimarkov.errors import ConfigError, FileFormatError, SegmentError

soundfile = pytest.importorskip("soundfile", reason=REASON)
pytest.importorskip("librosa", reason=REASON)
pytest.importorskip("praatio", reason=REASON)

phone_audio = pytest.importorskip("phone_audio")
phone_corpus = pytest.importorskip("phone_corpus")
phone_data = pytest.importorskip("phone_data")
phone_frames = pytest.importorskip("phone_frames")
phone_labels = pytest.importorskip("phone_labels")
phone_preprocess = pytest.importorskip("phone_preprocess")
phone_sets = pytest.importorskip("phone_sets")

MEL = phone_audio.FeatureSettings("mel")


def record(folder, name):
    return read_npz(folder / "records" / f"{name}.npz")


# Phones and speakers


def test_the_phones_fold_from_61_to_48_to_39():
    assert [len(s) for s in (phone_sets.PHONES_61, phone_sets.PHONES_48, phone_sets.PHONES_39)] == [
        61, 48, 39,
    ]  # fmt: skip
    folded = {phone_sets.fold_48(phone) for phone in phone_sets.PHONES_61} - {None}
    assert folded == set(phone_sets.PHONES_48)
    assert {phone_sets.fold_39(phone) for phone in folded} == set(phone_sets.PHONES_39)
    stops = ("pcl", "tcl", "kcl", "bcl", "dcl", "gcl", "h#", "pau", "epi")
    assert {phone_sets.fold_39(phone_sets.fold_48(phone)) for phone in stops} == {"sil"}


def test_the_test_and_development_speakers_are_24_and_50_different_ones():
    assert len(phone_sets.CORE_TEST) == 24 and len(phone_sets.DEVELOPMENT) == 50
    assert not phone_sets.CORE_TEST & phone_sets.DEVELOPMENT
    assert sum(speaker.startswith("m") for speaker in phone_sets.CORE_TEST) == 16


# Layouts


def test_timit_is_parted_by_its_speakers_and_the_sa_sentences_are_left_out(tmp_path):
    manifest, lines = prepared(write_timit(tmp_path / "timit"), tmp_path / "out")
    parts = phone_data.parts_of(manifest, "word", seed=0)
    assert parts == {
        "train": [f"dr{i}-{s}-sx{k}" for i, s in ((1, "fcjf0"), (2, "marc0")) for k in range(3)],
        "validation": [f"dr1-faks0-sx{k}" for k in range(3)],
        "test": [f"dr1-mdab0-sx{k}" for k in range(3)],
    }
    assert "TIMIT's layout, 12 recordings, 8 more that no part takes" in lines[0]
    assert manifest.phones == phone_sets.PHONES_48
    assert set(manifest.scored.values()) == set(phone_sets.PHONES_39)


def test_the_full_test_set_takes_the_other_speakers_of_test(tmp_path):
    corpus = phone_corpus.find_corpus(write_timit(tmp_path), full_test=True, keep_sa=True)
    assert sorted({r.name.split("-")[1] for r in corpus.recordings if r.part == "test"}) == [
        "mdab0", "mthc9",
    ]  # fmt: skip
    assert sum(r.name.endswith("-sa1") for r in corpus.recordings) == 5


def test_without_development_speakers_some_of_train_are_taken(tmp_path):
    shutil.rmtree(write_timit(tmp_path / "timit") / "TEST" / "DR1" / "FAKS0")
    manifest, _ = prepared(tmp_path / "timit", tmp_path / "out")
    parts = phone_data.parts_of(manifest, "word", seed=0)
    speakers = {part: {name.split("-")[1] for name in names} for part, names in parts.items()}
    assert len(speakers["train"]) == len(speakers["validation"]) == 1
    assert speakers["train"] | speakers["validation"] == {"fcjf0", "marc0"}


def test_a_copy_that_was_converted_to_riff_counts_once(tmp_path):
    folder = tmp_path / "train" / "dr1" / "fcjf0"
    write_utterance(folder, "SX1", kind="NIST")
    write_audio(folder / "SX1.WAV.wav", SPOKEN)
    corpus = phone_corpus.find_corpus(tmp_path)
    assert [r.audio.name for r in corpus.recordings] == ["SX1.WAV"] and not corpus.problems


def test_sphere_and_riff_give_the_same_record(tmp_path):
    for kind in ("WAV", "NIST"):
        write_utterance(tmp_path / kind, "a", kind=kind)
        prepared(tmp_path / kind, tmp_path / f"{kind}-out")
    one, two = (record(tmp_path / f"{kind}-out", "a") for kind in ("WAV", "NIST"))
    assert (one.features == two.features).all() and one.segments == two.segments


def test_a_textgrid_and_a_phn_file_give_the_same_segments(tmp_path):
    write_utterance(tmp_path / "phn", "a")
    rows = [(s, e, "" if p == "h#" else p) for s, e, p in SPOKEN]
    for encoding in ("utf-8", "utf-16"):
        write_audio(tmp_path / encoding / "a.wav", SPOKEN)
        text = textgrid_text(rows, "word")
        (tmp_path / encoding / "a.TextGrid").write_text(text, encoding=encoding)
    found = []
    for name in ("phn", "utf-8", "utf-16"):
        manifest, _ = prepared(tmp_path / name, tmp_path / f"{name}-out")
        found.append(record(tmp_path / f"{name}-out", "a").segments)
    assert manifest.utterances[0]["words"] == "word"
    assert found[0] == found[1] == found[2]
    assert found[0] == (
        (0, 10, "sil"), (10, 20, "aa"), (20, 28, "s"), (28, 40, "iy"), (40, 50, "sil"),
    )  # fmt: skip


def test_two_spellings_of_a_letter_are_one_phone(tmp_path):
    for i, phone in enumerate(("\u1ebd", "e\u0303")):
        rows = [(0.0, 0.1, ""), (0.1, 0.3, phone)]
        write_audio(tmp_path / "in" / f"{i}.wav", rows)
        (tmp_path / "in" / f"{i}.TextGrid").write_text(textgrid_text(rows, "w"), encoding="utf-8")
    manifest, _ = prepared(tmp_path / "in", tmp_path / "out")
    assert manifest.phones == ("sil", "\u1ebd")


def test_a_glottal_stop_goes_to_the_phone_before_it(tmp_path):
    rows = [(0.0, 0.1, "q"), (0.1, 0.2, "aa"), (0.2, 0.3, "q"), (0.3, 0.4, "s")]
    write_utterance(tmp_path / "in", "a", rows)
    prepared(tmp_path / "in", tmp_path / "out")
    assert record(tmp_path / "out", "a").segments == ((0, 30, "aa"), (30, 40, "s"))


# Positions and features


def test_short_phones_keep_a_position_and_gaps_are_silence():
    rows = [(0.02, 0.021, "a"), (0.021, 0.022, "b"), (0.03, 0.05, "c")]
    assert phone_frames.to_positions(rows, 5, 100.0) == [
        (0, 2, "sil"), (2, 3, "a"), (3, 4, "b"), (4, 5, "c"),
    ]  # fmt: skip
    late = [(0.0, 0.047, "a"), (0.047, 0.048, "b"), (0.048, 0.05, "c")]
    assert phone_frames.to_positions(late, 5, 100.0) == [(0, 3, "a"), (3, 4, "b"), (4, 5, "c")]
    with pytest.raises(SegmentError, match="3 phones do not fit into 2 positions"):
        phone_frames.to_positions(late, 2, 100.0)


@pytest.mark.parametrize("position", [0, 7, 19])
def test_a_position_stands_for_the_samples_that_it_covers(position):
    signal = np.zeros(20 * 160, dtype=np.float32)
    signal[position * 160 : (position + 1) * 160] = np.hanning(160)
    energy = phone_audio.compute_features(signal, 20, MEL).mean(1)
    assert energy.shape == (20,) and energy.argmax() == position


def test_the_kinds_of_features_have_the_sizes_asked_for():
    signal = np.random.default_rng(0).normal(size=1600).astype(np.float32)
    mfcc = phone_audio.FeatureSettings("mfcc", n_mfcc=12, n_mels=26)
    assert phone_audio.compute_features(signal, 10, mfcc).shape == (10, 36)
    assert len(mfcc.names()) == 36
    assert phone_audio.compute_features(signal, 3, mfcc).shape == (3, 36)
    assert phone_audio.compute_features(signal, 10, MEL).shape == (10, 40)
    with pytest.raises(ConfigError, match="n_mfcc must be in"):
        phone_audio.FeatureSettings("mfcc", n_mfcc=41)


def test_audio_at_another_rate_is_resampled_and_its_labels_with_it(tmp_path):
    for rate in (16000, 44100):
        write_utterance(tmp_path / str(rate), "a", rate=rate)
    _, quiet = prepared(tmp_path / "16000", tmp_path / "one")
    _, lines = prepared(tmp_path / "44100", tmp_path / "two")
    one, two = record(tmp_path / "one", "a"), record(tmp_path / "two", "a")
    assert one.segments == two.segments and one.features.shape == two.features.shape
    loudest = [found.features[12:38].argmax(1) for found in (one, two)]
    assert (loudest[0] == loudest[1]).mean() > 0.9
    assert "1 recordings at 44100 Hz are resampled to 16000 Hz" in lines
    assert not any("resampled" in line for line in quiet)


def test_audio_at_a_lower_rate_says_what_is_missing(tmp_path):
    write_utterance(tmp_path / "in", "a", rate=8000)
    with pytest.warns(UserWarning, match="nothing above 4000 Hz.*pass --sample-rate 8000"):
        prepared(tmp_path / "in", tmp_path / "out")


# What is wrong


def write_textgrid(folder, rows):
    write_audio(folder / "a.wav", SPOKEN)
    (folder / "a.TextGrid").write_text(textgrid_text(rows, "w"), encoding="utf-8")


def write_short_textgrid(folder, rows):
    write_audio(folder / "a.wav", SPOKEN)
    body = "".join(f'{start}\n{end}\n"{phone}"\n' for start, end, phone in rows)
    head = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n0.5\n<exists>\n1\n'
    head += f'"IntervalTier"\n"phones"\n0\n0.5\n{len(rows)}\n'
    (folder / "a.TextGrid").write_text(head + body, encoding="utf-8")


def phn(lines):
    def write(folder):
        write_utterance(folder, "a").write_text(lines)

    return write


def lost(name):
    return lambda folder: (write_utterance(folder, "a"), (folder / name).unlink())


LONG = phn_text([*SPOKEN[:-1], (0.4, 0.9, "h#")])
BROKEN = {
    "a WAV without its labels": (
        lost("a.PHN"), r"a\.WAV: no labels beside it \(a\.PHN or a\.TextGrid\)",
    ),
    "labels without their WAV": (lost("a.WAV"), r"no audio in it or below it"),
    "a reversed segment": (
        phn("0 1600 h#\n3200 1600 aa\n"),
        r"a\.PHN:2: a reversed or empty segment: 'aa' from 0\.2 s to 0\.1 s",
    ),
    "overlapping segments": (
        phn("0 1600 h#\n1500 3200 aa\n"),
        r"a\.PHN:2: overlapping or unsorted segments: 'aa' from 0\.09375 s .*before 0\.1 s",
    ),
    "a segment before 0": (phn("-5 1600 h#\n"), r"a\.PHN:1: overlapping .* starts before 0"),
    "an unknown phone": (
        phn("0 1600 h#\n1600 3200 xx\n"),
        r"a\.PHN:2: unknown phone 'xx'; expected one of aa, ae",
    ),
    "a line of two cells": (phn("0 1600 h#\n1600 aa\n"), r"a\.PHN:2: expected 'start end phone'"),
    "no phone": (phn("\n"), r"a\.PHN: holds no phone"),
    "labels of another rate": (
        phn(LONG),
        r"a\.PHN:5: the last phone ends at 0\.900 s, the audio at 0\.500 s .*another rate",
    ),
    "overlap in a TextGrid": (
        lambda folder: write_textgrid(folder, [(0, 0.2, "a"), (0.1, 0.5, "b")]),
        r"a\.TextGrid:29: overlapping or unsorted segments: 'b'",
    ),
    "reversal in a TextGrid": (
        lambda folder: write_textgrid(folder, [(0, 0.2, "a"), (0.4, 0.2, "b")]),
        r"a\.TextGrid:29: a reversed or empty segment: 'b'",
    ),
    "overlap in a short TextGrid": (
        lambda folder: write_short_textgrid(folder, [(0, 0.2, "a"), (0.1, 0.5, "b")]),
        r"a\.TextGrid:16: overlapping or unsorted segments: 'b'",
    ),
    "overlap beside a text of two lines": (
        lambda folder: write_short_textgrid(folder, [(0, 0.2, "a\nx"), (0.1, 0.5, "b")]),
        r"a\.TextGrid: overlapping or unsorted segments: 'b'",
    ),
    "no audio": (
        lambda folder: (write_utterance(folder, "a"), (folder / "a.WAV").write_text("no")),
        r"a\.WAV: cannot be read as audio .*sph2pipe",
    ),
    "not a TextGrid": (
        lambda folder: (
            write_textgrid(folder, SPOKEN), (folder / "a.TextGrid").write_text("0 1 a"),
        ),
        r"a\.TextGrid:1: not a TextGrid",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("write", "message"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_used_is_named_with_file_and_line_and_nothing_is_written(
    write, message, tmp_path
):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in")
    with pytest.raises((SegmentError, FileFormatError), match=message):
        prepared(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_phone_of_a_textgrid_is_named_where_timit_is_asked_for(tmp_path):
    write_textgrid(tmp_path, [(0, 0.2, "aa"), (0.2, 0.5, "ɾ")])
    with pytest.raises(SegmentError, match=r"a\.TextGrid:29: unknown phone 'ɾ'"):
        prepared(tmp_path, tmp_path / "out", phone_set="timit")


def test_an_unknown_tier_lists_those_that_are_there(tmp_path):
    write_textgrid(tmp_path, [(0, 0.5, "a")])
    with pytest.raises(SegmentError, match=r"no tier 'Phonetic'; .* from words, phones"):
        prepared(tmp_path, tmp_path / "out", tier="Phonetic")


def test_every_broken_file_is_named_at_once_or_left_out_on_request(tmp_path):
    write_utterance(tmp_path / "in", "good")
    write_utterance(tmp_path / "in", "bad1").write_text("0 10 xx\n")
    write_utterance(tmp_path / "in", "bad2").unlink()
    with pytest.raises(SegmentError) as caught:
        prepared(tmp_path / "in", tmp_path / "out")
    assert "2 of 3 cannot be used" in str(caught.value)
    assert "bad1.PHN:1" in str(caught.value) and "bad2.WAV" in str(caught.value)
    manifest, lines = prepared(tmp_path / "in", tmp_path / "out", skip_broken=True)
    assert [u["name"] for u in manifest.utterances] == ["good"]
    assert sum(line.startswith("left out: ") for line in lines) == 2


# Interrupted


def test_a_stopped_preprocess_goes_on_and_computes_nothing_twice(tmp_path, monkeypatch):
    source = write_timit(tmp_path / "timit")
    prepared(source, tmp_path / "whole")
    real, calls = phone_preprocess.compute_features, []

    def counted(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(phone_preprocess, "compute_features", counted)
    with pytest.raises(KeyboardInterrupt):
        prepared(source, tmp_path / "out")
    written = sorted((tmp_path / "out" / "records").iterdir())
    assert len(written) == 3  # no draft is left of the fourth
    with pytest.raises(FileFormatError, match=r"manifest\.json: missing: run preprocess"):
        phone_data.read_manifest(tmp_path / "out")
    _, lines = prepared(source, tmp_path / "out")
    assert len(calls) == 4 + 9 and "12 records (3 were there)" in lines[-1]
    for path in sorted((tmp_path / "whole" / "records").iterdir()):
        assert path.read_bytes() == (tmp_path / "out" / "records" / path.name).read_bytes()


def test_a_changed_label_file_changes_its_record_only(tmp_path):
    labels = write_utterance(tmp_path / "in", "a")
    write_utterance(tmp_path / "in", "b")
    before, _ = prepared(tmp_path / "in", tmp_path / "out")
    labels.write_text(phn_text([(0.0, 0.3, "aa"), (0.3, 0.5, "h#")]))
    after, lines = prepared(tmp_path / "in", tmp_path / "out")
    assert "(1 were there)" in lines[-1] and before.digest() != after.digest()
    assert record(tmp_path / "out", "a").segments == ((0, 30, "aa"), (30, 50, "sil"))


def test_records_of_other_settings_are_replaced_on_request_only(tmp_path):
    write_utterance(tmp_path / "in", "a")
    prepared(tmp_path / "in", tmp_path / "out")
    mfcc = phone_audio.FeatureSettings("mfcc")
    with pytest.raises(ConfigError, match=r"other settings \(kind was 'mel', is 'mfcc'\)"):
        prepared(tmp_path / "in", tmp_path / "out", mfcc)
    assert record(tmp_path / "out", "a").num_features == 40
    prepared(tmp_path / "in", tmp_path / "out", mfcc, overwrite=True)
    assert record(tmp_path / "out", "a").num_features == 39
    (tmp_path / "out" / "settings.json").unlink()
    with pytest.raises(ConfigError, match="nothing tells the settings of"):
        prepared(tmp_path / "in", tmp_path / "out")


# Real files


@pytest.mark.data
def test_three_sentences_of_timit_and_seven_of_emu_are_read(real_data, tmp_path):
    data = real_data("speech_small")
    speaker = tmp_path / "timit" / "TRAIN" / "DR1" / "FVMH0"
    shutil.copytree(data / "timit_nltk_3utt" / "dr1-fvmh0", speaker)
    manifest, _ = prepared(tmp_path / "timit", tmp_path / "one", keep_sa=True)
    assert [u["part"] for u in manifest.utterances] == ["train"] * 3
    first = record(tmp_path / "one", "dr1-fvmh0-sa1")
    rows = phone_labels.read_phn(speaker / "sa1.phn", 16000.0)
    # "she had your": sh iy hv ae dcl y er
    assert [s.label for s in first.segments[:5]] == ["sil", "sh", "iy", "hh", "ae"]
    assert first.segments[1].start == round(rows[1].start * 100)
    assert abs(first.length / 100 - rows[-1].end) < 0.03
    for file in (data / "emu_ae").rglob("*"):
        if file.suffix in (".wav", ".TextGrid"):
            (tmp_path / "emu").mkdir(exist_ok=True)
            shutil.copy(file, tmp_path / "emu" / file.name)
    manifest, lines = prepared(tmp_path / "emu", tmp_path / "two", tier="Phonetic")
    assert len(manifest.utterances) == 7 and len(manifest.phones) == 46
    assert "7 recordings at 20000 Hz are resampled to 16000 Hz" in lines
    assert manifest.utterances[0]["words"]
