"""The Triton kernels of the scans: in the interpreter on small sizes; compiled without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")
ROOT = Path(__file__).parents[1]

# The interpreter is chosen where kernels are defined, so each way needs a process of its own.
RUN = "import scan_triton_cases as cases, sys; cases.{name}(*sys.argv[1:])"
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")


def run(name, *arguments, interpret):
    paths = [str(ROOT / "src"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-c", RUN.format(name=name), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("op", ["add", "mul", "max", "min", "logaddexp"])
def test_the_associative_kernels_agree_with_the_reference(op):
    assert "calls agree" in run("associative", op, interpret=True)


@pytest.mark.slow
def test_the_linear_kernels_and_their_gradients_agree_with_the_reference():
    assert "calls agree" in run("linear", interpret=True)


@pytest.mark.slow
def test_a_long_float32_sum_holds_to_a_millionth_of_its_magnitudes():
    assert "within 1e-6" in run("long_sum", interpret=True)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_ahead_of_time(target):
    assert "kernels compiled" in run("compile_all", target, interpret=False)


def test_the_tuned_tile_is_the_fastest_and_is_kept_in_the_file():
    assert "tile is kept" in run("tuning", interpret=True)
