"""The metrics and plots on bad input: one clear error of the house, never another's or a number."""

import io

import numpy as np
import pytest
import torch

from torch_semimarkov import metrics, plots
from torch_semimarkov.errors import ConfigError, SegmentError, SemiMarkovError, ShapeError

NAN, INF = float("nan"), float("inf")
TRUE = [[(0, 2, 0), (2, 5, 1)]]
GUESS = [[(0, 3, 0), (3, 5, 1)]]
PAIRS = {
    "positions": metrics.position_accuracy,
    "edits": metrics.label_edit_rate,
    "labels": metrics.label_f1,
    "segments": metrics.segment_scores,
    "durations": lambda true, predicted: metrics.duration_calibration(true, predicted),
    "all": metrics.evaluate_segmentations,
    "boundaries": lambda true, predicted: metrics.boundary_scores(true, predicted, 1),
    "merged": lambda true, predicted: metrics.merge_neighbours(true),
}
NO_LISTS = {
    "nothing": None,
    "a number": 3,
    "numbers": [3],
    "a flat list": [[0, 2, 0], [2, 3, 1]],
    "a tensor": torch.zeros(2, 3),
    "one that is a number": [[(0, 2, 0)], 3],
}
NO_SEGMENTS = {
    "text": "abc",
    "NaN": [[(0, NAN, 1)]],
    "infinity": [[(0, INF, 1)]],
    "beyond 64 bits": [[(0, 2**63, 1)]],
    "beyond any sequence": [[(0, 2**62, 1)]],
    "a label beyond any": [[(0, 2, 2**62)]],
    "truth values": [[(True, False, True)]],
    "samples": [[[(0, 1, 0)] * 3]],
}


@pytest.mark.parametrize("metric", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("sequences", NO_LISTS.values(), ids=NO_LISTS)
def test_what_is_no_list_of_sequences_is_named(metric, sequences):
    with pytest.raises(ShapeError, match="must be one list of"):
        metric(sequences, GUESS)
    if metric is not PAIRS["merged"] and sequences is not None:
        with pytest.raises(ShapeError, match=r"^predicted .*; a single sequence: wrap it as"):
            metric(TRUE, sequences)


@pytest.mark.parametrize("metric", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("sequences", NO_SEGMENTS.values(), ids=NO_SEGMENTS)
def test_what_is_no_segment_is_named(metric, sequences):
    with pytest.raises(SegmentError, match="sequence 0: expected integers"):
        metric(sequences, sequences)


def test_labels_far_apart_are_never_taken_for_each_other():
    far = [[(0, 2, 2**39)], [(0, 2, 3 * 2**38)]]
    found = metrics.segment_scores(far, [far[1], far[0]])
    assert found.micro.matched == 0
    assert metrics.segment_scores(far, far).micro.f1 == 1.0
    wide = metrics.segment_scores([[(0, 2**39, 7)]], [[(0, 2**39 - 1, 7)]], tolerance=1e300)
    assert wide.micro.f1 == 1.0


def test_joined_segments_hold_plain_numbers():
    ((segment,),) = metrics.merge_neighbours([np.array([[0, 2, 1], [2, 4, 1]])])
    assert segment == (0, 4, 1) and all(type(part) is int for part in segment)


SETTINGS = {
    "tolerance": lambda x: metrics.boundary_scores(TRUE, GUESS, x),
    "tolerance of segments": lambda x: metrics.segment_scores(TRUE, GUESS, x or "x"),
    "iou": lambda x: metrics.segment_scores(TRUE, GUESS, iou=x or "x"),
    "iou of all": lambda x: metrics.evaluate_segmentations(TRUE, GUESS, iou=x),
    "tolerance of all": lambda x: metrics.evaluate_segmentations(TRUE, GUESS, tolerance=x),
    "temperature": lambda x: metrics.apply_temperature([0.5], x),
    "bins": lambda x: metrics.reliability([0.5], [1], x),
    "level": lambda x: metrics.boundary_intervals([0.0, 1.0], [1], x),
    "level without sequences": lambda x: metrics.interval_coverage([], [], [], x),
    "digits": lambda x: metrics.format_table([{"a": 1.0}], digits=x),
    "sample_rate": lambda x: metrics.boundary_scores(TRUE, GUESS, 1, sample_rate=x or "x"),
    "sample_rate of a picture": lambda x: plots.plot_segmentation([0.0], sample_rate=x or "x"),
    "dpi": lambda x: plots.save_figure(plots.plot_training({"loss": [1.0]}), "x.png", x),
    "unit": lambda x: metrics.boundary_scores(TRUE, GUESS, 1, unit=x or "x"),
    "kind": lambda x: metrics.boundary_scores(TRUE, GUESS, 1, kind=x),
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("value", ["a", None, [[1]], NAN, -1], ids=str)
def test_a_setting_that_is_no_number_of_its_range_is_named(setting, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        setting(value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("labels", [3, "a", ["P"], ["0"], [NAN], [1.5], [-1], [[1]]], ids=str)
def test_labels_to_judge_are_whole_numbers(labels):
    for metric in (metrics.segment_scores, metrics.label_f1, metrics.duration_calibration):
        with pytest.raises(ConfigError, match="labels must be integers >= 0"):
            metric(TRUE, GUESS, labels=labels)


@pytest.mark.parametrize("names", [3, "ab", ["a"], {"0": "a"}], ids=str)
def test_names_that_do_not_name_the_labels_are_refused(names):
    with pytest.raises(ConfigError, match="label_names"):
        metrics.evaluate_segmentations(TRUE, GUESS, names)
    with pytest.raises(ConfigError, match="label_names"):
        plots.plot_segmentation(np.zeros(5), true=TRUE[0], label_names=names)


MODELS = {"text": "x", "a row of text": {0: "a"}, "ragged": [[1, 2], [3]], "NaN": [[NAN, 1.0]]}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_model_of_durations_is_made_of_numbers(model):
    with pytest.raises(ShapeError, match="model"):
        metrics.duration_calibration(TRUE, model=model)
    with pytest.raises(ShapeError, match="model"):
        plots.plot_durations({0: [1, 2]}, model)


def test_tensors_with_a_gradient_are_taken_as_numbers():
    model = torch.ones(3, 2, requires_grad=True)
    found = metrics.duration_calibration(TRUE, model=model)["per_label"][0]
    assert found["model"]["mean"] == 2.0
    p, y = torch.tensor([0.5, 1.0], requires_grad=True), torch.tensor([1, 1])
    assert metrics.brier_score(p, y) == 0.125
    assert metrics.apply_temperature(p, 1.0).tolist() == [0.5, 1.0]
    assert metrics.boundary_intervals(p, torch.tensor([1]), 0.5).tolist() == [[1, 1]]


JUDGES = {
    "reliability": metrics.reliability,
    "Brier": metrics.brier_score,
    "fit": metrics.fit_temperature,
    "selective": metrics.selective_curve,
    "apply": lambda p, y: metrics.apply_temperature(p, 2.0),
}
NO_PROBABILITIES = {
    "nothing": None,
    "text": ["a"],
    "ragged": [[0.5, 0.5], [1.0]],
    "a number": 0.5,
    "NaN": [NAN],
    "none": [],
    "three dimensions": np.ones((1, 1, 1)),
    "no labels": np.zeros((1, 0)),
}


@pytest.mark.parametrize("judge", JUDGES.values(), ids=JUDGES)
@pytest.mark.parametrize("p", NO_PROBABILITIES.values(), ids=NO_PROBABILITIES)
def test_what_is_no_array_of_probabilities_is_refused(judge, p):
    with pytest.raises(ShapeError):
        judge(p, [1])


@pytest.mark.parametrize("p", [[1.5], [-0.5], [[0.5, 0.1]]], ids=str)
def test_a_temperature_is_applied_to_probabilities_only(p):
    with pytest.raises(ShapeError, match=r"within 0\.\.1"):
        metrics.apply_temperature(p, 2.0)


def test_what_is_right_or_wrong_is_a_share():
    with pytest.raises(ShapeError, match=r"correct must be within 0\.\.1"):
        metrics.selective_curve([0.5, 0.1], [3, 0])


INTERVALS = {
    "half a position": ([0, 0.5, 1], [1.5]),
    "NaN": ([0, 0.5, 1], [NAN]),
    "a number": ([0, 0.5, 1], 1),
    "a column": ([0, 0.5, 1], [[1]]),
    "text": ([0, 0.5, 1], ["a"]),
    "outside": ([0, 0.5, 1], [3]),
    "not probable": ([0, NAN, 1], [1]),
    "negative": ([0, -0.5, 1], [1]),
    "more than certain": ([0, 3.0, 1], [1]),
    "two rows": ([[0, 0.5]], [1]),
    "nothing": (None, [1]),
}


@pytest.mark.parametrize(("boundaries", "positions"), INTERVALS.values(), ids=INTERVALS)
def test_boundaries_are_probabilities_and_positions_whole(boundaries, positions):
    with pytest.raises(ShapeError):
        metrics.boundary_intervals(boundaries, positions, 0.5)
    with pytest.raises(ShapeError):
        metrics.interval_coverage([boundaries], [positions], [[1]], 0.5)
    if boundaries == [0, 0.5, 1]:
        with pytest.raises(ShapeError, match="true"):
            metrics.interval_coverage([boundaries], [[1]], [positions], 0.5)


MATCHES = {
    "windows that go back": ([1, 0], [2, 1], [1, 1]),
    "too few costs": ([0, 0], [2, 2], [1]),
    "too many costs": ([0], [1], [1, 2]),
    "other windows": ([0], [1, 2], [1, 2, 3]),
    "half": ([0.5], [1], [2]),
    "before the first": ([-1], [1], [1, 1]),
    "two dimensions": ([[0]], [[1]], [[2]]),
    "NaN": ([0], [1], [NAN]),
}


@pytest.mark.parametrize("arrays", MATCHES.values(), ids=MATCHES)
def test_windows_and_costs_of_a_matching_fit_together(arrays):
    with pytest.raises(ShapeError):
        metrics.match_in_order(*map(np.array, arrays))
    rows, columns = metrics.match_in_order([0, 0], [1, 2], [2, 0, 3])
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [0, 1])


@pytest.mark.parametrize("summary", [None, {}, {"segments": {}}, 3], ids=str)
def test_rows_of_a_table_come_from_an_evaluation(summary):
    for rows in (metrics.segment_rows, metrics.boundary_rows):
        with pytest.raises(ConfigError, match="what evaluate_segmentations returns"):
            rows(summary)


@pytest.mark.parametrize("rows", [None, 3, [3], "ab", {"a": 1}], ids=str)
def test_a_table_is_made_of_mappings(rows):
    with pytest.raises(ConfigError, match="rows must be"):
        metrics.format_table(rows)


def test_a_table_may_have_numbers_as_columns():
    assert metrics.format_table([{1: "x"}]).splitlines() == ["1", "-", "x"]


STRIPS = {
    "a number": 3,
    "one segment": (0, 2, 0),
    "numbers": [0, 2, 0],
    "a name": [(0, 2, "P")],
    "no label": [(0, 2, None)],
    "a negative label": [(0, 2, -1)],
    "half a position": [(0, 2.5, 1)],
    "NaN": [(0, NAN, 1)],
    "an overlap": [(0, 3, 0), (2, 5, 1)],
    "a sequence of sequences": TRUE,
    "past the end": [(0, 6, 1)],
}


@pytest.mark.parametrize("strip", STRIPS.values(), ids=STRIPS)
def test_what_is_no_segmentation_is_not_drawn(strip):
    with pytest.raises(SemiMarkovError, match="true"):
        plots.plot_segmentation(np.zeros(5), true=strip)


def test_segments_may_come_as_an_array():
    figure = plots.plot_segmentation(np.zeros(5), true=np.array(TRUE[0]), decoded=[])
    assert len(figure.axes) == 3


@pytest.mark.parametrize(
    "arrays",
    [
        {"signal": None},
        {"signal": "abc"},
        {"posterior": np.full((5, 2), 7.0)},
        {"posterior": np.full((5, 2), -1.0)},
        {"posterior": np.full((5, 9), NAN)},
        {"boundaries": np.full(5, 7.0)},
        {"boundaries": np.full(5, NAN)},
        {"boundaries": [0, 0, INF, 0, 0]},
    ],
    ids=str,
)
def test_probabilities_that_are_none_are_not_drawn(arrays):
    with pytest.raises(ShapeError, match=next(iter(arrays))):
        plots.plot_segmentation(**{"signal": np.zeros(5), **arrays})


@pytest.mark.parametrize(
    "observed",
    [None, [1, 2], "ab", {"a": [1]}, {-1: [2]}, {0: [INF]}, {0: [1.5]}, {0: "abc"}, {0: None}],
    ids=str,
)
def test_durations_are_whole_numbers_by_label(observed):
    with pytest.raises(SemiMarkovError, match="observed"):
        plots.plot_durations(observed)


@pytest.mark.parametrize(
    "history",
    [None, 3, [3], "abc", [NAN], {"loss": None}, {"loss": "abc"}, {"loss": 3}, [{"loss": "a"}]],
    ids=str,
)
def test_a_history_is_made_of_numbers(history):
    with pytest.raises(ConfigError, match="history"):
        plots.plot_training(history)


def test_losses_that_are_tensors_are_drawn():
    figure = plots.plot_training({"loss": [torch.tensor(2.0), None, torch.tensor(1.0)]})
    (line,) = figure.axes[0].lines
    assert line.get_ydata().tolist() == [2.0, 1.0]


@pytest.mark.parametrize("curves", [None, [], "abc", {"a": None}, {"a": 3}, {"a": {}}], ids=str)
def test_curves_are_results_by_name(curves):
    for plot in (plots.plot_reliability, plots.plot_coverage, plots.plot_selective):
        with pytest.raises(ConfigError, match="curves"):
            plot(curves)


def test_a_curve_of_another_metric_is_named():
    curve = metrics.selective_curve([1.0], [1])
    with pytest.raises(ConfigError, match=r"curves\['a'\] must be a result of metrics.reliability"):
        plots.plot_reliability({"a": curve})
    with pytest.raises(ConfigError, match=r"curves\['a'\] must be a result of metrics.selective"):
        plots.plot_selective({"a": metrics.reliability([0.5], [1])})


@pytest.mark.parametrize(("figure", "path"), [(None, "a.png"), ("fine", 3), ("fine", None)])
def test_a_figure_and_a_path_are_needed_to_write(figure, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = plots.plot_training({"loss": [1.0, 0.5]}) if figure else None
    with pytest.raises(ConfigError):
        plots.save_figure(picture, path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_drawn_can_be_painted():
    gaps = plots.plot_coverage({"a": {0.5: None, 0.9: 0.8}})
    for figure in (gaps, plots.plot_segmentation([0.0, NAN, INF, 1.0])):
        figure.savefig(io.BytesIO(), format="png")
