"""The command line on WFDB records: annotated spans, other sample rates, annotations out."""

import json
import re

import numpy as np
import pytest
from cli_cases import TINY_FLAGS, fails, listing, succeeds

from torch_semimarkov.data import read_segments, read_wfdb, write_wfdb_annotations

pytest.importorskip("wfdb")
RATE, LENGTH = 100, 200


def write_record(folder, name, seed):
    """A record whose waves span positions 20 to 180, annotated as "ref"."""
    import warnings

    import wfdb

    generator = np.random.default_rng(seed)
    signal = generator.normal(0, 0.05, LENGTH)
    waves = []
    for start in range(20, 170, 40):
        waves += [
            (start, start + 8, "P"),
            (start + 12, start + 20, "QRS"),
            (start + 26, start + 38, "T"),
        ]
    for start, end, label in waves:
        signal[start:end] += {"P": 0.5, "QRS": 2.0, "T": 1.0}[label]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wfdb.wrsamp(
            name, fs=RATE, units=["mV"], sig_name=["ii"], p_signal=signal[:, None],
            fmt=["16"], write_dir=str(folder),
        )  # fmt: skip
    write_wfdb_annotations(folder / name, waves, "ref", sample_rate=RATE)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wfdb") / "data"
    folder.mkdir()
    for i in range(6):
        write_record(folder, f"rec{i}", i)
    return folder


@pytest.fixture(scope="module")
def model(data):
    flags = TINY_FLAGS.replace("--epochs 1", "--epochs 15")
    folder = data.parent / "model"
    text = succeeds("train", data, "-o", folder, flags, "--annotator ref --lr 0.02")
    assert "labels P, QRS, T, baseline" in text
    return folder


def test_a_model_is_judged_on_the_annotated_span(data, model, tmp_path):
    succeeds("predict", model, data, "-o", tmp_path / "out")
    (table,) = read_segments(tmp_path / "out" / "rec0.segments.tsv")
    assert table.segments[-1].end == LENGTH
    text = succeeds(
        "evaluate", data, tmp_path / "out", "--annotator ref --tolerance 150 --tolerance 20",
        "-o", tmp_path / "m.json",
    )  # fmt: skip
    assert re.search("QRS +onset +150", text)
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["unit"] == "ms"
    assert metrics["positions"]["accuracy"] > 0.8
    assert "QRS" in succeeds("evaluate", data, "--model", model)


def test_predict_writes_annotations_that_read_back(data, model, tmp_path):
    succeeds("predict", model, data / "rec0.hea", "-o", tmp_path, "--format wfdb")
    assert listing(tmp_path) == ["rec0.pred"]
    for ending in ("hea", "dat"):
        (tmp_path / f"rec0.{ending}").write_bytes((data / f"rec0.{ending}").read_bytes())
    assert {s.label for s in read_wfdb(tmp_path / "rec0", annotator="pred").segments} > {"QRS"}


def test_a_model_of_another_sample_rate_resamples_the_records(data, tmp_path):
    flags = "--annotator ref --sample-rate 50 --channels ii"
    succeeds("train", data, "-o", tmp_path / "m", TINY_FLAGS, flags)
    succeeds("predict", tmp_path / "m", data, "-o", tmp_path / "out")
    (table,) = read_segments(tmp_path / "out" / "rec0.segments.tsv")
    assert (table.sample_rate, table.segments[-1].end) == (50.0, LENGTH // 2)
    line = fails("evaluate", data, tmp_path / "out", "--annotator ref")
    assert "100 positions a second" in line and "give --sample-rate" in line
    succeeds("evaluate", data, tmp_path / "out", "--annotator ref --sample-rate 50")


def test_mistakes_in_records_are_named(data, model, tmp_path):
    assert "are not labelled" in fails("train", data, "-o", tmp_path / "m")
    assert "no such annotation" in fails("train", data, "-o", tmp_path / "m", "--annotator atr")
    line = fails("train", data, "-o", tmp_path / "m", "--annotator ref --channels v9")
    assert "no lead 'v9'" in line
    (tmp_path / "x.dat").write_bytes(b"1234")
    assert "x.hea" in fails("predict", model, tmp_path / "x.dat", "-o", tmp_path / "out")
    assert listing(tmp_path) == ["x.dat"]


def test_plot_draws_an_annotated_record(data, model, tmp_path):
    record = data / "rec0.hea"
    succeeds("plot", record, "--model", model, "-o", tmp_path / "a.png", "--from 0.1 --to 1")
    succeeds("predict", model, record, "-o", tmp_path / "out")
    table = tmp_path / "out" / "rec0.segments.tsv"
    succeeds("plot", record, "--annotator ref --segments", table, "-o", tmp_path / "b.png")
    first, second = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first.startswith(b"\x89PNG") and second.startswith(b"\x89PNG")
    # the whole record is in the second, and no posterior
    assert first != second
