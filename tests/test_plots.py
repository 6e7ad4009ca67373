"""Pictures hold what they should, refuse what does not fit, and are written whole."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")
from matplotlib.backends.backend_agg import FigureCanvasAgg

from torch_semimarkov import plots
from torch_semimarkov.errors import ConfigError, ShapeError, UnsupportedError
from torch_semimarkov.plots._style import look

T = 30
SEGMENTS = [(0, 10, 0), (10, 20, 1), (20, 30, 0)]
NAMES = ["baseline", "QRS"]


def picture(**changes):
    posterior = torch.full((T, 2), 0.5, requires_grad=True)
    settings = {
        "signal": np.sin(np.arange(T)),
        "true": SEGMENTS,
        "decoded": SEGMENTS,
        "posterior": posterior,
        "boundaries": np.linspace(0, 1, T),
        "label_names": NAMES,
        "sample_rate": 10,
        "title": "one sequence",
    }
    return plots.plot_segmentation(**{**settings, **changes})


def boxes(figure):
    """Extents of the legend and of every panel with its labels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    return (
        [legend.get_window_extent(renderer) for legend in figure.legends],
        [axis.get_tightbbox(renderer) for axis in figure.axes],
    )


def test_a_segmentation_has_a_panel_for_everything_given():
    figure = picture()
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels == ["signal", "true", "decoded", "P(label)", "P(start)"]
    assert figure.axes[-1].get_xlabel() == "time (s)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == NAMES
    assert figure.legends[0].get_title().get_text() == "one sequence"


def test_only_what_is_given_is_drawn():
    figure = plots.plot_segmentation(np.zeros(T), decoded=SEGMENTS)
    assert [axis.get_ylabel() for axis in figure.axes] == ["signal", "decoded"]
    assert figure.axes[-1].get_xlabel() == "position"


def test_all_panels_share_the_time_axis():
    figure = picture()
    assert {axis.get_xlim() for axis in figure.axes} == {(0, 3)}
    figure.axes[0].set_xlim(1, 2)
    assert {axis.get_xlim() for axis in figure.axes} == {(1, 2)}


def test_segments_are_drawn_where_they_are():
    spans = [
        path.get_extents().intervalx.tolist()
        for collection in picture().axes[1].collections
        for path in collection.get_paths()
    ]
    assert sorted(spans) == [[0, 1], [1, 2], [2, 3]]


def test_panels_and_legend_do_not_overlap():
    legends, panels = boxes(picture())
    assert all(legend.y0 >= panels[0].y1 for legend in legends)
    assert all(upper.y0 >= lower.y1 for upper, lower in itertools.pairwise(panels))


def test_many_features_and_many_labels_become_heat_maps():
    posterior = np.full((T, 12), 1 / 12)
    figure = picture(signal=np.zeros((T, 20)), posterior=posterior, label_names=None)
    assert figure.axes[0].get_ylabel() == "feature"
    assert len(figure.legends[0].get_texts()) == 12


def test_long_sequences_are_thinned_but_keep_their_extremes():
    long = 50_001
    signal, boundaries = np.zeros(long), np.zeros(long)
    signal[777], signal[-1], boundaries[30_000] = 5, -3, 1
    posterior = np.tile([0.25, 0.75], (long, 1))
    figure = plots.plot_segmentation(signal, None, None, posterior, boundaries)
    drawn = figure.axes[0].lines[0].get_ydata()
    assert len(drawn) < 20_000 and (drawn.max(), drawn.min()) == (5, -3)
    assert figure.axes[2].lines[0].get_ydata().max() == 1
    assert figure.axes[0].get_xlim() == (0, long)
    area = figure.axes[1].collections[0].get_paths()[0].vertices
    assert area[:, 1].max() == pytest.approx(0.25)


def test_a_posterior_is_drawn_over_the_whole_width_of_its_position():
    figure = plots.plot_segmentation(np.zeros(3), posterior=[[0, 1], [1, 0], [1, 0]])
    area = figure.axes[1].collections[0].get_paths()[0].vertices.tolist()
    assert [1.0, 0.0] in area and [1.0, 1.0] in area and [3.0, 1.0] in area
    assert [0.0, 1.0] not in area


def test_twenty_eight_labels_look_different():
    assert len({tuple(look(label).values()) for label in range(28)}) == 28


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"posterior": np.zeros((T + 1, 2))}, r"posterior must be \(30, C\), got \(31, 2\)"),
        ({"boundaries": np.zeros((T, 1))}, r"boundaries must be \(30,\)"),
        ({"true": [(0, 31, 0)]}, r"true must hold .* T = 30, got \(0, 31, 0\)"),
        ({"signal": np.zeros(0)}, "signal must be"),
        ({"signal": ["a"]}, "signal must be an array of numbers"),
    ],
)
def test_what_does_not_fit_is_named(changes, words):
    with pytest.raises(ShapeError, match=words):
        picture(**changes)


def test_every_misfit_is_named_at_once():
    with pytest.raises(ShapeError, match=r"posterior must be .*\n.*boundaries must be"):
        picture(posterior=np.zeros(3), boundaries=np.zeros(3))


def test_missing_names_and_rates_out_of_range_are_named():
    with pytest.raises(ConfigError, match=r"no name for labels \[1\]"):
        picture(label_names=["baseline"])
    with pytest.raises(ConfigError, match="sample_rate must be > 0"):
        picture(sample_rate=0)


def test_the_bars_of_a_duration_histogram_are_shares():
    figure = plots.plot_durations({0: [1, 2, 2, 3], 1: []}, model={0: [1, 2, 1]})
    heights = [bar.get_height() for bar in figure.axes[0].patches[:3]]
    assert heights == [0.25, 0.5, 0.25]
    assert figure.axes[0].get_title(loc="left") == "0 (n = 4)"
    stairs = figure.axes[0].patches[-1]
    assert stairs.get_data().values.tolist() == [0.25, 0.5, 0.25]


def test_durations_of_a_wide_range_get_few_bins():
    figure = plots.plot_durations({0: [1, 1000]}, np.ones((1000, 1)), ["P"], 500.0, "durations")
    assert len(figure.axes[0].patches) <= 41
    assert figure.axes[0].get_xlim()[1] == pytest.approx(1000 * 2 + 1)


@pytest.mark.parametrize(
    ("observed", "model"),
    [({}, None), ({0: [0]}, None), ({0: [1]}, np.ones(3)), ({0: [1]}, {0: [-1.0]})],
)
def test_durations_that_make_no_picture_are_refused(observed, model):
    with pytest.raises(ShapeError):
        plots.plot_durations(observed, model)


def test_training_curves_from_rows_or_columns_are_the_same():
    rows = [{"epoch": 1, "train_loss": 3.0, "lr": 1}, {"epoch": 2, "train_loss": 2.0, "lr": 1}]
    columns = {"epoch": [1, 2], "train_loss": [3.0, 2.0], "lr": [1, 1]}
    lines = [plots.plot_training(history).axes[0].lines for history in (rows, columns)]
    assert [len(one) for one in lines] == [1, 1]
    assert np.array_equal(lines[0][0].get_xydata(), lines[1][0].get_xydata())


def test_the_lowest_validation_loss_is_named():
    history = {"epoch": [1, 2, 3], "val_loss": [3.0, 1.5, None]}
    legend = plots.plot_training(history).axes[0].get_legend()
    assert legend.get_texts()[0].get_text() == "val loss (lowest 1.5 at 2)"


@pytest.mark.parametrize(
    ("history", "keys"),
    [([], None), ({"a": [1]}, None), ({"loss": [1]}, ["b"]), ({"loss": [1], "x": [1, 2]}, None)],
)
def test_a_history_without_curves_is_refused(history, keys):
    with pytest.raises(ConfigError, match="history"):
        plots.plot_training(history, keys)


@pytest.mark.parametrize(
    ("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")]
)
def test_a_figure_is_written_in_the_format_of_its_ending(tmp_path, ending, magic):
    path = plots.save_figure(plots.plot_training({"loss": [2, 1]}), tmp_path / f"a.{ending}")
    assert path.read_bytes().startswith(magic)
    assert [entry.name for entry in tmp_path.iterdir()] == [f"a.{ending}"]
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("name", ["a.gif", "a", "missing/a.png"])
def test_a_path_that_cannot_be_written_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"must end in|no folder"):
        plots.save_figure(plots.plot_training({"loss": [2, 1]}), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    class Broken:
        def savefig(self, target, **settings):
            with open(target, "wb") as file:
                file.write(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        plots.save_figure(Broken(), path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_without_matplotlib_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UnsupportedError, match=r"pip install torch_semimarkov\[plots\]"):
        plots.plot_training({"loss": [2, 1]})


def test_importing_the_rooms_loads_no_plotting_and_no_metric_library():
    code = (
        "import sys, torch_semimarkov.plots, torch_semimarkov.metrics;"
        "print([m for m in ('matplotlib', 'sklearn', 'rapidfuzz', 'scipy') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
