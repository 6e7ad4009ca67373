"""Model folders: what was saved comes back, and what is damaged is named."""

import json

import pytest
import torch
from training_cases import tiny_config, tiny_records

from torch_semimarkov.data.records import segments_from_runs
from torch_semimarkov.errors import ConfigError, FileFormatError
from torch_semimarkov.training import Predictor, load_model, save_model
from torch_semimarkov.training import folder as folder_module
from torch_semimarkov.training.run import train


@pytest.fixture(scope="module")
def saved():
    return train(tiny_records(), None, tiny_config(epochs=1), quiet=True).saved


@pytest.fixture
def folder(tmp_path, saved):
    return save_model(tmp_path / "model", saved, {"loss": 1.5})


def edit(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("head", ["semi-crf", "linear-crf", "argmax"])
@pytest.mark.parametrize("encoder", ["conv", "bilstm", "unet", "ar-ssm"])
def test_a_saved_model_comes_back_and_decodes_the_same(tmp_path, head, encoder):
    records = tiny_records()
    config = tiny_config(epochs=1, head=head, encoder=encoder, boundary_scores=head == "semi-crf")
    saved = train(records, None, config, quiet=True).saved
    loaded = load_model(save_model(tmp_path / "m", saved))
    for name, value in saved.model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name])
    assert loaded.vocabulary == saved.vocabulary
    assert (loaded.merge, loaded.channels, loaded.training) == (
        saved.merge, saved.channels, saved.training,
    )  # fmt: skip
    found = [[p.segments for p in Predictor(one)(records)] for one in (saved, loaded)]
    assert found[0] == found[1]


def test_the_settings_of_an_ar_ssm_come_back_with_its_weights(tmp_path):
    config = tiny_config(
        epochs=2, encoder="ar-ssm", max_rank=7, min_rank=3, gate_mode="gumbel", rank_warmup_steps=9,
        gate_temperature=0.5, gate_l1=0.25, normaliser="mean", causal=True, kernel_size=3,
        gradient_checkpointing=True,
    )  # fmt: skip
    saved = train(tiny_records(), None, config, quiet=True).saved
    loaded = load_model(save_model(tmp_path / "m", saved))
    assert loaded.model.architecture == saved.model.architecture
    for one in (saved, loaded):
        (layer,) = (block.layer for block in one.model.encoder.blocks)
        assert (layer.max_rank, layer.min_rank, layer.normaliser) == (7, 3, "mean")
        assert (layer.gate_mode, layer.gate_temperature) == ("gumbel", 0.5)
        assert layer.l1_regularization == 0.25
        assert layer.causal and one.model.encoder.gradient_checkpointing
        assert layer.kernel_size == 3
        assert 3 <= layer.current_rank < 7
    assert loaded.training["rank_warmup_steps"] == 9


@pytest.mark.parametrize("head", ["semi-crf", "linear-crf", "argmax"])
def test_decoding_by_posterior_takes_the_likeliest_label_of_each_position(head):
    records = tiny_records()
    one = train(records, None, tiny_config(epochs=1, head=head), quiet=True).saved
    names = list(one.vocabulary)
    for p in Predictor(one, posteriors=True, decoding="posterior")(records):
        labels = [names[c] for c in p.labels.argmax(1)]
        assert list(p.segments) == segments_from_runs(labels)
    bare = Predictor(one, decoding="posterior")(records)
    assert all(p.labels is None and p.boundaries is None for p in bare)


def test_an_unknown_decoding_is_named(saved):
    with pytest.raises(ConfigError, match=r"decoding must be one of .* got 'beam'"):
        Predictor(saved, decoding="beam")


def test_the_folder_holds_weights_config_and_metrics(folder):
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json", "metrics.json", "model.safetensors",
    ]  # fmt: skip
    assert json.loads((folder / "metrics.json").read_text()) == {"loss": 1.5}
    config = json.loads((folder / "config.json").read_text())
    assert config["label_names"] == ["high", "low", "rest"]
    assert config["versions"]["torch_semimarkov"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.95])
def test_a_truncated_file_is_named(folder, name, share):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(FileFormatError, match=f"{name}: damaged or truncated"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileFormatError, match=f"{name}: missing"):
        load_model(folder)


def test_a_changed_weight_is_found(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(FileFormatError, match=r"not the file that config\.json"):
        load_model(folder)


def test_pickled_weights_are_not_read(folder):
    torch.save({"a": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(FileFormatError, match=r"model\.safetensors: damaged"):
        load_model(folder)


TAMPERED = {
    "another format": lambda c: c.update(format="x"),
    "another version": lambda c: c.update(format_version=99),
    "no architecture": lambda c: c.pop("architecture"),
    "an architecture that is a list": lambda c: c.update(architecture=[1]),
    "an unknown field": lambda c: c["architecture"].update(colour="red"),
    "a size of 0": lambda c: c["architecture"].update(hidden_dim=0),
    "a size as text": lambda c: c["architecture"].update(num_layers="2"),
    "another size": lambda c: c["architecture"].update(hidden_dim=10),
    "more layers": lambda c: c["architecture"].update(num_layers=2),
    "another encoder": lambda c: c["architecture"].update(encoder="bilstm"),
    "an unknown encoder": lambda c: c["architecture"].update(encoder="os.system"),
    "options of another encoder": lambda c: c["architecture"].update(
        encoder_options={"max_rank": 3}
    ),
    "options that are a list": lambda c: c["architecture"].update(encoder_options=[1]),
    "an encoder that is a list": lambda c: c["architecture"].update(encoder=["conv"]),
    "too few labels": lambda c: c.update(label_names=["a"]),
    "labels that are numbers": lambda c: c.update(label_names=[1, 2, 3]),
    "labels twice": lambda c: c.update(label_names=["a", "a", "b"]),
    "no labels": lambda c: c.pop("label_names"),
    "too many channels": lambda c: c.update(channels=["a", "b", "c"]),
    "a sample rate of 0": lambda c: c.update(sample_rate=0),
    "training settings that are a list": lambda c: c.update(training=[1]),
}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED)
def test_a_tampered_config_is_one_clear_error(folder, change):
    edit(folder, change)
    with pytest.raises(FileFormatError, match=r"config\.json|model\.safetensors"):
        load_model(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileFormatError, match="nothing: no such model folder"):
        load_model(tmp_path / "nothing")


def test_a_write_that_is_cut_short_leaves_no_model_that_looks_whole(folder, saved, monkeypatch):
    def fail(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "write_json", fail)
    with pytest.raises(OSError, match="No space"):
        save_model(folder, saved)
    with pytest.raises(FileFormatError, match=r"config\.json: missing"):
        load_model(folder)
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]
