"""Every command does what its help says."""

import json
import re

import numpy as np
import pytest
from cli_cases import TINY_FLAGS, call, listing, succeeds
from training_cases import tiny_records, write_npz

from torch_semimarkov import __version__
from torch_semimarkov.cli.group import COMMANDS
from torch_semimarkov.data import read_segments


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("cli") / "data", tiny_records(), sample_rate=100.0)


@pytest.fixture(scope="module")
def model(data):
    folder = data.parent / "model"
    succeeds("train", data, "-o", folder, TINY_FLAGS)
    return folder


@pytest.fixture(scope="module")
def predicted(data, model):
    folder = data.parent / "predicted"
    succeeds("predict", model, data, "-o", folder)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_says_what_a_command_does_and_shows_defaults(command):
    text = succeeds(command, "--help")
    assert text.startswith(f"Usage: torch-semimarkov {command}")
    if command not in ("info", "doctor", "genes"):  # which have no options, or commands below
        assert "[default: " in text
    if command not in ("info", "demo", "doctor"):
        assert f"torch-semimarkov {command} " in text.split("Examples:")[1]


def test_the_group_lists_its_commands_and_its_version():
    text = succeeds("--help")
    assert all(command in text for command in COMMANDS)
    assert __version__ in succeeds("--version")


def test_without_a_command_the_help_is_shown():
    result = call()
    assert result.exit_code == 2
    assert "Usage: torch-semimarkov" in result.output


def test_train_says_what_it_chose_and_writes_the_run(data, tmp_path):
    text = succeeds("train", data, "-o", tmp_path / "m", TINY_FLAGS)
    assert re.search(r"max_duration 5 \(suggested, quantile 0.995 .*; 0 of \d+ training", text)
    assert "6 records to train on, 2 to validate on; labels high, low, rest" in text
    assert re.search(r"epoch 1/1  loss \d", text)
    assert listing(tmp_path / "m") == [
        "checkpoint.pt", "config.json", "log.jsonl", "metrics.json", "model.safetensors",
    ]  # fmt: skip
    metrics = json.loads((tmp_path / "m" / "metrics.json").read_text())
    assert metrics["validation"]["positions"]["accuracy"] is not None
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["sample_rate"] == 100.0
    assert config["training"]["hidden_dim"] == 8


def test_train_counts_the_segments_that_it_splits(data, tmp_path):
    text = succeeds("train", data, "-o", tmp_path / "m", TINY_FLAGS, "--max-duration 2")
    assert re.search(r"max_duration 2 \(given\); [1-9]\d* of \d+ training segments .* split", text)


def test_train_takes_a_config_and_flags_win(data, tmp_path):
    (tmp_path / "run.toml").write_text('epochs = 3\nhead = "argmax"\nhidden_dim = 4\n')
    succeeds("train", data, "-o", tmp_path / "m", "--config", tmp_path / "run.toml", "--epochs 1")
    training = json.loads((tmp_path / "m" / "config.json").read_text())["training"]
    assert (training["epochs"], training["head"], training["hidden_dim"]) == (1, "argmax", 4)


def test_train_and_predict_run_on_an_ar_ssm(data, tmp_path):
    flags = "--encoder ar-ssm --max-rank 6 --gate-mode ste --rank-warmup-steps 2 --causal"
    said = succeeds("train", data, "-o", tmp_path / "m", f"{TINY_FLAGS} {flags}")
    assert "semi-crf on ar-ssm" in said
    architecture = json.loads((tmp_path / "m" / "config.json").read_text())["architecture"]
    options = architecture["encoder_options"]
    assert options["max_rank"] == 6 and options["causal"] and options["gate_mode"] == "ste"
    succeeds("predict", tmp_path / "m", data, "-o", tmp_path / "found")
    assert any((tmp_path / "found").iterdir())


def test_train_takes_validation_data_apart(data, tmp_path):
    other = write_npz(tmp_path / "other", tiny_records(2, seed=5), sample_rate=100.0)
    text = succeeds("train", data, "--validation", other, "-o", tmp_path / "m", TINY_FLAGS)
    assert "8 records to train on, 2 to validate on" in text


def test_train_resumes_and_replaces_only_when_asked(data, tmp_path):
    flags = TINY_FLAGS.replace("--epochs 1", "--epochs 2")
    succeeds("train", data, "-o", tmp_path / "whole", flags)
    succeeds("train", data, "-o", tmp_path / "m", TINY_FLAGS)
    assert "resumed in epoch 2" in succeeds("train", data, "-o", tmp_path / "m", flags, "--resume")
    name = "model.safetensors"
    assert (tmp_path / "m" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    before = (tmp_path / "m" / name).read_bytes()
    succeeds("train", data, "-o", tmp_path / "m", TINY_FLAGS, "--overwrite --seed 7")
    assert (tmp_path / "m" / name).read_bytes() != before


def test_predict_writes_one_table_a_file_and_skips_those_that_are_there(data, model, tmp_path):
    text = succeeds("predict", model, data, "-o", tmp_path / "out")
    assert "8 of 8 files segmented" in text
    files = sorted((tmp_path / "out").iterdir())
    assert [f.name for f in files] == [f"r0-{i}.segments.tsv" for i in range(8)]
    (table,) = read_segments(files[0])
    length = len(np.load(data / "r0-0.npz")["features"])
    assert table.segments[0].start == 0 and table.segments[-1].end == length
    assert table.sample_rate == 100.0
    files[0].write_text("mine")
    files[1].unlink()
    text = succeeds("predict", model, data, "-o", tmp_path / "out")
    assert "1 of 8 files segmented" in text and "7 had results already" in text
    assert files[0].read_text() == "mine"
    succeeds("predict", model, data, "-o", tmp_path / "out", "--overwrite")
    assert files[0].read_text() != "mine"


def test_predict_does_not_depend_on_what_is_decoded_together(data, model, predicted, tmp_path):
    succeeds("predict", model, data, "-o", tmp_path / "one", "--batch-size 1")
    for file in predicted.iterdir():
        assert (tmp_path / "one" / file.name).read_text() == file.read_text()


def test_predict_and_evaluate_decode_by_posterior_when_asked(data, model, tmp_path):
    by = "--decoding posterior"
    succeeds("predict", model, data / "r0-0.npz", "-o", tmp_path, f"{by} --posteriors")
    (table,) = read_segments(tmp_path / "r0-0.segments.tsv")
    with np.load(tmp_path / "r0-0.posteriors.npz", allow_pickle=False) as found:
        best = found["label_names"][found["labels"].argmax(1)]
    assert [s.label for s in table.segments for _ in range(s.duration)] == best.tolist()
    assert "position accuracy" in succeeds("evaluate", data, "--model", model, by)


def test_predict_writes_json_and_posteriors(data, model, tmp_path):
    succeeds("predict", model, data / "r0-0.npz", "-o", tmp_path, "--format json --posteriors")
    (table,) = read_segments(tmp_path / "r0-0.segments.json")
    assert all(0 < score <= 1 for score in table.scores)
    with np.load(tmp_path / "r0-0.posteriors.npz", allow_pickle=False) as found:
        T = table.segments[-1].end
        assert found["labels"].shape == (T, 3) and found["boundaries"].shape == (T,)
        np.testing.assert_allclose(found["labels"].sum(1), 1, atol=1e-5)
        assert found["label_names"].tolist() == ["high", "low", "rest"]


def test_predict_reads_unlabelled_csv(data, model, tmp_path):
    features = np.load(data / "r0-0.npz")["features"]
    rows = "\n".join(",".join(map(str, row)) for row in features)
    (tmp_path / "x.csv").write_text(f"a,b\n{rows}\n")
    succeeds("predict", model, tmp_path / "x.csv", "-o", tmp_path / "out")
    (table,) = read_segments(tmp_path / "out" / "x.segments.tsv")
    assert table.segments[-1].end == len(features)


def test_evaluate_of_a_model_equals_evaluate_of_its_predictions(data, model, predicted, tmp_path):
    flags = "--tolerance 10 --tolerance 30"
    text = succeeds("evaluate", data, predicted, flags, "-o", tmp_path / "a.json")
    assert "position accuracy" in text and "within (ms)" in text
    succeeds("evaluate", data, "--model", model, flags, "-o", tmp_path / "b.json")
    left, right = (json.loads((tmp_path / f"{n}.json").read_text()) for n in "ab")
    assert left == right
    assert left["boundaries"].keys() == {"10", "30"}


def test_evaluate_of_the_truth_is_perfect(data):
    text = succeeds("evaluate", data, data)
    assert re.search(r"position accuracy +1\.000", text)
    assert re.search(r"edit rate +0\.000", text)


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_plot_draws_a_record_with_a_model(data, model, tmp_path, ending):
    picture = tmp_path / f"x.{ending}"
    succeeds("plot", data / "r0-0.npz", "--model", model, "-o", picture, "--from 0.02 --to 0.08")
    assert picture.stat().st_size > 5000


def test_plot_draws_a_record_with_a_table_and_a_run(data, model, predicted, tmp_path):
    table = predicted / "r0-0.segments.tsv"
    succeeds("plot", data / "r0-0.npz", "--segments", table, "-o", tmp_path / "a.png")
    succeeds("plot", model, "-o", tmp_path / "b.png")
    assert listing(tmp_path) == ["a.png", "b.png"]


def test_info_names_versions_and_the_backends(data):
    text = succeeds("info")
    assert re.search(rf"torch_semimarkov +{re.escape(__version__)}", text)
    assert "log_partition" in text and "viterbi" in text and "reference" in text


def test_a_quick_demo_writes_everything(tmp_path):
    text = succeeds("demo", "--quick", "-o", tmp_path / "demo")
    for word in ("semi-CRF", "linear CRF (K = 1)", "argmax", "edit rate", "known", "learned"):
        assert word in text
    files = listing(tmp_path / "demo")
    assert {"sequence.png", "durations.png", "metrics.json", "semi-crf/config.json"} <= set(files)
    assert sum(name.startswith("segments/") for name in files) == 3
    again = succeeds("demo", "--quick", "-o", tmp_path / "demo", "--overwrite")
    assert re.sub(r"\d+\.\d s|\d+ s", "", again) == re.sub(r"\d+\.\d s|\d+ s", "", text)
    succeeds(
        "evaluate", tmp_path / "demo" / "test", tmp_path / "demo" / "segments", "--tolerance 2"
    )
