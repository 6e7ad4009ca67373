"""The judge is judged by hand: counts, a score, derivatives by differences."""

import ast
import doctest
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import oracle
import pytest


def zeros(L, K, C, per_duration=False):
    shape = (K, C, C) if per_duration else (C, C)
    position, label = np.zeros((L, C)), np.zeros(C)
    return oracle.Sequence(
        position, np.zeros(shape), np.zeros((K, C)), label, label, position, position
    )


def random_sequence(L, K, C, per_duration=False, seed=0):
    draw = np.random.default_rng(seed)
    blank = zeros(L, K, C, per_duration)
    return oracle.Sequence(*(draw.normal(size=value.shape) for value in vars(blank).values()))


def test_it_imports_nothing_of_ours_and_no_torch():
    tree = ast.parse(Path(oracle.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {getattr(n, "module", None) or n.names[0].name for n in imports}
    assert names == {"dataclasses", "itertools", "math", "numpy"}


def test_its_examples_hold():
    result = doctest.testmod(oracle)
    assert result.attempted and not result.failed


@pytest.mark.parametrize("L", [1, 2, 5])
@pytest.mark.parametrize("C", [1, 2, 3])
def test_unbounded_durations_give_c_times_c_plus_one_to_the_l_minus_one_segmentations(L, C):
    found = oracle.segmentations_of(L, L, C)
    assert len(found) == len(set(found)) == C * (C + 1) ** (L - 1)


@pytest.mark.parametrize("K", [1, 2, 3])
def test_every_segmentation_tiles_the_sequence_within_k(K):
    for segmentation in oracle.segmentations_of(4, K, 2):
        starts, ends, labels = zip(*segmentation, strict=True)
        assert (starts[0], ends[-1]) == (0, 4)
        assert starts[1:] == ends[:-1]
        assert all(1 <= e - s <= K for s, e in zip(starts, ends, strict=True))
        assert set(labels) <= {0, 1}


def test_a_score_is_the_sum_of_its_terms():
    sequence = oracle.Sequence(
        scores=np.array([[1.0, 2.0], [4.0, 8.0], [16.0, 32.0]]),
        transition=np.array([[0.0, 64.0], [128.0, 0.0]]),
        duration_bias=np.array([[256.0, 0.0], [0.0, 512.0]]),
        start=np.array([0.0, 1024.0]),
        end=np.array([2048.0, 0.0]),
        start_scores=np.array([[0.0, 4096.0], [0.0, 0.0], [8192.0, 0.0]]),
        end_scores=np.array([[0.0, 0.0], [0.0, 16384.0], [32768.0, 0.0]]),
    )
    # Label 1 on [0, 2), then label 0 on [2, 3).
    terms = [2 + 8 + 16, 128, 512 + 256, 1024, 2048, 4096 + 8192, 16384 + 32768]
    assert oracle.score_of(sequence, ((0, 2, 1), (2, 3, 0))) == sum(terms)


def test_a_transition_per_duration_is_that_of_the_segment_entered():
    sequence = zeros(3, 2, 2, per_duration=True)
    sequence.transition[1, 0, 1] = 5.0
    assert oracle.score_of(sequence, ((0, 1, 0), (1, 3, 1))) == 5.0
    assert oracle.score_of(sequence, ((0, 2, 0), (2, 3, 1))) == 0.0


def test_with_scores_of_zero_the_log_partition_counts():
    assert oracle.Oracle(zeros(2, 2, 1)).log_partition == pytest.approx(log(2))
    assert oracle.Oracle(zeros(4, 4, 3)).log_partition == pytest.approx(log(3 * 4**3))


def test_impossible_sequences_have_log_partition_minus_infinity_and_gradient_zero():
    sequence = replace(zeros(2, 2, 2), scores=np.full((2, 2), -np.inf))
    found = oracle.Oracle(sequence)
    assert found.log_partition == found.best_score == -np.inf
    assert found.all_best() == []
    assert all((value == 0).all() for value in found.gradient().values())
    assert all((value == 0).all() for value in found.marginals().values())


@pytest.mark.parametrize("per_duration", [False, True])
def test_expected_counts_are_the_differences_of_the_log_partition(per_duration):
    sequence = random_sequence(4, 3, 2, per_duration)
    gradient = oracle.Oracle(sequence).gradient()
    h = 1e-5
    for name, value in vars(sequence).items():
        for index in np.ndindex(value.shape):
            step = np.zeros_like(value)
            step[index] = h
            up = oracle.Oracle(replace(sequence, **{name: value + step})).log_partition
            down = oracle.Oracle(replace(sequence, **{name: value - step})).log_partition
            assert gradient[name][index] == pytest.approx((up - down) / (2 * h), abs=1e-8)


def test_marginals_are_the_gradients_of_the_terms_they_belong_to():
    found = oracle.Oracle(random_sequence(5, 3, 2))
    marginals, gradient = found.marginals(), found.gradient()
    pairs = {
        "labels": "scores",
        "starts": "start_scores",
        "ends": "end_scores",
        "durations": "duration_bias",
        "transitions": "transition",
    }
    for name, term in pairs.items():
        np.testing.assert_allclose(marginals[name], gradient[term], atol=1e-12)
    np.testing.assert_allclose(marginals["labels"].sum(1), 1.0)
    assert marginals["boundaries"][0] == pytest.approx(1.0)


def test_probabilities_sum_to_one_and_the_best_is_the_likeliest():
    found = oracle.Oracle(random_sequence(4, 2, 3))
    assert found.probabilities().sum() == pytest.approx(1.0)
    assert found.segmentations[found.probabilities().argmax()] == found.best()


def test_of_equal_segmentations_the_tie_rule_reads_from_the_end():
    found = oracle.Oracle(zeros(3, 2, 2))
    assert len(found.all_best()) == len(found.segmentations)
    assert found.best() == ((0, 1, 0), (1, 2, 0), (2, 3, 0))
