"""Write docs/reference/commands.md from the command line: each command with all of its options.

python scripts/write_commands_page.py            # write the page
python scripts/write_commands_page.py --check    # exit 1 if it is out of date
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from torch_semimarkov.cli import cli

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "commands.md"
HEAD = """# Commands

This page is written by `scripts/write_commands_page.py` from the command line; a test says when it
is out of date. A mistake in the input ends with one line and exit code 2, Ctrl-C with 130.
"""


def all_commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """A command and those below it, by what is typed."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            if found is not None:
                yield from all_commands(found, f"{name} {below}")


def described(text: str) -> list[str]:
    """Lines of a command's own words; what is shown as it stands becomes a block.

    >>> described("One line.\\n\\n\\b\\nExamples:\\n  torch-semimarkov info")
    ['One line.', '', '```text', 'Examples:', '  torch-semimarkov info', '```', '']
    """
    lines = []
    for part in inspect.cleandoc(text).split("\n\n"):
        plain = part.removeprefix("\b\n")
        lines += [marked(part), ""] if plain == part else ["```text", plain, "```", ""]
    return "\n".join(lines).split("\n")


def marked(text: str) -> str:
    """Text whose placeholders are not taken for marks of Markdown or HTML.

    >>> marked("<name>.tsv, a|b")
    '&lt;name>.tsv, a\\\\|b'
    """
    return text.replace("<", "&lt;").replace("|", "\\|")


def option_rows(command: click.Command) -> Iterator[str]:
    """A row of a table for each option that is shown."""
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
            # What click writes behind the help: a default where there is one, or "required".
            context = click.Context(command, max_content_width=10_000)
            record = option.get_help_record(context)
            text = marked(" ".join((record[1] if record else "").split()))
            yield f"| {names} | {text} |"


def page() -> str:
    """The page as it should be."""
    parts = [HEAD]
    for name, command in all_commands(cli, "torch-semimarkov"):
        arguments = [x.make_metavar(click.Context(command)) for x in _arguments(command)]
        parts += [f"## {name}", "", f"`{' '.join((name, *arguments, '[OPTIONS]'))}`", ""]
        parts += described(command.help or "")
        rows = list(option_rows(command))
        if rows:
            parts += ["| option | |", "|---|---|", *rows, ""]
    return "\n".join(parts).rstrip() + "\n"


def _arguments(command: click.Command) -> list[click.Parameter]:
    return [x for x in command.params if isinstance(x, click.Argument)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if out of date")
    if parser.parse_args(arguments).check:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
