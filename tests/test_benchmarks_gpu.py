"""The logic of the GPU benchmark on a stand-in for a GPU: what is wanted, measured and refused."""

import csv
import doctest
import os
import subprocess
import sys
from pathlib import Path

import gpu_card
import gpu_ceilings
import gpu_vs_peers
import pytest
import rows
import torch
from gpu_ceilings import Rates, bound_of, work_of
from gpu_vs_peers import BOTH, EXTRA, FORWARD, GPU_COLUMNS, INTERVALS, PEER, SCALING, WANTED, wanted
from measuring import Repeats, Step, measure
from truth import Truth, Verdict
from workload import PHASES, Size, draw

from torch_semimarkov.cli.timing import timed

SCRIPT = Path(gpu_vs_peers.__file__)
SMALL = Size(2, 12, 3, 4)
HEADLINE = next(iter(WANTED))
RATES = Rates(1e12, 1e12, 1e13)


class StandIn(gpu_card.Card):
    """The CPU with its own backend, a clock that takes no time, and a memory of a fixed size."""

    backend, device, name = "cpu", "cpu", "Stand-in 1"

    def __init__(self, seconds=1e-3, bytes=100):
        self.seconds, self.bytes = seconds, bytes

    def clock(self, run):
        return self.seconds, run()

    def peak(self, run):
        return self.bytes, run()


@pytest.fixture
def card(monkeypatch):
    """A machine with a GPU, as far as the command can see."""
    found = StandIn()
    monkeypatch.setattr(gpu_vs_peers, "find_card", lambda: found)
    monkeypatch.setattr(gpu_vs_peers, "measure_rates", lambda clock, device: RATES)
    return found


def run_script(*arguments):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def row_of(case, size, phase, backend="triton", **values):
    known = {name: values.pop(name) for name in list(values) if name in EXTRA}
    row = rows.new_row(case, size, phase, backend, **{"measured": "", **values})
    return {**row, **dict.fromkeys(EXTRA), **known}


# Without a GPU


def test_without_a_gpu_the_script_says_so_in_one_line_and_exits_0():
    done = run_script()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("no GPU here") and done.stdout.count("\n") == 1
    assert "open" in done.stdout


def test_a_bad_flag_of_the_script_ends_with_one_line_and_2():
    done = run_script("--configs", "1,2,3")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


BAD_FLAGS = {
    "--configs": ["8,512,1", "8,512,0,9", ""],
    "--phases": ["forwards", "forward,", ""],
    "--repeats": ["0", "2.5"],
    "--peer-repeats": ["0"],
    "--output": ["no_such_folder/rows.csv", "."],
    "--threads": ["1"],
    "--mem": ["1"],
}


@pytest.mark.parametrize(
    ("flag", "value"), [(flag, value) for flag, values in BAD_FLAGS.items() for value in values]
)
def test_a_bad_flag_ends_with_one_line_and_measures_nothing(flag, value, card, capsys, monkeypatch):
    monkeypatch.setattr(gpu_vs_peers, "measure", None)
    with pytest.raises(SystemExit) as stop:
        gpu_vs_peers.main([f"{flag}={value}"])
    printed = capsys.readouterr()
    assert stop.value.code == 2 and printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1


def test_the_list_shows_every_size_and_measures_nothing(monkeypatch, capsys):
    monkeypatch.setattr(gpu_vs_peers, "find_card", None)
    assert gpu_vs_peers.main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(str(size) in printed for size in (*WANTED, *SCALING, *gpu_vs_peers.MEMORY))
    assert PEER[0].name in printed


# What is wanted


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (row_of("bars", HEADLINE, FORWARD, PEER[0].name, ratio=100.0), True),
        (row_of("bars", HEADLINE, FORWARD, PEER[0].name, ratio=99.9), False),
        (row_of("bars", HEADLINE, BOTH, PEER[0].name, ratio=50.0), True),
        (row_of("bars", HEADLINE, BOTH, PEER[0].name, ratio=49.9), False),
        (row_of("bars", HEADLINE, BOTH, PEER[0].name), None),
        (row_of("bars", HEADLINE, "viterbi", PEER[0].name, ratio=1.0), None),
        (row_of("bars", SMALL, FORWARD, PEER[0].name, ratio=1.0), None),
        (row_of("bars", HEADLINE, FORWARD, us_per_step=0.5), True),
        (row_of("scaling", HEADLINE, FORWARD, us_per_step=0.51), False),
        (row_of("scaling", SMALL, FORWARD, us_per_step=9.0), None),
        (row_of("bars", HEADLINE, BOTH, to_forward=3.0), True),
        (row_of("scaling", SMALL, BOTH, to_forward=3.1), False),
        (row_of("memory", SMALL, BOTH, measured="x, checkpoint_interval=9", peak_ratio=1.1), True),
        (row_of("memory", SMALL, BOTH, measured="x, checkpoint_interval=9", peak_ratio=1.2), False),
        (row_of("memory", SMALL, BOTH, measured="x", peak_ratio=2.0), None),
    ],
)
def test_what_is_wanted_of_a_row(row, met):
    words, found = wanted(row)
    assert found is met
    assert met is None or words


def test_the_headline_sizes_are_measured_against_the_peer(card):
    steps = gpu_vs_peers.plan(gpu_vs_peers.parser().parse_args([]), card)
    bars = [(step.size, step.phase) for step in steps if step.peers == PEER]
    assert bars == [(size, phase) for size in WANTED for phase in (FORWARD, BOTH)]
    assert {step.case for step in steps} == {"bars", "memory"}


def test_a_phase_relative_to_the_forward_needs_the_forward(card):
    given = gpu_vs_peers.parser().parse_args(["--phases", f"{BOTH},{FORWARD}", "--scaling"])
    steps = [step for step in gpu_vs_peers.plan(given, card) if step.size == SCALING[0]]
    assert [step.phase for step in steps] == [FORWARD, BOTH]
    forwards = {}
    rows_of = [
        row_of("bars", SMALL, phase, median_ms=ms) for phase, ms in ((FORWARD, 2), (BOTH, 5))
    ]
    found = [gpu_vs_peers.with_forward(row, forwards)["to_forward"] for row in rows_of]
    assert found == [None, 2.5]
    assert gpu_vs_peers.with_forward(rows_of[1], {})["to_forward"] is None


# What is measured


def test_a_step_uses_the_clock_and_the_backend_it_is_given():
    calls = []

    def clock(run):
        calls.append(run)
        return 0.25, run()

    step = Step("bars", SMALL, FORWARD, ours="reference")
    (row,) = measure(step, Truth(draw(SMALL), "cpu"), Repeats(3, 1, clock, compiles=True))
    assert (row["backend"], row["status"], row["checked"]) == ("reference", "ok", "cpu float64")
    assert row["median_ms"] == 250.0 and len(calls) == 4


def test_a_row_has_its_step_time_and_the_ceiling_that_bounds_it():
    row = gpu_vs_peers.with_ceiling(row_of("bars", HEADLINE, FORWARD, median_ms=1.0), RATES)
    seconds, words = bound_of(HEADLINE, FORWARD, RATES)
    assert row["us_per_step"] == 1.0 and row["share"] == pytest.approx(1000 * seconds)
    assert row["ceiling"] == words
    missing = row_of("bars", HEADLINE, FORWARD)
    assert gpu_vs_peers.with_ceiling(missing, RATES) == missing


def test_the_largest_of_the_ceilings_bounds_a_size():
    work = work_of(HEADLINE, FORWARD)
    for slow in Rates._fields:
        rates = Rates(*(1.0 if name == slow else 1e30 for name in Rates._fields))
        assert bound_of(HEADLINE, FORWARD, rates) == (getattr(work, slow), gpu_ceilings.WORDS[slow])


def test_the_work_counts_bytes_once_and_pairs_at_every_position():
    B, T, K, C = HEADLINE
    work = work_of(HEADLINE, FORWARD)
    assert work.bytes == 4 * (B * T * C + C * C + K * C + C)
    assert work.multiply_adds == B * T * C * (K + C)
    assert work_of(Size(1, 5, 100, 2), FORWARD).multiply_adds == 5 * 2 * (5 + 2)
    assert all(a < b for a, b in zip(work, work_of(HEADLINE, BOTH), strict=True))


def test_the_kernels_of_the_ceilings_compute_what_they_say(monkeypatch):
    if not os.environ.get("TRITON_INTERPRET") or not has_triton():
        pytest.skip("needs TRITON_INTERPRET=1")
    for name, size in (("STEPS", 3), ("LANES", 16), ("PROGRAMS", 2), ("COPIED_BYTES", 64)):
        monkeypatch.setattr(gpu_ceilings, name, size)
    assert all(rate > 0 for rate in gpu_ceilings.measure_rates(timed, "cpu"))
    from gpu_rate_kernels import KERNELS

    out = torch.empty(32)
    KERNELS["multiply_adds"][(2,)](out, 3, 16)
    torch.testing.assert_close(out, torch.full((32,), 0.875))
    KERNELS["exponentials"][(2,)](out, 3, 16)
    torch.testing.assert_close(out, torch.full((32,), 2**-0.5))


def has_triton():
    return gpu_card.triton_version() != "not installed"


def test_memory_is_relative_to_inputs_and_gradients(card):
    size = Size(1, INTERVALS[1] + 1, 2, 3)
    step = Step("memory", size, BOTH, ours="cpu")
    plain, checkpointed = gpu_vs_peers.memory_rows(step, Truth(draw(size), "cpu"), card)
    terms = 4 * (size.T * 3 + 9 + 6 + 3)
    for row in (plain, checkpointed):
        assert row["status"] == "ok" and row["input_bytes"] == terms + 8
        assert row["peak_ratio"] == (terms + 8 + card.bytes) / (2 * terms + 8)
    assert "checkpoint" not in plain["measured"]
    assert f"checkpoint_interval={INTERVALS[1]}" in checkpointed["measured"]


def test_a_wrong_result_has_no_peak(card, monkeypatch):
    monkeypatch.setattr("measuring.verdict_of", lambda *_: Verdict("all wrong"))
    step = Step("memory", SMALL, BOTH, ours="cpu")
    (row,) = gpu_vs_peers.memory_rows(step, Truth(draw(SMALL), "cpu"), card)
    assert (row["status"], row.get("peak_bytes")) == ("wrong", None)


def test_the_clock_empties_the_caches_before_its_events_and_waits_after_them(monkeypatch):
    order = []

    class Event:
        def __init__(self, enable_timing):
            self.name = "end" if "begin" in order else "begin"
            order.append(self.name)

        def record(self):
            order.append(f"{self.name} recorded")

        def synchronize(self):
            order.append("waited")

        def elapsed_time(self, other):
            return 1500.0

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: order.append("idle"))
    monkeypatch.setattr(gpu_card, "SWEEP_BYTES", 8)
    found = gpu_card.Card()
    assert (found.device, found.name) == ("cuda:0", "NVIDIA H200")
    found.device = "cpu"
    assert found.clock(lambda: order.append("call") or 7) == (1.5, 7)
    assert order == ["begin", "end", "idle", "begin recorded", "call", "end recorded", "waited"]
    assert not found._sweep.any()
    assert found.facts()["device"] == "NVIDIA H200"


def test_the_peak_is_taken_above_what_lay_there_before(monkeypatch):
    monkeypatch.setattr(gpu_card.Card, "__init__", lambda self: None)
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 40)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 100)
    assert gpu_card.Card().peak(lambda: 7) == (60, 7)


# The command

ALONE = ["--configs", str(SMALL), "--repeats", "2"]


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_writes_rows_of_the_device_and_prints_a_table(card, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    flags = ["--bars", "--scaling", "--memory", "--output", str(path)]
    assert gpu_vs_peers.main([*ALONE, *flags]) == 0
    found = read(path)
    assert tuple(found[0]) == GPU_COLUMNS
    ours = [row for row in found if row["backend"] == "cpu"]
    assert [row["case"] for row in ours] == ["bars"] * 2 + ["scaling"] * 2 + ["memory"]
    assert {row["device"] for row in found} == {card.name}
    assert {row["median_ms"] for row in ours[:4]} == {"1"}
    assert [row["to_forward"] for row in ours] == ["", "1", "", "1", ""]
    assert all(row["share"] and row["ceiling"] for row in ours[:4]) and ours[4]["peak_ratio"]
    peers = [row for row in found if row["backend"] == PEER[0].name]
    assert len(peers) == 2 and all(row["status"] in ("ok", "missing") for row in peers)
    assert str(path) in capsys.readouterr().out


def test_rows_go_to_a_file_with_the_name_of_the_device(card, tmp_path, monkeypatch, capsys):
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(gpu_vs_peers, "__file__", str(tmp_path / SCRIPT.name))
    assert gpu_vs_peers.main([*ALONE, "--no-peers"]) == 0
    assert [row["case"] for row in read(tmp_path / "results" / "gpu_stand_in_1.csv")] == [
        "bars"
    ] * 2


def test_rows_of_the_cpu_benchmark_are_left_alone(card, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    path.write_text(",".join(rows.COLUMNS) + "\n")
    with pytest.raises(SystemExit) as stop:
        gpu_vs_peers.main([*ALONE, "--output", str(path)])
    assert stop.value.code == 2 and "other columns" in capsys.readouterr().err


def test_an_interruption_keeps_what_was_measured(card, tmp_path, monkeypatch, capsys):
    path, calls = tmp_path / "rows.csv", iter([measure])

    def interrupted(*arguments):
        for call in calls:
            return call(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu_vs_peers, "measure", interrupted)
    assert gpu_vs_peers.main([*ALONE, "--no-peers", "--output", str(path)]) == 130
    assert [row["phase"] for row in read(path)] == [FORWARD]
    assert "stopped" in capsys.readouterr().err


def test_a_wrong_result_of_ours_ends_with_1(card, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("measuring.verdict_of", lambda *_: Verdict("all wrong"))
    assert gpu_vs_peers.main([*ALONE, "--output", str(tmp_path / "rows.csv")]) == 1
    assert "all wrong" in capsys.readouterr().out


def test_the_examples_hold():
    result = doctest.testmod(gpu_card)
    assert result.attempted and not result.failed


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("phase", PHASES)
def test_the_peer_and_ours_agree_on_the_device(phase):
    found = gpu_card.find_card()
    step = Step("bars", Size(2, 40, 5, 4), phase, PEER, None, found.backend, found.device)
    repeats = Repeats(2, 1, found.clock, compiles=True)
    for row in measure(step, Truth(draw(step.size), "cpu"), repeats):
        assert row["status"] in ("ok", "missing"), row["reason"]


@pytest.mark.gpu
def test_the_ceilings_of_a_device_are_those_of_a_device():
    found = gpu_card.find_card()
    rates = gpu_ceilings.measure_rates(found.clock, found.device)
    assert rates.bytes > 1e10 and rates.multiply_adds > rates.exponentials > 1e10


@pytest.mark.gpu
def test_the_peak_is_what_a_call_allocates():
    found = gpu_card.find_card()
    peak, kept = found.peak(lambda: torch.empty(2**20, dtype=torch.uint8, device=found.device))
    assert peak == kept.nbytes
