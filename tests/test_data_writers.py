"""Writers: what they write reads back the same, and a failure leaves nothing half-written."""

import json

import pytest

from torch_semimarkov.data import (
    NamedSegment,
    SegmentTable,
    atomic_write,
    read_segments,
    write_segments_json,
    write_segments_tsv,
)
from torch_semimarkov.data import writers as writers_module
from torch_semimarkov.errors import FileFormatError, SegmentError, ShapeError

SEGMENTS = (NamedSegment(0, 3, "P"), NamedSegment(3, 7, 'a "b", c'), NamedSegment(7, 1003, "Ö"))
TABLES = {
    "plain": SegmentTable("r1", SEGMENTS),
    "timed": SegmentTable("r1", SEGMENTS, sample_rate=360.0),
    "odd rate": SegmentTable("r1", SEGMENTS, sample_rate=128.37),
    "scored": SegmentTable("r1", SEGMENTS, 250.0, (0.25, 1.0, 1 / 3)),
    "one": SegmentTable("a,b", SEGMENTS[:1]),
}
WRITERS = {".tsv": write_segments_tsv, ".json": write_segments_json}


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_table_reads_back_as_it_was_written(tmp_path, table, ending):
    path = tmp_path / f"out{ending}"
    WRITERS[ending](path, table)
    assert read_segments(path) == [table]


@pytest.mark.parametrize("ending", WRITERS)
def test_several_tables_read_back_in_order(tmp_path, ending):
    tables = [
        SegmentTable("b", SEGMENTS, 500.0),
        SegmentTable("a", SEGMENTS[:2]),
        SegmentTable("c", SEGMENTS[:1], None, (0.5,)),
    ]
    WRITERS[ending](tmp_path / f"out{ending}", iter(tables))
    assert read_segments(tmp_path / f"out{ending}") == tables


def test_the_tsv_has_positions_and_seconds(tmp_path):
    write_segments_tsv(tmp_path / "o.tsv", SegmentTable("r", (NamedSegment(0, 125, "P"),), 250.0))
    assert (tmp_path / "o.tsv").read_text() == (
        "name\tstart\tend\tlabel\tstart_time\tend_time\nr\t0\t125\tP\t0.0\t0.5\n"
    )


def test_the_json_of_one_table_is_one_object(tmp_path):
    write_segments_json(tmp_path / "o.json", SegmentTable("r", (NamedSegment(0, 5, "P"),)))
    assert json.loads((tmp_path / "o.json").read_text()) == {
        "name": "r",
        "sample_rate": None,
        "segments": [{"start": 0, "end": 5, "label": "P"}],
    }


BAD_TABLES = {
    "backwards": (SegmentTable("r", (NamedSegment(3, 3, "a"),)), SegmentError),
    "tab": (SegmentTable("r", (NamedSegment(0, 3, "a\tb"),)), SegmentError),
    "no label": (SegmentTable("r", (NamedSegment(0, 3, ""),)), SegmentError),
    "no name": (SegmentTable("", (NamedSegment(0, 3, "a"),)), SegmentError),
    "twice": ([SegmentTable("r", SEGMENTS), SegmentTable("r", SEGMENTS)], SegmentError),
    "scores": (SegmentTable("r", SEGMENTS, None, (1.0,)), ShapeError),
    "nan score": (SegmentTable("r", SEGMENTS[:1], None, (float("nan"),)), ShapeError),
}


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize(("table", "error"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_what_cannot_be_written_leaves_the_old_file(tmp_path, table, error, ending):
    path = tmp_path / f"out{ending}"
    path.write_text("old")
    with pytest.raises(error, match="sequence "):
        WRITERS[ending](path, table)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_failure_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a.txt") as file:
        file.write("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_failure_of_the_writer_itself_leaves_the_old_file(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        args[1].write("half")
        raise OSError("disk full")

    monkeypatch.setattr(writers_module.json, "dump", broken)
    path = tmp_path / "o.json"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        write_segments_json(path, TABLES["plain"])
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_bytes_can_be_written_too(tmp_path):
    with atomic_write(tmp_path / "a.bin", "wb") as file:
        file.write(b"\x00\r\n")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\r\n"


def test_a_missing_folder_is_one_error(tmp_path):
    with pytest.raises(FileFormatError, match=r"gone does not exist"):
        write_segments_tsv(tmp_path / "gone" / "o.tsv", TABLES["plain"])


def test_a_folder_is_not_written_over(tmp_path):
    with pytest.raises(FileFormatError, match="it is a folder"):
        write_segments_json(tmp_path, TABLES["plain"])
