"""Metrics on hand-checked segmentations, their properties, and their answers to bad input."""

import itertools
import json
import tracemalloc

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from torch_semimarkov import metrics
from torch_semimarkov.errors import ConfigError, SegmentError, ShapeError
from torch_semimarkov.segments import Segment, Segments

TRUE = [[(0, 10, 0), (10, 20, 1), (20, 30, 0)], [(0, 5, 1)]]
GUESS = [[(0, 12, 0), (12, 21, 1), (21, 30, 2)], [(0, 5, 1)]]


def random_sequences(seed, count=4, labels=3):
    generator = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        cuts = np.sort(generator.choice(np.arange(1, 40), size=7, replace=False)).tolist()
        edges = itertools.pairwise([0, *cuts, 40])
        result.append([Segment(s, e, int(generator.integers(labels))) for s, e in edges])
    return result


def all_scores(true, predicted):
    yield metrics.segment_scores(true, predicted)
    yield metrics.segment_scores(true, predicted, tolerance=2)
    yield metrics.segment_scores(true, predicted, iou=0.5)
    for kind in ("onset", "offset", "any"):
        yield metrics.boundary_scores(true, predicted, 2, kind=kind)


@pytest.mark.parametrize("seed", range(3))
def test_a_perfect_prediction_scores_one_everywhere(seed):
    true = random_sequences(seed)
    for score in all_scores(true, true):
        assert score.micro.f1 == 1 and score.macro["f1"] == 1
    assert metrics.position_accuracy(true, true) == 1
    assert metrics.label_f1(true, true)["macro"] == 1
    assert metrics.label_edit_rate(true, true) == 0
    for row in metrics.duration_calibration(true, true)["per_label"].values():
        assert row["ks"] == 0 and row["wasserstein"] == 0


@pytest.mark.parametrize("seed", range(5))
def test_swapping_true_and_predicted_swaps_precision_and_recall(seed):
    true, predicted = random_sequences(seed), random_sequences(seed + 100)
    pairs = zip(all_scores(true, predicted), all_scores(predicted, true), strict=True)
    for one, other in pairs:
        assert one.micro.precision == other.micro.recall
        assert one.micro.f1 == other.micro.f1
        for label, score in one.per_label.items():
            assert score.recall == other.per_label[label].precision
            if isinstance(score, metrics.BoundaryScore) and score.errors:
                assert sum(map(abs, score.errors)) == sum(map(abs, other.per_label[label].errors))


def test_sequences_are_judged_one_by_one_and_summed():
    true, predicted = random_sequences(1), random_sequences(2)
    pooled = list(all_scores(true, predicted))
    each = [list(all_scores([t], [p])) for t, p in zip(true, predicted, strict=True)]
    for i, score in enumerate(pooled):
        assert score.micro.matched == sum(scores[i].micro.matched for scores in each)
        assert score.micro.predicted == sum(scores[i].micro.predicted for scores in each)


def test_segment_scores_by_hand():
    exact = metrics.segment_scores(TRUE, GUESS)
    assert exact.micro == metrics.Score(true=4, predicted=4, matched=1)
    assert exact.per_label[1].f1 == 0.5
    assert exact.per_label[0].f1 == 0
    assert exact.macro["f1"] == pytest.approx((0 + 0.5 + 0) / 3)
    assert metrics.segment_scores(TRUE, GUESS, tolerance=2).micro.matched == 3
    assert metrics.segment_scores(TRUE, GUESS, tolerance=1).micro.matched == 1


def test_overlap_exactly_at_the_threshold_counts():
    # intersection 8, union 11
    true, predicted = [[(0, 10, 0), (10, 20, 1)]], [[(0, 12, 0), (12, 21, 1)]]
    at = metrics.segment_scores(true, predicted, iou=8 / 11)
    above = metrics.segment_scores(true, predicted, iou=0.73)
    assert (at.per_label[1].matched, above.per_label[1].matched) == (1, 0)


def test_boundary_errors_by_hand_in_milliseconds():
    # QRS onsets at 10, 40, 70; found at 13, 39, 72: +3, -1, +2 positions of 2 ms.
    true = [[(0, 10, 0), (10, 20, 1), (20, 40, 0), (40, 50, 1), (50, 70, 0), (70, 80, 1)]]
    guess = [[(0, 13, 0), (13, 20, 1), (20, 39, 0), (39, 50, 1), (50, 72, 0), (72, 80, 1)]]
    onset = metrics.boundary_scores(true, guess, 150, kind="onset", sample_rate=500).per_label[1]
    assert onset.errors == (6.0, -2.0, 4.0)
    assert onset.error_mean == pytest.approx(8 / 3)
    assert onset.error_sd == pytest.approx(np.std([6, -2, 4], ddof=1))
    assert onset.error_absolute == pytest.approx(4)
    near = metrics.boundary_scores(true, guess, 4, kind="onset", sample_rate=500).per_label[1]
    assert (near.matched, near.f1) == (2, pytest.approx(2 / 3))
    seconds = metrics.boundary_scores(true, guess, 0.15, kind="onset", sample_rate=500, unit="s")
    assert seconds.per_label[1].error_mean == pytest.approx(8 / 3000)


def test_a_tolerance_that_rounds_below_a_whole_position_still_counts_it():
    # 0.29 * 100 is 28.999999999999996
    true, guess = [[(0, 50, 0), (50, 100, 1)]], [[(0, 79, 0), (79, 100, 1)]]
    scores = metrics.boundary_scores(true, guess, 0.29, sample_rate=100, unit="s")
    assert scores.micro.f1 == 1


def test_each_sequence_has_its_own_sample_rate():
    sequences = [[(0, 50, 0), (50, 100, 1)]] * 2
    late = [[(0, 60, 0), (60, 100, 1)]] * 2
    scores = metrics.boundary_scores(sequences, late, 20, sample_rate=[500, 250])
    assert scores.micro.matched == 1 and scores.micro.errors == (20.0,)
    assert metrics.boundary_scores(sequences, late, 40, sample_rate=[500, 250]).micro.errors == (
        20.0,
        40.0,
    )


def test_the_ends_of_a_sequence_are_no_boundaries_unless_asked_for():
    true = [[(0, 10, 0), (10, 20, 1)]]
    inner = metrics.boundary_scores(true, true, 0, kind="any").micro
    outer = metrics.boundary_scores(true, true, 0, kind="any", include_edges=True).micro
    assert (inner.true, outer.true) == (1, 3)
    onset = metrics.boundary_scores(true, true, 0, kind="onset")
    offset = metrics.boundary_scores(true, true, 0, kind="offset")
    assert (onset.per_label[0].true, onset.per_label[1].true) == (0, 1)
    assert (offset.per_label[0].true, offset.per_label[1].true) == (1, 0)
    assert onset.per_label[0].f1 is None


def test_a_prediction_cannot_gain_by_a_boundary_at_an_end():
    true, guess = [[(0, 20, 0)]], [[(0, 18, 0), (18, 20, 1)]]
    assert metrics.boundary_scores(true, guess, 5, kind="offset").micro.matched == 0


def test_labels_can_be_chosen():
    scores = metrics.boundary_scores(TRUE, GUESS, 2, labels=[1], kind="any")
    assert list(scores.per_label) == [1]
    assert (scores.micro.true, scores.micro.matched) == (2, 2)
    assert list(metrics.segment_scores(TRUE, GUESS, labels=[7]).per_label) == [7]


def test_the_r_value_by_hand():
    # Hit rate 1/2, over-segmentation 0: 1 - (1/2 + 1/2 / sqrt 2) / 2.
    score = metrics.BoundaryScore(true=4, predicted=4, matched=2)
    assert score.r_value == pytest.approx(1 - (0.5 + 0.5 / 2**0.5) / 2)
    assert metrics.BoundaryScore(true=0, predicted=1, matched=0).r_value is None


def test_position_scores_by_hand():
    assert metrics.position_accuracy(TRUE, GUESS) == pytest.approx((10 + 8 + 0 + 5) / 35)
    scores = metrics.label_f1(TRUE, GUESS)
    # Label 1: 15 true, 14 predicted, 13 common. Label 0: 20 true, 12 predicted, 10 common.
    assert scores["per_label"][1]["f1"] == pytest.approx(26 / 29)
    assert scores["per_label"][0]["f1"] == pytest.approx(20 / 32)
    assert scores["per_label"][2] == {"precision": 0, "recall": None, "f1": 0, "support": 0}
    assert scores["macro"] == pytest.approx((26 / 29 + 20 / 32) / 3)
    assert scores["weighted"] == pytest.approx((20 * 20 / 32 + 15 * 26 / 29) / 35)


@pytest.mark.parametrize("seed", range(5))
def test_position_accuracy_equals_a_comparison_position_by_position(seed):
    true, guess = random_sequences(seed), random_sequences(seed + 50)
    left, right = (Segments.from_list(one).to_labels(40) for one in (true, guess))
    expected = float((left == right).double().mean())
    assert metrics.position_accuracy(true, guess) == pytest.approx(expected)


def test_only_what_the_truth_covers_is_judged_by_position():
    true = [[(2, 6, 0)]]
    assert metrics.position_accuracy(true, [[(0, 4, 0)]]) == 0.5
    assert metrics.position_accuracy(true, [[(0, 9, 0)]]) == 1
    assert metrics.label_f1(true, [[(0, 4, 0)]])["per_label"][0]["recall"] == 0.5


def test_the_edit_rate_by_hand():
    assert metrics.label_edit_rate(TRUE, GUESS) == 1 / 4
    assert metrics.label_edit_rate([[(0, 1, 0)]], [[(0, 1, 1), (1, 2, 2), (2, 3, 3)]]) == 3
    assert metrics.label_edit_rate([[]], [[(0, 1, 1)]]) is None


def test_durations_against_a_prediction_by_hand():
    result = metrics.duration_calibration(TRUE, GUESS, sample_rate=1000)
    assert result["unit"] == "ms"
    row = result["per_label"][1]  # true 10 and 5, predicted 9 and 5
    assert row["true"]["mean"] == 7.5 and row["true"]["sd"] == 2.5
    assert row["predicted"]["quantiles"]["0.5"] == 5
    assert (row["ks"], row["wasserstein"]) == (0.5, 0.5)
    assert result["per_label"][2]["true"]["count"] == 0
    assert result["per_label"][2]["ks"] is None


def test_the_ks_distance_is_that_of_scipy():
    true, guess = random_sequences(1, 20, 1), random_sequences(2, 20, 1)
    durations = [[s.duration for sequence in one for s in sequence] for one in (true, guess)]
    row = metrics.duration_calibration(true, guess)["per_label"][0]
    assert row["ks"] == pytest.approx(ks_2samp(*durations).statistic)


def test_durations_against_a_model_by_hand():
    true = [[(0, 1, 0), (1, 3, 0), (3, 5, 0), (5, 8, 0)]]  # 1, 2, 2, 3
    model = np.array([[2.0], [4.0], [2.0]])
    row = metrics.duration_calibration(true, model=model)["per_label"][0]
    assert row["ks"] == pytest.approx(0) and row["wasserstein"] == pytest.approx(0)
    assert row["model"]["mean"] == pytest.approx(2) and row["model"]["count"] is None
    shifted = metrics.duration_calibration(true, model={0: [0, 0, 1]})["per_label"][0]
    assert shifted["ks"] == 0.75 and shifted["wasserstein"] == 1


@pytest.mark.parametrize("predicted", [[[], []], [[], [(3, 4, 5)]]])
def test_an_empty_prediction_has_recall_zero_and_no_precision(predicted):
    score = metrics.segment_scores(TRUE, predicted, labels=[0]).micro
    assert (score.precision, score.recall, score.f1) == (None, 0, 0)
    assert metrics.boundary_scores(TRUE, predicted, 1, labels=[0]).micro.error_mean is None
    json.dumps(metrics.evaluate_segmentations(TRUE, predicted), allow_nan=False)


def test_nothing_against_nothing_is_undefined():
    for score in all_scores([[], []], [[], []]):
        assert score.micro.f1 is None and score.macro["f1"] is None
    assert metrics.position_accuracy([], []) is None
    assert metrics.label_f1([[]], [[]])["macro"] is None
    json.dumps(metrics.evaluate_segmentations([], []), allow_nan=False)


def test_segments_tensors_are_accepted_like_lists():
    packed = Segments.from_list(TRUE), Segments.from_list(GUESS)
    assert metrics.segment_scores(*packed) == metrics.segment_scores(TRUE, GUESS)


def test_long_runs_that_were_split_can_be_joined_again():
    labels = torch.zeros(1, 9, dtype=torch.int64)
    split = Segments.from_labels(labels, max_duration=4, long_runs="split")
    assert metrics.merge_neighbours(split) == [[Segment(0, 9, 0)]]


def test_many_segments_take_no_quadratic_memory():
    count = 4000
    starts = np.arange(count) * 3
    generator = np.random.default_rng(0)
    shift = generator.integers(-1, 2, size=count) * (starts > 0)
    label = generator.integers(3, size=count)
    sequences = []
    for edges in (starts, starts + shift):
        ends = np.append(edges[1:], 3 * count)
        sequences.append([list(zip(edges.tolist(), ends.tolist(), label.tolist(), strict=True))])
    tracemalloc.start()
    try:
        scores = list(all_scores(*sequences))
        assert metrics.boundary_scores(*sequences, 1).micro.f1 == 1
        assert metrics.position_accuracy(*sequences) > 0.5
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all(score.micro.matched > 0 for score in scores)
    assert peak < count**2 / 2  # a byte for each pair would be twice that


@pytest.mark.parametrize(
    ("true", "predicted", "error", "words"),
    [
        ([[(0, 1, 0)]], [], ShapeError, "got 1 and 0"),
        ([(0, 1, 0)], [(0, 1, 0)], ShapeError, r"wrap it as \[true\]"),
        ([Segment(0, 1, 0)], [], ShapeError, r"wrap it as \[true\]"),
        ([[(0, 3, 0), (2, 4, 1)]], [[]], SegmentError, "sequence 0, segment 1: expected start >="),
        ([[]], [[(2, 2, 0)]], SegmentError, r"predicted.*\n.*segment 0: expected 0 <= start < end"),
        ([[]], [[(0, 1, -1)]], SegmentError, "label >= 0"),
        ([[(0, 1.5, 0)]], [[]], SegmentError, "expected integers"),
        ([[(0, 1)]], [[]], SegmentError, "expected integers"),
        ([[(0, 1, "P")]], [[]], SegmentError, "expected integers"),
    ],
)
def test_malformed_segments_are_named(true, predicted, error, words):
    with pytest.raises(error, match=words):
        metrics.segment_scores(true, predicted)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tolerance": -1}, "tolerance must be a number >= 0"),
        ({"tolerance": float("nan")}, "tolerance must be"),
        ({"tolerance": 1, "iou": 0.5}, "not both"),
        ({"iou": 0}, r"iou must be in \(0, 1\]"),
        ({"unit": "ms"}, "needs sample_rate"),
        ({"unit": "hours"}, "unit must be"),
        ({"sample_rate": 0}, "sample_rate must be > 0"),
        ({"sample_rate": [1.0]}, r"must be a number or \(2,\)"),
    ],
)
def test_settings_out_of_range_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        metrics.segment_scores(TRUE, GUESS, **settings)


def test_other_settings_out_of_range_are_named():
    with pytest.raises(ConfigError, match="kind must be"):
        metrics.boundary_scores(TRUE, GUESS, 1, kind="both")
    with pytest.raises(ConfigError, match="exactly one"):
        metrics.duration_calibration(TRUE)
    with pytest.raises(ShapeError, match=r"\(K, C\)"):
        metrics.duration_calibration(TRUE, model=np.ones(3))
    with pytest.raises(ShapeError, match="numbers >= 0"):
        metrics.duration_calibration(TRUE, model=-np.ones((3, 2)))
    with pytest.raises(ConfigError, match=r"no name for labels \[2\]"):
        metrics.evaluate_segmentations(TRUE, GUESS, ["a", "b"])


def test_the_summary_is_json_and_agrees_with_the_single_metrics():
    summary = metrics.evaluate_segmentations(
        TRUE, GUESS, ["rest", "P", "T"], sample_rate=500, tolerance=[2, 4]
    )
    again = json.loads(json.dumps(summary, allow_nan=False))
    assert again == summary
    assert summary["unit"] == "ms" and list(summary["boundaries"]) == ["2", "4"]
    onset = metrics.boundary_scores(TRUE, GUESS, 4, kind="onset", sample_rate=500)
    assert summary["boundaries"]["4"]["onset"]["per_label"]["P"] == onset.per_label[1].to_dict()
    assert summary["positions"]["accuracy"] == metrics.position_accuracy(TRUE, GUESS)
    assert summary["segments"]["tolerance 4"]["micro"]["matched"] == 3


def test_tables_show_every_label_and_line_up():
    summary = metrics.evaluate_segmentations(TRUE, GUESS, ["rest", "P", "T"], tolerance=2)
    for rows in (metrics.segment_rows(summary), metrics.boundary_rows(summary)):
        lines = metrics.format_table(rows).splitlines()
        assert len(lines) == len(rows) + 2
        assert len({len(line) for line in lines}) == 1
        assert {"rest", "P", "T", "all"} == {line.split()[0] for line in lines[2:]}
    total = metrics.segment_rows(summary)[-1]
    assert summary["positions"]["weighted"] != summary["positions"]["macro"]
    assert total["F1 positions"] == summary["positions"]["weighted"]
    chosen = metrics.format_table([{"a": 1, "b": 0.25}], {"b": "share"}, digits=1)
    assert chosen.split() == ["share", "-----", "0.2"]
    assert metrics.format_table([]) == ""
