"""Running the command line in the same process, and data for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from torch_semimarkov.cli import cli

TINY_FLAGS = "--hidden-dim 8 --num-layers 1 --batch-size 3 --epochs 1 --validation-fraction 0.25"


def call(*args: object) -> Result:
    """Run ``torch-semimarkov`` with these arguments; text is split at blanks."""
    words = [w for a in args for w in (a.split() if isinstance(a, str) else [str(a)])]
    return CliRunner().invoke(cli, words)


def succeeds(*args: object) -> str:
    """Run, expect exit code 0, and return what was printed."""
    result = call(*args)
    if result.exit_code != 0:
        raise AssertionError(f"exit code {result.exit_code}: {result.output}{result.exception!r}")
    return result.stdout


def fails(*args: object) -> str:
    """Run, expect exit code 2 and one line on stderr, and return that line."""
    result = call(*args)
    if not isinstance(result.exception, SystemExit):
        raise result.exception or AssertionError(f"no error; printed {result.output}")
    if result.exit_code != 2 or result.stderr.count("\n") != 1:
        raise AssertionError(f"exit code {result.exit_code}, stderr {result.stderr!r}")
    if not result.stderr.startswith("error: "):
        pytest.fail(f"no error line: {result.stderr!r}")
    return result.stderr


def listing(folder: Path) -> list[str]:
    """Every file and folder below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
