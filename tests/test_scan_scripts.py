"""The demo and the benchmark of the scans run, and say what they show."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")
ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_the_demo_shows_all_its_parts():
    done = run("examples/fused_scan_demo.py")
    assert done.returncode == 0, done.stderr
    for part in ("basic", "reverse", "performance", "ar_ssm", "cpu_fallback"):
        assert f"\n{part}: " in done.stdout
    assert "[3.0, 4.0, 8.0, 9.0, 14.0]" in done.stdout
    assert "to the bit: True" in done.stdout


def test_the_benchmark_writes_a_row_for_each_dimension_and_direction(tmp_path):
    path, picture = tmp_path / "rows.json", tmp_path / "rows.svg"
    arguments = ["--quick", "--repeats", "2", "--threads", "1", "--memory", "new"]
    arguments += ["--json", path, "--plot", picture]
    done = run("scripts/benchmark_fused_scan.py", *arguments)
    assert done.returncode == 0, done.stderr
    document = json.loads(path.read_text())
    found = {(row["dim"], row["direction"]) for row in document["rows"]}
    assert found == {(dim, way) for dim in (1, 2) for way in ("forward", "reverse", "backward")}
    assert all(row["ours_ms"] > 0 and row["torch_ms"] > 0 for row in document["rows"])
    assert document["machine"]["threads"] == 1
    assert document["machine"]["memory"] == "new"
    assert picture.stat().st_size > 0


@pytest.mark.parametrize(
    "arguments", [["--repeats", "0"], ["--device", "tpu"], ["--memory", "old"]]
)
def test_the_benchmark_refuses_a_bad_argument_in_one_line(arguments):
    done = run("scripts/benchmark_fused_scan.py", *arguments)
    assert done.returncode == 2
    assert "error:" in done.stderr.splitlines()[-1]
