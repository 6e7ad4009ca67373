"""Sequences abreast in the cpu backend: which ones are, and that all are exact."""

from functools import cache
from unittest import mock

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
from tolerances import assert_close

from torch_semimarkov.backends import cpu
from torch_semimarkov.backends.cpu.abreast import FEWEST, MOST_DURATIONS, MOST_LABELS
from torch_semimarkov.backends.cpu.abreast_sweeps import ABREAST
from torch_semimarkov.functional import log_partition, marginals
from torch_semimarkov.potentials import Potentials

FLOAT64, FLOAT32 = torch.float64, torch.float32
T, LENGTHS = 500, (500, 333, 16, 1)
for_each_case = pytest.mark.parametrize("name", CASES)


def several(name, dtype=FLOAT64):
    """Sequences of one hostile case: the same positions, cut to several lengths.

    Of its durations every third is there, so that few are left and long ones among them.
    """
    inputs = hostile(name, T, dtype)
    inputs["duration_bias"] = inputs["duration_bias"][::3][:MOST_DURATIONS]
    copies = {n: torch.cat([x] * len(LENGTHS)) for n, x in inputs.items() if n in PER_POSITION}
    return {**inputs, **copies, "lengths": torch.tensor(LENGTHS)}


@cache
def judges(name, dtype=FLOAT64):
    """The exact answer for each sequence; None where no segmentation is possible."""
    inputs = several(name, dtype)
    values = log_partition(**inputs, backend="reference").tolist()
    return tuple(None if v == -np.inf else LongDouble(inputs, b) for b, v in enumerate(values))


def done_abreast(inputs):
    """Which sequences a forward kept as done abreast."""
    p = Potentials(**inputs).canonical()
    _, kept = cpu.forward(p, "log", True, None)
    return (kept[:, -3] == ABREAST).tolist()


def random_inputs(lengths, K, C, dtype=FLOAT64, flags="start-end", padding=0):
    return make_inputs(Size(lengths, K=K, C=C, padding=padding), dtype, flags)


@for_each_case
def test_hostile_scores_give_the_exact_answer(name):
    inputs = several(name)
    with runs_on("cpu"):
        found = marginals(**inputs)
    for b, truth in enumerate(judges(name)):
        if truth is None:
            assert found.log_partition[b] == -torch.inf
            continue
        assert float(found.log_partition[b]) == pytest.approx(float(truth.value), rel=1e-12)
        L = LENGTHS[b]
        for field in ("labels", "starts", "ends"):
            value, exact = getattr(found, field)[b, :L].numpy(), getattr(truth, field)
            assert np.abs(value - exact).max() <= marginal_tolerance(name), (b, field)
            assert not getattr(found, field)[b, L:].any()


@for_each_case
def test_hostile_scores_give_the_exact_counts(name):
    inputs = several(name)
    leaves, weight = with_grad(inputs), upstream(len(LENGTHS))
    with runs_on("cpu"):
        found = gradients_of(log_partition(**leaves), leaves, weight)
    possible = [(w, x) for w, x in zip(weight.tolist(), judges(name), strict=True) if x]
    for term, field in (("transition", "pairs"), ("duration_bias", "durations")):
        exact = sum(w * getattr(x, field) for w, x in possible)
        error = np.abs(found[term].numpy() - exact).max()
        assert error <= marginal_tolerance(name) * T, term


@pytest.mark.parametrize("name", ["plain", "offset 30", "offset -1000"])
def test_tame_scores_are_done_abreast(name):
    assert all(done_abreast(several(name)))


@pytest.mark.parametrize("name", ["x100", "left to right", "low transitions", "one label at 1e4"])
def test_scores_out_of_bounds_are_not(name):
    assert not done_abreast(several(name))[0]


def test_one_wild_sequence_leaves_its_neighbours_abreast():
    inputs = random_inputs((40,) * 9, K=3, C=5)
    inputs["scores"][4] *= 100.0
    assert done_abreast(inputs) == [b != 4 for b in range(9)]


@pytest.mark.parametrize("B, K, C", [(FEWEST - 1, 2, 3), (FEWEST, MOST_DURATIONS + 1, 3),
                                     (FEWEST, 2, MOST_LABELS + 1)])  # fmt: skip
def test_few_sequences_many_durations_or_many_labels_are_not_abreast(B, K, C):
    assert not any(done_abreast(random_inputs((60,) * B, K, C)))
    assert all(done_abreast(random_inputs((60,) * FEWEST, K=2, C=3)))


def only_the_right_is_wild():
    """Label 1 cannot be reached from the left, but from the right it leaves label 0 far behind."""
    inputs = random_inputs((300,) * 5, K=2, C=2)
    inputs["start"][1] = -torch.inf
    inputs["transition"][0, 1] = -torch.inf
    inputs["scores"][..., 1] += 5.0
    return inputs


def test_a_sequence_that_is_calm_from_one_side_only_is_done_again():
    inputs = only_the_right_is_wild()
    assert all(done_abreast(inputs))
    leaves, again = with_grad(inputs), mock.Mock(wraps=cpu.partition.forward)
    with runs_on("cpu"), mock.patch.object(cpu.partition, "forward", again):
        value = log_partition(**leaves)
        assert not again.called
        found = [gradients_of_again(value, leaves) for _ in range(2)]
    assert again.call_count == 2
    reference = with_grad(inputs)
    value = log_partition(**reference, backend="reference")
    truth = gradients_of(value, reference, upstream(5))
    for name, exact in truth.items():
        assert_close("gradient", FLOAT64, found[0][name], exact)
        assert torch.equal(found[0][name], found[1][name]), name


def gradients_of_again(value, leaves):
    names = [name for name in leaves if name != "lengths"]
    found = torch.autograd.grad(value, [leaves[n] for n in names], upstream(5), retain_graph=True)
    return dict(zip(names, found, strict=True))


# Sizes


@pytest.mark.parametrize("dtype", [FLOAT64, FLOAT32])
@pytest.mark.parametrize("flags", ["plain", "boundary", "forbidden"])
@pytest.mark.parametrize("K, C", [(1, 1), (1, 8), (2, 9), (5, 7), (16, 16), (3, 15)])
@pytest.mark.parametrize("lengths", [(4, 1, 3, 2), (17, 16, 33, 1, 15, 32, 48, 2, 31)])
def test_every_size_agrees_with_the_reference(lengths, K, C, flags, dtype):
    inputs = random_inputs(lengths, K, C, dtype, flags, padding=3)
    for name in PER_POSITION:
        if name in inputs:
            for b, L in enumerate(lengths):
                inputs[name][b, L:] = torch.nan
    leaves, wide = with_grad(inputs), with_grad(inputs)
    weight = upstream(len(lengths), dtype)
    with runs_on("cpu"):
        value = log_partition(**leaves)
        found = gradients_of(value, leaves, weight)
    truth = log_partition(**wide, backend="reference")
    exact = gradients_of(truth, wide, weight)
    assert_close("log_partition", dtype, value, truth.detach())
    for name, gradient in found.items():
        assert_close("gradient", dtype, gradient, exact[name])


def test_neither_threads_nor_another_run_change_a_bit():
    inputs = random_inputs((2000, 1999, 3, 500) * 8, K=12, C=9, flags="boundary")
    inputs["scores"][5] *= 100.0

    def results():
        leaves = with_grad(inputs)
        value = log_partition(**leaves)
        return [value.detach(), *gradients_of(value, leaves, upstream(len(value))).values()]

    first, *others = by_threads((1, 1, 2, 3), results)
    for other in others:
        assert all(map(torch.equal, first, other))


def test_the_sequences_of_a_batch_do_not_see_each_other():
    inputs = random_inputs((50, 20, 33, 47, 50), K=4, C=6)
    changed = {name: x.clone() for name, x in inputs.items()}
    changed["scores"][1] += 3.0
    with runs_on("cpu"):
        before, after = marginals(**inputs), marginals(**changed)
    for b in (0, 2, 3, 4):
        assert torch.equal(before.labels[b], after.labels[b])
        assert before.log_partition[b] == after.log_partition[b]


@pytest.mark.slow
def test_a_hundred_thousand_positions_stay_a_distribution():
    inputs = random_inputs((100_000, 99_999, 100_000, 50_000), K=8, C=5)
    assert all(done_abreast(inputs))
    with runs_on("cpu"):
        found = marginals(**inputs)
        alone = marginals(**{n: x[:1] if n in (*PER_POSITION, "lengths") else x
                             for n, x in inputs.items()})  # fmt: skip
    total = found.labels[0].sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0.0, atol=1e-8)
    assert float(found.log_partition[0]) == pytest.approx(float(alone.log_partition), rel=1e-12)
    torch.testing.assert_close(found.labels[0], alone.labels[0], rtol=0.0, atol=1e-8)
