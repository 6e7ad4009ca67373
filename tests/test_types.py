"""A user's own project type-checks against the installed package, and its mistakes are found."""

import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import torch_semimarkov

CONSUMER = Path(__file__).parent / "consumer"
CACHE = Path(__file__).parents[1] / ".mypy_cache" / "consumer"
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("types")]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """An environment in which the package under test is installed, beside the libraries of ours."""
    folder = tmp_path_factory.mktemp("consumer") / "environment"
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    source = Path(torch_semimarkov.__file__).parents[1]
    (packages / "here.pth").write_text(f"{source}\n{sysconfig.get_path('purelib')}\n")
    return folder / "bin" / "python"


def checked(python: Path, name: str, empty: Path) -> list[str]:
    """What mypy says of a file, in its strictest mode and without the settings of this project."""
    options = ["--strict", f"--config-file={empty}", f"--cache-dir={CACHE}", "--no-error-summary"]
    command = [sys.executable, "-m", "mypy", *options, f"--python-executable={python}", name]
    done = subprocess.run(command, cwd=CONSUMER, capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def empty(tmp_path) -> Path:
    path = tmp_path / "mypy.ini"
    path.write_text("[mypy]\n")
    return path


def test_a_users_project_passes_the_strictest_type_check(python, empty):
    assert checked(python, "segmenting.py", empty) == []


def test_mistakes_of_a_user_are_found_by_the_type_checker(python, empty):
    lines = (CONSUMER / "mistakes.py").read_text().splitlines()
    marked = {
        i: line.split("mistake: ")[1] for i, line in enumerate(lines, 1) if "mistake: " in line
    }
    found = {}
    for line in checked(python, "mistakes.py", empty):
        match = re.match(r"mistakes\.py:(\d+): error: .*\[([a-z-]+)\]", line)
        if match:
            found[int(match[1])] = match[2]
    assert found == marked
