"""The group of commands: loaded when called, and every user error as one line and exit code 2."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from typing import Any, NoReturn

import click

from torch_semimarkov import __version__
from torch_semimarkov.errors import SemiMarkovError

COMMANDS = (
    "demo", "train", "predict", "evaluate", "plot", "genes", "benchmark", "doctor", "info",
)  # fmt: skip
USER_ERROR, INTERRUPTED = 2, 130


class Commands(click.Group):
    """Commands live in modules of their own names, each with a function ``command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"torch_semimarkov.cli.{name}").command

    def main(self, args: Any = None, prog_name: str | None = None, **extra: Any) -> NoReturn:
        """Run and exit: 0 done, 2 the user's mistake, 130 interrupted."""
        extra["standalone_mode"] = False
        set_log_level()
        before, warnings.showwarning = warnings.showwarning, _show_warning
        try:
            code = super().main(args, prog_name or "torch-semimarkov", **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.ctx.get_help())
            code = USER_ERROR
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "torch-semimarkov"
            code = _complain(f"{error.format_message().rstrip('.')} (see {path} --help)")
        except click.ClickException as error:
            code = _complain(error.format_message())
        except (SemiMarkovError, OSError) as error:
            code = _complain(_text(error))
        except (KeyboardInterrupt, click.Abort) as stop:
            # click wraps Ctrl-C in an Abort without text.
            click.echo(str(stop) or str(stop.__cause__ or "") or "stopped", err=True)
            code = INTERRUPTED
        finally:
            warnings.showwarning = before
        sys.exit(code if isinstance(code, int) else 0)


def set_log_level() -> None:
    """Show the library's log from the level that the environment asks for, such as DEBUG."""
    level = logging.getLevelName(os.environ.get("PYTHONLOGLEVEL", "WARNING").upper())
    log = logging.getLogger("torch_semimarkov")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
    log.setLevel(level if isinstance(level, int) else logging.WARNING)


def _complain(message: str) -> int:
    click.echo(f"error: {one_line(message)}", err=True)
    return USER_ERROR


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def one_line(message: str) -> str:
    """A message of several lines as one.

    >>> one_line("wrong settings:\\n  a must be >= 1\\n  b must be odd")
    'wrong settings: a must be >= 1; b must be odd'
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines:
        return ""
    head, rest = lines[0], "; ".join(lines[1:])
    return f"{head} {rest}" if rest and head.endswith(":") else "; ".join(lines)


def _show_warning(message: Any, *where: Any, **more: Any) -> None:
    click.echo(f"warning: {one_line(str(message))}", err=True)


@click.command(
    name="torch-semimarkov",
    cls=Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Each command has a --help. A mistake in the input ends with one line and exit code 2.",
)
@click.version_option(__version__, prog_name="torch-semimarkov")
def cli() -> None:
    """Segment long sequences with semi-Markov CRFs: which label, and from where to where.

    Start with "demo", which needs no data.
    """
