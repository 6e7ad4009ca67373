"""Every setting of a training run: one dataclass, with its ranges and its help texts."""

from __future__ import annotations

import dataclasses
import difflib
import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from torch_semimarkov.errors import ConfigError, FileFormatError, raise_all

CONFIG_ENDINGS = (".yaml", ".yml", ".toml")
AR_SSM = "ar-ssm"


def _setting(default: Any, text: str, **limits: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, **limits})


@dataclass(frozen=True)
class TrainConfig:
    """Settings of ``torch-semimarkov train``; the help text of each stands beside it.

    Raises:
        ConfigError: a value of the wrong type or out of its range; every one is named.

    >>> TrainConfig(epochs=3).epochs
    3
    """

    head: str = _setting(
        "semi-crf",
        "semi-crf; linear-crf (each position a segment); argmax (each position on its own).",
        choices=("semi-crf", "linear-crf", "argmax"),
    )
    encoder: str = _setting(
        "conv",
        "Encoder: dilated convolutions, a BiLSTM, a U-Net, which sees farther, or an AR-SSM, which "
        "sees the whole sequence in linear time.",
        choices=("conv", "bilstm", "unet", "ar-ssm"),
    )
    hidden_dim: int = _setting(64, "Size of the hidden states.", low=1)
    num_layers: int = _setting(4, "Layers of the encoder; levels of a U-Net.", low=1)
    kernel_size: int = _setting(5, "Odd width of the convolutions.", low=1, odd=True)
    dropout: float = _setting(0.1, "Dropout of the encoder.", low=0, below=1)
    max_rank: int = _setting(32, "Ranks of an AR-SSM layer.", low=1, only=AR_SSM)
    min_rank: int = _setting(4, "Its ranks at the start of a warm-up.", low=1, only=AR_SSM)
    rank_warmup_steps: int = _setting(
        0, "Batches over which its ranks rise from --min-rank to --max-rank.", low=0, only=AR_SSM
    )
    gate_mode: str = _setting(
        "soft",
        "Gates of an AR-SSM: soft; ste, 0 or 1; gumbel, sampled in training.",
        choices=("soft", "ste", "gumbel"),
        only=AR_SSM,
    )
    gate_temperature: float = _setting(1.0, "Temperature of gumbel gates.", above=0, only=AR_SSM)
    gate_l1: float = _setting(
        0.001,
        "Weight of the mean gate of each AR-SSM layer in the training loss, per position.",
        low=0,
        only=AR_SSM,
    )
    normaliser: str = _setting(
        "decay",
        "Running sums of an AR-SSM: fading (decay), over their count (mean), or plain (none).",
        choices=("decay", "mean", "none"),
        only=AR_SSM,
    )
    causal: bool = _setting(False, "An AR-SSM sees no later position.", only=AR_SSM)
    gradient_checkpointing: bool = _setting(
        False, "An AR-SSM computes again in the backward, to save memory.", only=AR_SSM
    )
    max_duration: int | None = _setting(
        None, "Longest duration K, in positions.", low=1, shown="suggested from the data"
    )
    duration_quantile: float = _setting(
        0.995, "Share of each label's segments that a suggested K covers.", above=0, high=1
    )
    duration_distribution: str = _setting(
        "learned",
        "Duration model.",
        choices=("learned", "geometric", "negative_binomial", "poisson", "uniform"),
    )
    tail: str = _setting(
        "none",
        "geometric: segments may be longer than K, each further position at a learned rate of its "
        "label; none are cut.",
        choices=("none", "geometric"),
    )
    boundary_scores: bool = _setting(False, "Also learn where segments start and end.")
    epochs: int = _setting(50, "Most epochs.", low=1)
    batch_size: int = _setting(16, "Sequences a batch.", low=1)
    accumulate: int = _setting(
        1, "Batches whose gradients are added up to one step; the same as one larger batch.", low=1
    )
    max_padding: float = _setting(
        1.0,
        "Largest share of padding in a batch; where it is more, batches are smaller.",
        above=0,
        high=1,
    )
    autocast: str = _setting(
        "none",
        "Type in which the encoder computes; the CRF stays in float32.",
        choices=("none", "bfloat16"),
    )
    compile: bool = _setting(False, "Compile encoder and head with torch.compile.")
    lr: float = _setting(0.003, "Learning rate of AdamW.", above=0)
    head_lr: float | None = _setting(
        None,
        "Learning rate of transitions, durations, starts and ends.",
        above=0,
        shown="as --lr",
    )
    start_from: str | None = _setting(
        None,
        "Model folder whose encoder and label scores the run starts from, such as an argmax model.",
        shown="none, random weights",
    )
    schedule: str = _setting("constant", "Learning rate over time.", choices=("constant", "cosine"))
    warmup_steps: int = _setting(0, "Batches over which the rate rises from 0.", low=0)
    weight_decay: float = _setting(0.01, "Weight decay of AdamW.", low=0)
    crf_reg: float = _setting(
        0.0, "Weight of the squared transitions and durations in the loss; CRFs only.", low=0
    )
    clip_norm: float = _setting(1.0, "Largest norm of the gradient.", above=0)
    patience: int = _setting(
        10, "Stop after so many epochs without a lower validation loss.", low=1
    )
    validation_fraction: float = _setting(
        0.1, "Share of the records for validation, if no --validation is given.", low=0, below=1
    )
    fixed_length: int | None = _setting(
        None,
        "Train on pieces of exactly so many positions, to see whether a fault needs ragged ends.",
        low=1,
        shown="records as they are",
    )
    triton: bool = _setting(True, "Consider the Triton kernels.")
    seed: int = _setting(0, "Seed of the weights, the split and the batches.", low=0)
    device: str = _setting("auto", "auto (a GPU if there is one), cpu, cuda, cuda:1, ...")
    threads: int | None = _setting(
        None,
        "CPU threads. 1 is fastest for small models, by far where other processes are at work.",
        low=1,
        shown="as torch chooses",
    )
    channels: tuple[str, ...] | None = _setting(
        None, "Feature columns (CSV) or leads (WFDB), as A,B,C.", shown="all"
    )
    label_column: str = _setting("label", "Column of the labels (CSV, TSV).")
    sample_rate: float | None = _setting(
        None,
        "Positions a second. WFDB: resample to it. Others: the rate, if the file has none.",
        above=0,
        shown="as recorded",
    )
    annotator: str | None = _setting(None, "Ending of the annotation files (WFDB).", shown="none")
    incomplete: str = _setting(
        "drop",
        "A wave without one boundary (WFDB): drop it, bound it by its peak, or stop.",
        choices=("drop", "peak", "error"),
    )

    def __post_init__(self) -> None:
        if isinstance(self.channels, list):
            object.__setattr__(self, "channels", tuple(self.channels))
        problems = [p for field in dataclasses.fields(self) for p in _problems(self, field)]
        if not problems and self.min_rank > self.max_rank:
            problems = [f"min_rank must be <= max_rank = {self.max_rank}, got {self.min_rank}"]
        if not problems and self.crf_reg and self.head == "argmax":
            problems = ["crf_reg is a setting of the CRFs only, got head argmax"]
        if not problems and self.tail != "none" and self.head != "semi-crf":
            problems = [f"tail is a setting of head semi-crf only, got head {self.head}"]
        raise_all(ConfigError, "wrong settings", problems)

    def encoder_options(self) -> dict[str, Any]:
        """The settings that only the chosen encoder has, as its arguments."""
        fields = [f for f in dataclasses.fields(self) if f.metadata.get("only") == self.encoder]
        return {f.name: getattr(self, f.name) for f in fields if f.name != "rank_warmup_steps"}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; ``config_from`` undoes it."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def field_type(field: dataclasses.Field) -> tuple[type, bool]:
    """The plain type of a setting, and whether None stands for "not given".

    >>> field_type(next(f for f in dataclasses.fields(TrainConfig) if f.name == "max_duration"))
    (<class 'int'>, True)
    """
    hint = typing.get_type_hints(TrainConfig)[field.name]
    kinds = [kind for kind in typing.get_args(hint) or (hint,) if kind is not NoneType]
    if typing.get_origin(hint) is tuple:
        kinds = [hint]
    kind = typing.get_origin(kinds[0]) or kinds[0]
    return kind, NoneType in typing.get_args(hint)


def _problems(config: TrainConfig, field: dataclasses.Field) -> list[str]:
    value, limits = getattr(config, field.name), field.metadata
    kind, optional = field_type(field)
    if value is None and optional:
        return []
    wrong = _type_problem(value, kind)
    if wrong:
        return [f"{field.name} must be {wrong}, got {value!r}"]
    if "choices" in limits and value not in limits["choices"]:
        return [f"{field.name} must be one of {', '.join(limits['choices'])}, got {value!r}"]
    tests = {
        "low": (lambda bound: value >= bound, ">="),
        "high": (lambda bound: value <= bound, "<="),
        "above": (lambda bound: value > bound, ">"),
        "below": (lambda bound: value < bound, "<"),
    }
    failed = [
        name for name, (test, _) in tests.items() if name in limits and not test(limits[name])
    ]
    if failed:
        wanted = " and ".join(f"{tests[k][1]} {limits[k]}" for k in tests if k in limits)
        return [f"{field.name} must be {wanted}, got {value!r}"]
    if limits.get("odd") and value % 2 == 0:
        return [f"{field.name} must be odd, got {value}"]
    only = limits.get("only", config.encoder)
    if config.encoder != only and value != field.default:
        return [f"{field.name} is a setting of encoder {only} only, got encoder {config.encoder}"]
    return []


def _type_problem(value: Any, kind: type) -> str:
    if kind is bool:
        return "" if isinstance(value, bool) else "true or false"
    if kind is int:
        return "" if isinstance(value, int) and not isinstance(value, bool) else "an integer"
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return "" if number and abs(value) < float("inf") else "a finite number"
    if kind is tuple:
        names = isinstance(value, tuple | list) and value and all(isinstance(v, str) for v in value)
        return "" if names else "a list of names"
    return "" if isinstance(value, str) and value else "text"


def config_from(values: Mapping[str, Any], source: object = None) -> TrainConfig:
    """A config from a mapping of names to values.

    Args:
        values: settings by name; what is missing keeps its default.
        source: the file they come from, for messages.

    Raises:
        ConfigError: an unknown name (with the nearest known one), or a wrong value.

    >>> config_from({"epocs": 3}, "run.yaml")
    Traceback (most recent call last):
    torch_semimarkov.errors.ConfigError: run.yaml: unknown key 'epocs'; did you mean 'epochs'?
    """
    known = {field.name: field for field in dataclasses.fields(TrainConfig)}
    unknown = [str(key) for key in values if key not in known]
    if unknown:
        close = difflib.get_close_matches(unknown[0].replace("-", "_"), known, n=1, cutoff=0.0)
        where = "" if source is None else f"{source}: "
        raise ConfigError(f"{where}unknown key {unknown[0]!r}; did you mean {close[0]!r}?")
    try:
        return TrainConfig(**{k: _exponent(v, known[k]) for k, v in values.items()})
    except ConfigError as error:
        if source is None:
            raise
        raise ConfigError(f"{source}: {error}") from error


def _exponent(value: Any, field: dataclasses.Field) -> Any:
    """YAML 1.1 reads 1e-3 as text, since it has no point."""
    if field_type(field)[0] is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def load_config(path: str | os.PathLike[str] | None, **overrides: Any) -> TrainConfig:
    """A config from a YAML or TOML file, with some settings overridden.

    Args:
        path: file ending in .yaml, .yml or .toml; None for the defaults.
        overrides: settings that win over the file; None means not given.

    Raises:
        ConfigError: an unknown key or a wrong value; names the file and the nearest known key.
        FileFormatError: the file cannot be read, or is no mapping.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    if path is None:
        return config_from(given)
    from_file = read_mapping(path)
    config_from(from_file, path)
    return config_from({**from_file, **given})


def read_mapping(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a YAML or TOML file that holds a mapping.

    Raises:
        FileFormatError: a missing, broken or empty file, or another ending; names file and line.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in CONFIG_ENDINGS:
        raise FileFormatError(path, f"a config must end in {', '.join(CONFIG_ENDINGS)}")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileFormatError(path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FileFormatError(path, f"not UTF-8 text: {error.reason}") from error
    content = _parse_toml(path, text) if ending == ".toml" else _parse_yaml(path, text)
    if not isinstance(content, dict) or not content:
        raise FileFormatError(path, "expected lines of 'key: value', found none")
    return content


def _parse_yaml(path: Path, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "broken"
        line = mark.line + 1 if mark is not None else None
        raise FileFormatError(path, f"not YAML: {problem}", line) from error


def _parse_toml(path: Path, text: str) -> Any:
    try:
        import tomllib
    except ImportError:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FileFormatError(path, f"not TOML: {error}") from error
