"""Options that several commands share, and how they become the settings of a reader."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from torch_semimarkov.training.config import TrainConfig, field_type

if TYPE_CHECKING:
    from torch_semimarkov.data import ReadOptions
    from torch_semimarkov.training import SavedModel

READING = ("channels", "label_column", "sample_rate", "annotator", "incomplete")
PATH = click.Path(path_type=Path)


decoding_option = click.option(
    "--decoding", type=click.Choice(("viterbi", "posterior")), default="viterbi", show_default=True,
    help="The most likely segmentation, or each position's most likely label. The latter keeps "
    "segments that are likely but have uncertain boundaries.",
)  # fmt: skip


class Names(click.ParamType):
    """Names between commas."""

    name = "A,B,C"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in value.split(","))
        if not all(names):
            self.fail(f"{value!r} is no list of names between commas", param, ctx)
        return names


def settings(*names: str, defaults: bool = True) -> Callable[[Callable], Callable]:
    """Options for settings of ``TrainConfig``; None stands for "not given".

    Args:
        names: settings, in order; none for all of them.
        defaults: show the defaults of training.
    """
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}

    def decorate(function: Callable) -> Callable:
        for name in reversed(names or tuple(fields)):
            function = _option(fields[name], defaults)(function)
        return function

    return decorate


def _option(field: dataclasses.Field, defaults: bool) -> Callable[[Callable], Callable]:
    kind, _ = field_type(field)
    flag = f"--{field.name.replace('_', '-')}"
    shown = field.metadata.get("shown", field.default)
    text = field.metadata["help"]
    if defaults:
        word = {True: "yes", False: "no"}.get(shown, shown) if kind is bool else shown
        text = f"{text}  [default: {word}]"
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", field.name, default=None, help=text)
    types = {int: click.INT, float: click.FLOAT, tuple: Names(), str: click.STRING}
    choices = field.metadata.get("choices")
    option_type = click.Choice(choices) if choices else types[kind]
    return click.option(flag, field.name, type=option_type, default=None, help=text)


def read_options(given: Mapping[str, Any], saved: SavedModel | None = None) -> ReadOptions:
    """How to read, from flags, else from what the model was trained on.

    Args:
        given: values of the options in READING; None where not given.
        saved: the model, if there is one; its annotator does not count, as files need no labels.
    """
    from torch_semimarkov.data import ReadOptions

    values = {name: given.get(name) for name in READING}
    if saved is not None:
        trained = saved.training
        known = {
            "channels": saved.channels or None,
            "label_column": trained.get("label_column"),
            "sample_rate": saved.sample_rate,
            "incomplete": trained.get("incomplete"),
        }
        values = {name: known.get(name) if v is None else v for name, v in values.items()}
    return ReadOptions(**{name: value for name, value in values.items() if value is not None})


def labelled_options(given: Mapping[str, Any], saved: SavedModel) -> ReadOptions:
    """As :func:`read_options`, with the annotator that the model was trained on."""
    options = read_options(given, saved)
    if options.annotator is None:
        options = dataclasses.replace(options, annotator=saved.training.get("annotator"))
    return options


def read_all(path: Path, options: ReadOptions) -> list[Any]:
    """All records of a file or a folder, in memory."""
    from torch_semimarkov.data import read_folder

    return list(read_folder(path, options))


def check_run_folder(output: Path, resume: bool, overwrite: bool) -> None:
    """Refuse an output folder that a training run must not write to."""
    from torch_semimarkov.errors import ConfigError
    from torch_semimarkov.training.folder import RUN_FILES

    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output}: the output must be a folder, this is a file")
    found = [name for name in RUN_FILES if (output / name).exists()]
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other")
    if found and not (resume or overwrite):
        raise ConfigError(
            f"{output} holds a run already ({', '.join(found)}); "
            "add --resume to go on with it, or --overwrite to replace it"
        )


@contextlib.contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder with its parents; if the block fails, take away those that are still empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in missing:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        raise
