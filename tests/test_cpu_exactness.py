"""The cpu backend against exact answers on hostile scores, and what else it owes at any length.

Here with transitions that do not depend on the duration; test_cpu_per_duration.py has the others.
"""

from functools import cache, partial

import numpy as np
import pytest
import torch
from factory import (
    PER_POSITION,
    Size,
    by_threads,
    gradients_of,
    make_inputs,
    runs_on,
    upstream,
    with_grad,
)
from hostile_cases import CASES, hostile, marginal_tolerance
from long_double import LongDouble
from tolerances import TOLERANCES

from torch_semimarkov.backends import cpu
from torch_semimarkov.backends.cpu.plan import TILE
from torch_semimarkov.functional import log_partition, marginals, segment_score, viterbi
from torch_semimarkov.potentials import Potentials

T, LONG_T, VITERBI_T = 1500, 100_000, 600
FLOAT64, FLOAT32 = torch.float64, torch.float32
# Rounding of a result to float32.
ROUNDING = 2.0**-24

for_each_case = pytest.mark.parametrize("name", CASES)
# Those whose bound holds at 100,000 positions too.
LONG_CASES = (
    "plain",
    "durations forbidden to 20",
    "long durations 400 better",
    "x100",
    "drift",
    "drift that flips, long segments",
    "left to right",
)


@cache
def judge(name, T, dtype=FLOAT64):
    """The exact answer for the very numbers of one case, once they are rounded to their type."""
    return LongDouble(hostile(name, T, dtype))


def in_batch(inputs, extra=403):
    """The sequence, and its beginning as a second one: lone sequences take a way of their own."""
    double = {n: torch.cat((x, x)) if n in PER_POSITION else x for n, x in inputs.items()}
    return {**double, "lengths": torch.cat((inputs["lengths"], inputs["lengths"] - extra))}


def assert_marginals(found, truth, absolute, relative=0.0):
    """Label marginals, starts and ends of the first sequence."""
    for field in ("labels", "starts", "ends"):
        value, exact = getattr(found, field)[0].double().numpy(), getattr(truth, field)
        worst = np.abs(value - exact) - relative * np.abs(exact)
        assert worst.max() <= absolute, (field, float(worst.max()), worst.argmax())


def relative_error(value, exact):
    return abs(float((np.longdouble(value) - exact) / exact))


@pytest.mark.parametrize("change", [lambda x: x, in_batch], ids=["alone", "in a batch"])
@for_each_case
def test_hostile_scores_give_the_exact_answer(name, change):
    inputs, truth = change(hostile(name, T)), judge(name, T)
    with runs_on("cpu"):
        value, found = log_partition(**inputs), marginals(**inputs)
    assert relative_error(value[0].item(), truth.value) <= 1e-12
    assert relative_error(found.log_partition[0].item(), truth.value) <= 1e-12
    assert_marginals(found, truth, marginal_tolerance(name))


@for_each_case
def test_hostile_scores_give_the_exact_gradient(name):
    inputs = hostile(name, T)
    leaves, truth, absolute = with_grad(inputs), judge(name, T), marginal_tolerance(name)
    with runs_on("cpu"):
        found = gradients_of(log_partition(**leaves), leaves, torch.ones(1, dtype=FLOAT64))
    exact = {
        "scores": truth.labels[None],
        "start": truth.starts[0],
        "end": truth.ends[-1],
        # expected counts: as many times a marginal's error as there are positions at most
        "transition": truth.pairs,
        "duration_bias": truth.durations,
    }
    for term, right in exact.items():
        many = T if term in ("transition", "duration_bias") else 1
        assert np.abs(found[term].numpy() - right).max() <= absolute * many, term


def test_a_way_that_has_no_linear_form_is_not_lost_between_two_tiles():
    # label 2 is entered at position 16, from label 0 and so against the odds, or never
    inputs = make_inputs(Size((32,), K=1, C=3), flags="boundary")
    inputs["transition"][0, 2] = -760.0
    inputs["end_scores"][0, 15, 1:] = -torch.inf
    inputs["scores"][0, 16:, :2] = -torch.inf
    with runs_on("cpu"):
        found = marginals(**inputs)
    truth = LongDouble(inputs)
    assert relative_error(found.log_partition.item(), truth.value) <= 1e-12
    assert_marginals(found, truth, 1e-8)


@pytest.mark.parametrize("T", [17, 33, 257, 513])
def test_a_transition_that_has_no_linear_form_is_not_lost_after_one_position(T):
    # one segment has one position: each place for it is equally likely, the last one too
    inputs = make_inputs(Size((T,), K=2, C=1))
    inputs["transition"][:] = -760.0
    with runs_on("cpu"):
        found = marginals(**inputs)
    assert_marginals(found, LongDouble(inputs), 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG_CASES)
def test_hostile_scores_give_the_exact_answer_at_a_hundred_thousand_positions(name):
    truth = LongDouble(hostile(name, LONG_T))
    with runs_on("cpu"):
        found = marginals(**hostile(name, LONG_T))
    assert relative_error(found.log_partition.item(), truth.value) <= 1e-12
    assert_marginals(found, truth, marginal_tolerance(name))


@for_each_case
def test_float32_loses_only_the_rounding_of_input_and_result(name):
    inputs, truth = hostile(name, T, FLOAT32), judge(name, T, FLOAT32)
    with runs_on("cpu"):
        found = marginals(**inputs)
    assert relative_error(found.log_partition.item(), truth.value) <= ROUNDING + 1e-12
    assert found.labels.dtype == FLOAT32
    assert_marginals(found, truth, marginal_tolerance(name), ROUNDING)


@for_each_case
def test_expectations_of_hostile_scores_agree_with_each_other(name):
    with runs_on("cpu"):
        found = marginals(**hostile(name, T))
    absolute = marginal_tolerance(name)
    ones = torch.ones(1, T, dtype=FLOAT64)
    torch.testing.assert_close(found.labels.sum(-1), ones, rtol=0.0, atol=absolute)
    number = found.starts.sum().item()
    for other in (found.ends.sum(), found.durations.sum(), found.transitions.sum() + 1.0):
        assert other.item() == pytest.approx(number, rel=absolute)
    covered = (found.durations.sum(1) * torch.arange(1.0, 41.0, dtype=FLOAT64)).sum().item()
    assert covered == pytest.approx(T, rel=absolute)


# Decoding


@for_each_case
def test_the_path_of_hostile_scores_is_a_best_one(name):
    inputs = hostile(name, VITERBI_T)
    with runs_on("cpu"):
        found = viterbi(**inputs)
        path_alone = viterbi(**in_batch(inputs, 100)).segments.to_list()[0]
    best = viterbi(**inputs, backend="reference").scores
    relative, absolute = TOLERANCES["score", FLOAT64]
    assert found.scores.item() == pytest.approx(best.item(), rel=1e-12)
    own = segment_score(found.segments, **inputs)
    torch.testing.assert_close(own, found.scores, rtol=relative, atol=absolute)
    assert path_alone == found.segments.to_list()[0]


# The same bits


def all_results(inputs, interval=None):
    """log Z and every gradient, by name."""
    leaves = with_grad(inputs)
    value = log_partition(**leaves, checkpoint_interval=interval)
    gradients = gradients_of(value, leaves, upstream(len(value)))
    return {"value": value.detach(), **gradients}


def unequal(one, other, names):
    return [name for name in names if not torch.equal(one[name], other[name])]


BATCHES = {
    "alone": hostile,
    "in a batch": lambda name, T: in_batch(hostile(name, T)),
}
for_each_batch = pytest.mark.parametrize("batch", BATCHES)
for_some_cases = pytest.mark.parametrize(
    "name", ["plain", "x10", "x100", "left to right", "drift that flips, long segments",
             "strong boundaries", "forbidden scores"]
)  # fmt: skip


@for_some_cases
@for_each_batch
def test_neither_threads_nor_another_run_change_a_bit(batch, name):
    inputs = BATCHES[batch](name, T)
    for interval in (None, 200):
        first, *others = by_threads((1, 1, 2, 2, 3), partial(all_results, inputs, interval))
        for i, other in enumerate(others):
            assert not unequal(first, other, other), i


@for_each_case
@for_each_batch
@pytest.mark.parametrize("interval", [1, 100, 5000])
def test_checkpoints_change_no_bit_of_what_belongs_to_a_position(interval, batch, name):
    inputs = BATCHES[batch](name, T)
    with runs_on("cpu"):
        plain, kept_less = all_results(inputs), all_results(inputs, interval)
    positions = [term for term in PER_POSITION if term in plain]
    assert not unequal(plain, kept_less, ["value", *positions])
    for term in plain.keys() - positions:
        torch.testing.assert_close(kept_less[term], plain[term], rtol=1e-11, atol=1e-11)


def test_a_batch_of_many_has_the_same_bits_by_any_number_of_threads():
    lengths = (400, 1, 399, 16, 17, 256, 255, 33, 400, 90, 100, 15)
    inputs = make_inputs(Size(lengths * 3, K=20, C=9), flags="boundary")
    inputs["scores"][5] *= 100.0
    first, *others = by_threads((1, 2, 3), lambda: all_results(inputs))
    for other in others:
        assert not unequal(first, other, other)


# One long sequence


def filtered(inputs):
    """log Z by the textbook recurrence over probabilities, made to sum to 1 at every position."""
    scores, X, bias, start, end = (
        np.exp(inputs[name].numpy())
        for name in ("scores", "transition", "duration_bias", "start", "end")
    )
    before, logs = np.zeros(len(bias) * scores.shape[-1]).reshape(bias.shape), []
    entered = start
    for row in scores[0]:
        before[1:] = before[:-1].copy()
        before[0] = entered
        before *= row
        message = (before * bias).sum(0)
        total = message.sum()
        before /= total
        logs.append(total)
        entered = message / total @ X
    return float(np.sum(np.log(logs))) + np.log((message / total * end).sum())


@pytest.mark.slow
@pytest.mark.parametrize("K", [1, 20])
def test_a_million_positions_stay_a_distribution(K):
    inputs = make_inputs(Size((1_000_000,), K=K, C=3), flags="start-end")
    truth = filtered(inputs)
    for interval in (None, 2000):
        with runs_on("cpu"):
            found = marginals(**inputs, checkpoint_interval=interval)
        assert relative_error(found.log_partition.item(), truth) <= 1e-12
        total = found.labels.sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0.0, atol=1e-8)
        number = found.starts.sum().item()
        for other in (found.ends.sum(), found.durations.sum(), found.transitions.sum() + 1.0):
            assert other.item() == pytest.approx(number, rel=1e-10)


def test_what_vanishes_in_the_linear_domain_is_found_where_nothing_else_is_possible():
    """Five factors of which none is out of bounds: together they have no float64."""
    inf = torch.inf
    scores, opens = torch.zeros(2, 1, 3, 2, dtype=torch.float64)
    scores[0, 0], opens[0, 0, 0] = torch.tensor([-180.0, 180.0]), -150.0
    transition = torch.tensor([[-inf, -130.0], [-inf, -inf]], dtype=torch.float64)
    bias = torch.tensor([[-130.0, -inf], [-inf, 0.0]], dtype=torch.float64)
    start = torch.tensor([0.0, -inf], dtype=torch.float64)
    with runs_on("cpu"):
        value = log_partition(scores, transition, bias, start=start, start_scores=opens)
    assert value.item() == -590.0


def catching_up(step, half, K):
    """Label 0, entered at the first position alone, loses ``half`` steps and wins them back.

    It may end only after that. All the while, label 1 goes on with segments of one position.
    """
    T = TILE + 2 * half + 40
    inputs = {
        "scores": torch.zeros(1, T, 2, dtype=FLOAT64),
        "transition": torch.zeros(2, 2, dtype=FLOAT64),
        "duration_bias": torch.zeros(K, 2, dtype=FLOAT64),
        "start_scores": torch.zeros(1, T, 2, dtype=FLOAT64),
        "end_scores": torch.zeros(1, T, 2, dtype=FLOAT64),
        "lengths": torch.tensor([T]),
    }
    inputs["scores"][0, TILE : TILE + half, 0] = -step
    inputs["scores"][0, TILE + half : TILE + 2 * half, 0] = step
    inputs["duration_bias"][1:, 1] = -torch.inf
    inputs["start_scores"][0, 1:, 0] = -torch.inf
    inputs["end_scores"][0, : TILE + 2 * half, 0] = -torch.inf
    return inputs


@pytest.mark.parametrize("turn", [False, True], ids=["as it is", "reversed"])
@pytest.mark.parametrize("change", [lambda x: x, partial(in_batch, extra=5)], ids=["alone", "two"])
@pytest.mark.parametrize(
    ("step", "half", "K"),
    [(6.0, 128, 400), (10.0, 128, 400), (3.0, 256, 800), (63.0, 16, 100), (-63.0, 16, 100)],
)
def test_a_segment_that_falls_behind_and_catches_up_is_not_lost(step, half, K, change, turn):
    inputs = catching_up(step, half, K)
    if turn:  # the other sweep meets it
        for name, other in (("scores", "scores"), ("start_scores", "end_scores")):
            one, two = inputs[name].flip(1), inputs[other].flip(1)
            inputs[name], inputs[other] = two, one
    with runs_on("cpu"):
        found = marginals(**change(inputs))
    middle = inputs["scores"].shape[1] // 2
    # 40 places for the other end of the long segment, or none of it
    assert found.log_partition[0].item() == pytest.approx(np.log(41.0), rel=1e-12)
    assert found.labels[0, middle, 0].item() == pytest.approx(40 / 41, rel=1e-11)


@pytest.mark.parametrize("C", [1, 3, 5])
@pytest.mark.parametrize("scale", [1.0, 2.0**16, 1e30])
def test_a_loss_that_is_scaled_up_has_the_scaled_gradient(scale, C):
    # scores far below 0, and one tile that is exact from one side at least
    inputs = make_inputs(Size((64,), K=4, C=C))
    inputs["scores"] -= 100.0
    inputs["scores"][0, 20] += torch.linspace(400.0, -400.0, C)
    leaves, weight = with_grad(inputs), torch.tensor([scale], dtype=FLOAT64)
    with runs_on("cpu"):
        found = gradients_of(log_partition(**leaves), leaves, weight)
    plain = gradients_of(log_partition(**leaves, backend="reference"), leaves, weight / scale)
    for term, right in plain.items():
        torch.testing.assert_close(found[term] / scale, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("B", [1, 4])
@pytest.mark.parametrize("size", [1e15, 3e18, 1e20, -1e20, 1e30, -1e30, 1e300])
def test_scores_of_any_size_have_their_sum(size, B):
    inputs = make_inputs(Size((40,) * B, K=30, C=3), flags="start-end")
    inputs["scores"][:, 5:9] += size
    inputs["start"] += size
    with runs_on("cpu"):
        value = log_partition(**inputs)
    right = log_partition(**inputs, backend="reference")
    torch.testing.assert_close(value, right, rtol=1e-14, atol=0.0)


def test_a_score_that_is_no_number_is_not_lost_behind_a_label_that_is_forbidden():
    scores = torch.tensor([[[torch.nan, 0.0]]], dtype=FLOAT64)
    start = torch.tensor([0.0, -torch.inf], dtype=FLOAT64)
    p = Potentials(scores, torch.zeros(2, 2), torch.zeros(1, 2), start=start).canonical()
    assert cpu.forward(p, "log", False, None)[0].isnan().all()


@pytest.mark.parametrize("term", ["scores", "start_scores", "end_scores", "transition", "tail"])
@pytest.mark.parametrize("C", [1, 2, 3])
def test_with_a_tail_too_what_is_no_number_reaches_the_value(term, C):
    inputs = make_inputs(Size((20, 17), K=3, C=C), flags="tail")
    inputs[term].view(-1)[10 * C if term in PER_POSITION else -1] = torch.nan
    with runs_on("cpu"):
        value = log_partition(**inputs, validate_args=False)
    assert value[0].isnan()
    assert value[1].isnan() == (term not in PER_POSITION)
