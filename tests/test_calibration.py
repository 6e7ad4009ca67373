"""Calibration against cases by hand, scikit-learn and simulations; and its pictures."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from torch_semimarkov import metrics, plots
from torch_semimarkov.errors import ConfigError, ShapeError


def simulated(temperature=1.0, count=40_000, labels=3):
    """Probabilities, and outcomes drawn from them at another temperature."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(labels), count)
    true = metrics.apply_temperature(p, temperature)
    return p, (rng.random((count, 1)) > true.cumsum(1)).sum(1).clip(max=labels - 1)


def test_reliability_by_hand():
    found = metrics.reliability([0.05, 0.15, 0.95, 0.85, 1.0], [0, 1, 1, 0, 1], bins=2)
    assert found.counts.tolist() == [2, 3]
    np.testing.assert_allclose(found.confidence, [0.1, 2.8 / 3])
    np.testing.assert_allclose(found.frequency, [0.5, 2 / 3])
    assert found.ece == pytest.approx(0.4 * 0.4 + 0.6 * 0.8 / 3)
    assert found.mce == pytest.approx(0.4)


def test_a_calibrated_simulation_has_a_small_error_and_a_certain_one_a_large_one():
    p, y = simulated()
    assert metrics.reliability(p, y).ece < 0.01
    assert metrics.reliability(p[:, 0], y == 0).ece < 0.01
    assert metrics.reliability(metrics.apply_temperature(p, 0.3), y).ece > 0.1


def test_the_brier_score_is_that_of_scikit_learn_and_of_the_definition():
    p, y = simulated(count=500)
    event = y == 1
    assert metrics.brier_score(p[:, 1], event) == pytest.approx(brier_score_loss(event, p[:, 1]))
    by_hand = np.mean(
        [sum((q[c] - (c == t)) ** 2 for c in range(3)) for q, t in zip(p, y, strict=True)]
    )
    assert metrics.brier_score(p, y) == pytest.approx(by_hand)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found(temperature):
    p, y = simulated(temperature)
    assert metrics.fit_temperature(p, y) == pytest.approx(temperature, rel=0.05)
    scaled = metrics.apply_temperature(p, metrics.fit_temperature(p, y))
    assert metrics.reliability(scaled, y).ece < 0.01


def test_a_certain_miss_has_a_finite_temperature():
    assert 1 < metrics.fit_temperature([1.0, 1.0, 0.9], [1, 0, 1]) <= 100.01


@pytest.mark.parametrize("p, y", [([0.5, 0.5], [1, 0]), ([1.0, 1.0], [1, 1])])
def test_where_no_temperature_is_better_than_another_it_is_1(p, y):
    assert metrics.fit_temperature(p, y) == 1.0


def test_perfect_certainty_hands_over_the_errors_first():
    correct = np.array([1, 0, 1, 1, 0])
    best = metrics.selective_curve(correct, correct)
    np.testing.assert_allclose(best.accuracy, [1, 1, 1, 3 / 4, 3 / 5])
    assert best.area < metrics.selective_curve(-correct, correct).area


def test_intervals_stay_between_neighbours_and_grow_with_the_level():
    p = np.array([0, 0.1, 0.2, 0.5, 0.2, 0.1, 0, 0, 1, 0])
    assert metrics.boundary_intervals(p, [3, 8], 0.4).tolist() == [[3, 3], [8, 8]]
    assert metrics.boundary_intervals(p, [3, 8], 0.99).tolist() == [[1, 5], [8, 8]]
    assert metrics.boundary_intervals(p, [], 0.5).shape == (0, 2)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_of_a_known_posterior_hold_the_boundary_as_often_as_they_say(level):
    rng, grid = np.random.default_rng(0), np.arange(201)
    p = np.exp(-0.5 * ((grid - 100) / 15) ** 2)
    p /= p.sum()
    true = rng.choice(grid, 4000, p=p)
    found = metrics.interval_coverage([p] * 4000, [[100]] * 4000, true[:, None], level)
    assert found["judged"] == 4000 and found["without"] == 0
    assert found["coverage"] == pytest.approx(level, abs=0.04)


def test_a_prediction_without_a_true_boundary_is_counted_apart():
    found = metrics.interval_coverage([[0.5] * 9], [[1, 7]], [[2]], 0.5)
    assert (found["judged"], found["without"]) == (1, 1)
    assert metrics.interval_coverage([[0.5] * 9], [[1]], [[]], 0.5)["coverage"] is None


def test_of_several_true_boundaries_the_nearest_judges():
    sure = [0.0] * 4 + [1.0] + [0.0] * 4
    for true in ([0, 4], [4, 8], [0, 4, 8]):
        assert metrics.interval_coverage([sure], [[4]], [true], 0.9)["coverage"] == 1.0


@pytest.mark.parametrize(
    "p, y", [([0.5], [2]), ([1.5], [1]), ([[0.5, 0.1]], [0]), ([0.5], [1, 0]), ([], [])]
)
def test_what_is_no_probability_or_outcome_is_refused(p, y):
    with pytest.raises(ShapeError):
        metrics.reliability(p, y)


def test_settings_out_of_range_are_refused():
    for call in (
        lambda: metrics.reliability([0.5], [1], bins=0),
        lambda: metrics.apply_temperature([0.5], 0),
        lambda: metrics.boundary_intervals([0.5], [0], 1.0),
    ):
        with pytest.raises(ConfigError):
            call()
    with pytest.raises(ShapeError):
        metrics.boundary_intervals([0.5, 0.5], [1, 0], 0.5)
    for numbers in ([np.nan, 0.5], [1, 0]), ([0.5, 0.5], [1, np.nan]):
        with pytest.raises(ShapeError, match="NaN"):
            metrics.selective_curve(*numbers)


def test_a_bin_of_few_predictions_has_an_empty_marker():
    pytest.importorskip("matplotlib")
    p, y = np.repeat([0.1, 0.5, 0.9], [300, 99, 100]), np.zeros(499)
    (axis,) = plots.plot_reliability({"all": metrics.reliability(p, y)}).axes
    hollow = [line for line in axis.lines if line.get_markerfacecolor() == "white"]
    assert [line.get_xdata().tolist() for line in hollow] == [[0.5], []]
    assert axis.get_legend().get_texts()[-1].get_text() == "fewer than 100 predictions"


def test_every_picture_holds_its_curves():
    pytest.importorskip("matplotlib")
    p, y = simulated(count=200)
    curve = metrics.selective_curve(p.max(1), p.argmax(1) == y)
    pictures = {
        "ECE": plots.plot_reliability({"labels": metrics.reliability(p, y)}),
        "conv": plots.plot_coverage({"conv": {0.5: 0.4, 0.9: 0.8}}),
        "kept": plots.plot_selective({"kept": curve}),
    }
    for name, figure in pictures.items():
        (axis,) = figure.axes
        assert name in axis.get_legend().get_texts()[0].get_text()
        assert axis.get_xlabel() and axis.get_ylabel()
    with pytest.raises(ConfigError):
        plots.plot_selective({})
