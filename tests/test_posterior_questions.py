"""Questions about the posterior, each against its definition summed over all segmentations."""

from itertools import combinations

import numpy as np
import oracle
import pytest
import torch
from factory import LARGER_SIZES, SIZE, Size, make_inputs, oracles, runs_on, to_sequence
from question_cases import (
    assert_durations,
    assert_nothing_after,
    assert_probabilities,
    average,
    every_window,
    has_run,
    has_start_in,
    is_segment,
    painted,
    some_runs,
)
from tolerances import FLOAT64, assert_close

import torch_semimarkov as ts
from torch_semimarkov import dispatch
from torch_semimarkov.errors import (
    ConfigError,
    NumericsError,
    SegmentError,
    ShapeError,
)
from torch_semimarkov.functional import covering
from torch_semimarkov.functional.inputs import gather

FLAGS_HERE = ["boundary", "forbidden", "all"]
for_each_flags = pytest.mark.parametrize("flags", FLAGS_HERE)
for_each_size = pytest.mark.parametrize(
    "size", [SIZE, Size((2, 6, 5), K=2, C=2), Size((4, 3), K=6, C=2, padding=2)], ids=str
)


def every_segment(L, K, C):
    return [
        (s, s + d, c) for s in range(L) for d in range(1, K + 2) for c in range(C) if s + d <= L
    ]


@for_each_flags
@for_each_size
def test_the_probability_of_a_segment_is_that_of_all_segmentations_with_it(size, flags):
    asked = [every_segment(L, size.K, size.C) for L in size.lengths]
    found = ts.segment_marginals(ts.Segments.from_list(asked), **make_inputs(size, flags=flags))
    assert_probabilities(found, asked, is_segment, oracles(size, flags=flags))
    assert_nothing_after(found, asked)


@for_each_flags
@for_each_size
def test_the_probability_of_a_boundary_in_a_window(size, flags):
    asked, table = every_window(size)
    found = ts.window_marginals(table, **make_inputs(size, flags=flags))
    assert_probabilities(found, asked, has_start_in, oracles(size, flags=flags))


@pytest.mark.parametrize("held", [1, 200, 1 << 22])
def test_windows_at_all_positions_share_their_work_and_agree_with_forbidden_boundaries(
    held, monkeypatch
):
    monkeypatch.setattr(covering, "_NUMBERS", held)
    size = Size((70, 64), K=20, C=3)
    call = make_inputs(size, flags="boundary")
    first = torch.arange(1, 61)
    table = torch.stack((first, first + 1 + first % 4), -1)
    found = ts.window_marginals(table.expand(2, -1, -1), **call)
    for m in range(0, 60, 13):
        known = torch.full((2, 70), -1)
        known[:, table[m, 0] : table[m, 1]] = 0
        truth = 1 - ts.partial_log_prob(**call, boundaries=known).exp()
        assert_close("marginals", FLOAT64, found[:, m], truth.tolist())


@for_each_flags
@for_each_size
def test_the_probability_of_a_run_counts_runs_of_several_segments(size, flags):
    asked = some_runs(size)
    found = ts.run_marginals(ts.Segments.from_list(asked), **make_inputs(size, flags=flags))
    assert_probabilities(found, asked, has_run, oracles(size, flags=flags))
    assert_nothing_after(found, asked)


@for_each_flags
@for_each_size
def test_the_posterior_of_the_duration_at_a_position(size, flags):
    positions = torch.tensor([[0, L // 2, L - 1] for L in size.lengths])
    found = ts.duration_posterior(positions, **make_inputs(size, flags=flags))
    assert found.shape[2:] == (size.K, size.C)
    assert_durations(found, positions, oracles(size, flags=flags))


@for_each_flags
def test_the_expected_number_of_segments(flags):
    found = ts.expected_segments(**make_inputs(flags=flags))
    for b, judge in enumerate(oracles(flags=flags)):
        truth = [
            average(judge, lambda y, c=c: sum(label == c for _, _, label in y))
            for c in range(SIZE.C)
        ]
        assert_close("marginals", FLOAT64, found[b], truth)


@pytest.mark.parametrize("flags", ["boundary", "forbidden", "impossible"])
@for_each_size
def test_max_marginals_are_the_best_of_what_has_it(size, flags):
    found = ts.max_marginals(**make_inputs(size, flags=flags))
    for b, judge in enumerate(oracles(size, flags=flags)):
        L = size.lengths[b]
        for name, has in (
            ("labels", lambda y, t, c: painted(y)[t] == c),
            ("starts", lambda y, t, c: any(s == t and label == c for s, _, label in y)),
            ("ends", lambda y, t, c: any(e == t + 1 and label == c for _, e, label in y)),
        ):
            value = getattr(found, name)[b]
            truth = torch.full(value.shape, -torch.inf, dtype=FLOAT64)
            for y, score in zip(judge.segmentations, judge.scores, strict=True):
                for t in range(L):
                    for c in range(size.C):
                        if has(y, t, c):
                            truth[t, c] = max(truth[t, c], score)
            assert_close("score", FLOAT64, value, truth)


# A tail


def with_tail(size: Size) -> tuple[dict, dict]:
    """A model with a tail, and the same with a row of the bias for every duration."""
    inputs = {**make_inputs(size, flags="boundary"), "tail": torch.tensor([-0.3, -1.1]).double()}
    p = gather(**inputs).without_tail()
    return inputs, {**dict(p.terms()), "lengths": p.lengths}


def test_with_a_tail_the_answers_are_those_of_a_very_long_bias():
    size = Size((7, 4), K=2, C=2)
    model, spelt_out = with_tail(size)
    judges = [oracle.Oracle(to_sequence(spelt_out, b)) for b in range(2)]
    asked = [(0, 5, 1), (1, 4, 0), (2, 3, 1)], [(0, 4, 0), (1, 4, 1)]
    found = ts.segment_marginals(ts.Segments.from_list(asked), **model)
    assert_probabilities(found, asked, is_segment, judges)
    best = ts.max_marginals(**model)
    assert_close("score", FLOAT64, best.labels, ts.max_marginals(**spelt_out).labels)
    known = torch.tensor([[1, 0, 0, 0, 1, -1, -1], [1, -1, 0, -1, -1, -1, -1]])
    assert_close(
        "log_prob",
        FLOAT64,
        ts.partial_log_prob(**model, boundaries=known),
        ts.partial_log_prob(**spelt_out, boundaries=known),
    )
    few = ts.kbest(**model, k=3)
    assert few.segments == ts.kbest(**spelt_out, k=3).segments
    spread = ts.SemiMarkovCRF(**model)
    assert_close("log_prob", FLOAT64, spread.log_prob(few.segments)[0],
                 ts.segment_log_prob(few.segments[0], **spelt_out))  # fmt: skip
    forced = {"boundaries": torch.tensor([[1, -1, -1, -1, 1, -1, -1], [1] + [-1] * 6])}
    mine, theirs = (ts.constrain(**each, **forced) for each in (model, spelt_out))
    value, truth = (each.fold(ts.marginals(**each.terms)) for each in (mine, theirs))
    assert_close("marginals", FLOAT64, value.labels, truth.labels)
    duration = torch.arange(1, 8, dtype=FLOAT64)[:, None]
    longer = (truth.durations * (duration - 2).clamp(min=0)).sum(0)
    assert_close("marginals", FLOAT64, value.beyond, longer)
    ended = ts.constrain(**model, max_duration=2)
    plain = {name: x for name, x in model.items() if name != "tail"}
    assert_close(
        "log_partition", FLOAT64, ts.log_partition(**ended.terms), ts.log_partition(**plain)
    )


# Messages


@pytest.mark.parametrize("flags", ["plain", "boundary", "forbidden", "tail"])
@pytest.mark.parametrize("size", [SIZE, LARGER_SIZES[0]], ids=str)
def test_backends_agree_on_messages(size, flags):
    p = gather(**make_inputs(size, flags=flags))
    inside = p.inside()
    with dispatch.use_backend("cpu"):
        mine = dispatch.messages(p)
    for value, truth in zip(mine, dispatch.messages(p, "reference"), strict=True):
        assert_close("log_partition", FLOAT64, value[inside], truth[inside])


def test_one_backend_answers_as_the_other():
    size = LARGER_SIZES[0]
    inputs = make_inputs(size, torch.float32, "boundary")
    asked = ts.viterbi(**inputs).segments
    with runs_on("cpu"):
        value = ts.segment_marginals(asked, **inputs)
    truth = ts.segment_marginals(asked, **inputs, backend="reference")
    assert_close("marginals", torch.float32, value, truth)
    assert value.dtype == torch.float32


# Decoding for a score


@for_each_flags
def test_the_decoding_for_positions_has_the_most_expected_right_ones(flags):
    inputs = make_inputs(flags=flags)
    found = ts.posterior_decode(**inputs, objective="position_accuracy")
    for b, judge in enumerate(oracles(flags=flags)):
        L = SIZE.lengths[b]
        labels = np.array([painted(y) for y in judge.segmentations])
        right = (labels[:, None] == labels).mean(-1) @ judge.probabilities()
        expected = np.where(judge.scores > -np.inf, right, -1.0).tolist()
        assert_close("marginals", FLOAT64, found.expected[b], max(expected))
        mine = tuple(map(tuple, found.segments.to_list()[b]))
        index = judge.segmentations.index(mine)
        assert expected[index] == pytest.approx(max(expected), abs=1e-10)
        fewest = min(
            len(y)
            for y, value in zip(judge.segmentations, expected, strict=True)
            if value > max(expected) - 1e-12
        )
        assert len(mine) == fewest
        assert sum(e - s for s, e, _ in mine) == L


@for_each_flags
@for_each_size
def test_the_decoding_for_boundaries_has_the_highest_expected_f1(size, flags):
    inputs = make_inputs(size, flags=flags)
    if flags == "boundary":  # less clear-cut posteriors
        inputs = {k: x * 0.3 if x.is_floating_point() else x for k, x in inputs.items()}
    found = ts.posterior_decode(**inputs, objective="boundary_f1")
    for b in range(size.B):
        judge = oracle.Oracle(to_sequence(inputs, b))

        def f1(starts, judge=judge):
            def of(y):
                true = {s for s, _, _ in y}
                return 2 * len(true & starts) / (len(true) + len(starts))

            return average(judge, of)

        L = size.lengths[b]
        sets = [{0, *more} for n in range(L) for more in combinations(range(1, L), n)]
        best = max(map(f1, sets))
        assert_close("marginals", FLOAT64, found.expected[b], best)
        mine = {s.start for s in found.segments.to_list()[b]}
        assert f1(mine) == pytest.approx(best, abs=1e-10)


def test_the_expected_f1_of_large_float32_scores_is_that_of_float64():
    inputs = make_inputs(Size((200,), K=6, C=3), torch.float32)
    inputs["scores"] += 60  # a log partition of which float32 keeps 3 digits behind the point
    wide = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
    found, truth = (ts.posterior_decode(**x, objective="boundary_f1") for x in (inputs, wide))
    assert_close("marginals", torch.float32, found.expected, truth.expected)


def test_few_nodes_are_nearly_exact():
    inputs = make_inputs(Size((60, 41), K=6, C=3))
    whole = ts.posterior_decode(**inputs, objective="boundary_f1")
    few = ts.posterior_decode(**inputs, objective="boundary_f1", nodes=24)
    torch.testing.assert_close(few.expected, whole.expected, rtol=0, atol=1e-6)
    assert torch.equal(few.segments.starts, whole.segments.starts)


def test_it_beats_the_best_segmentation_at_its_own_score():
    inputs = make_inputs(Size((40,), K=5, C=3), seed=3)
    inputs = {k: x * 0.4 if x.is_floating_point() else x for k, x in inputs.items()}
    drawn = ts.sample(**inputs, num_samples=2000, generator=torch.Generator().manual_seed(0))
    truth = drawn.to_labels(40)[:, 0]

    def accuracy(segments):
        return float((segments.to_labels(40)[0] == truth).double().mean())

    decoded = ts.posterior_decode(**inputs)
    assert accuracy(decoded.segments) > accuracy(ts.viterbi(**inputs).segments)
    assert accuracy(decoded.segments) == pytest.approx(float(decoded.expected), abs=0.01)


# Bad input

CALL = make_inputs()
BAD = {
    "a window past its sequence": (
        lambda: ts.window_marginals(torch.tensor([[[0, 2]]] * 3), **CALL),
        ShapeError,
        r"windows must lie .* got \[0, 2\] at sequence 1 of length 1",
    ),
    "windows of another shape": (
        lambda: ts.window_marginals(torch.zeros(3, 2, dtype=torch.long), **CALL),
        ShapeError,
        r"windows must be \(B, M, 2\) = \(3, M, 2\) int, got \(3, 2\)",
    ),
    "positions of another batch": (
        lambda: ts.duration_posterior(torch.tensor([[0], [0]]), **CALL),
        ShapeError,
        r"positions must be \(B, M\) = \(3, M\) int, got \(2, 1\) int64",
    ),
    "positions between positions": (
        lambda: ts.duration_posterior(torch.zeros(3, 1), **CALL),
        ShapeError,
        r"positions must be \(B, M\) = \(3, M\) int, got \(3, 1\) float32",
    ),
    "half a node": (
        lambda: ts.posterior_decode(**CALL, nodes=2.5),
        ConfigError,
        "nodes must be an integer >= 1, got 2.5",
    ),
    "a position past its sequence": (
        lambda: ts.duration_posterior(torch.tensor([[4], [1], [0]]), **CALL),
        ShapeError,
        r"positions must lie .* at sequence 1 of length 1",
    ),
    "a segment past its sequence": (
        lambda: ts.segment_marginals(ts.Segments.from_list([[], [(0, 2, 0)], []]), **CALL),
        SegmentError,
        r"sequence 1, segment 0 must lie in its 1 positions .* got \[0, 2\) with label 0",
    ),
    "a label that is none": (
        lambda: ts.run_marginals(ts.Segments.from_list([[(0, 2, 3)], [], []]), **CALL),
        SegmentError,
        r"sequence 0, segment 0 .* label in 0..2, got .* with label 3",
    ),
    "another batch": (
        lambda: ts.segment_marginals(ts.Segments.from_list([[]]), **CALL),
        ShapeError,
        "segments must hold B = 3 sequences, got 1",
    ),
    "an unknown objective": (
        lambda: ts.posterior_decode(**CALL, objective="f1"),
        ConfigError,
        "objective must be one of position_accuracy, boundary_f1, got 'f1'",
    ),
    "no nodes": (
        lambda: ts.posterior_decode(**CALL, nodes=0),
        ConfigError,
        "nodes must be an integer >= 1",
    ),
    "an impossible sequence": (
        lambda: ts.posterior_decode(**make_inputs(flags="impossible")),
        NumericsError,
        "no segmentation of sequence 0 is possible",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD)
def test_a_bad_question_is_one_clear_error(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_impossible_sequence_has_no_probabilities():
    inputs = make_inputs(flags="impossible")
    asked = ts.Segments.from_list([[(0, 1, 0)], [(0, 1, 0)], [(0, 1, 0)]])
    assert float(ts.segment_marginals(asked, **inputs)[0, 0]) == 0
