"""Every command in the pages: those on small files run, and of all the names are there."""

import re
import shlex
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import write_commands_page
from cli_cases import TINY_FLAGS, succeeds

from torch_semimarkov.cli import cli
from torch_semimarkov.data import make_synthetic

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGES = [
    str(page.relative_to(ROOT))
    for page in [
        *sorted(ROOT.glob("*.md")),
        ROOT / "benchmarks/README.md",
        *ROOT.glob("docs/**/*.md"),
    ]
]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)
# A command that stands in the prose, indented as code is.
INDENTED = re.compile(r"^ {4}((?:python|torch-semimarkov|torchrun|pip|make) .*)$", re.MULTILINE)
DEMO = ROOT / "benchmarks" / "practical_demonstration"


def commands(page: str) -> list[list[str]]:
    """The commands of a page as words, without what sets the environment or starts processes."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = [*BLOCK.findall(text), *INDENTED.findall(text)]
    lines = "\n".join(found).replace("\\\n", " ").splitlines()
    return [plain(words) for words in (shlex.split(line, comments=True) for line in lines) if words]


def plain(words: list[str]) -> list[str]:
    """A command without assignments before it, and without torchrun."""
    while "=" in words[0] and not words[0].startswith("-"):
        words = words[1:]
    if words[0] == "torchrun":
        words = words[words.index("--no-python") + 1 :]
    return [Path(words[0]).name if words[0].startswith(".venv/") else words[0], *words[1:]]


WITH_COMMANDS = [page for page in PAGES if commands(page)]


def options(words: list[str]) -> list[str]:
    """The names of the options of a command, without their values."""
    return [word.split("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]


def missing_options(words: list[str]) -> list[str]:
    """Options, or a command, that ``torch-semimarkov`` does not have."""
    command, rest = cli, words
    while isinstance(command, click.Group):
        name, rest = rest[0], rest[1:]
        command = command.get_command(click.Context(command), name)
        if command is None:
            return [name]
    known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
    return [name for name in options(rest) if name not in known]


def missing_in_script(words: list[str], folder: Path) -> list[str]:
    """A script that is not there, or options that no file beside or below it names."""
    script = next((p for p in (folder / words[0], ROOT / words[0]) if p.is_file()), None)
    if script is None:
        return [words[0]]
    sources = [*script.parent.rglob("*.py"), *(DEMO.glob("*.py") if DEMO in script.parents else [])]
    text = "\n".join(source.read_text(encoding="utf-8") for source in sources)
    return [name for name in options(words[1:]) if f'"{name}"' not in text]


def missing_extras(words: list[str]) -> list[str]:
    """Extras of ours that are asked for and not declared."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = re.findall(r"(?:torch_semimarkov|\.)\[([\w,]+)\]", " ".join(words))
    names = [name for extras in asked for name in extras.split(",")]
    return [name for name in names if name not in project["optional-dependencies"]]


def missing(words: list[str], folder: Path) -> list[str]:
    """What one command names and is not there; itself, if nobody knows what it is."""
    program, rest = words[0], words[1:]
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return [word for word in rest if "=" not in word and word not in targets]
    if program == "torch-semimarkov":
        return missing_options(rest)
    if program == "pip":
        return missing_extras(rest)
    if program == "python" and rest[0] == "-m":
        found = ROOT / "src" / Path(*rest[1].split(".")).with_suffix(".py")
        return [] if found.is_file() or rest[1] in ("mkdocs", "pytest") else [rest[1]]
    if program == "python":
        return missing_in_script(rest, folder)
    return [] if (ROOT / program).is_file() else [program]


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_what_the_commands_of_a_page_name_is_there(page):
    folder, absent = ROOT, []
    for words in commands(page):
        if words[0] == "cd":
            folder = ROOT / words[1]
            assert folder.is_dir()
        else:
            absent += missing(words, folder)
    assert absent == []


def test_the_commands_are_seen():
    assert {"README.md", "docs/start.md", "docs/recipes/speech.md"} <= set(WITH_COMMANDS)
    assert ["make", "test"] in commands("README.md")


@pytest.mark.parametrize(
    "command",
    [
        "make no-such-target",
        "torch-semimarkov train data/ --no-such-option 3",
        "torch-semimarkov no-such-command",
        "torch-semimarkov genes train --no-such-option",
        "pip install 'torch_semimarkov[nosuch]'",
        "python examples/no_such.py",
        "python examples/ecg_delineation.py --no-such-option",
        "python -m torch_semimarkov.no_such",
        "no-such-program",
    ],
)
def test_a_name_that_is_not_there_is_found(command):
    assert len(missing(shlex.split(command), ROOT)) == 1


@pytest.mark.parametrize("page", ["README.md", "docs/start.md"])
def test_the_commands_on_files_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, seed in (("recordings", 0), ("new", 1)):
        (tmp_path / folder).mkdir()
        for record in make_synthetic(4, 40, 120, seed=seed):
            labels = [name for start, end, name in record.segments for _ in range(start, end)]
            np.savez(f"{folder}/{record.name}.npz", features=record.features, labels=labels)
    run = [words for words in commands(page) if words[0] == "torch-semimarkov"]
    assert len(run) >= 3
    for words in run:
        more = f"{TINY_FLAGS} --max-duration 60" if words[1] == "train" else ""
        assert succeeds(" ".join(words[1:]), more)
    assert (tmp_path / "model").is_dir()
    assert len(list((tmp_path / "segments").iterdir())) == 4


def test_the_page_of_commands_is_up_to_date(tmp_path, monkeypatch):
    page = write_commands_page.PAGE
    assert page.read_text(encoding="utf-8") == write_commands_page.page(), (
        "run python scripts/write_commands_page.py"
    )
    monkeypatch.setattr(write_commands_page, "PAGE", tmp_path / "commands.md")
    assert write_commands_page.main(["--check"]) == 1
    assert write_commands_page.main([]) == 0
    assert write_commands_page.main(["--check"]) == 0
    for name, _ in write_commands_page.all_commands(cli, "torch-semimarkov"):
        assert f"\n## {name}\n" in page.read_text(encoding="utf-8")


def test_every_benchmark_is_named_where_benchmarks_are_described():
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    programs = [x.name for x in files if "__main__" in x.read_text(encoding="utf-8")]
    assert len(programs) > 5
    assert [name for name in programs if name not in text] == []
