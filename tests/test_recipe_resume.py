"""The small recipes, stopped and resumed: nothing is lost, and the result is the same."""

import json
import signal

import pytest
import torch
from recipe_cases import PROTEIN, SONG, write_config, write_proteins, write_songs

from torch_semimarkov.training import Trainer

pytest.importorskip("matplotlib")
birdsong = pytest.importorskip("birdsong")
protein = pytest.importorskip("protein")

RECIPES = {
    "song": (birdsong.main, SONG, write_songs),
    "protein": (protein.main, PROTEIN, write_proteins),
}
HEADS = {"argmax": {}, "semi-crf": {"max_duration": 20}}


@pytest.fixture(params=RECIPES)
def recipe(request, tmp_path):
    """A function that calls a recipe on small data, into a folder of that name."""
    main, settings, write = RECIPES[request.param]
    data = write(tmp_path / "data")

    def call(output, *flags, **changes):
        config = write_config(tmp_path / "c.yaml", settings, **{"heads": HEADS, **changes})
        paths = ["--data", data, "--config", config, "--output", tmp_path / output]
        main([*map(str, paths), *flags])

    return call


def interrupt_after(monkeypatch, count):
    """Send what Ctrl-C sends at the end of a training step; the list has one entry a step."""
    steps, whole = [], Trainer._step

    def step(self, examples):
        whole(self, examples)
        steps.append(self.config.head)
        if len(steps) == count:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "_step", step)
    return steps


def rows(folder):
    """The table without what a clock says."""
    found = json.loads((folder / "table.json").read_text())["runs"]
    return [{k: v for k, v in row.items() if k != "cpu_seconds"} for row in found]


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "semi-crf-seed0" / "model.safetensors")


def test_a_stopped_comparison_goes_on_to_the_same_result(recipe, tmp_path, monkeypatch, capsys):
    steps = interrupt_after(monkeypatch, 0)
    recipe("whole")
    total, first = len(steps), steps.count("argmax")
    interrupt_after(monkeypatch, first + 1)  # in the second run
    with pytest.raises(SystemExit) as stopped:
        recipe("run")
    assert stopped.value.code == 130
    assert "after 1 batches; " in capsys.readouterr().err
    assert not (tmp_path / "run" / "table.json").exists()
    again = interrupt_after(monkeypatch, 0)
    recipe("run", "--resume")
    assert len(again) == total - first - 1, "no step is done twice"
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    whole, gone_on = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert whole.keys() == gone_on.keys()
    assert all(torch.equal(whole[name], gone_on[name]) for name in whole)


def test_a_finished_comparison_takes_more_seeds_and_repeats_nothing(recipe, tmp_path, monkeypatch):
    recipe("run", heads={"argmax": {}})
    before = rows(tmp_path / "run")
    steps = interrupt_after(monkeypatch, 0)
    recipe("run", "--resume", heads={"argmax": {}})
    assert steps == [] and rows(tmp_path / "run") == before
    recipe("run", "--resume", heads={"argmax": {}}, seeds=[0, 1])
    after = rows(tmp_path / "run")
    assert steps and after[:1] == before and after[1]["seed"] == 1


def test_runs_are_neither_overwritten_nor_mixed_by_accident(recipe, tmp_path, capsys):
    faults = {
        ("new", "--resume"): r"new/runs.json: no runs to resume",
        ("run",): r"run holds runs already (runs.json, table.json); add --resume to go on",
        ("run", "--resume", "--overwrite"): "--resume and --overwrite exclude each other",
    }
    recipe("run", heads={"argmax": {}})
    for call, message in faults.items():
        with pytest.raises(SystemExit):
            recipe(*call)
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        recipe("run", "--resume", heads={"argmax": {}}, test=0.3)
    assert "belongs to runs with other settings: test was 0.2, is 0.3" in capsys.readouterr().err
    recipe("run", "--overwrite", heads={"argmax": {}}, test=0.3)
    assert json.loads((tmp_path / "run" / "table.json").read_text())["settings"]["test"] == 0.3


def test_runs_on_other_data_and_a_damaged_note_are_refused(recipe, tmp_path, capsys):
    recipe("run", heads={"argmax": {}})
    capsys.readouterr()
    notes = tmp_path / "run" / "runs.json"
    found = json.loads(notes.read_text())
    notes.write_text(json.dumps({**found, "data": "other"}))
    for text in ("belongs to runs on other data", "runs.json: damaged or truncated"):
        with pytest.raises(SystemExit):
            recipe("run", "--resume", heads={"argmax": {}})
        assert text in capsys.readouterr().err
        notes.write_text("{")
