"""What the small recipes share: settings, a split by name, tables, a picture, the command."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from run_folders import RunFolders

from torch_semimarkov.errors import (
    ConfigError,
    FileFormatError,
    SegmentError,
    SemiMarkovError,
    raise_all,
)
from torch_semimarkov.training import TrainConfig
from torch_semimarkov.training.config import config_from, read_mapping

HEADS = ("semi-crf", "linear-crf", "argmax")
Settings = dict[str, Any]
# Light enough that black text can be read on them.
COLOURS = (
    "#CFE3F5", "#F6D9C2", "#CDE9DC", "#F7F1BF", "#EBD3E2", "#D9D2EA",
    "#BFD9B0", "#F2B8B5", "#B5D0E8", "#E8CFA0", "#C9C0E0", "#A8D8D0",
)  # fmt: skip
BLANK = "#EEEEEE"


def read_settings(path: Path, kinds: Mapping[str, Any]) -> Settings:
    """A settings file with exactly the keys of ``kinds``, and the keys that each recipe has.

    Args:
        path: YAML or TOML.
        kinds: type of each key of the recipe; a mapping of types for a nested one. ``seeds``,
            ``validation``, ``test``, ``start_from_argmax``, ``model`` and ``heads`` are those that
            every recipe has.

    Raises:
        FileFormatError: the file is no mapping; a key is missing, unknown or of the wrong type.
            Names file and line.
        ConfigError: a setting of the model is unknown or out of its range.
    """
    settings = read_mapping(path)
    common = {
        "seeds": list, "validation": float, "test": float, "model": dict, "heads": dict,
        "start_from_argmax": bool,
    }  # fmt: skip
    _check_keys(path, settings, {**common, **kinds})
    seeds = settings["seeds"]
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        problem = f"seeds must be integers >= 0, got {seeds}"
        raise FileFormatError(path, problem, _line(path, "seeds"))
    for name in ("validation", "test"):
        if not 0 < settings[name] < 1:
            problem = f"{name} must be a share in (0, 1), got {settings[name]}"
            raise FileFormatError(path, problem, _line(path, name))
    unknown = [name for name in settings["heads"] if name not in HEADS]
    if unknown or not settings["heads"]:
        problem = f"heads must be among {', '.join(HEADS)}, got {unknown or 'none'}"
        raise FileFormatError(path, problem, _line(path, "heads"))
    if settings["start_from_argmax"] and next(iter(settings["heads"])) != "argmax":
        problem = "start_from_argmax needs argmax as the first of the heads"
        raise FileFormatError(path, problem, _line(path, "heads"))
    for head in settings["heads"]:
        head_config(settings, head, seeds[0], path)
    return settings


def _check_keys(path: Path, found: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    for name in found:
        if name not in kinds:
            problem = f"unknown key {name!r}; known are {', '.join(kinds)}"
            raise FileFormatError(path, problem, _line(path, str(name)))
    for name, kind in kinds.items():
        if name not in found:
            raise FileFormatError(path, f"the key {name!r} is missing")
        wanted = dict if isinstance(kind, Mapping) else kind
        accepted = (int, float) if wanted is float else wanted
        if not isinstance(found[name], accepted) or isinstance(found[name], bool) != (kind is bool):
            problem = f"{name} must be a {wanted.__name__}, got {found[name]!r}"
            raise FileFormatError(path, problem, _line(path, name))
        if isinstance(kind, Mapping):
            _check_keys(path, found[name], kind)


def _line(path: Path, key: str) -> int | None:
    """The line on which a key stands."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((i for i, text in enumerate(lines, 1) if text.strip().startswith(key)), None)


def head_config(
    settings: Settings, head: str, seed: int, source: Path | None = None
) -> TrainConfig:
    """The training settings of one head: those of ``model``, and what ``heads`` adds."""
    own = settings["heads"][head] or {}
    return config_from({**settings["model"], **own, "head": head, "seed": seed}, source)


def split(names: Sequence[str], validation: float, test: float, seed: int) -> dict[str, list[str]]:
    """Names by part, drawn by the seed: no name is in two parts, and none of them is empty.

    Raises:
        ConfigError: too few names.
    """
    counts = [max(1, round(share * len(names))) for share in (validation, test)]
    if sum(counts) >= len(names):
        raise ConfigError(f"{len(names)} sequences are too few for three parts; add some")
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    held, judged = counts
    return {
        "train": order[held + judged :],
        "validation": order[judged : held + judged],
        "test": order[:judged],
    }


def collect(items: Sequence[Any], read: Callable[[Any], Any], what: str) -> list[Any]:
    """What ``read`` makes of each item; everything that is wrong is named at once.

    Raises:
        SegmentError: some of them cannot be read.
    """
    made, problems = [], []
    for item in items:
        try:
            made.append(read(item))
        except SemiMarkovError as error:
            problems.append(str(error))
    raise_all(SegmentError, f"{what} cannot be used", problems)
    return made


def table_of(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """A Markdown table: mean and standard deviation over the seeds, one line a head.

    Args:
        rows: one a run: "head", "seed" and the numbers of the columns.
        columns: key -> heading.
    """
    lines = ["| head | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for head in dict.fromkeys(row["head"] for row in rows):
        cells = []
        for key in columns:
            values = [row[key] for row in rows if row["head"] == head and row[key] is not None]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "-")
        lines.append(f"| {head} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def strips_figure(
    picture: Callable[[Any], None],
    strips: Mapping[str, Sequence[tuple[float, float, str]]],
    axis_label: str,
    blank: str,
    title: str,
) -> Any:
    """A picture of a sequence above one strip of segments for each name.

    Args:
        picture: draws on the axis it is given.
        strips: name -> ``(start, end, label)`` in the unit of the axis.
        axis_label: the unit.
        blank: the label that is drawn grey.
        title: heading.
    """
    from matplotlib.figure import Figure

    heights = [2.5, *[0.55] * len(strips)]
    figure = Figure(figsize=(11, 1.2 + sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    picture(axes[0])
    axes[0].set_title(title, fontsize=11, loc="left")
    labels = sorted({row[2] for strip in strips.values() for row in strip} - {blank})
    colour = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(labels)}
    low, high = axes[0].get_xlim()
    for axis, (name, strip) in zip(axes[1:], strips.items(), strict=True):
        for start, end, label in strip:
            face = colour.get(label, BLANK)
            axis.axvspan(start, end, facecolor=face, edgecolor="white", linewidth=0.5)
            middle = (start + end) / 2
            if label != blank and end - start > 0.008 * (high - low) and low < middle < high:
                axis.text(middle, 0.5, label, ha="center", va="center", fontsize=8, clip_on=True)
        axis.set_yticks([])
        axis.set_ylim(0, 1)
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    axes[0].set_xlim(low, high)
    axes[-1].set_xlabel(axis_label)
    return figure


def command(text: str, config: Path, compare: Callable[[Path, RunFolders], None],
            kinds: Mapping[str, Any]) -> Callable[[Sequence[str] | None], None]:  # fmt: skip
    """The command of a recipe, which exits 1 for a mistake and 130 where it was interrupted.

    Args:
        text: what it does.
        config: the settings file that is used if none is given.
        compare: does it, given data, and the runs with their settings and folders.
        kinds: see :func:`read_settings`.
    """

    def main(arguments: Sequence[str] | None = None) -> None:
        parser = argparse.ArgumentParser(
            description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
        parser.add_argument("--config", type=Path, default=config, help="settings, YAML or TOML")
        parser.add_argument("--output", type=Path, required=True, help="folder for the results")
        parser.add_argument(
            "--resume", action="store_true", help="keep finished runs, go on with a stopped one"
        )
        parser.add_argument(
            "--overwrite", action="store_true", help="replace the runs in the output folder"
        )
        asked = parser.parse_args(arguments)
        try:
            settings = read_settings(asked.config, kinds)
            compare(asked.data, RunFolders(asked.output, settings, asked.resume, asked.overwrite))
        except SemiMarkovError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from None
        except KeyboardInterrupt as stop:
            print(f"{stop or 'stopped'}; --resume goes on", file=sys.stderr)
            raise SystemExit(130) from None

    return main
