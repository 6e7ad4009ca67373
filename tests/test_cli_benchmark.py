"""``torch-semimarkov benchmark``: compared, timed in turns, and printed."""

import csv

import pytest
import torch
from cli_cases import fails, succeeds

from torch_semimarkov.cli import run_benchmark as bench

SMALL = ("--size", "2,12,4,3", "--repeats", "2")


def test_the_table_shows_every_backend_that_runs_and_why_others_do_not(tmp_path):
    path = tmp_path / "rows.csv"
    text = succeeds("benchmark", *SMALL, "-o", path)
    with open(path, encoding="utf-8", newline="") as file:
        rows = {(row["backend"], row["phase"]): row for row in csv.DictReader(file)}
    for phase in bench.PHASES:
        for backend in ("cpu", "reference"):
            row = rows[backend, phase]
            assert (row["status"], row["repeats"]) == ("ok", "2") and float(row["median_ms"]) > 0
        assert float(rows["reference", phase]["times"]) == 1.0
    if not torch.cuda.is_available():
        assert rows["triton", "both"]["status"] == "unavailable" and "triton: " in text
    assert text.count(" cpu ") >= 2 and "median ms" in text


def test_a_backend_that_is_off_gets_no_time(monkeypatch):
    right = bench.call_of

    def spoilt(terms, backend, phase):
        run = right(terms, backend, phase)
        return (lambda: [1.01 * x for x in run()]) if backend == "cpu" else run

    monkeypatch.setattr(bench, "call_of", spoilt)
    found = bench.measure(bench.Size(1, 8, 3, 2), "both", torch.device("cpu"), 1)
    rows = {row["backend"]: row for row in found}
    assert rows["cpu"]["status"] == "wrong" and "median_ms" not in rows["cpu"]
    assert rows["reference"]["status"] == "ok"


def test_the_rows_name_the_device_that_was_measured(tmp_path, monkeypatch):
    row = {"backend": "triton", "phase": "both", "status": "ok", "reason": "", "median_ms": 1.0}
    monkeypatch.setattr(bench, "checked_device", torch.device)
    monkeypatch.setattr(bench, "measure", lambda *_: [row])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: f"card {place.index}")
    text = succeeds("benchmark --size 1,2,3,1 --device cuda:3 -o", tmp_path / "rows.csv")
    with open(tmp_path / "rows.csv", encoding="utf-8", newline="") as file:
        assert {row["device"] for row in csv.DictReader(file)} == {"card 3"}
    assert "on cuda:3 (card 3)" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("--size", "1,2,3"),
        ("--size", "1,2,3,0"),
        ("--device", "tpu"),
        ("--device", "meta"),
        ("--device", "cuda:99"),
        ("--repeats", "0"),
        ("-o", "no_such_folder/rows.csv"),
        ("-o", "."),
    ],
)
def test_a_mistake_ends_with_one_line_before_anything_is_measured(arguments, monkeypatch):
    monkeypatch.setattr(bench, "measure", None)
    fails("benchmark", *arguments)
