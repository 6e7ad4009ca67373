"""Hard constraints hold in everything the head says, by enumeration."""

from itertools import pairwise

import pytest
import torch
from head_cases import LENGTHS, C, D, K, losses_of, potentials_of, random_batch, random_head
from oracle import Oracle
from tolerances import FLOAT64, assert_close

import torch_semimarkov as ts
from torch_semimarkov.errors import ConfigError, NumericsError, SegmentError

# No label follows itself, nor does 0 follow 2.
ALLOWED = [[False, True, True], [True, False, True], [False, True, False]]
CONSTRAINTS = {
    "transitions": {"allowed_transitions": ALLOWED},
    "shortest, for all": {"min_duration": 2},
    "shortest, by label": {"min_duration": [1, 3, 2]},
    "longest, for all": {"label_max_duration": 2},
    "longest, by label": {"label_max_duration": [4, 1, 3]},
    "all": {
        "allowed_transitions": ALLOWED,
        "min_duration": [1, 2, 1],
        "label_max_duration": torch.tensor([2, 3, 4]),
    },
}
for_each_constraint = pytest.mark.parametrize("constraints", CONSTRAINTS.values(), ids=CONSTRAINTS)


def constrained_oracles(head, constraints, hidden, lengths):
    """Enumeration in which every segmentation that breaks a rule scores -inf."""
    judges = [Oracle(potentials_of(head, hidden[b, :n])) for b, n in enumerate(lengths)]
    for judge in judges:
        for i, y in enumerate(judge.segmentations):
            if not obeys(y, constraints):
                judge.scores[i] = float("-inf")
        judge.log_partition = torch.tensor(judge.scores).logsumexp(0).item()
        judge.best_score = float(judge.scores.max())
    return judges


def obeys(segmentation, constraints):
    allowed = constraints.get("allowed_transitions", [[True] * C] * C)
    shortest = per_label(constraints.get("min_duration", 1))
    longest = per_label(constraints.get("label_max_duration", K))
    durations = all(shortest[c] <= end - start <= longest[c] for start, end, c in segmentation)
    pairs = pairwise(segmentation)
    return durations and all(allowed[before[2]][after[2]] for before, after in pairs)


def per_label(value):
    return [value] * C if isinstance(value, int) else [int(bound) for bound in value]


def constrained_case(constraints):
    head = random_head(**constraints)
    hidden, lengths, _ = random_batch()
    hidden, lengths = hidden[:2], lengths[:2]
    return head, hidden, lengths, constrained_oracles(head, constraints, hidden, LENGTHS[:2])


@for_each_constraint
def test_the_partition_sums_what_is_allowed_and_nothing_else(constraints):
    head, hidden, lengths, judges = constrained_case(constraints)
    truth = [judge.log_partition for judge in judges]
    assert_close("log_partition", FLOAT64, head(hidden, lengths)["partition"], truth)


@for_each_constraint
def test_decode_is_the_best_of_what_is_allowed(constraints):
    head, hidden, lengths, judges = constrained_case(constraints)
    result = head.decode(hidden, lengths)
    for found, score, judge in zip(result.segments.to_list(), result.scores, judges, strict=True):
        assert obeys(found, constraints)
        assert tuple(map(tuple, found)) == judge.best()
        assert_close("score", FLOAT64, score[None], [judge.best_score])


@for_each_constraint
def test_marginals_give_the_forbidden_nothing(constraints):
    head, hidden, lengths, judges = constrained_case(constraints)
    found = head.marginals(hidden, lengths)
    truths = [judge.marginals() for judge in judges]
    for b, truth in enumerate(truths):
        for name in ("labels", "starts", "ends"):
            value = getattr(found, name)[b, : LENGTHS[b]]
            assert_close("marginals", FLOAT64, value, torch.from_numpy(truth[name]))
    for name in ("durations", "transitions"):
        total = torch.from_numpy(sum(truth[name] for truth in truths))
        assert_close("marginals", FLOAT64, getattr(found, name), total)
        assert not getattr(found, name)[total == 0].any()


@for_each_constraint
def test_the_loss_of_what_is_allowed_equals_enumeration(constraints):
    head, hidden, lengths, judges = constrained_case(constraints)
    best = head.decode(hidden, lengths).segments
    loss = head.compute_loss(hidden, lengths, segments=best, reduction="none")
    assert_close("log_prob", FLOAT64, loss, losses_of(judges, best))
    loss.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in head.parameters())


@for_each_constraint
def test_forbidden_weights_get_no_gradient(constraints):
    head, hidden, lengths, _ = constrained_case(constraints)
    head(hidden, lengths)["partition"].sum().backward()
    assert not head.transition.grad[~head.allowed_transitions].any()
    assert not head.durations.weight.grad[~head.allowed_durations].any()
    assert head.transition.grad[head.allowed_transitions].all()


# A gold outside of the constraints

OUTSIDE = {
    "transition": (
        {"allowed_transitions": ALLOWED},
        [(0, 2, 2), (2, 4, 0), (4, 6, 1)],
        r"sequence 1, segment 1 \[2, 4\) with label 0: .* from label 2,? .*forbidden",
    ),
    "too short": (
        {"min_duration": [1, 3, 2]},
        [(0, 4, 0), (4, 6, 1)],
        r"sequence 1, segment 1 \[4, 6\) with label 1: .* 2 .*forbidden",
    ),
    "too long": (
        {"label_max_duration": [4, 1, 3]},
        [(0, 4, 2), (4, 6, 0)],
        r"sequence 1, segment 0 \[0, 4\) with label 2: .* 4 .*forbidden",
    ),
}


@pytest.mark.parametrize(("constraints", "gold", "message"), OUTSIDE.values(), ids=OUTSIDE)
def test_a_forbidden_gold_is_an_error_with_sequence_segment_and_remedy(constraints, gold, message):
    head = random_head(**constraints)
    hidden = torch.randn(2, 6, D, dtype=FLOAT64)
    fine = [(0, 3, 0), (3, 6, 1)] if "min_duration" in constraints else [(0, 1, 1), (1, 4, 2)]
    fine += [] if "min_duration" in constraints else [(4, 5, 1), (5, 6, 0)]
    segments = ts.Segments.from_list([fine, gold])
    with pytest.raises(SegmentError, match=message + ".*; .*(allow|correct)"):
        head.compute_loss(hidden, segments=segments)


def test_without_validation_a_forbidden_gold_has_probability_zero():
    head = random_head(min_duration=2, validate_args=False)
    segments = ts.Segments.from_list([[(0, 3, 0), (3, 4, 1)]])
    loss = head.compute_loss(torch.randn(1, 4, D, dtype=FLOAT64), segments=segments)
    assert loss.item() == float("inf")


# Settings that cannot be

CONTRADICTIONS = {
    "shortest above longest": (
        {"min_duration": [1, 3, 1], "label_max_duration": 2},
        "min_duration must be <= label_max_duration, got 3 > 2 for label 1",
    ),
    "shortest above K": ({"min_duration": 5}, r"min_duration must be in 1..K = 1..4"),
    "shortest zero": ({"min_duration": 0}, r"min_duration must be in 1..K = 1..4"),
    "longest above K": (
        {"label_max_duration": [4, 5, 4]},
        r"label_max_duration must be in 1..K = 1..4, .* got \[4, 5, 4\]",
    ),
    "too few bounds": ({"min_duration": [1, 2]}, r"min_duration must be one integer or C = 3"),
    "fractional": ({"label_max_duration": 1.5}, "must be one integer or C = 3 integers, got 1.5"),
    "a truth value": ({"min_duration": True}, "must be one integer or C = 3 integers, got True"),
    "a word": ({"min_duration": "short"}, "min_duration must be numbers .* got 'short'"),
    "transitions of another size": (
        {"allowed_transitions": [[True, False], [True, True]]},
        r"allowed_transitions must be \(C, C\) = \(3, 3\), .* got \(2, 2\)",
    ),
    "ragged transitions": ({"allowed_transitions": [[1, 1, 1], [1]]}, "in even rows"),
    "weights for transitions": (
        {"allowed_transitions": torch.full((C, C), 0.5)},
        "allowed_transitions must hold bools or 0 and 1",
    ),
}


@pytest.mark.parametrize(("settings", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_settings_that_cannot_be_are_one_clear_error(settings, message):
    with pytest.raises(ConfigError, match=message):
        random_head(**settings)


def test_a_sequence_that_the_constraints_exclude_is_named():
    head = random_head(min_duration=3)
    hidden, lengths = torch.randn(2, 6, D, dtype=FLOAT64), torch.tensor([6, 5])
    for method in (head, head.decode):
        with pytest.raises(NumericsError, match=r"no segmentation of sequences? \[?1\]? is"):
            method(hidden, lengths)


def test_zeros_and_ones_stand_for_bools():
    numbers = torch.tensor(ALLOWED).int()
    by_number = random_head(allowed_transitions=numbers).allowed_transitions
    assert torch.equal(by_number, torch.tensor(ALLOWED))


def test_constraints_travel_with_the_state():
    head = random_head(allowed_transitions=ALLOWED, min_duration=2)
    other = random_head()
    other.load_state_dict(head.state_dict())
    hidden, lengths = torch.randn(2, 6, D, dtype=FLOAT64), torch.tensor([6, 4])
    assert head.decode(hidden, lengths).segments == other.decode(hidden, lengths).segments


def test_a_long_run_is_split_at_the_longest_duration_of_its_own_label() -> None:
    head = ts.SemiMarkovCRFHead(2, 4, label_max_duration=[4, 2])
    labels = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 0]])
    scores = torch.randn(1, 8, 2)
    split = head.compute_loss(scores, labels=labels, long_runs="split")
    segments = ts.Segments.from_list([[(0, 4, 0), (4, 6, 1), (6, 7, 1), (7, 8, 0)]])
    assert torch.equal(split, head.compute_loss(scores, segments=segments))
    with pytest.raises(SegmentError, match=r"\[4, 7\) of label 1 is longer than max_duration = 2"):
        head.compute_loss(scores, labels=labels)


def test_marginals_of_an_impossible_sequence_are_an_error() -> None:
    head = ts.SemiMarkovCRFHead(2, 4, min_duration=3)
    with pytest.raises(NumericsError, match=r"no segmentation of sequences \[0\] is possible"):
        head.marginals(torch.randn(1, 2, 2))
