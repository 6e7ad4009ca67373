"""The benchmark of queries of the posterior: looked at before timed, one row a call."""

import csv

import posterior_queries as bench
import pytest
import torch
from workload import Size, draw

SIZE = Size(2, 60, 4, 3)


def test_the_command_writes_a_row_for_each_call(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    arguments = ["--configs", str(SIZE), "--repeats", "1", "--threads", "1", "--output", str(path)]
    assert bench.main(arguments) == 0
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    wanted = ["viterbi", "kbest, k=1", "kbest, k=5", "kbest, k=20", "sample, 1", "sample, 100"]
    assert [row["measured"] for row in rows] == wanted
    assert all(row["status"] == "ok" and float(row["median_ms"]) > 0 for row in rows)
    assert "kbest, k=20" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["viterbi", "kbest, k=5"])
def test_a_score_that_is_off_is_noticed(name):
    workload = draw(SIZE)
    result = bench.calls_of(workload)[name]()
    assert not bench.problem_of(name, result, workload)
    scores = result.scores.clone()
    scores[-1] *= 1.01
    assert bench.problem_of(name, result._replace(scores=scores), workload)


def test_two_equal_paths_and_another_order_are_noticed():
    workload, name = draw(SIZE), "kbest, k=5"
    result = bench.calls_of(workload)[name]()
    for index, problem in (([0, 1, 1, 3, 4], "the same"), ([0, 2, 1, 3, 4], "not in order")):
        other = result._replace(
            scores=result.scores[index], segments=result.segments[torch.tensor(index)]
        )
        assert problem in bench.problem_of(name, other, workload)


def test_samples_of_another_model_are_noticed():
    workload, name = draw(SIZE), "sample, 100"
    other = draw(SIZE)
    other.duration_bias[0] += 5.0
    drawn = bench.calls_of(other)[name]()
    assert "expect" in bench.problem_of(name, drawn, workload)
