"""What is asked of the posterior, and its answers by enumeration."""

import torch
from tolerances import FLOAT64, assert_close


def average(judge, of) -> float:
    """Expectation of a function of the segmentation."""
    found = zip(judge.segmentations, judge.probabilities(), strict=True)
    return sum(probability * of(y) for y, probability in found if probability > 0)


def painted(y) -> list[int]:
    return [c for s, e, c in y for _ in range(s, e)]


def every_window(size):
    """Every window of each sequence, and all of them as a padded table."""
    windows = [[(a, z) for a in range(L) for z in range(a + 1, L + 1)] for L in size.lengths]
    most = max(map(len, windows))
    return windows, torch.tensor([row + [(0, 1)] * (most - len(row)) for row in windows])


def some_runs(size):
    """Every third run of each sequence."""
    return [
        [(a, z, c) for a in range(L) for z in range(a + 1, L + 1) for c in range(size.C)][::3]
        for L in size.lengths
    ]


def is_segment(y, one) -> bool:
    return one in y


def has_start_in(y, window) -> bool:
    return any(window[0] <= s < window[1] for s, _, _ in y)


def has_run(y, run) -> bool:
    return set(painted(y)[run[0] : run[1]]) == {run[2]}


def assert_probabilities(found, asked, holds, judges) -> None:
    """Each row of ``found`` begins with the probabilities that what is asked ``holds``."""
    for row, questions, judge in zip(found, asked, judges, strict=True):
        truth = [average(judge, lambda y, one=one: holds(y, one)) for one in questions]
        assert_close("marginals", FLOAT64, row[: len(truth)], truth)


def assert_durations(found, positions, judges) -> None:
    """``found`` (B, M, rows, C) is the posterior of durations and labels at ``positions``."""
    for table, places, judge in zip(found, positions.tolist(), judges, strict=True):
        for one, t in zip(table, places, strict=True):
            truth = torch.zeros(one.shape, dtype=FLOAT64)
            for y, probability in zip(judge.segmentations, judge.probabilities(), strict=True):
                for s, e, c in y:
                    truth[e - s - 1, c] += probability * (s <= t < e)
            assert_close("marginals", FLOAT64, one, truth)


def assert_nothing_after(found, asked) -> None:
    """The padding of ``found`` holds zeros."""
    for row, questions in zip(found, asked, strict=True):
        assert not row[len(questions) :].any()
