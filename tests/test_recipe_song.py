"""The recipe of finch song: files, what is wrong with them, features, scores, and the command."""

import json
import math

import numpy as np
import pytest
from recipe_cases import RATE, SONG, write_config, write_song, write_songs

from torch_semimarkov.errors import FileFormatError, SegmentError

songs = pytest.importorskip("songs")
birdsong = pytest.importorskip("birdsong")

FEATURES = songs.Spectrogram(**SONG["spectrogram"])
ROWS = [(20.0, 60.0, "a"), (80.0, 120.0, "b")]


def test_a_song_has_syllables_gaps_and_one_position_a_hop(tmp_path):
    record = songs.read_song(write_song(tmp_path, "s", ROWS), FEATURES)
    expected = [(0, 5, "gap"), (5, 15, "a"), (15, 20, "gap"), (20, 30, "b"), (30, 40, "gap")]
    assert [tuple(row) for row in record.segments] == expected
    assert record.length == 40 and record.sample_rate == 250


def test_a_position_shows_the_pitch_that_is_sung_there(tmp_path):
    record = songs.read_song(write_song(tmp_path, "s", ROWS), FEATURES)
    width = 4 * RATE / 128  # bins a band, each of rate / window samples
    for t, pitch in ((10, 800.0), (25, 1600.0)):
        band = int(record.features[t].argmax())
        assert abs(500 + width * (band + 0.5) - pitch) <= width


def test_the_features_change_where_the_sound_starts():
    signal = np.zeros(800)
    signal[400:] = np.sin(np.arange(400))
    power = songs.spectrogram(signal, RATE, FEATURES).max(1)
    start = 400 // 32
    assert power[start - 3] < power[start] - 5 and power.argmax() >= start


def test_short_syllables_keep_a_position_and_nothing_leaves_the_song():
    rows = [(0.0, 1.0, "a"), (1.0, 9.0, "b"), (39.0, 40.0, "c")]
    found = songs.tiled(rows, 4.0, 10)
    assert found == [(0, 1, "a"), (1, 2, "b"), (2, 9, "gap"), (9, 10, "c")]


# What is wrong with the files


def reversed_(folder):
    write_song(folder, "s", ROWS, offsets=np.array([60.0, 70.0]))


def overlapping(folder):
    write_song(folder, "s", ROWS, onsets=np.array([20.0, 50.0]))


def too_late(folder):
    write_song(folder, "s", ROWS, offsets=np.array([60.0, 500.0]))


def uneven(folder):
    write_song(folder, "s", ROWS, labels="abc")


def unlabelled(folder):
    path = write_song(folder, "s", ROWS)
    path.with_name("s.cbin.not.mat").unlink()


def without_audio(folder):
    write_song(folder, "s", ROWS).unlink()


def without_header(folder):
    write_song(folder, "s", ROWS).with_suffix(".rec").unlink()


def without_rate(folder):
    write_song(folder, "s", ROWS).with_suffix(".rec").write_text("Chans = 2\n")


def odd_rate(folder):
    write_song(folder, "s", ROWS).with_suffix(".rec").write_text("Chans = 2\nADFREQ = fast\n")


def cut(folder):
    path = write_song(folder, "s", ROWS)
    path.write_bytes(path.read_bytes()[:-8])


def no_matlab(folder):
    path = write_song(folder, "s", ROWS)
    path.with_name("s.cbin.not.mat").write_bytes(b"nothing of the kind")


FAULTS = {
    reversed_: r"s\.cbin\.not\.mat: syllable 2 'b', 80 to 70 ms, ends before it starts",
    overlapping: r"s\.cbin\.not\.mat: syllable 2 'b', 50 to 120 ms, starts before 60 ms",
    too_late: r"s\.cbin\.not\.mat: syllable 2 'b', 80 to 500 ms, ends after the audio \(160 ms\)",
    uneven: r"s\.cbin\.not\.mat: .* 2 onsets, 2 offsets, 3 labels",
    unlabelled: r"s\.cbin\.not\.mat: audio without its labels",
    without_audio: r"s\.cbin\.not\.mat: labels without their audio",
    without_header: r"s\.cbin: no header s\.rec",
    without_rate: r"s\.rec: no line 'ADFREQ = \.\.\.'",
    odd_rate: r"s\.rec:2: ADFREQ must be an integer >= 1, got 'fast'",
    cut: r"s\.rec:5: says 1280 samples of 2 channels, that is 5120 bytes; s\.cbin has 5112",
    no_matlab: r"s\.cbin\.not\.mat: not a MATLAB file",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_of_the_files_is_named(tmp_path, fault):
    fault(tmp_path)
    with pytest.raises(SegmentError, match=FAULTS[fault]):
        songs.read_songs(tmp_path, FEATURES)


def test_all_faults_are_named_at_once_and_an_empty_folder_is_one(tmp_path):
    with pytest.raises(FileFormatError, match=r"no \.cbin files there"):
        songs.read_songs(tmp_path, FEATURES)
    reversed_(tmp_path / "one")
    cut(tmp_path / "two")
    with pytest.raises(SegmentError, match=r"(?s)ends before it starts.*5112"):
        songs.read_songs(tmp_path, FEATURES)


# Scores


def test_the_scores_of_a_small_case_by_hand():
    true = [[(0, 4, 0), (4, 8, 1), (8, 10, 0), (10, 14, 2)]]
    found = [[(0, 4, 0), (4, 9, 1), (9, 10, 0), (10, 14, 1)]]
    row = birdsong.scores(true, found, 0, 250.0, 0.0)
    assert row["syllable_error"] == 50.0  # the second syllable is of another type
    assert row["frame_error"] == pytest.approx(100 * 5 / 14)
    assert row["segment_f1"] == 50.0
    assert row["boundary_f1"] == pytest.approx(100 * 2 / 3)
    assert birdsong.scores(true, found, 0, 250.0, 4.0)["boundary_f1"] == 100.0


# The command


def test_the_command_writes_table_models_and_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    data, output = write_songs(tmp_path / "data"), tmp_path / "out"
    config = write_config(tmp_path / "c.yaml", SONG)
    birdsong.main(["--data", str(data), "--config", str(config), "--output", str(output)])
    rows = json.loads((output / "table.json").read_text())["runs"]
    assert [row["head"] for row in rows] == ["argmax", "linear-crf", "semi-crf"]
    assert all(math.isfinite(row[key]) for row in rows for key in birdsong.COLUMNS)
    assert (output / "song.png").stat().st_size > 1000
    assert "| semi-crf | " in capsys.readouterr().out


BAD_SETTINGS = {
    "tolerence_ms: 8": r"c\.yaml:\d+: unknown key 'tolerence_ms'",
    "tolerance_ms: near": r"c\.yaml:\d+: tolerance_ms must be a float, got 'near'",
    "test: 1.5": r"c\.yaml:\d+: test must be a share in \(0, 1\), got 1\.5",
    "seeds: [a]": r"c\.yaml:\d+: seeds must be integers >= 0",
    "heads: {crf: {}}": r"c\.yaml:\d+: heads must be among semi-crf, linear-crf, argmax",
    "heads: {semi-crf: {}}": r"c\.yaml:\d+: start_from_argmax needs argmax as the first",
    "model: {epocs: 3}": r"c\.yaml: unknown key 'epocs'; did you mean 'epochs'",
}


@pytest.mark.parametrize("line", BAD_SETTINGS)
def test_a_wrong_setting_is_named_with_file_and_line(tmp_path, capsys, line):
    import re

    config = write_config(tmp_path / "c.yaml", SONG)
    lines = config.read_text() + line + "\n"
    key = line.partition(":")[0]
    if key in SONG:  # the later of two equal keys counts; leave the earlier out
        rest = {name: value for name, value in SONG.items() if name != key}
        lines = write_config(tmp_path / "c.yaml", rest).read_text() + line + "\n"
    config.write_text(lines)
    with pytest.raises(SystemExit):
        birdsong.main(["--data", "none", "--config", str(config), "--output", str(tmp_path)])
    assert re.search(BAD_SETTINGS[line], capsys.readouterr().err)


@pytest.mark.data
def test_the_real_songs_are_read(real_data):
    records = songs.read_songs(real_data("birdsong_bengalese"), FEATURES)
    sung = [label for record in records for _, _, label in record.segments if label != "gap"]
    assert len(records) == 10 and len(sung) == 601 and len(set(sung)) == 11
