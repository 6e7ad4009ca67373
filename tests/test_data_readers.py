"""Readers of NPZ, CSV, TSV and folders: what they read, and one clear error for the rest."""

import io
import tarfile

import numpy as np
import pytest

from torch_semimarkov.data import (
    ReadOptions,
    read_any,
    read_folder,
    read_npz,
    read_segments,
    read_table,
    record_paths,
    unpack,
)
from torch_semimarkov.errors import FileFormatError

GOOD_CSV = "x,y,label\n1,2,a\n3,4,a\n5,6,b\n"


def written(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def npz(folder, name="r.npz", **arrays):
    path = folder / name
    np.savez(path, **arrays)
    return path


def test_a_csv_gives_features_and_segments(tmp_path):
    record = read_table(written(tmp_path, "r.csv", GOOD_CSV), sample_rate=10.0)
    assert record.name == "r" and record.channels == ("x", "y") and record.sample_rate == 10.0
    assert record.features.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert record.segments == ((0, 2, "a"), (2, 3, "b"))


def test_a_tsv_without_labels_is_unlabelled(tmp_path):
    record = read_table(written(tmp_path, "r.tsv", "\ufeffx\ty\r\n1\t2\r\n\r\n"))
    assert record.segments is None and record.features.tolist() == [[1, 2]]


def test_columns_are_read_in_the_order_asked_for(tmp_path):
    path = written(tmp_path, "r.csv", "x,note,y,tag\n1,hm,2,a\n")
    record = read_table(path, columns=("y", "x"), label_column="tag")
    assert record.features.tolist() == [[2, 1]] and record.segments == ((0, 1, "a"),)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.segments.tsv", "start\tend\tlabel\n0\t2\ta\n2\t3\tb\n"),
        ("r.segments.csv", "name,start,end,label\nr,0,2,a\nr,2,3,b\nother,0,9,c\n"),
        (
            "r.segments.json",
            '{"name": "r", "segments": [{"start": 0, "end": 2, "label": "a"},'
            ' {"start": 2, "end": 3, "label": "b"}]}',
        ),
    ],
)
def test_a_table_beside_the_file_labels_it(tmp_path, name, text):
    written(tmp_path, name, text)
    record = read_table(written(tmp_path, "r.csv", "x\n1\n2\n3\n"))
    assert record.segments == ((0, 2, "a"), (2, 3, "b"))


BAD_TABLES = {
    "empty file": ("", None, "empty"),
    "blank file": ("\n\n", None, "empty"),
    "header only": ("x,label\n", 2, "no row"),
    "no header": ("1,2\n3,4\n", 1, "no header"),
    "doubled column": ("x,x\n1,2\n", 1, "once"),
    "nameless column": ("x,\n1,2\n", 1, "once"),
    "ragged row": ("x,y\n1,2\n3\n", 3, "expected 2 cells"),
    "row too wide": ("x,y\n1,2\n3,4,5\n", 3, "expected 2 cells"),
    "not a number": ("x,y\n1,2\n3,oops\n", 3, "column 'y' must be a number, got 'oops'"),
    "missing cell": ("x,y\n1,\n", 2, "column 'y' must be a number, got ''"),
    "nan": ("x\n1\nnan\n", 3, "finite"),
    "too large": ("x\n1\n1e60\n", 3, "finite in float32"),
    "underscore": ("x\n1_0\n", 2, "must be a number"),
    "blank line": ("x\n1\n\n2\n", 3, "blank line"),
    "empty label": ("x,label\n1,a\n2,\n", 3, "empty label"),
    "only labels": ("label\na\n", 1, "no feature column"),
    "open quote": ('x\n1\n"2\n', 3, "broken row"),
}


@pytest.mark.parametrize(("text", "line", "problem"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_broken_table_is_one_error_with_file_and_line(tmp_path, text, line, problem):
    path = written(tmp_path, "r.csv", text)
    with pytest.raises(FileFormatError, match=problem) as caught:
        read_table(path)
    assert caught.value.line == line
    assert str(caught.value).startswith(f"{path}:{line}: " if line else f"{path}: ")


def test_a_missing_column_is_named_with_those_found(tmp_path):
    path = written(tmp_path, "r.csv", GOOD_CSV)
    with pytest.raises(
        FileFormatError, match=r"r\.csv:1: no column z; found \['x', 'y', 'label'\]"
    ):
        read_table(path, columns=["x", "z"])


def test_a_file_labelled_twice_is_refused(tmp_path):
    written(tmp_path, "r.segments.tsv", "start\tend\tlabel\n0\t3\ta\n")
    with pytest.raises(FileFormatError, match="labelled twice"):
        read_table(written(tmp_path, "r.csv", GOOD_CSV))


def test_a_table_that_does_not_tile_names_its_file(tmp_path):
    written(tmp_path, "r.segments.tsv", "start\tend\tlabel\n0\t1\ta\n2\t3\tb\n")
    path = written(tmp_path, "r.csv", "x\n1\n2\n3\n")
    with pytest.raises(FileFormatError, match=r"r\.segments\.tsv: record 'r', segment 1.*gap"):
        read_table(path)


BAD_SEGMENTS = {
    "missing column": ("r.tsv", "start\tend\n0\t1\n", 1, "no column label"),
    "empty": ("r.tsv", "", None, "empty"),
    "fraction": ("r.tsv", "start\tend\tlabel\n0\t1.5\ta\n", 2, "end must be an integer"),
    "backwards": ("r.csv", "start,end,label\n0,1,a\n3,2,b\n", 3, "start < end"),
    "no label": ("r.csv", "start,end,label\n0,1,\n", 2, "label"),
    "bad score": ("r.csv", "start,end,label,score\n0,1,a,high\n", 2, "score"),
    "bad time": ("r.csv", "start,end,label,end_time\n0,1,a,0\n", 2, "end_time"),
    "not json": ("r.json", '{"name": "r",\n oops}', 2, "not JSON"),
    "empty json": ("r.json", "", 1, "not JSON"),
    "other json": ("r.json", '{"name": "r"}', None, "segments"),
    "missing key": ("r.json", '{"segments": [{"start": 0, "end": 1}]}', None, "segment 0: no key"),
    "bad rate": ("r.json", '{"sample_rate": "x", "segments": []}', None, "sample_rate"),
}


@pytest.mark.parametrize(
    ("name", "text", "line", "problem"), BAD_SEGMENTS.values(), ids=BAD_SEGMENTS
)
def test_a_broken_table_of_segments_is_one_error(tmp_path, name, text, line, problem):
    path = written(tmp_path, name, text)
    with pytest.raises(FileFormatError, match=problem) as caught:
        read_segments(path)
    assert caught.value.line == line and str(caught.value).startswith(str(path))


def test_text_that_is_not_utf8_is_an_error(tmp_path):
    path = tmp_path / "r.csv"
    path.write_bytes(b"x\n\xff\xfe\n")
    with pytest.raises(FileFormatError, match="UTF-8"):
        read_table(path)


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (np.array([1, 1, 0]), None, ((0, 2, "1"), (2, 3, "0"))),
        (np.array([1, 1, 0]), np.array(["lo", "hi"]), ((0, 2, "hi"), (2, 3, "lo"))),
        (np.array(["u", "v", "v"]), None, ((0, 1, "u"), (1, 3, "v"))),
        (np.array([b"u", b"v", b"v"]), None, ((0, 1, "u"), (1, 3, "v"))),
    ],
)
def test_an_npz_gives_segments_of_its_labels(tmp_path, labels, names, expected):
    extra = {} if names is None else {"label_names": names}
    record = read_npz(npz(tmp_path, features=np.ones((3, 2)), labels=labels, **extra))
    assert record.segments == expected


def test_an_npz_gives_its_table_rate_and_channels(tmp_path):
    path = npz(
        tmp_path,
        features=np.ones((3, 1)),
        segments=np.array([["0", "1", "a"], ["1", "3", "b"]]),
        sample_rate=np.array(250.0),
        channels=np.array(["ii"]),
    )
    record = read_npz(path, sample_rate=1.0)
    assert record.segments == ((0, 1, "a"), (1, 3, "b"))
    assert record.sample_rate == 250.0 and record.channels == ("ii",)


F = np.ones((3, 1))
BAD_NPZ = {
    "no features": ({"x": F}, "no array 'features'"),
    "flat features": ({"features": np.ones(3)}, r"features must be \(T, D\)"),
    "empty features": ({"features": np.ones((0, 2))}, "T >= 1"),
    "text features": ({"features": np.array([["a"]])}, "real numbers"),
    "nan": ({"features": F * np.nan}, "finite"),
    "short labels": ({"features": F, "labels": np.array([1, 2])}, r"labels must be \(T,\)"),
    "fractional labels": ({"features": F, "labels": np.array([0.5, 1, 1])}, "labels must be"),
    "infinite labels": ({"features": F, "labels": np.array([0, np.inf, 1])}, "integers, got inf"),
    "labels that are no number": (
        {"features": F, "labels": np.array([0, np.nan, 1])},
        "integers, got nan",
    ),
    "negative labels": (
        {"features": F, "labels": np.array([0, -1, 1])},
        "must be >= 0, got -1; .* cut them out",
    ),
    "infinite positions": (
        {"features": F, "segments": np.array([[0, np.inf, 1]])},
        "integer positions, got inf",
    ),
    "label without name": (
        {"features": F, "labels": np.array([0, 1, 5]), "label_names": np.array(["a", "b"])},
        r"labels must be in 0\.\.1",
    ),
    "both": ({"features": F, "labels": np.ones(3), "segments": np.ones((1, 3))}, "labelled twice"),
    "narrow table": ({"features": F, "segments": np.ones((1, 2))}, r"segments must be \(N, 3\)"),
    "fractional table": ({"features": F, "segments": np.array([[0, 1.5, 0]])}, "integer positions"),
    "gap": ({"features": F, "segments": np.array([[0, 1, 0]])}, "segments end at 1"),
    "bad rate": ({"features": F, "sample_rate": np.array(-1.0)}, "sample_rate"),
    "two rates": ({"features": F, "sample_rate": np.ones(2)}, "reshape"),
}


@pytest.mark.parametrize(("arrays", "problem"), BAD_NPZ.values(), ids=BAD_NPZ)
def test_a_broken_npz_is_one_error_naming_the_file(tmp_path, arrays, problem):
    path = npz(tmp_path, **arrays)
    with pytest.raises(FileFormatError, match=problem) as caught:
        read_npz(path)
    assert str(caught.value).startswith(str(path))


def test_pickled_objects_are_never_loaded(tmp_path):
    path = npz(tmp_path, features=np.array([[{}]], dtype=object))
    with pytest.raises(FileFormatError, match="plain arrays"):
        read_npz(path)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut"])
def test_a_damaged_npz_is_one_error(tmp_path, content):
    path = tmp_path / "r.npz"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"r\.npz"):
        read_npz(path)


def test_a_truncated_npz_is_one_error(tmp_path):
    path = npz(tmp_path, features=np.random.default_rng(0).normal(size=(100, 3)))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(FileFormatError, match=r"r\.npz"):
        read_npz(path)


@pytest.mark.parametrize("name", ["gone.npz", "gone.csv", "gone.hea", "gone.xyz", "gone"])
def test_a_missing_file_is_one_error_whatever_its_ending(tmp_path, name):
    with pytest.raises(FileFormatError, match="gone"):
        read_any(tmp_path / name)


def test_a_folder_is_read_by_name_one_record_at_a_time(tmp_path):
    written(tmp_path, "10.csv", "x\n1\n2\n")
    written(tmp_path, "9.csv", "x\nbroken\n")
    written(tmp_path, "2.csv", "x\n1\n")
    written(tmp_path, "2.segments.tsv", "start\tend\tlabel\n0\t1\ta\n")
    written(tmp_path, "notes.txt", "x")
    npz(tmp_path, "1.npz", features=F)
    assert [path.name for path in record_paths(tmp_path)] == ["1.npz", "2.csv", "9.csv", "10.csv"]
    records = read_folder(tmp_path, ReadOptions(sample_rate=2.0))
    assert [next(records).name, next(records).segments] == ["1", ((0, 1, "a"),)]
    with pytest.raises(FileFormatError, match=r"9\.csv:2"):
        next(records)


def test_a_folder_of_one_file_may_be_that_file(tmp_path):
    path = written(tmp_path, "r.csv", GOOD_CSV)
    assert [record.name for record in read_folder(path)] == ["r"]


def test_a_folder_with_nothing_readable_is_an_error_at_once(tmp_path):
    with pytest.raises(FileFormatError, match="no readable file"):
        read_folder(tmp_path)
    with pytest.raises(FileFormatError, match="no such file or folder"):
        read_folder(tmp_path / "gone")


def archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_an_archive_is_unpacked_once(tmp_path):
    source = archive(tmp_path / "a.tar.gz", {"data/1.hea": b"one"})
    folder = unpack(source, tmp_path / "cache" / "a")
    assert (folder / "data" / "1.hea").read_bytes() == b"one"
    source.unlink()
    assert unpack(source, folder) == folder


BAD_ARCHIVES = {
    "leads out": lambda path: archive(path, {"ok": b"x", "../evil": b"x"}),
    "truncated": lambda path: path.write_bytes(
        archive(path, {"ok": bytes(range(256)) * 400}).read_bytes()[:-60]
    ),
    "no archive": lambda path: path.write_bytes(b"nonsense"),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: None,
}


@pytest.mark.parametrize("make", BAD_ARCHIVES.values(), ids=BAD_ARCHIVES)
def test_a_bad_archive_leaves_nothing_behind(tmp_path, make):
    make(tmp_path / "a.tar.gz")
    with pytest.raises(FileFormatError, match=r"a\.tar\.gz"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out" / "folder")
    left = [p.name for p in tmp_path.rglob("*") if p.name not in ("a.tar.gz", "out")]
    assert left == []
