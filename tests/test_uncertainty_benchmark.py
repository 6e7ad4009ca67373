"""The benchmark of uncertainty on ECG, on made-up records: its tables and pictures."""

import json

import numpy as np
import pytest

pytest.importorskip("matplotlib")
import uncertainty_on_ecg as bench

from torch_semimarkov.data import Record

BEAT = (("P", 5), ("baseline", 4), ("QRS", 4), ("T", 7), ("baseline", 6))


def made_up(number):
    rng, rows, segments, at = np.random.default_rng(number), [], [], 0
    for label, length in BEAT * 2:
        level = 2.0 * bench.LABELS.index(label)
        rows.append(level + rng.normal(size=(length, 4)))
        segments.append((at, at + length, label))
        at += length
    return Record(f"made {number}", np.concatenate(rows), segments, 125.0)


def test_the_command_writes_every_table_and_picture(tmp_path, monkeypatch, capsys):
    records = [made_up(number) for number in range(12)]
    monkeypatch.setattr(bench, "read_records", lambda _: (records[:8], records[8:10], records[10:]))
    page = tmp_path / "page.md"
    (tmp_path / "images").mkdir()
    marks = "<!-- {}, from the command -->\n<!-- end -->\n"
    page.write_text("".join(map(marks.format, ("labelled", "calibration", "review", "coverage"))))
    options = ["--epochs", "2", "--hidden", "4", "--max-duration", "8", "--page", str(page)]
    command = ["x", "--data", "none", "--output", str(tmp_path), *options]
    monkeypatch.setattr("sys.argv", command)
    bench.main()
    tables = json.loads((tmp_path / "tables.json").read_text(encoding="utf-8"))
    assert [row["labelled %"] for row in tables["labelled"]] == [100, 30, 10]
    scalings = ["none", "posterior", "all potentials", "scores"]
    assert [row["temperature on"] for row in tables["calibration"]] == scalings * 3
    assert [row["level"] for row in tables["coverage"]] == list(bench.LEVELS)
    none, _, least = tables["review"]
    assert least["accuracy with the person %"] >= none["accuracy with the person %"]
    for name in ("reliability_label", "reliability_near", "coverage", "selective"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    assert "least certain" in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert "| near | scores |" in text and "| 30 |" in text
    assert len(list((tmp_path / "images").glob("uncertainty_*.png"))) == 5


def test_a_page_without_the_marks_is_refused(tmp_path):
    (tmp_path / "page.md").write_text("nothing")
    with pytest.raises(SystemExit, match="marks of the table labelled"):
        bench.written({"labelled": [{"a": 1}]}, tmp_path / "page.md", [])


def test_a_near_boundary_is_within_two_positions_and_never_at_the_first():
    true = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1])
    one = bench.Found(np.eye(2)[true], np.zeros(8), np.zeros(8), true)
    found = bench.together([one])
    assert np.flatnonzero(found["boundary"][1]).tolist() == [3]
    assert np.flatnonzero(found["near"][1]).tolist() == [1, 2, 3, 4, 5]


def test_what_is_not_known_may_be_any_label():
    record = made_up(0)
    known = np.arange(record.length) % 2 == 0
    _, lengths, allowed = bench.batch_of([record], [known])
    counts = allowed[0].sum(-1).numpy()
    assert int(lengths[0]) == record.length
    np.testing.assert_array_equal(counts, np.where(known, 1, len(bench.LABELS)))
    assert allowed[0, np.arange(record.length), bench.labels_of(record)].all()
