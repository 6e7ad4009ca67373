"""The logic of the benchmarks: what is a row, what gets a time, and which flags are refused."""

import csv
import dataclasses

import command
import cpu_vs_peers
import measuring
import overhead
import pytest
import rows
import torch
import truth
from measuring import Repeats, Step, measure
from peers import PEERS, Peer
from truth import Truth, Verdict, verdict_of
from workload import PHASES, Found, Size, draw, our_call

from torch_semimarkov.cli import timing
from torch_semimarkov.errors import FileFormatError

SMALL = Size(2, 12, 3, 4)
FEW = Repeats(ours=3, peers=2)
for_each_phase = pytest.mark.parametrize("phase", PHASES)


def copycat(change=lambda found: found, fail=False, name="copycat"):
    """A peer that is our own call, with its result changed."""

    def calls(_, load, phase):
        call = our_call(load, phase)

        def run():
            if fail:
                raise RuntimeError("out of\n luck")
            return call.run()

        return [("as ours", run, lambda result: change(call.found(result)))]

    return Peer(name, "no-such-package", "json", calls)


def off_by_one_percent(found):
    gradients = {name: 1.02 * gradient for name, gradient in found.gradients.items()}
    return dataclasses.replace(found, value=1.02 * found.value, gradients=gradients)


def rows_of(phase, *peers, size=SMALL):
    return measure(Step("bars", size, phase, peers), Truth(draw(size)), FEW)


# Times


def test_calls_take_turns_and_frequent_ones_are_warmed():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in ("peer", "ours", "left out")}
    seconds = timing.interleave(runs, {"peer": 2, "ours": 5, "left out": 0})
    assert order == ["peer", *["ours"] * 3, "peer", *["ours"] * 4]
    assert {name: len(times) for name, times in seconds.items()} == {
        "peer": 2, "ours": 5, "left out": 0,
    }  # fmt: skip


def test_a_call_over_its_budget_is_not_repeated_further(monkeypatch):
    monkeypatch.setattr(timing, "BUDGET", -1.0)
    seconds = timing.interleave({"a": lambda: None}, {"a": 9})
    assert len(seconds["a"]) == timing.ENOUGH


def test_one_time_is_its_own_quartiles():
    assert timing.summarize([0.25]) == (250.0, 250.0, 250.0, 1)


# What gets a time


@for_each_phase
def test_a_right_peer_gets_a_time_and_the_ratio_of_the_medians(phase):
    ours, peer = rows_of(phase, copycat())
    assert (ours["backend"], ours["status"], ours["repeats"], ours["ratio"]) == (
        "cpu",
        "ok",
        3,
        None,
    )
    assert (peer["status"], peer["repeats"]) == ("ok", 2)
    assert peer["ratio"] == peer["median_ms"] / ours["median_ms"]
    assert ours["q1_ms"] <= ours["median_ms"] <= ours["q3_ms"]


@for_each_phase
def test_a_wrong_result_gets_no_time_and_no_ratio(phase):
    ours, peer = rows_of(phase, copycat(off_by_one_percent))
    assert ours["status"] == "ok"
    assert (peer["status"], peer["median_ms"], peer["ratio"]) == ("wrong", None, None)
    assert "is off by" in peer["reason"]


def test_a_wrong_gradient_alone_is_wrong():
    def change(found):
        spoilt = {**found.gradients, "transition": found.gradients["transition"].T}
        return dataclasses.replace(found, gradients=spoilt)

    _, peer = rows_of("forward+backward", copycat(change))
    assert (peer["status"], peer["median_ms"]) == ("wrong", None)
    assert peer["reason"].startswith("gradient of transition")


def test_a_path_that_does_not_have_its_score_is_wrong():
    def change(found):
        starts, ends, labels, counts = (
            getattr(found.segments, name) for name in ("starts", "ends", "labels", "counts")
        )
        other = type(found.segments)(starts, ends, (labels + 1) % SMALL.C, counts)
        return dataclasses.replace(found, segments=other)

    _, peer = rows_of("viterbi", copycat(change))
    assert peer["status"] == "wrong" and "score of the path" in peer["reason"]


def test_a_failing_peer_is_a_row_with_its_reason_and_the_others_go_on():
    ours, broken, peer = rows_of("forward", copycat(fail=True, name="broken"), copycat())
    assert (broken["status"], broken["reason"]) == ("error", "RuntimeError: out of luck")
    assert ours["status"] == peer["status"] == "ok" and broken["median_ms"] is None


def test_a_missing_peer_is_a_row_with_its_reason():
    absent = dataclasses.replace(copycat(), module="no_such_module_at_all")
    _, row = rows_of("forward", absent)
    assert row["status"] == "missing" and "no_such_module_at_all" in row["reason"]


def test_a_peer_without_durations_is_left_out_beyond_one():
    assert len(rows_of("forward", dataclasses.replace(copycat(), only_k1=True))) == 1


def test_a_slow_peer_is_called_once(monkeypatch):
    monkeypatch.setattr(measuring, "SLOW", 0.0)
    _, peer = rows_of("forward", copycat())
    assert (peer["status"], peer["repeats"]) == ("ok", 1)


def test_peers_can_have_another_number_of_threads_than_ours():
    seen, threads = [], torch.get_num_threads()

    peer = copycat()
    calls = peer.calls

    def spying(*arguments):
        for measured, run, found in calls(*arguments):
            yield measured, lambda run=run: seen.append(torch.get_num_threads()) or run(), found

    peer = dataclasses.replace(peer, calls=spying)
    step = Step("bars", SMALL, "forward", (peer,), threads + 1)
    ours, theirs = measure(step, Truth(draw(SMALL)), FEW)
    assert (ours["threads"], theirs["threads"]) == (threads, threads + 1)
    assert set(seen) == {threads + 1} and torch.get_num_threads() == threads


def test_a_call_of_ours_that_changes_its_bits_is_wrong(monkeypatch):
    right, nudge = our_call(draw(SMALL), "forward"), [1.0, 1.0 + 1e-7]
    call = dataclasses.replace(right, run=lambda: right.run() * nudge.pop())
    checked = measuring.check(call, Truth(draw(SMALL)))
    assert checked.verdict.problem == "the same call gave other bits"


@for_each_phase
def test_identities_hold_where_the_reference_cannot_reach_and_bite(phase, monkeypatch):
    monkeypatch.setattr(truth, "REFERENCE_POSITIONS", 0)
    call, known = our_call(draw(SMALL), phase), Truth(draw(SMALL))
    found = call.found(call.run())
    assert verdict_of(call, call.run(), known)._replace(value_error=0, gradient_error=0) == (
        Verdict("", 0, 0, "identities")
    )
    wrong = off_by_one_percent(found) if phase != "forward" else Found(found.value / 0, {})
    spoilt = dataclasses.replace(call, found=lambda _: wrong)
    assert verdict_of(spoilt, None, known).problem


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
@for_each_phase
def test_a_peer_agrees_in_its_own_convention(peer, phase):
    if peer.missing():
        pytest.skip(peer.missing())
    loads = [draw(SMALL), draw(Size(2, 9, 1, 3))]
    for load in filter(peer.fits, loads):
        for call in peer.prepare(load, phase):
            assert verdict_of(call, call.run(), Truth(load)).problem == ""


# Overhead


@for_each_phase
def test_overhead_is_public_less_kernel(phase):
    found = {row["measured"]: row for row in overhead.call_overhead(draw(SMALL), phase, 2)}
    assert {name.removeprefix("overhead, ") for name in found} == {
        "kernel", "validate_args=True", "validate_args=False",
    }  # fmt: skip
    assert len(found) == 5 and {row["repeats"] for row in found.values()} == {2}


@for_each_phase
def test_the_cost_of_checks_is_a_ratio_to_a_call_without_them(phase):
    without, checked = overhead.check_cost(draw(SMALL), phase, 2)
    assert (without["measured"], without["ratio"]) == ("validate_args=False", None)
    assert checked["ratio"] == checked["median_ms"] / without["median_ms"]


# Rows


def test_a_row_says_where_and_with_what_it_was_measured():
    row = rows.new_row("bars", SMALL, "forward", "cpu")
    assert tuple(row) == rows.COLUMNS
    said = ("date", "commit", "device", "cores", "python", "torch", "numba", "torch_semimarkov")
    assert all(row[name] for name in said)
    with pytest.raises(KeyError, match="nonsense"):
        rows.new_row("bars", SMALL, "forward", "cpu", nonsense=1)


def test_rows_are_appended_below_one_header(tmp_path):
    path = tmp_path / "rows.csv"
    for _ in range(2):
        sheet = rows.Sheet(path)
        sheet.add(rows_of("forward"))
        sheet.add(rows_of("viterbi"))
    with open(path, encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["phase"] for row in found] == ["forward", "viterbi"] * 2
    assert tuple(found[0]) == rows.COLUMNS and float(found[0]["median_ms"]) > 0
    assert [file.name for file in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "\n", b"\xff\xfe"])
def test_a_file_with_other_columns_is_refused_and_left_alone(tmp_path, text):
    path = tmp_path / "rows.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = path.read_bytes()
    with pytest.raises(FileFormatError, match=r"rows\.csv"):
        rows.Sheet(path)
    assert path.read_bytes() == before


def test_the_table_says_what_is_wanted_and_whether_it_is_met():
    size = next(iter(cpu_vs_peers.WANTED))
    made = [
        rows.new_row("bars", size, "forward", "flash_semicrf", median_ms=1.0, ratio=ratio)
        for ratio in (2500.0, 2499.0)
    ]
    lines = rows.as_table(made, cpu_vs_peers.wanted).splitlines()
    assert ">= 2500x  yes" in lines[2] and ">= 2500x  NO" in lines[3]


def test_the_table_warns_of_a_busy_machine():
    made = [rows.new_row("bars", SMALL, "forward", "cpu", load=load, cores=2) for load in (2.9, 7)]
    assert "load" not in rows.as_table(made[:1], cpu_vs_peers.wanted)
    assert "load 7 on 2 cores" in rows.as_table(made, cpu_vs_peers.wanted)


@pytest.mark.parametrize(
    ("case", "size", "measured", "values", "met"),
    [
        ("headline", Size(64, 1000, 100, 24), "", {"median_ms": 11.9}, True),
        ("headline", Size(32, 1000, 500, 24), "", {"median_ms": 20.0}, False),
        ("overhead", overhead.SMALL, "overhead, validate_args=True", {"median_ms": 0.09}, True),
        ("overhead", overhead.SMALL, "kernel", {"median_ms": 0.09}, None),
        ("checks", SMALL, "validate_args=True", {"ratio": 2.1}, False),
        ("scaling", SMALL, "", {"median_ms": 1.0}, None),
        ("bars", SMALL, "", {"ratio": 1.0}, None),
    ],
)
def test_what_is_wanted_of_a_row(case, size, measured, values, met):
    row = rows.new_row(case, size, "forward", "cpu", measured=measured, **values)
    assert cpu_vs_peers.wanted(row)[1] is met


# The command


BAD_FLAGS = {
    "--configs": ["8,512,1", "8,512,1,x", "8,512,0,9", "8,512,1,9,2", "-1,2,3,4", ""],
    "--phases": ["forwards", "forward,", ""],
    "--repeats": ["0", "-3", "2.5", "many"],
    "--peer-repeats": ["0"],
    "--peer-threads": ["0", "1,2"],
    "--threads": ["0", "1,two", ""],
    "--output": ["no_such_folder/rows.csv", "."],
    "--nonsense": ["1"],
    "--conf": ["8,512,1,9"],
}


@pytest.mark.parametrize(
    ("flag", "value"), [(flag, value) for flag, values in BAD_FLAGS.items() for value in values]
)
def test_a_bad_flag_ends_with_one_line_and_measures_nothing(flag, value, capsys, monkeypatch):
    monkeypatch.setattr(cpu_vs_peers, "measure", None)
    with pytest.raises(SystemExit) as stop:
        cpu_vs_peers.main([f"{flag}={value}"])
    printed = capsys.readouterr()
    assert stop.value.code == 2 and printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert flag.lstrip("-")[:4] in printed.err


ALONE = ["--configs", str(SMALL), "--no-peers", "--repeats", "2", "--threads", "1"]


def test_the_command_writes_rows_and_prints_a_table(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    assert cpu_vs_peers.main([*ALONE, "--output", str(path)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:5]] == ["bars"] * 3
    assert len(path.read_text().splitlines()) == 4


def test_an_interruption_keeps_what_was_measured(tmp_path, monkeypatch):
    path, calls = tmp_path / "rows.csv", iter([measure])

    def interrupted(*arguments):
        for call in calls:
            return call(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(cpu_vs_peers, "measure", interrupted)
    assert cpu_vs_peers.main([*ALONE, "--output", str(path)]) == 130
    assert len(path.read_text().splitlines()) == 2


def test_a_wrong_result_of_ours_ends_with_1(monkeypatch, capsys):
    monkeypatch.setattr(measuring, "verdict_of", lambda *_: Verdict("all wrong"))
    assert cpu_vs_peers.main(ALONE) == 1
    assert "all wrong" in capsys.readouterr().out


def test_overhead_can_be_asked_for_alone(monkeypatch, capsys):
    monkeypatch.setattr(overhead, "CALLS", 2)
    monkeypatch.setattr(overhead, "SMALL", SMALL)
    assert cpu_vs_peers.main([*ALONE, "--overhead"]) == 0
    cases = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:23]]
    assert cases == ["overhead"] * 15 + ["checks"] * 6


def test_the_list_shows_every_size_and_peer_and_measures_nothing(monkeypatch, capsys):
    monkeypatch.setattr(cpu_vs_peers, "measure", None)
    assert cpu_vs_peers.main(["--list"]) == 0
    printed = capsys.readouterr().out
    sizes = [*cpu_vs_peers.WANTED, *cpu_vs_peers.HEADLINE, *cpu_vs_peers.SCALING]
    assert all(str(size) in printed for size in sizes)
    assert all(peer.name in printed for peer in PEERS)


def test_sizes_are_read_as_they_are_shown():
    assert command.size_of(str(SMALL)) == SMALL
