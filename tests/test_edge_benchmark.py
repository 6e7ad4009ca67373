"""The benchmark of explicit edges: compared before timed; memory in a new process; rows."""

import csv
import sys

import edge_vs_streaming as bench
import pytest
import torch
from edge_vs_streaming import BOTH, EDGE_COLUMNS, FORWARD, WAYS
from truth import Truth, verdict_of
from workload import Size, draw

SIZE = Size(2, 12, 4, 3)
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the resident set from /proc")


@pytest.mark.parametrize("phase", [FORWARD, BOTH])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_agrees_with_the_reference_in_value_and_in_every_gradient(way, phase):
    workload = draw(SIZE)
    call = bench.call_of(way, workload, phase)
    result = call.run()
    verdict = verdict_of(call, result, Truth(workload))
    assert not verdict.problem
    assert len(call.found(result).gradients) == (4 if phase == BOTH else 0)


def test_a_wrong_edge_marginal_is_noticed():
    workload = draw(SIZE)
    call = bench.call_of("edge scan", workload, BOTH)
    value, (gradient,) = call.run()
    verdict = verdict_of(call, (value, (1.01 * gradient,)), Truth(workload))
    assert "gradient of scores is off" in verdict.problem


def test_the_command_writes_a_row_for_each_way_and_phase(tmp_path, monkeypatch, capsys):
    asked = []

    def growth(*call):
        asked.append(call)
        return {"input_bytes": 2_000_000 * len(asked), "peak_bytes": 3_000_000}

    # a new process for each takes seconds, and the test below has two
    monkeypatch.setattr(bench, "growth_in_a_new_process", growth)
    path = tmp_path / "rows.csv"
    arguments = ["--configs", "1,12,4,3", "--repeats", "1", "--output", str(path)]
    assert bench.main(arguments) == 0
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == EDGE_COLUMNS
    assert [(row["phase"], row["measured"]) for row in rows] == [
        (phase, way) for phase in (FORWARD, BOTH) for way in WAYS
    ]
    assert all(row["status"] == "ok" and float(row["median_ms"]) > 0 for row in rows)
    assert asked == [(way, Size(1, 12, 4, 3), phase) for phase in (FORWARD, BOTH) for way in WAYS]
    assert [float(row["input_bytes"]) for row in rows] == [2e6 * i for i in range(1, 7)]
    text = capsys.readouterr().out
    assert "peak MB" in text and "12.000" in text


@linux
def test_memory_counts_the_edges_once_without_a_gradient_and_twice_with_one():
    size = Size(1, 200, 40, 24)
    edges = 200 * 40 * 24 * 24 * 4
    for phase, copies in ((FORWARD, 1), (BOTH, 2)):
        found = bench.growth_in_a_new_process("edge scan", size, phase)
        assert found["input_bytes"] == edges + 8
        assert copies * edges * 0.9 < found["peak_bytes"] < (copies + 0.2) * edges


def test_a_wrong_result_ends_with_1(monkeypatch, capsys):
    monkeypatch.setattr(bench, "growth_in_a_new_process", lambda *_: {})
    monkeypatch.setattr(bench, "semi_crf_triton_forward", lambda x, _: x.sum((1, 2, 3, 4)))
    assert bench.main(["--configs", "1,12,4,3", "--repeats", "1"]) == 1
    assert "is off by" in capsys.readouterr().out


def test_no_input_is_copied():
    edge = torch.zeros(1, 4, 2, 3, 3)
    seen = []
    bench._phase(lambda x: seen.append(x.data_ptr()) or x.sum()[None], [edge], BOTH)()
    assert seen == [edge.data_ptr()]
