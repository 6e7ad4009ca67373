"""What the commands share: flags, one line for a mistake, and rows that Ctrl-C keeps."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rows import Row, Sheet
from tqdm import tqdm
from workload import PHASES

from torch_semimarkov.cli.timing import Size, parse_size
from torch_semimarkov.errors import ConfigError

USER_ERROR, INTERRUPTED = 2, 130


class Parser(argparse.ArgumentParser):
    """Every mistake ends with one line and exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"error: {message} (see --help)\n")


def size_of(text: str) -> Size:
    """For argparse, which shows the text of this error only."""
    try:
        return parse_size(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def whole(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def names_of(text: str, known: Sequence[str]) -> list[str]:
    """Names between commas, each one of ``known``."""
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"expected some of {', '.join(known)} between commas, got {text!r}"
        )
    return list(dict.fromkeys(names))


def add_common(made: Parser, phases: Sequence[str] = PHASES) -> None:
    """The flags of every command that measures sizes and phases.

    Args:
        made: gets the flags.
        phases: those that are measured where none are chosen.
    """
    add = made.add_argument
    add(
        "--configs",
        nargs="+",
        type=size_of,
        metavar="B,T,K,C",
        help="sizes to measure in the place of those of --list",
    )
    add(
        "--phases",
        type=lambda text: names_of(text, PHASES),
        default=list(phases),
        metavar="A,B",
        help=f"some of {','.join(PHASES)}; default: {','.join(phases)}",
    )
    add("--repeats", type=whole, default=15, help="times for ours (default 15)")
    add(
        "--peer-repeats",
        type=whole,
        default=3,
        help="times for a peer whose first call is not slow (default 3); a slow one gets 1",
    )
    add("--no-peers", action="store_true", help="measure ours alone")
    add("--output", type=Path, help="CSV to append the rows to")
    add("--list", action="store_true", help="show sizes, what is wanted and peers, and stop")


def collect(batches: Callable[[Any], Iterator[list[Row]]], total: int, sheet: Sheet) -> int:
    """Add the rows of step after step to a sheet; the exit code, which Ctrl-C makes INTERRUPTED.

    Args:
        batches: from a bar of progress to the rows of each step.
        total: how many steps there are.
        sheet: keeps the rows of every step that was finished.
    """
    try:
        with tqdm(total=total, disable=None) as bar:
            for rows in batches(bar):
                sheet.add(rows)
    except KeyboardInterrupt:
        print("stopped; what was measured is kept", file=sys.stderr)
        return INTERRUPTED
    return 0
