"""The command line as a process: start-up, Ctrl-C, exit codes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_cases import TINY_FLAGS
from training_cases import tiny_records, write_npz

SOURCE = Path(__file__).parents[1] / "src"
COMMAND = [sys.executable, "-m", "torch_semimarkov.cli"]
FLAGS = [*TINY_FLAGS.replace("--epochs 1", "--epochs 40").split(), "--dropout", "0.3"]


def start(*args):
    environment = {
        **os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    return subprocess.Popen(
        [*COMMAND, *map(str, args)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process):
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def interrupt_after_two_epochs(process):
    for line in process.stdout:
        if line.startswith("epoch  2/"):
            break
    process.send_signal(signal.SIGINT)


def test_ctrl_c_leaves_a_checkpoint_that_resumes_to_the_same_model(tmp_path):
    data = write_npz(tmp_path / "data", tiny_records(12))
    whole = start("train", data, "-o", tmp_path / "whole", *FLAGS)
    stopped = start("train", data, "-o", tmp_path / "stopped", *FLAGS)
    interrupt_after_two_epochs(stopped)
    code, _, errors = finish(stopped)
    assert code == 130, errors
    assert "Traceback" not in errors
    assert "checkpoint.pt is written" in errors
    assert sorted(p.name for p in (tmp_path / "stopped").iterdir()) == [
        "checkpoint.pt",
        "log.jsonl",
    ]
    code, output, errors = finish(
        start("train", data, "-o", tmp_path / "stopped", *FLAGS, "--resume")
    )
    assert code == 0, errors
    assert "resumed in epoch" in output
    assert finish(whole)[0] == 0
    models = [tmp_path / name / "model.safetensors" for name in ("whole", "stopped")]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_a_mistake_prints_one_line_and_no_traceback(tmp_path):
    code, output, errors = finish(start("predict", tmp_path / "none", "x", "-o", tmp_path / "out"))
    assert (code, output) == (2, "")
    assert errors == f"error: {tmp_path / 'none'}: no such model folder\n"


def test_help_loads_no_torch():
    modules = "torch_semimarkov.cli.train, torch_semimarkov.cli.demo"
    script = f"import sys, {modules}; print('torch' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout == "False\n"


@pytest.mark.parametrize("command", [[], ["train"]])
def test_help_shows_the_usage_of_what_was_asked_for(command):
    code, output, errors = finish(start(*command, "--help"))
    assert (code, errors) == (0, "")
    assert output.startswith(f"Usage: {' '.join(['torch-semimarkov', *command])} [OPTIONS]")
