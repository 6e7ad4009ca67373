"""The matching of boundaries and segments against brute force and against other libraries."""

import itertools

import mir_eval
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from torch_semimarkov.metrics import match_in_order, segment_scores
from torch_semimarkov.metrics.matching import match_positions


def every_matching(rows, columns):
    """All one-to-one matchings of two index sets, crossings included."""
    if not rows:
        yield ()
        return
    for rest in every_matching(rows[1:], columns):
        yield rest
    for column in columns:
        others = [other for other in columns if other != column]
        for rest in every_matching(rows[1:], others):
            yield ((rows[0], column), *rest)


def best_by_enumeration(cost):
    """Most allowed pairs, then least cost, over every matching of a (N, M) table; -1 forbids."""
    best = (0, 0)
    for matching in every_matching(list(range(cost.shape[0])), list(range(cost.shape[1]))):
        costs = [cost[pair] for pair in matching]
        if min(costs, default=0) >= 0:
            best = max(best, (len(costs), -sum(costs)))
    return best[0], -best[1]


def random_positions(generator, count, reach):
    return np.sort(generator.choice(reach, size=count, replace=False)).astype(np.int64)


def random_tiling(generator, length, count, labels=2):
    cuts = np.sort(generator.choice(np.arange(1, length), size=count - 1, replace=False))
    edges = [0, *cuts.tolist(), length]
    return [
        (start, end, int(generator.integers(labels))) for start, end in itertools.pairwise(edges)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_positions_are_matched_as_well_as_any_matching_could(seed):
    generator = np.random.default_rng(seed)
    true = random_positions(generator, generator.integers(0, 6), 14)
    predicted = random_positions(generator, generator.integers(0, 6), 14)
    tolerance = int(generator.integers(0, 7))
    rows, columns = match_positions(true, predicted, np.full(len(true), tolerance))
    distance = np.abs(true[:, None] - predicted[None, :])
    expected = best_by_enumeration(np.where(distance <= tolerance, distance, -1))
    assert (len(rows), distance[rows, columns].sum()) == expected


@pytest.mark.parametrize("seed", range(10))
def test_many_positions_are_matched_as_scipy_and_mir_eval_match_them(seed):
    generator = np.random.default_rng(seed)
    true = random_positions(generator, 150, 600)
    predicted = random_positions(generator, 130, 600)
    tolerance = [0, 1, 3, 10, 40][seed % 5]
    rows, columns = match_positions(true, predicted, np.full(150, tolerance))
    distance = np.abs(true[:, None] - predicted[None, :])
    gain = np.where(distance <= tolerance, 10**6 - distance, 0)
    left, right = linear_sum_assignment(gain, maximize=True)
    assert gain[rows, columns].sum() == gain[left, right].sum()
    assert len(rows) == len(mir_eval.util.match_events(true, predicted, tolerance))


def test_the_matching_uses_each_thing_once_and_keeps_the_order():
    generator = np.random.default_rng(3)
    true, predicted = (random_positions(generator, 300, 700) for _ in range(2))
    rows, columns = match_positions(true, predicted, np.full(300, 9))
    assert (np.diff(rows) > 0).all() and (np.diff(columns) > 0).all()
    assert (np.abs(true[rows] - predicted[columns]) <= 9).all()


def test_two_pairs_are_preferred_to_one_closer_pair():
    rows, columns = match_positions(np.array([10, 12]), np.array([8, 10]), np.array([2, 2]))
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [0, 1])


def test_no_candidates_give_no_matches():
    nothing = np.zeros(0, dtype=np.int64)
    for rows in match_in_order(nothing, nothing, nothing):
        assert rows.tolist() == []


@pytest.mark.parametrize(
    "rule", [{}, {"tolerance": 2}, {"tolerance": 5}, {"iou": 0.5}, {"iou": 0.1}]
)
@pytest.mark.parametrize("seed", range(8))
def test_segments_are_matched_as_well_as_any_matching_could(seed, rule):
    generator = np.random.default_rng(seed)
    true = random_tiling(generator, 16, 6)
    predicted = random_tiling(generator, 16, 5)
    allowed = -np.ones((6, 5), dtype=int)
    for (i, (s, e, c)), (j, (u, v, k)) in itertools.product(enumerate(true), enumerate(predicted)):
        if "iou" in rule:
            ratio = len({*range(s, e)} & {*range(u, v)}) / len({*range(s, e)} | {*range(u, v)})
            fits = ratio >= rule["iou"]
        else:
            fits = max(abs(s - u), abs(e - v)) <= rule.get("tolerance", 0)
        if fits and c == k:
            allowed[i, j] = 0
    count, _ = best_by_enumeration(allowed)
    assert segment_scores([true], [predicted], **rule).micro.matched == count
