"""Constraints hold in the partition, gradients, Viterbi, samples and marginals, by enumeration."""

import warnings
from itertools import pairwise

import numpy as np
import oracle
import pytest
import torch
from factory import SIZE, make_inputs, stacked, tensors, to_sequence
from tolerances import FLOAT64, assert_close

import torch_semimarkov as ts
from torch_semimarkov.errors import ConfigError, NumericsError, SegmentError, ShapeError

C, K, T = SIZE.C, SIZE.K, SIZE.T
LENGTHS = SIZE.lengths
ALLOWED = [[True, True, False], [False, True, True], [True, True, True]]
# Of three sequences with 5, 1 and 4 positions; what lies past a length must not matter.
BOUNDARIES = torch.tensor([[-1, 1, -1, 1, 0], [1, 1, 0, 1, 1], [1, 0, 1, -1, 0]])
SETS = torch.ones(3, 5, 3, dtype=torch.bool)
SETS[0, 1, 0] = SETS[0, 4, 2] = SETS[2, 0, 1] = False
SETS[1, 1:] = False
CASES = {
    "transitions": {"allowed_transitions": ALLOWED},
    "first": {"allowed_first": [True, False, True]},
    "last": {"allowed_last": torch.tensor([False, True, True])},
    "durations": {"min_duration": [1, 2, 1], "max_duration": [2, 3, 1]},
    "forbidden boundaries": {"boundaries": torch.where(BOUNDARIES == 1, -1, BOUNDARIES)},
    "forced boundaries": {"boundaries": torch.where(BOUNDARIES == 0, -1, BOUNDARIES)},
    "boundaries": {"boundaries": BOUNDARIES},
    "sets": {"allowed": SETS},
    "all": {
        "allowed_transitions": ALLOWED,
        "allowed_first": [True, False, True],
        "allowed_last": [False, True, True],
        "max_duration": [2, 3, 2],
        "allowed": SETS,
        "boundaries": BOUNDARIES,
    },
}
for_each_case = pytest.mark.parametrize("rules", CASES.values(), ids=CASES)
for_each_flags = pytest.mark.parametrize("flags", ["start-end", "boundary", "per-duration"])


def obeys(y, rules: dict, b: int) -> bool:
    """The definition of every constraint on one segmentation of sequence b."""

    def bounds(name, default):
        value = rules.get(name, default)
        return [value] * C if isinstance(value, int) else list(value)

    low, high = bounds("min_duration", 1), bounds("max_duration", K)
    if not all(low[c] <= e - s <= high[c] for s, e, c in y):
        return False
    table = rules.get("allowed_transitions", [[True] * C] * C)
    if not all(table[before[2]][after[2]] for before, after in pairwise(y)):
        return False
    if not rules.get("allowed_first", [True] * C)[y[0][2]]:
        return False
    if not rules.get("allowed_last", [True] * C)[y[-1][2]]:
        return False
    starts = {s for s, _, _ in y}
    known = rules.get("boundaries", torch.full((3, T), -1))[b].tolist()
    if any(flag >= 0 and flag != (t in starts) for t, flag in enumerate(known[: y[-1][1]]) if t):
        return False
    sets = rules.get("allowed", torch.ones(3, T, C, dtype=torch.bool))[b]
    return all(sets[t, c] for s, e, c in y for t in range(s, e))


def judges(inputs: dict, rules: dict) -> list[oracle.Oracle]:
    """Enumeration in which every segmentation that breaks a rule scores -inf."""
    found = []
    for b in range(len(LENGTHS)):
        judge = oracle.Oracle(to_sequence(inputs, b))
        kept = [obeys(y, rules, b) for y in judge.segmentations]
        judge.scores = np.where(kept, judge.scores, -np.inf)
        judge.log_partition = oracle.log_sum_exp(judge.scores)
        judge.best_score = float(judge.scores.max())
        found.append(judge)
    return found


@for_each_case
@for_each_flags
def test_the_partition_sums_what_obeys_and_nothing_else(rules, flags):
    inputs = make_inputs(flags=flags)
    truth = [judge.log_partition for judge in judges(inputs, rules)]
    found = ts.log_partition(**ts.constrain(**inputs, **rules).terms)
    assert_close("log_partition", FLOAT64, found, truth)


@for_each_case
@for_each_flags
def test_gradients_flow_back_to_the_terms_of_the_model(rules, flags):
    inputs = make_inputs(flags=flags)
    leaves = {name: x.clone().requires_grad_() for name, x in tensors(inputs).items()}
    found = ts.constrain(**leaves, lengths=inputs["lengths"], **rules)
    ts.log_partition(**found.terms).sum().backward()
    truths = [judge.gradient() for judge in judges(inputs, rules)]
    for name, leaf in leaves.items():
        truth = stacked(inputs, name, [each[name] for each in truths])
        assert_close("gradient", FLOAT64, leaf.grad, truth)


@for_each_case
def test_viterbi_finds_the_best_that_obeys(rules):
    inputs = make_inputs(flags="boundary")
    found = ts.constrain(**inputs, **rules)
    result = found.fold(ts.viterbi(**found.terms))
    for b, (y, judge) in enumerate(
        zip(result.segments.to_list(), judges(inputs, rules), strict=True)
    ):
        assert tuple(map(tuple, y)) in judge.all_best()
        assert_close("score", FLOAT64, result.scores[b], judge.best_score)


@for_each_case
def test_marginals_come_back_in_the_labels_of_the_model(rules):
    inputs = make_inputs(flags="boundary")
    found = ts.constrain(**inputs, **rules)
    value = found.fold(ts.marginals(**found.terms))
    truths = [judge.marginals() for judge in judges(inputs, rules)]
    for b, truth in enumerate(truths):
        for name in ("labels", "starts", "ends", "boundaries"):
            inside = getattr(value, name)[b, : LENGTHS[b]]
            assert_close("marginals", FLOAT64, inside, torch.from_numpy(truth[name]))
    for name in ("transitions", "durations"):
        total = torch.tensor(sum(truth[name] for truth in truths))
        assert_close("marginals", FLOAT64, getattr(value, name), total)


@for_each_case
def test_samples_obey_with_the_probabilities_of_what_obeys(rules):
    inputs = make_inputs(flags="boundary")
    found = ts.constrain(**inputs, **rules)
    drawn = found.fold(
        ts.sample(**found.terms, num_samples=4000, generator=torch.Generator().manual_seed(1))
    )
    samples = drawn.to_list()
    for b, judge in enumerate(judges(inputs, rules)):
        index = {y: i for i, y in enumerate(judge.segmentations)}
        seen = np.zeros(len(index))
        for sample in samples:
            seen[index[tuple(map(tuple, sample[b]))]] += 1
        truth = judge.probabilities()
        assert not seen[truth == 0].any()
        # Five standard deviations of a frequency, and a few draws of what is rare.
        spread = 5 * np.sqrt(truth * (1 - truth) / 4000) + np.where(truth > 0, 5 / 4000, 1e-12)
        assert (np.abs(seen / 4000 - truth) <= spread).all()


@for_each_case
def test_the_k_best_are_the_best_that_obey(rules):
    inputs = make_inputs(flags="boundary")
    found = ts.constrain(**inputs, **rules)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a sequence of one position has fewer than 4
        result = found.fold(ts.kbest(**found.terms, k=4))
    ranks = result.segments.to_list()
    for b, judge in enumerate(judges(inputs, rules)):
        order = sorted(judge.scores[judge.scores > -np.inf], reverse=True)[:4]
        assert_close("score", FLOAT64, result.scores[: len(order), b], order)
        scores = dict(zip(judge.segmentations, judge.scores, strict=True))
        mine = [tuple(map(tuple, rank[b])) for rank in ranks[: len(order)]]
        assert len(set(mine)) == len(order)
        assert_close("score", FLOAT64, torch.tensor([scores[y] for y in mine]), order)
        assert not result.segments.counts[len(order) :, b].any()


@for_each_case
def test_the_log_probability_of_what_obeys_is_relative_to_what_obeys(rules):
    inputs = make_inputs(flags="boundary")
    found = ts.constrain(**inputs, **rules)
    best = found.fold(ts.viterbi(**found.terms)).segments
    value = ts.segment_log_prob(found.lift(best), **found.terms)
    truth = [judge.best_score - judge.log_partition for judge in judges(inputs, rules)]
    assert_close("log_prob", FLOAT64, value, truth)


def test_a_model_without_forced_boundaries_has_one_copy_of_its_labels():
    inputs = make_inputs()
    found = ts.constrain(**inputs, boundaries=torch.tensor([[1, 0, -1, -1, -1]] * 3))
    assert found.copies is None
    assert found.terms["scores"].shape[2] == C
    forced = ts.constrain(**inputs, boundaries=torch.tensor([[1, 1, -1, -1, -1]] * 3))
    assert forced.terms["scores"].shape[2] == 2 * C


def test_no_constraint_changes_nothing():
    inputs = make_inputs(flags="boundary")
    found = ts.constrain(**inputs).terms
    assert all(found[name] is x for name, x in inputs.items())


# Bad input


def test_a_bound_out_of_range_has_the_name_of_its_argument():
    with pytest.raises(ConfigError, match=r"^max_duration must be in 1\.\.K = 1\.\.3, .* got 5"):
        ts.constrain(**make_inputs(), max_duration=5)
    with pytest.raises(ConfigError, match="min_duration must be <= max_duration, got 3 > 2"):
        ts.constrain(**make_inputs(), min_duration=3, max_duration=2)


ZIGZAG = torch.nn.functional.one_hot(torch.tensor([[0, 1, 0, 1, 0]] * 3), 3).bool()
IMPOSSIBLE = {
    "durations": (
        {"min_duration": 2},
        "no segmentation of sequence 1 is possible: none obeys min_duration and max_duration;",
    ),
    "ends": (
        {
            "allowed_transitions": torch.eye(3),
            "allowed_first": [True, False, False],
            "allowed_last": [False, True, False],
        },
        r"sequence 0 is possible \(nor of sequences 1, 2\): none obeys allowed_last together with "
        "allowed_transitions, allowed_first;",
    ),
    "boundaries": (
        {
            "max_duration": 1,
            "boundaries": torch.tensor([[-1] * 5, [-1] * 5, [1, 0, -1, -1, -1]]),
        },
        "sequence 2 is possible: none obeys boundaries together with min_duration and max_d",
    ),
    "sets": (
        {"allowed": ZIGZAG, "allowed_transitions": [[True, False, True]] * 3},
        r"sequence 0 is possible \(nor of sequences 2\): none obeys allowed together with",
    ),
}


@pytest.mark.parametrize(("rules", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_constraints_that_leave_nothing_name_the_sequence_and_the_constraint(rules, message):
    with pytest.raises(NumericsError, match=message):
        ts.constrain(**make_inputs(), **rules)


def test_potentials_that_leave_nothing_are_not_blamed_on_a_constraint():
    inputs = make_inputs(flags="impossible")
    with pytest.raises(NumericsError, match="sequence 0 is possible: the potentials alone"):
        ts.constrain(**inputs, allowed_first=[True, True, False])


BAD = {
    "boundaries of another shape": (
        {"boundaries": BOUNDARIES[:, :4]},
        ShapeError,
        r"boundaries must be \(B, T\) = \(3, 5\) int, got \(3, 4\) int64",
    ),
    "a boundary of 2": (
        {"boundaries": BOUNDARIES * 2},
        ShapeError,
        "boundaries must be 1 .* got -2 at sequence 0, position 0",
    ),
    "no boundary at position 0": (
        {"boundaries": torch.tensor([[1] * 5, [0] * 5, [1] * 5])},
        SegmentError,
        "boundaries forbid position 0 of sequence 1",
    ),
    "sets that are no bools": ({"allowed": SETS.int()}, ShapeError, "allowed must be .* bool, got"),
    "an empty set": (
        {"allowed": torch.zeros(3, 5, 3, dtype=torch.bool)},
        SegmentError,
        r"allowed excludes every label at sequence 0, position 0 \(10 such",
    ),
    "first of another size": (
        {"allowed_first": [True, False]},
        ConfigError,
        r"allowed_first must be \(C,\) = \(3,\), one bool a label, got",
    ),
    "no last": ({"allowed_last": [False] * 3}, ConfigError, "allowed_last must allow at least one"),
    "weights": ({"allowed_last": [0.5] * 3}, ConfigError, "allowed_last must hold bools or 0 and"),
    "a list": ({"boundaries": [[1]]}, ShapeError, "boundaries must be a tensor, got list"),
}


@pytest.mark.parametrize(("rules", "error", "message"), BAD.values(), ids=BAD)
def test_a_bad_constraint_is_one_clear_error(rules, error, message):
    with pytest.raises(error, match=message):
        ts.constrain(**make_inputs(), **rules)


def test_fold_refuses_what_it_cannot_fold():
    found = ts.constrain(**make_inputs(), boundaries=BOUNDARIES)
    with pytest.raises(ShapeError, match=r"fold takes Segments, Marginals or .* got Tensor"):
        found.fold(torch.zeros(1))


# Grammars by name


def test_bio_sequences_are_those_whose_inside_follows_its_begin():
    labels = ["O", "B-a", "I-a", "B-b", "I-b"]
    grammar = ts.bio_transitions(labels)
    for i, source in enumerate(labels):
        for j, destination in enumerate(labels):
            opened = source[-1] == destination[-1] and source[0] in "BI"
            assert grammar.allowed_transitions[i, j] == (destination[0] != "I" or opened)
    assert grammar.allowed_first.tolist() == [True, True, False, True, False]
    assert grammar.allowed_last.all()


def test_bioes_sequences_close_what_they_open():
    labels = ["O", "B-a", "I-a", "E-a", "S-a", "B-b", "E-b"]
    table, first, last = ts.bioes_transitions(labels)
    allowed = {(s, d) for i, s in enumerate(labels) for j, d in enumerate(labels) if table[i, j]}
    assert {d for s, d in allowed if s == "B-a"} == {"I-a", "E-a"}
    assert {d for s, d in allowed if s == "I-a"} == {"I-a", "E-a"}
    for closed in ("O", "E-a", "S-a", "E-b"):
        assert {d for s, d in allowed if s == closed} == {"O", "B-a", "S-a", "B-b"}
    assert [n for n, ok in zip(labels, first, strict=True) if ok] == ["O", "B-a", "S-a", "B-b"]
    assert [n for n, ok in zip(labels, last, strict=True) if ok] == ["O", "E-a", "S-a", "E-b"]


BAD_NAMES = {
    "bio": (lambda: ts.bio_transitions(["O", "E-a", "B"]), "label 1 must be O, B-x or I-x, got 'E"),
    "bioes": (lambda: ts.bioes_transitions(["X-a"]), "label 0 must be O, B-x, I-x, E-x or S-x"),
    "twice": (lambda: ts.bio_transitions(["O", "O"]), "C >= 1 different names"),
    "unknown": (
        lambda: ts.transitions_from_names(["a"], [("a", "b")], first=["c"]),
        r"'b', 'c' not among the labels \['a'\]",
    ),
    "no pair": (lambda: ts.transitions_from_names(["a"], ["aaa"]), "must hold pairs"),
}


@pytest.mark.parametrize(("call", "message"), BAD_NAMES.values(), ids=BAD_NAMES)
def test_names_that_are_no_labels_are_listed(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


# The head


def test_a_head_obeys_a_grammar_and_boundaries_of_a_call():
    torch.manual_seed(0)
    grammar = ts.bioes_transitions(["O", "B-a", "E-a"])
    head = ts.SemiMarkovCRFHead(3, 4, **grammar._asdict())
    scores = torch.randn(3, 5, 3)
    lengths, boundaries = torch.tensor([5, 2, 4]), torch.full((3, 5), -1)
    boundaries[:, 1] = 1
    boundaries[0, 3] = 0
    rules = {"boundaries": boundaries}
    found = [head.decode(scores, lengths, **rules).segments]
    found += list(head.sample(scores, lengths, num_samples=50, **rules))
    for segments in found:
        for y in segments.to_list():
            assert y[0].label != 2
            assert y[-1].label != 1
            assert {s.start for s in y} >= {1}
            assert all(grammar.allowed_transitions[a.label, b.label] for a, b in pairwise(y))
    with torch.no_grad():
        probabilities = head.marginals(scores, lengths, **rules)
    assert probabilities.labels.shape == (3, 5, 3)
    assert torch.allclose(probabilities.boundaries[:, 1], torch.ones(3))
    assert float(probabilities.boundaries[0, 3]) == 0
    same = head.decode_with_traceback(scores, lengths, **rules)
    assert same.segments == head.decode(scores, lengths, **rules).segments


def test_boundaries_that_contradict_a_head_name_the_sequence():
    head = ts.SemiMarkovCRFHead(2, 4, min_duration=2)
    boundaries = torch.tensor([[1, -1, -1], [1, 1, -1]])
    for method in (head.decode, head.marginals, head.sample):
        with pytest.raises(NumericsError, match=r"no segmentation of sequences? \[?1\]? is"):
            method(torch.zeros(2, 3, 2), boundaries=boundaries)
