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
    options = ["--epochs", "2", "--hidden", "4", "--max-duration", "8"]
    command = ["x", "--data", "none", "--output", str(tmp_path), *options]
    monkeypatch.setattr("sys.argv", command)
    bench.main()
    tables = json.loads((tmp_path / "tables.json").read_text(encoding="utf-8"))
    assert [row["labelled %"] for row in tables["labelled"]] == [100, 30, 10]
    assert [row["scaling"] for row in tables["calibration"]] == ["before", "after"] * 2
    assert [row["level"] for row in tables["coverage"]] == list(bench.LEVELS)
    none, _, least = tables["review"]
    assert least["accuracy with the person %"] >= none["accuracy with the person %"]
    for name in ("reliability_label", "reliability_boundary", "coverage", "selective"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    assert "least certain" in capsys.readouterr().out


def test_what_is_not_known_may_be_any_label():
    record = made_up(0)
    known = np.arange(record.length) % 2 == 0
    _, lengths, allowed = bench.batch_of([record], [known])
    counts = allowed[0].sum(-1).numpy()
    assert int(lengths[0]) == record.length
    np.testing.assert_array_equal(counts, np.where(known, 1, len(bench.LABELS)))
    assert allowed[0, np.arange(record.length), bench.labels_of(record)].all()
