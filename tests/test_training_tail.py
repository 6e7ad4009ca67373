"""Training models whose segments may be longer than K: the settings, the start, the folder."""

import json
import math

import pytest
import torch
from cli_cases import TINY_FLAGS, call, succeeds
from training_cases import tiny_config, tiny_records, write_npz

from torch_semimarkov import SemiMarkovCRFHead
from torch_semimarkov.data import read_segments
from torch_semimarkov.errors import ConfigError
from torch_semimarkov.nn.segmenter import Architecture, SegmentationModel
from torch_semimarkov.training.examples import Example
from torch_semimarkov.training.folder import load_model, save_model
from torch_semimarkov.training.run import train
from torch_semimarkov.training.statistics import start_from_counts


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("tail") / "data", tiny_records(longest=9))


@pytest.fixture(scope="module")
def folder(data):
    model = data.parent / "model"
    flags = "--tail geometric --max-duration 2 --epochs 12 --lr 0.03"
    text = succeeds("train", data, "-o", model, TINY_FLAGS.replace("--epochs 1", ""), flags)
    assert "take the tail" in text
    return model


def test_the_command_line_trains_a_tail_and_keeps_it_in_the_folder(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"]["tail"] == config["training"]["tail"] == "geometric"
    saved = load_model(folder)
    assert saved.model.head.tail_logit.shape == (3,)
    assert saved.model.longest_segment is None


def test_predictions_and_scores_have_segments_longer_than_k(folder, data, tmp_path):
    succeeds("predict", folder, data, "-o", tmp_path / "found")
    files = sorted((tmp_path / "found").glob("*.segments.tsv"))
    found = [s for path in files for table in read_segments(path) for s in table.segments]
    assert max(s.duration for s in found) > 2
    text = succeeds("evaluate", folder, data)
    assert "accuracy" in text


def test_a_tail_learns_from_whole_segments():
    records = tiny_records(longest=9)
    plain, long = (
        train(records, config=tiny_config(max_duration=2, tail=tail, epochs=2), quiet=True)
        for tail in ("none", "geometric")
    )
    assert plain.saved.model.head.tail_logit is None
    before = math.log(2.0)  # the head alone starts with K / (K + 1)
    assert (long.saved.model.head.tail_logit - before).abs().max() > 0.05
    assert long.duration["longer"] == plain.duration["longer"] > 0


def test_the_rate_starts_from_what_the_labels_say():
    head = SemiMarkovCRFHead(2, 3, tail="geometric")
    # label 0: 2, 3, 5 and 9 positions; label 1 was never as long as K
    rows = torch.tensor([[0, 2, 0], [2, 4, 1], [4, 7, 0], [7, 12, 0], [12, 21, 0]])
    start_from_counts(head, [Example("a", torch.zeros(21, 1), rows)])
    rate = head.tail_logit.sigmoid()
    torch.testing.assert_close(rate, torch.tensor([(0 + 2 + 6 + 3) / (11 + 3 + 1), 3 / 4]))
    bias = head.durations()
    assert bias.shape == (3, 2) and bias.isfinite().all()


def test_a_folder_of_an_older_version_has_no_tail(folder, tmp_path):
    plain = SegmentationModel(Architecture(2, 3, max_duration=4, hidden_dim=8, num_layers=1))
    saved = load_model(folder)
    saved.model = plain
    save_model(tmp_path / "old", saved)
    path = tmp_path / "old" / "config.json"
    config = json.loads(path.read_text())
    del config["architecture"]["tail"]
    path.write_text(json.dumps(config))
    assert load_model(tmp_path / "old").model.head.tail_logit is None


def test_an_older_run_goes_on_without_a_tail(tmp_path):
    records = tiny_records()
    train(records, config=tiny_config(epochs=1), folder=tmp_path, quiet=True)
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=False)
    del state["config"]["tail"]
    torch.save(state, path)
    train(records, config=tiny_config(epochs=2), folder=tmp_path, resume=True, quiet=True)
    with pytest.raises(ConfigError, match="tail was 'none', is 'geometric'"):
        train(records, config=tiny_config(tail="geometric"), folder=tmp_path, resume=True)


def test_a_tail_of_another_name_is_refused(data, tmp_path):
    assert call("train", data, "-o", tmp_path / "m", "--tail poisson").exit_code == 2
    with pytest.raises(ConfigError, match="tail must be \"geometric\" or None, got 'poisson'"):
        Architecture(2, 3, tail="poisson")
    with pytest.raises(ConfigError, match='tail is for the head "semi-crf" only'):
        Architecture(2, 3, head="linear-crf", tail="geometric")


def test_the_penalty_of_the_weights_counts_the_tail():
    head = SemiMarkovCRFHead(2, 3, tail="geometric")
    before = head.parameter_penalty().item()
    head.tail_logit.data += 2.0
    more = (head.tail_logit.data.square() - (head.tail_logit.data - 2).square()).sum().item()
    assert head.parameter_penalty().item() == pytest.approx(before + more)
