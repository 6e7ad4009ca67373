"""The benchmark of time and memory: what is measured, what becomes a row, what is refused."""

import csv
import dataclasses
import doctest
import importlib
import json
import os
import sys

import benchmark_memory_analysis as bench
import pytest
import torch
from memory_analysis import compiling, memory, output, recurrences, runner, ways
from memory_analysis.judge import Oracle
from memory_analysis.memory import Task
from memory_analysis.plan import (
    KC_BUCKETS,
    T_BUCKETS,
    Config,
    Shape,
    at_shape,
    canonical_shape,
    sample_by_shape,
    sizes_of,
)
from memory_analysis.runner import Runner, Settings
from truth import Truth
from workload import Size, draw

SIZE = Size(2, 12, 4, 3)
TWO = ("linear_scan_streaming", "cpu")
PHASES = ("forward", "backward", "both")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the resident set from /proc")
CLEAN = Settings(TWO, PHASES, repeats=2)


@pytest.fixture
def no_processes(monkeypatch):
    """Nothing is said of memory, as where the system does not tell."""
    monkeypatch.setattr(memory, "in_a_new_process", lambda task: {})


def rows_of(settings, config):
    return Runner(settings).measure(config)


@pytest.mark.parametrize("module", ["memory_analysis.plan", "benchmark_analysis.drawing"])
def test_the_examples_hold(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted and not result.failed


# The oracle


@pytest.mark.parametrize("size", [SIZE, Size(2, 9, 12, 4), Size(3, 8, 1, 2), Size(1, 1, 2, 3)])
def test_the_oracle_agrees_with_the_reference_and_shares_no_code_with_it(size):
    workload = draw(size)
    known, found = Truth(workload), Oracle(workload, Config("Log", size))
    assert torch.allclose(found.partition.value, known.partition.value, rtol=1e-12, atol=0)
    for name, right in known.partition.gradients.items():
        assert torch.allclose(found.partition.gradients[name], right, rtol=0, atol=1e-11), name
    best = Oracle(workload, Config("Max", size)).value.value
    assert torch.allclose(best, known.best.value, rtol=1e-12, atol=0)
    with open(recurrences.__file__, encoding="utf-8") as file:
        assert "torch_semimarkov" not in file.read()


@pytest.mark.parametrize("semiring", ["Log", "Max", "Entropy"])
@pytest.mark.parametrize("name", ["linear_scan_streaming", "cpu", "exact", "triton_pytorch"])
def test_each_backend_is_right_in_each_semiring_that_it_knows_and_a_change_is_noticed(
    name, semiring
):
    config, workload = Config(semiring, SIZE), draw(SIZE)
    if ways.reason_against(name, workload, semiring, "both"):
        assert semiring == "Entropy" and name in ("cpu", "triton_pytorch")
        return
    oracle, way = Oracle(workload, config), ways.way_of(name, workload, config)
    for phase in PHASES:
        call = ways.call_of(way, phase)
        assert oracle.judge(call, call.run()).problem == ""
    value, gradients = ways.call_of(way, "both").run()
    spoilt = (gradients[0], 1.01 * gradients[1] + 1e-3, *gradients[2:])
    assert oracle.judge(call, (value, spoilt)).problem
    assert oracle.judge(call, (1.01 * value, gradients)).problem


@pytest.mark.parametrize("peer", ways.PEER_NAMES)
@pytest.mark.parametrize("semiring", ["Log", "Max", "Entropy"])
def test_a_peer_is_right_or_there_is_a_reason(peer, semiring):
    for size in (SIZE, Size(2, 9, 1, 3)):
        workload, config = draw(size), Config(semiring, size)
        for phase in PHASES:
            if ways.reason_against(peer, workload, semiring, phase):
                continue
            call = ways.call_of(ways.way_of(peer, workload, config), phase)
            assert Oracle(workload, config).judge(call, call.run()).problem == ""


# Rows


@pytest.mark.parametrize("semiring", ["Log", "Max"])
def test_two_backends_give_a_row_with_a_time_for_each_phase(semiring, no_processes):
    rows = rows_of(CLEAN, Config(semiring, SIZE))
    assert [(row["backend"], row["phase"]) for row in rows] == [(b, p) for b in TWO for p in PHASES]
    assert all(tuple(row) == output.COLUMNS for row in rows)
    assert {(row["status"], row["repeats"]) for row in rows} == {("ok", 2)}
    assert all(row["q1_ms"] <= row["median_ms"] <= row["q3_ms"] for row in rows)
    said = ("date", "commit", "device", "cores", "python", "torch", "numba", "torch_semimarkov")
    assert all(row[name] for name in said for row in rows)


def test_a_backend_that_cannot_run_here_is_a_row_with_its_reason(no_processes):
    settings = dataclasses.replace(CLEAN, backends=("triton", "cpu"), phases=("forward",))
    for semiring, reason in (("Log", "CUDA"), ("Entropy", "no semiring")):
        first = rows_of(settings, Config(semiring, SIZE))[0]
        assert (first["status"], first["median_ms"]) == ("unavailable", None)
        assert reason in first["reason"]


def test_a_wrong_result_gets_no_time_unless_nothing_is_verified(no_processes, monkeypatch):
    right = ways.way_of

    def spoilt(name, *arguments):
        way = right(name, *arguments)
        return dataclasses.replace(way, value=lambda *leaves: 1.01 * way.value(*leaves))

    monkeypatch.setattr(runner, "way_of", spoilt)
    for row in rows_of(CLEAN, Config("Log", SIZE)):
        assert (row["status"], row["median_ms"]) == ("wrong", None) and "off by" in row["reason"]
    unverified = dataclasses.replace(CLEAN, verify=False)
    for row in rows_of(unverified, Config("Log", SIZE)):
        assert (row["status"], row["checked"]) == ("ok", "no") and row["median_ms"] > 0


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_runs_out_in_the_call_is_a_row_and_the_others_go_on(
    error, no_processes, monkeypatch
):
    right = ways.way_of

    def broken(name, *arguments):
        def fail(*_):
            raise error

        way = right(name, *arguments)
        return dataclasses.replace(way, value=fail) if name == "cpu" else way

    monkeypatch.setattr(runner, "way_of", broken)
    rows = rows_of(CLEAN, Config("Log", SIZE))
    assert [row["status"] for row in rows] == ["ok"] * 3 + ["oom"] * 3


@linux
def test_memory_is_that_of_a_new_process_and_grows_by_the_edges():
    size = Size(1, 200, 40, 24)
    found = memory.in_a_new_process(Task("exact", Config("Log", size), ("forward", "both")))
    edges, inputs = 200 * 40 * 24 * 24 * 4, 4 * (200 * 24 + 24 * 24 + 40 * 24 + 24)
    forward, both = found["forward"], found["both"]
    assert forward["input_bytes"] == both["gradient_bytes"] == inputs
    assert edges <= forward["working_bytes"] < 1.6 * edges
    assert 2 * edges <= both["working_bytes"] < 3 * edges
    for facts in found.values():
        parts = [facts[f"{name}_bytes"] for name in ("input", "working", "gradient")]
        assert abs(facts["peak_bytes"] - sum(parts)) <= inputs and facts["seconds"] > 0


@linux
def test_what_does_not_fit_is_out_of_memory_before_it_is_tried():
    way = ways.way_of("exact", draw(SIZE), Config("Log", SIZE))
    assert memory.too_large(way, "forward") == ""
    large = dataclasses.replace(way, edge_bytes=10**15)
    assert "1000000.0 GB" in memory.too_large(large, "forward")


@linux
def test_a_limit_of_memory_makes_an_allocation_fail_and_that_is_reported():
    code = (
        "from memory_analysis import memory; import torch\n"
        "memory.available_bytes = lambda: 10**8\n"
        "memory.limit_memory()\n"
        "try:\n    torch.ones(10**9)\n"
        "except RuntimeError as error:\n    print(memory.is_out_of_memory(error))\n"
    )
    command = [sys.executable, "-c", code]
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = memory.subprocess.run(command, capture_output=True, text=True, env=where, check=True)
    assert done.stdout == "True\n"


@linux
@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "oom", "killed"),
        ("raise ValueError('luck')", "error", "ValueError: luck"),
        ("import time; time.sleep(60)", "slow", "more than 0.01 s"),
        ("""print('{"phase": "both", "status": "ok", "reason": ""}')""", "ok", ""),
    ],
)
def test_what_becomes_of_a_process(code, status, reason, monkeypatch):
    if status == "slow":
        monkeypatch.setattr(memory, "READY", 0.2)  # else the time that a busy machine needs
    begin = memory.subprocess.Popen
    monkeypatch.setattr(
        memory.subprocess, "Popen", lambda _, **more: begin([sys.executable, "-c", code], **more)
    )
    found = memory.in_a_new_process(Task("cpu", Config("Log", SIZE), ("both",), limit=0.01))
    assert found["both"]["status"] == status and reason in found["both"]["reason"]


# Sampling and kernels


def test_shapes_are_sampled_evenly_and_within_their_buckets():
    sizes = sizes_of([4], [100, 128, 500, 2000, 5000], [4, 8, 16], [3, 6, 9])
    shapes = sample_by_shape(sizes, 5, 2, seed=0)
    assert len(shapes) == 5 and all(1 <= len(each) <= 2 for each in shapes.values())
    for shape, kept in shapes.items():
        assert shape.T in T_BUCKETS and shape.KC in KC_BUCKETS
        assert all(canonical_shape(size) == shape for size in kept)
        assert at_shape(shape, kept).T == shape.T
    assert sample_by_shape(sizes, 5, 2, seed=0) == shapes
    every = sample_by_shape(sizes, 99, 1, seed=0)
    assert len(every) == len({canonical_shape(size) for size in sizes})


def test_kernels_are_compiled_once_a_shape_and_what_cannot_run_is_left_out():
    said, shapes = [], {Shape(64, 12): [SIZE], Shape(128, 12): [SIZE]}
    calls = compiling.precompile(
        shapes, ("cpu", "triton", "linear_scan_streaming"), ("Log", "Max"), ("forward", "both"),
        device="cpu", dtype=torch.float32, use_compile=True, say=said.append,
    )  # fmt: skip
    assert calls == 8 and len(said) == 4 and all("cpu" in text for text in said)


def test_triton_trains_through_compile_or_with_checkpoints(monkeypatch):
    compiled, seen = [], []
    monkeypatch.setattr(torch, "compile", lambda f, **options: compiled.append(options) or f)
    monkeypatch.setitem(ways.STREAMING, "triton", "cpu")
    monkeypatch.setitem(ways.STREAMING, "triton_checkpointing", "cpu")
    right = ways.log_partition
    monkeypatch.setattr(
        ways, "log_partition",
        lambda **terms: seen.append(terms["checkpoint_interval"]) or right(**terms),
    )  # fmt: skip
    config, workload = Config("Log", SIZE), draw(SIZE)
    for name, use_compile, interval in (
        ("triton", True, None), ("triton", False, 4), ("triton_checkpointing", True, 4),
    ):  # fmt: skip
        way = ways.way_of(name, workload, config, use_compile)
        seen.clear()
        for phase in ("forward", "both"):
            ways.staged(way, phase)()
        assert seen == [None, interval]
    assert compiled == [{"dynamic": True}]


def test_the_kernels_that_were_used_least_lately_are_removed_first(tmp_path):
    for age, name in enumerate(("triton/new", "inductor/old", "triton/older")):
        file = tmp_path / name / "kernel"
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes(100))
        os.utime(file, (1000 - age, 1000 - age))
    assert compiling.evict(tmp_path, 300) == []
    assert compiling.evict(tmp_path, 150) == ["triton/older", "inductor/old"]
    assert (tmp_path / "triton" / "new" / "kernel").exists()


# The command

TINY = [
    "--T", "12", "--K", "4", "--C", "3", "--B", "2", "--phases", "forward,both", "--repeats", "2",
    "--backends", ",".join(TWO),
]  # fmt: skip


def written(folder):
    with open(folder / "benchmark_full.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@linux
def test_the_command_writes_three_files_and_prints_a_table(tmp_path, capsys):
    assert bench.main([*TINY, "--output-dir", str(tmp_path)]) == 0
    rows = written(tmp_path)
    assert [(row["status"], row["backend"]) for row in rows] == [
        ("ok", b) for b in TWO for _ in "ab"
    ]
    assert all(int(row["peak_bytes"]) >= int(row["input_bytes"]) > 0 for row in rows)
    data = json.loads((tmp_path / "heatmap_data.json").read_text())
    assert data == {
        "T": [12], "KC": [12], "backends": list(TWO), "status": {name: [["ok"]] for name in TWO},
    }  # fmt: skip
    assert len((tmp_path / "memory_breakdown.csv").read_text().splitlines()) == 5
    assert "linear_scan_streaming" in capsys.readouterr().out


def test_a_heatmap_shows_the_worst_of_the_phases():
    rows = [
        {"T": "8", "KC": "4", "backend": "a", "status": status} for status in ("ok", "oom", "slow")
    ]
    rows.append({"T": 16, "KC": 2, "backend": "b", "status": "unavailable"})
    found = output.heatmap(rows)["status"]
    assert found == {"a": [[None, "oom"], [None, None]], "b": [[None, None], ["unavailable", None]]}


def test_an_interruption_keeps_what_was_measured_and_resume_goes_on(
    tmp_path, monkeypatch, no_processes, capsys
):
    right, done = Runner.measure, []

    def interrupted(self, config):
        if done:
            raise KeyboardInterrupt
        done.append(config)
        return right(self, config)

    command = [*TINY, "--T", "12,13", "--output-dir", str(tmp_path)]
    monkeypatch.setattr(Runner, "measure", interrupted)
    assert bench.main(command) == 130
    assert [row["T"] for row in written(tmp_path)] == ["12"] * 4
    before = written(tmp_path)
    monkeypatch.setattr(Runner, "measure", lambda self, c: done.append(c) or right(self, c))
    assert bench.main([*command, "--resume"]) == 0
    assert [config.size.T for config in done] == [12, 13]
    assert written(tmp_path)[:4] == before and len(written(tmp_path)) == 8
    assert "1 of 2 configurations have rows already" in capsys.readouterr().err


def test_a_new_run_keeps_the_rows_of_the_one_before_under_another_name(tmp_path, no_processes):
    for _ in range(3):
        bench.main([*TINY, "--output-dir", str(tmp_path)])
    names = sorted(path.name for path in tmp_path.glob("benchmark_full*"))
    assert names == ["benchmark_full.1.csv", "benchmark_full.2.csv", "benchmark_full.csv"]


def test_compile_friendly_measures_samples_and_fills_the_cache(tmp_path, monkeypatch, no_processes):
    for variable in (*compiling.FOLDERS, "TORCHINDUCTOR_COMPILE_THREADS"):
        monkeypatch.setenv(variable, "")
    shapes = []
    monkeypatch.setattr(compiling, "precompile", lambda found, *_, **__: shapes.extend(found) or 1)
    command = [
        *TINY, "--T", "12,100,200", "--compile-friendly", "--max-canonical-shapes", "2",
        "--samples-per-shape", "1", "--compile-threads", "1", "--output-dir", str(tmp_path),
    ]  # fmt: skip
    assert bench.main(command) == 0
    assert shapes == [(64, 12), (256, 12)]
    assert {row["T"] for row in written(tmp_path)} == {"12", "200"}
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / ".torch_compile_cache" / "triton")
    assert os.environ["TORCHINDUCTOR_COMPILE_THREADS"] == "1"
    assert bench.main([*command, "--skip-precompile"]) == 0 and len(shapes) == 2


def test_headers_of_other_columns_are_not_gone_on_with(tmp_path, capsys):
    (tmp_path / "benchmark_full.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit):
        bench.main([*TINY, "--output-dir", str(tmp_path), "--resume"])
    assert "other columns" in capsys.readouterr().err


BAD_FLAGS = {
    "--backends": ["cpus", "cpu,", ""],
    "--peers": ["numpy"],
    "--semirings": ["log", "Log,Sum", ""],
    "--phases": ["forwards", ""],
    "--T": ["", "0", "128,", "1.5"],
    "--K": ["-4"],
    "--B": ["x"],
    "--configs": ["1,2,3"],
    "--repeats": ["0"],
    "--dtype": ["float8"],
    "--seed": ["-1"],
    "--device": ["tpu", "meta", "cuda:99", ""],
    "--compile-cache-size-gb": ["0", "nan", "lots"],
    "--max-canonical-shapes": ["0"],
    "--time-limit": ["-1"],
    "--output-dir": ["FILE", "FILE/below", "/proc/nowhere"],
}


@pytest.mark.parametrize(
    ("flag", "value"), [(flag, value) for flag, values in BAD_FLAGS.items() for value in values]
)
def test_a_bad_flag_ends_with_one_line_and_measures_nothing(
    flag, value, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(Runner, "measure", None)
    (tmp_path / "file").write_text("")
    value = value.replace("FILE", str(tmp_path / "file"))
    with pytest.raises(SystemExit) as stop:
        bench.main([f"--output-dir={tmp_path / 'out'}", f"{flag}={value}"])
    printed = capsys.readouterr()
    assert stop.value.code == 2 and printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
