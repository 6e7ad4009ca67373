"""The compiled kernels for (K, C, C) transitions at sizes and scores that enumeration cannot reach.

The judge is the recurrence in numpy's long double, a text of its own, and the reference backend.
"""

import numpy as np
import pytest
import torch
from factory import (
    TERMS,
    Size,
    by_threads,
    gradients_of,
    make_inputs,
    runs_on,
    upstream,
    with_grad,
)
from long_double import LongDouble
from test_contract_viterbi import restore_forbidden, tied
from tolerances import assert_close

from torch_semimarkov.backends.cpu.sums import FixedSum
from torch_semimarkov.functional import log_partition, marginals, viterbi

SIZE = Size((300, 211), K=20, C=7, padding=3)


def hostile(name):
    """Inputs of one hard kind, each with every term present."""
    inputs = make_inputs(SIZE, flags="all" if name == "forbidden" else "per-duration", seed=7)
    for term, x in make_inputs(SIZE, flags="boundary", seed=8).items():
        inputs.setdefault(term, x)
    for term, x in make_inputs(SIZE, flags="start-end", seed=9).items():
        inputs.setdefault(term, x)
    if name == "x100":
        return {n: x * 100 if x.is_floating_point() else x for n, x in inputs.items()}
    if name == "drift":
        inputs["scores"] += torch.linspace(-3.0, 3.0, SIZE.C, dtype=torch.float64)
        inputs["scores"] -= 3.0
    if name == "long segments only":
        inputs["duration_bias"][:15] = -torch.inf
    if name == "left to right":
        later = torch.ones(SIZE.C, SIZE.C, dtype=torch.bool).triu()
        inputs["transition"] = inputs["transition"].masked_fill(~later, -torch.inf)
        inputs["start"][1:] = -torch.inf
        inputs["scores"] += 30.0 * torch.arange(SIZE.C, 0, -1, dtype=torch.float64)
    if name == "far sources":
        inputs["transition"][:, ::2] -= 1500.0
        inputs["scores"][:, 100:150, 1::2] -= 900.0
    return inputs


HOSTILE = ("x100", "drift", "forbidden", "long segments only", "left to right", "far sources")
for_each_hostile = pytest.mark.parametrize("name", HOSTILE)


@for_each_hostile
def test_hostile_scores_keep_every_digit(name):
    inputs = hostile(name)
    leaves, weight = with_grad(inputs), upstream(SIZE.B)
    with runs_on("cpu"):
        value = log_partition(**leaves)
        gradients = gradients_of(value, leaves, weight)
    judges = [LongDouble(inputs, b) for b in range(SIZE.B)]
    assert_close("log_partition", torch.float64, value, [float(one.value) for one in judges])
    pairs = sum(
        w * one.pairs.astype(np.float64) for w, one in zip(weight.tolist(), judges, strict=True)
    )
    assert_close("gradient", torch.float64, gradients["transition"], torch.from_numpy(pairs))
    for b, (L, one) in enumerate(zip(SIZE.lengths, judges, strict=True)):
        for term, truth in (("start_scores", one.starts), ("end_scores", one.ends)):
            found = gradients[term][b, :L]
            truth = weight[b] * torch.from_numpy(truth.astype(np.float64))
            assert_close("gradient", torch.float64, found, truth)


@for_each_hostile
def test_hostile_scores_give_the_posteriors_of_the_reference(name):
    inputs = hostile(name)
    with runs_on("cpu"):
        found = marginals(**inputs)
    truth = marginals(**inputs, backend="reference")
    for field in ("labels", "starts", "ends", "transitions", "durations"):
        torch.testing.assert_close(
            getattr(found, field), getattr(truth, field), rtol=1e-8, atol=1e-8, msg=field
        )


@for_each_hostile
def test_hostile_scores_give_the_path_of_the_reference(name):
    inputs = hostile(name)
    with runs_on("cpu"):
        found = viterbi(**inputs)
    truth = viterbi(**inputs, backend="reference")
    assert found.segments == truth.segments
    assert_close("score", torch.float64, found.scores, truth.scores)


@pytest.mark.parametrize("flags", ["per-duration", "all"])
@pytest.mark.parametrize("offset", [0.0, 40.0])
def test_of_many_equal_paths_the_documented_one_is_taken(flags, offset):
    original = make_inputs(SIZE, flags=flags)
    inputs = restore_forbidden(tied(original), original)
    inputs["scores"] += offset
    with runs_on("cpu"):
        found = viterbi(**inputs)
    truth = viterbi(**inputs, backend="reference")
    assert found.segments == truth.segments
    assert torch.equal(found.scores, truth.scores)


def all_results(inputs):
    leaves = with_grad(inputs)
    value = log_partition(**leaves)
    gradients = gradients_of(value, leaves, upstream(len(value)))
    best = viterbi(**inputs)
    return [value.detach(), *gradients.values(), best.scores, *vars(best.segments).values()]


@pytest.mark.parametrize("flags", ["per-duration", "all"])
def test_threads_change_no_bit(flags):
    inputs = make_inputs(Size((150, 60, 149, 1, 90, 120, 33), K=20, C=7), flags=flags)
    first, *others = by_threads((1, 2, 2, 3), lambda: all_results(inputs))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 13])
def test_the_sum_over_sequences_does_not_depend_on_who_comes_first(count):
    draw = np.random.default_rng(count)
    parts = draw.normal(size=(count, 5)) * 10.0 ** draw.integers(-8, 8, size=(count, 1))
    totals = []
    for order in (range(count), reversed(range(count)), draw.permutation(count)):
        total = FixedSum(count)
        for index in order:
            total.add(int(index), parts[index].copy())
        totals.append(total.total)
    np.testing.assert_allclose(totals[0], parts.sum(0), rtol=1e-12, atol=1e-9)
    assert all(np.array_equal(totals[0], other) for other in totals)


def test_a_repeated_row_is_the_plain_transition():
    inputs = make_inputs(SIZE, flags="boundary")
    repeated = {**inputs, "transition": inputs["transition"].expand(SIZE.K, -1, -1)}
    results = [marginals(**each, backend="cpu") for each in (inputs, repeated)]
    plain, found = (each._replace(transitions=None) for each in results)
    for name in ("labels", "starts", "ends", "durations"):
        assert_close("marginals", torch.float64, getattr(found, name), getattr(plain, name))
    summed = results[1].transitions.sum(0)
    assert_close("marginals", torch.float64, summed, results[0].transitions)
    assert viterbi(**repeated, backend="cpu").segments == viterbi(**inputs).segments


@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_a_long_sequence_stays_a_distribution(offset):
    size = Size((200_000,), K=3, C=2)
    inputs = make_inputs(size, flags="per-duration")
    inputs["scores"] += offset
    with runs_on("cpu"):
        found = marginals(**inputs)
    ones = torch.ones(1, size.T, dtype=torch.float64)
    torch.testing.assert_close(found.labels.sum(-1), ones, rtol=0.0, atol=1e-8)
    number = found.starts.sum().item()
    assert found.transitions.sum().item() == pytest.approx(number - 1, rel=1e-10)
    assert found.durations.sum().item() == pytest.approx(number, rel=1e-10)


def test_nan_reaches_the_value_where_it_is_not_refused():
    inputs = make_inputs(SIZE, flags="per-duration")
    inputs["scores"][0, 40, 3] = torch.nan
    with runs_on("cpu"):
        value = log_partition(**inputs, validate_args=False)
        viterbi(**inputs, validate_args=False)
    assert value[0].isnan()
    assert value[1].isfinite()


def test_every_term_is_among_the_hostile_ones():
    # but a tail, which these kernels refuse
    assert {*hostile("x100")} == {*TERMS, "lengths"} - {"tail"}
