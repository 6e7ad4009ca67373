"""Settings: files, flags over files, and every mistake named."""

import dataclasses

import pytest

from torch_semimarkov.errors import ConfigError, FileFormatError
from torch_semimarkov.training import TrainConfig, load_config


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "epochs: 7\nlr: 1e-2\nchannels: [i, ii]\nboundary_scores: true\n"),
        ("a.toml", 'epochs = 7\nlr = 1e-2\nchannels = ["i", "ii"]\nboundary_scores = true\n'),
    ],
)
def test_yaml_and_toml_give_the_same_settings_and_flags_win(tmp_path, name, text):
    config = load_config(write(tmp_path, name, text), epochs=9, batch_size=None)
    assert config == TrainConfig(epochs=9, lr=0.01, channels=("i", "ii"), boundary_scores=True)


MISTAKES = {
    "an unknown key": (
        "a.yaml",
        "epocs: 3",
        r"a\.yaml: unknown key 'epocs'; did you mean 'epochs'",
    ),
    "a dash": ("a.yaml", "max-duration: 3", "did you mean 'max_duration'"),
    "a key that is no text": ("a.yaml", "3: 4", "unknown key '3'"),
    "text for a number": ("a.yaml", "epochs: many", r"(?s)a\.yaml: .*epochs must be an integer"),
    "a float for an integer": ("a.yaml", "epochs: 1.5", "epochs must be an integer, got 1.5"),
    "a bool for an integer": ("a.yaml", "epochs: true", "epochs must be an integer"),
    "a number for a bool": (
        "a.yaml",
        "boundary_scores: 1",
        "boundary_scores must be true or false",
    ),
    "out of range": ("a.yaml", "dropout: 1.0", "dropout must be >= 0 and < 1, got 1.0"),
    "not finite": ("a.yaml", "lr: .inf", "lr must be a finite number"),
    "even": ("a.yaml", "kernel_size: 4", "kernel_size must be odd"),
    "no choice": (
        "a.yaml",
        "encoder: gpt",
        "encoder must be one of conv, bilstm, unet, ar-ssm, got 'gpt'",
    ),
    "a setting of another encoder": (
        "a.yaml",
        "max_rank: 8",
        "max_rank is a setting of encoder ar-ssm only, got encoder conv",
    ),
    "ranks the wrong way round": (
        "a.yaml",
        "encoder: ar-ssm\nmax_rank: 3",
        "min_rank must be <= max_rank = 3, got 4",
    ),
    "a tail of another name": (
        "a.yaml",
        "tail: poisson",
        "tail must be one of none, geometric, got 'poisson'",
    ),
    "a tail without durations": (
        "a.yaml",
        "tail: geometric\nhead: argmax",
        "tail is a setting of head semi-crf only, got head argmax",
    ),
    "no list": ("a.yaml", "channels: ii", "channels must be a list of names"),
    "null for a number": ("a.yaml", "epochs: null", "epochs must be an integer"),
    "two mistakes": ("a.yaml", "epochs: 0\nlr: -1", "(?s)epochs must be.*lr must be"),
    "broken YAML": ("a.yaml", "a: 1\nb: [", r"a\.yaml:\d+: not YAML"),
    "broken TOML": ("a.toml", "a = ", r"a\.toml: not TOML"),
    "a list": ("a.yaml", "- 1", "expected lines of 'key: value'"),
    "empty": ("a.yaml", "", "expected lines of 'key: value'"),
    "another ending": ("a.txt", "epochs: 1", "must end in"),
    "code": ("a.yaml", "epochs: !!python/object/apply:os.system [ls]", "not YAML"),
}


@pytest.mark.parametrize(("name", "text", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_file_is_named(tmp_path, name, text, message):
    with pytest.raises((ConfigError, FileFormatError), match=message):
        load_config(write(tmp_path, name, text))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileFormatError, match=r"none\.yaml: cannot be read"):
        load_config(tmp_path / "none.yaml")


def test_every_setting_has_a_help_text():
    assert all(field.metadata["help"] for field in dataclasses.fields(TrainConfig))


def test_settings_survive_json():
    from torch_semimarkov.training.config import config_from

    config = TrainConfig(channels=("a", "b"), max_duration=4)
    assert config_from(config.to_dict()) == config
