"""WFDB records and annotations: made here, and the real ones of LUDB."""

import collections
import json
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest

from torch_semimarkov.data import (
    ReadOptions,
    read_any,
    read_folder,
    read_wfdb,
    record_paths,
    unpack,
    write_wfdb_annotations,
)
from torch_semimarkov.data.waves import parse_waves
from torch_semimarkov.errors import ConfigError, FileFormatError, SegmentError, UnsupportedError

wfdb = pytest.importorskip("wfdb")

WAVES = [(10, 20, "P"), (25, 40, "QRS"), (40, 70, "T")]
TILED = ((0, 10, "P"), (10, 15, "baseline"), (15, 30, "QRS"), (30, 60, "T"))


def quietly(call, *args, **kwargs):
    """Call wfdb without the deprecation warnings of what it builds on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call(*args, **kwargs)


@pytest.fixture
def record_path(tmp_path):
    """A record of 100 samples at 100 Hz, leads i and II, with annotation ``ann``."""
    signal = np.stack([np.linspace(-1, 1, 100), np.linspace(2, -2, 100)], axis=1)
    quietly(
        wfdb.wrsamp,
        "r1",
        fs=100,
        units=["mV", "mV"],
        sig_name=["i", "II"],
        p_signal=signal,
        fmt=["16", "16"],
        write_dir=str(tmp_path),
    )
    write_wfdb_annotations(tmp_path / "r1", WAVES, "ann", sample_rate=100)
    return tmp_path / "r1"


def annotate(record_path, samples, marks, annotator="bad"):
    quietly(
        wfdb.wrann,
        record_path.name,
        annotator,
        np.array(samples),
        symbol=list(marks),
        fs=100,
        write_dir=str(record_path.parent),
    )


def test_waves_become_segments_with_background_between(record_path):
    record = read_wfdb(record_path, annotator="ann")
    assert record.segments == TILED
    assert (record.length, record.offset, record.sample_rate) == (60, 10, 100.0)
    assert record.channels == ("i", "II")
    assert np.allclose(record.features[:, 0], np.linspace(-1, 1, 100)[10:70], atol=1e-3)


def test_without_crop_background_fills_both_ends(record_path):
    record = read_wfdb(record_path, annotator="ann", crop=False, background="rest")
    assert (record.length, record.offset) == (100, 0)
    assert record.segments[0] == (0, 10, "rest") and record.segments[-1] == (70, 100, "rest")


@pytest.mark.parametrize("ending", ["", ".hea", ".dat"])
def test_a_record_is_found_by_any_of_its_names(record_path, ending):
    path = record_path.with_name(f"r1{ending}")
    record = read_any(path, ReadOptions(channels=("ii", "I")))
    assert record.segments is None and record.channels == ("II", "i")
    assert record.features[0].tolist() == pytest.approx([2, -1], abs=1e-3)


def test_a_folder_of_records_is_read_once_each(record_path):
    records = list(read_folder(record_path.parent, ReadOptions(annotator="ann")))
    assert [record.name for record in records] == ["r1"] and records[0].segments == TILED


@pytest.mark.parametrize(("rate", "length"), [(50.0, 30), (200.0, 120), (90.0, 54)])
def test_resampling_moves_signal_and_boundaries_together(record_path, rate, length):
    record = read_wfdb(record_path, ["i"], "ann", sample_rate=rate)
    assert (record.length, record.offset, record.sample_rate) == (length, round(rate / 10), rate)
    ends = [segment.end / rate for segment in record.segments]
    assert ends == pytest.approx([s[1] / 100 for s in TILED], abs=0.5 / rate + 1e-9)
    seconds = (record.offset + np.arange(length)) / rate
    assert np.allclose(record.features[:, 0], -1 + 2 * seconds * 100 / 99, atol=0.03)


def test_a_rate_that_swallows_a_segment_is_an_error(record_path):
    with pytest.raises(FileFormatError, match=r"r1\.ann: .*start < end"):
        read_wfdb(record_path, annotator="ann", sample_rate=2.0)


def test_symbols_choose_and_name_the_waves(record_path):
    with pytest.warns(UserWarning, match=r"r1\.ann: 2 waves of other symbols \(p, t\)"):
        record = read_wfdb(record_path, annotator="ann", symbols={"N": "beat"}, crop=False)
    assert [segment.label for segment in record.segments] == ["baseline", "beat", "baseline"]


INCOMPLETE = {
    "no onset": ([5, 9, 20, 24, 30], "N)(t)", (5, 9)),
    "no offset": ([5, 9, 20, 24, 30], "(N(t)", (5, 9)),
    "peak before": ([5, 6, 9, 20, 24, 30], "N()(t)", (5, 9)),
    "peak after": ([5, 8, 9, 20, 24, 30], "()N(t)", (5, 9)),
    "no peak": ([5, 9, 20, 24, 30], "()(t)", None),
    "bare peak": ([5, 20, 24, 30], "N(t)", None),
    "doubled bracket": ([5, 20, 24, 30], "((t)", None),
}


@pytest.mark.parametrize(("samples", "marks", "bounds"), INCOMPLETE.values(), ids=INCOMPLETE)
def test_an_incomplete_wave_is_dropped_repaired_or_refused(record_path, samples, marks, bounds):
    annotate(record_path, samples, marks)
    whole = (20, 30, "T")
    for mode, kept in (("drop", []), ("peak", [(*bounds, "QRS")] if bounds else [])):
        with pytest.warns(UserWarning, match=r"r1\.bad: 1 incomplete waves"):
            record = read_wfdb(record_path, annotator="bad", crop=False, incomplete=mode)
        assert [s for s in record.segments if s.label != "baseline"] == [*kept, whole]
    with pytest.raises(FileFormatError, match=r"r1\.bad: incomplete wave .* at sample"):
        read_wfdb(record_path, annotator="bad", incomplete="error")


def test_marks_that_are_no_waves_are_passed_over():
    found = parse_waves([1, 2, 3, 4, 9], ["(", "+", "p", ")", "~"])
    assert found.waves == ((1, 4, "p"),) and found.incomplete == ()


def test_a_record_without_header_is_one_error(record_path):
    record_path.with_suffix(".hea").unlink()
    with pytest.raises(FileFormatError, match=r"r1\.hea: no such header"):
        read_wfdb(record_path)


def test_a_record_without_signal_file_is_one_error(record_path):
    record_path.with_suffix(".dat").unlink()
    with pytest.raises(FileFormatError, match=r"r1\.hea: its signal file r1\.dat is missing"):
        read_wfdb(record_path)


@pytest.mark.parametrize("content", [b"", b"nonsense\n", b"r1 two 100 100\n", b"\xff\xfe\x00\x01"])
def test_a_broken_header_is_one_error(record_path, content):
    record_path.with_suffix(".hea").write_bytes(content)
    with pytest.raises(FileFormatError, match=r"r1\.hea: "):
        read_wfdb(record_path)


@pytest.mark.parametrize("size", [0, 101])
def test_a_truncated_signal_is_one_error(record_path, size):
    data = record_path.with_suffix(".dat")
    data.write_bytes(data.read_bytes()[:size])
    with pytest.raises(FileFormatError, match=r"r1\.hea: its signal cannot be read"):
        read_wfdb(record_path)


def test_an_unknown_lead_is_named_with_those_found(record_path):
    with pytest.raises(FileFormatError, match=r"r1\.hea: no lead 'v9'; found i, II"):
        read_wfdb(record_path, channels=["v9"])


def test_a_missing_annotation_is_one_error(record_path):
    with pytest.raises(FileFormatError, match=r"r1\.atr: no such annotation file"):
        read_wfdb(record_path, annotator="atr")


@pytest.mark.parametrize("content", [b"", b"\x01"])
def test_a_broken_annotation_is_one_error(record_path, content):
    record_path.with_suffix(".ann").write_bytes(content)
    with pytest.raises(FileFormatError, match=r"r1\.ann: "):
        read_wfdb(record_path, annotator="ann")


def test_an_annotation_without_waves_is_one_error(record_path):
    annotate(record_path, [5, 9], "++")
    with pytest.raises(FileFormatError, match=r"r1\.bad: no complete wave"):
        read_wfdb(record_path, annotator="bad")


def test_an_annotation_past_the_signal_is_one_error(record_path):
    annotate(record_path, [90, 95, 130], "(p)")
    with pytest.raises(FileFormatError, match=r"r1\.bad: wave \[90, 130\)"):
        read_wfdb(record_path, annotator="bad")


@pytest.mark.parametrize("options", [{"incomplete": "guess"}, {"sample_rate": 0.0}])
def test_a_bad_option_is_named(record_path, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        read_wfdb(record_path, **options)


@pytest.mark.parametrize(
    ("segments", "peaks", "problem"),
    [
        ([(0, 5, "baseline")], None, "all of them are background"),
        ([(0, 5, "U")], None, "no symbol for label 'U'"),
        ([(0, 5, "P")], [5], "peak 5"),
        ([(0, 5, "P")], [1, 2], "one a wave"),
        ([(4, 6, "P"), (0, 3, "T")], None, "wave 1"),
    ],
)
def test_waves_that_cannot_be_written_leave_nothing(tmp_path, segments, peaks, problem):
    with pytest.raises(SegmentError, match=problem):
        write_wfdb_annotations(tmp_path / "r", segments, "ann", sample_rate=100, peaks=peaks)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "annotator"), [("r", "a.1"), ("r 1", "ann"), ("no/r", "ann")])
def test_names_wfdb_cannot_hold_leave_nothing(tmp_path, name, annotator):
    with pytest.raises(FileFormatError, match="cannot be written"):
        write_wfdb_annotations(tmp_path / name, WAVES, annotator, sample_rate=100)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_wfdb_says_what_to_install(record_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wfdb", None)
    with pytest.raises(UnsupportedError, match=r"pip install torch_semimarkov\[ecg\]"):
        read_wfdb(record_path)


def test_importing_the_room_loads_no_wfdb():
    code = "import sys, json, torch_semimarkov.data; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(run.stdout))
    assert not loaded & {"wfdb", "pandas", "scipy.signal", "matplotlib"}


@pytest.fixture(scope="module")
def ludb(real_data, tmp_path_factory):
    """Folder of the LUDB records, unpacked."""
    archive = real_data("ecg_ludb") / "ludb_data.tar.gz"
    return unpack(archive, tmp_path_factory.mktemp("ludb") / "records") / "data"


def read_lead_two(folder, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return list(read_folder(folder, ReadOptions(("ii",), annotator="ii", **options))), caught


def test_ludb_lead_two_has_the_counts_of_its_readme(ludb):
    records, caught = read_lead_two(ludb)
    counts = collections.Counter(s.label for record in records for s in record.segments)
    assert len(records) == 200
    assert counts == {"QRS": 1817, "T": 1642, "P": 1401, "baseline": 4660}
    medians = {
        label: np.median([s.duration for r in records for s in r.segments if s.label == label])
        for label in counts
    }
    assert medians == {"QRS": 46, "T": 90, "P": 55, "baseline": 57}
    problems = [str(w.message).split("/")[-1] for w in caught if w.category is UserWarning]
    assert problems == [
        "95.ii: 4 incomplete waves are dropped",
        "104.ii: 9 incomplete waves are dropped",
        "111.ii: 1 incomplete waves are dropped",
    ]


def test_ludb_complexes_that_start_at_their_peak_can_be_kept(ludb):
    subset = [path for path in record_paths(ludb) if path.stem in ("95", "104", "111")]
    with pytest.warns(UserWarning, match="bounded by their peaks"):
        records = [read_wfdb(path, ["ii"], "ii", incomplete="peak") for path in subset]
    counts = [sum(s.label == "QRS" for s in record.segments) for record in records]
    assert counts == [9, 9, 8]
    assert records[0].offset == 785 and records[0].segments[0] == (0, 81, "QRS")


@pytest.mark.parametrize(("name", "lead"), [("1", "ii"), ("34", "v6"), ("200", "i")])
@pytest.mark.parametrize("rate", [None, 250.0])
def test_ludb_annotations_survive_a_round_trip(ludb, tmp_path, name, lead, rate):
    for ending in ("hea", "dat", lead):
        shutil.copy(ludb / f"{name}.{ending}", tmp_path)
    path = tmp_path / name
    before = read_wfdb(path, [lead], lead, sample_rate=rate)
    write_wfdb_annotations(
        path, before.segments, "again", sample_rate=before.sample_rate, offset=before.offset
    )
    after = read_wfdb(path, [lead], "again", sample_rate=rate)
    assert after.segments == before.segments and after.offset == before.offset
    assert np.array_equal(after.features, before.features)
