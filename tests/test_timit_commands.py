"""The commands of the speech recipe: a comparison of models, what it writes, and mistakes."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from timit_cases import REASON, compared, job_of, made_data, write_timit

from torch_semimarkov.errors import ConfigError
from torch_semimarkov.training import load_model

phone_compare = pytest.importorskip("phone_compare")
phone_models = pytest.importorskip("phone_models")
timit_phoneme = pytest.importorskip("timit_phoneme")


def untimed(rows):
    """The rows without what the clock has a say in."""
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


def test_a_comparison_writes_all_files_and_trains_nothing_twice(tmp_path):
    pytest.importorskip("torchcrf")
    pytest.importorskip("matplotlib")
    job = job_of(made_data(tmp_path / "data"), tmp_path, epochs=2, max_duration=8)
    files = {
        "output_json": tmp_path / "all.json", "plot_dir": tmp_path / "plots",
        "export_duration": tmp_path / "durations.json",
    }  # fmt: skip
    rows, lines = compared(job, tmp_path / "runs", **files)
    assert [(row["model"], row["seed"]) for row in rows] == [
        (model, seed) for seed in (0, 1) for model in phone_models.MODELS
    ]
    content = json.loads(files["output_json"].read_text())
    assert content["runs"] == rows and [r["seeds"] for r in content["summary"]] == [2, 2, 2]
    durations = json.loads(files["export_duration"].read_text())["models"]
    assert "expected" in durations["semicrf"] and "expected" not in durations["linear"]
    pictures = {path.name for path in files["plot_dir"].iterdir()}
    assert pictures == {"scores.png", "utterance.png", "durations-semicrf.png"}
    assert sum(line.startswith("training ") for line in lines) == 6
    again, lines = compared(job, tmp_path / "runs")
    assert untimed(again) == untimed(rows)
    assert not any(line.startswith("training ") for line in lines)
    other = job_of(tmp_path / "data", tmp_path, epochs=2, max_duration=8, hidden_dim=4)
    with pytest.raises(ConfigError, match="hidden_dim was 8, is 4; choose another --runs-dir"):
        compared(other, tmp_path / "runs")


def test_a_stopped_comparison_goes_on_to_the_same_table(tmp_path, monkeypatch):
    job = job_of(made_data(tmp_path / "data"), tmp_path, log_every=1)
    models = ("semicrf", "linear")
    whole, _ = compared(job, tmp_path / "whole", seeds=(0,), models=models)
    comparison = phone_compare.Comparison(job, models, (0,), tmp_path / "runs")
    seen = []

    def stop(line):
        seen.append(line)
        if line.startswith("epoch 2, batch 1") and "training linear-seed0" in seen:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="stopped in epoch 2"):
        phone_compare.compare(comparison, stop)
    rows, lines = compared(job, tmp_path / "runs", seeds=(0,), models=models)
    assert "resumed in epoch 2, after 2 batches" in lines
    assert [line for line in lines if line.startswith("training ")] == ["training linear-seed0"]
    assert untimed(rows) == untimed(whole)


# Commands


def run(capsys, *arguments):
    """Exit code, output and errors of a command."""
    with pytest.raises(SystemExit) as stop:
        timit_phoneme.cli.main([str(argument) for argument in arguments])
    return stop.value.code, *capsys.readouterr()


def test_the_commands_lead_from_timit_to_a_table(tmp_path, capsys, monkeypatch):
    for name in ("soundfile", "librosa"):
        pytest.importorskip(name, reason=REASON)
    source, data = write_timit(tmp_path / "timit"), tmp_path / "data"
    code, out, err = run(
        capsys, "preprocess", "--timit-dir", source, "--output-dir", data, "--feature-type", "mfcc",
        "--n-mfcc", 5, "--n-mels", 20,
    )  # fmt: skip
    assert code == 0 and "12 records" in out, err
    tiny = ["--data-dir", data, "--hidden-dim", 8, "--num-layers", 1, "--epochs", 2, "--threads", 1]
    code, out, err = run(
        capsys, "train", *tiny, "--model", "semicrf", "--max-duration", 12, "--backend",
        "reference", "--no-triton", "--crf-reg", 0.01, "--fixed-length", 20, "--log-every", 1,
        "--batch-size", 4,
        "--lr", 0.01,
    )  # fmt: skip
    assert code == 0 and "epoch 1, batch 1: loss" in out and "best epoch" in out, err
    assert load_model(data / "runs" / "semicrf-seed0").model.max_duration == 12
    code, out, err = run(
        capsys, "compare", *tiny, "--models", "linear", "--seeds", 0, "--output-json",
        tmp_path / "t.json",
    )  # fmt: skip
    assert code == 0 and "PER %" in out, err
    row = json.loads((tmp_path / "t.json").read_text())["runs"][0]
    assert row["test_records"] == 3 and 0 <= row["phone_error_rate"] < 2


def test_a_mistake_ends_with_one_line_and_code_2(tmp_path, capsys):
    code, _, err = run(capsys, "train", "--data-dir", tmp_path, "--model", "linear")
    assert code == 2 and err.count("\n") == 1 and "manifest.json: missing: run preprocess" in err
    made_data(tmp_path / "data")
    code, _, err = run(
        capsys, "train", "--data-dir", tmp_path / "data", "--model", "linear", "--max-duration", 5
    )
    assert code == 2 and "--max-duration has no effect on linear" in err
    code, _, err = run(capsys, "train", "--data-dir", tmp_path, "--model", "hmm")
    assert code == 2 and "hmm" in err
    code, _, err = run(
        capsys, "compare", "--data-dir", tmp_path / "data", "--output-json", tmp_path / "no" / "a"
    )
    assert code == 2 and "cannot be written" in err


def test_help_needs_no_library_of_the_extra():
    folder = Path(timit_phoneme.__file__)
    hide = "import sys; sys.modules.update(soundfile=None, librosa=None, praatio=None)\n"
    code = f"{hide}sys.argv = ['x', 'preprocess', '--help']\n"
    code += f"sys.path.insert(0, {str(folder.parent)!r})\n"
    code += f"exec(compile(open({str(folder)!r}).read(), 'x', 'exec'), {{'__name__': '__main__'}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "--feature-type" in done.stdout, done.stderr


def test_without_the_extra_preprocess_says_what_to_install(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.wav").write_bytes(b"")
    (tmp_path / "a.phn").write_text("0 1 s")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    code, _, err = run(
        capsys, "preprocess", "--timit-dir", tmp_path, "--output-dir", tmp_path / "out"
    )
    assert code == 2 and "pip install torch_semimarkov[speech]" in err
