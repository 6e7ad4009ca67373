"""Check a built wheel and sdist: what they hold, and that the wheel works where it is alone.

    make dist                                                  # build both, then look into them
    python scripts/check_release.py dist                       # look into what lies in dist
    python scripts/check_release.py dist --versions oldest     # and try the wheel, oldest versions
    python scripts/check_release.py dist --versions newest     # and try it with what pip finds
    python scripts/check_release.py dist --pin torch==2.6.0    # any versions

A trial makes an environment that is removed afterwards, installs the wheel there and runs
scripts/smoke.py in an empty folder. `--environment PATH` uses one that is there, whatever it holds,
and installs only the wheel. `--types` also type-checks tests/consumer/segmenting.py against it.
"""

from __future__ import annotations

import argparse
import email
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "torch_semimarkov"
IN_SDIST = (
    "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md",
    "Makefile", "constraints.txt", "src/torch_semimarkov/py.typed", "tests/oracle.py",
    "docs/backends.md", "examples/ecg_delineation.py", "scripts/check_release.py",
    "benchmarks/README.md",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dist", type=Path, help="folder with one wheel and one sdist")
    parser.add_argument(
        "--versions", choices=("oldest", "newest"), help="versions of what it needs"
    )
    parser.add_argument("--pin", action="append", default=[], metavar="REQUIREMENT")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environment")
    parser.add_argument("--environment", type=Path, help="an environment to use as it is")
    parser.add_argument("--types", action="store_true", help="type-check a project against it")
    options = parser.parse_args(arguments)
    try:
        wheel, sdist = only(options.dist, "*.whl"), only(options.dist, "*.tar.gz")
        misfits = [*wheel_misfits(wheel, ROOT / "src"), *sdist_misfits(sdist)]
        misfits = misfits or differences(wheel, wheel_from(sdist))
    except (LookupError, subprocess.CalledProcessError) as error:
        misfits = [str(error)]
    for misfit in misfits:
        print(f"check_release: {misfit}", file=sys.stderr)
    if misfits:
        return 1
    print(f"ok: {wheel.name} and {sdist.name} hold what they should")
    wanted = options.versions or options.pin or options.environment or options.types
    return trial(wheel, options) if wanted else 0


def only(folder: Path, pattern: str) -> Path:
    """The one file of a pattern; LookupError if there is none or another."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise LookupError(f"{folder} must hold one {pattern}, got {names}; run: make dist")
    return found[0]


def wheel_misfits(wheel: Path, source: Path) -> list[str]:
    """What a wheel lacks of the package's files, and what does not belong into it."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    meta = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    there = {
        str(path.relative_to(source))
        for path in (source / PACKAGE).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    misfits = [f"{wheel.name} lacks {name}" for name in sorted(there - names)]
    misfits += [f"{wheel.name} should not hold {name}" for name in sorted(names - there - meta)]
    for ending in ("licenses/LICENSE", "entry_points.txt", "METADATA"):
        if not any(name.endswith(ending) for name in meta):
            misfits.append(f"{wheel.name} lacks {ending}")
    return misfits


def sdist_misfits(sdist: Path) -> list[str]:
    """Files that an sdist lacks to build, test and document the package."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    return [f"{sdist.name} lacks {name}" for name in IN_SDIST if name not in names]


def wheel_from(sdist: Path) -> dict[str, bytes]:
    """The files of the wheel that an sdist builds."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder]
        subprocess.run([*command, str(sdist)], check=True)
        return contents(only(Path(folder), "*.whl"))


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def differences(wheel: Path, other: dict[str, bytes]) -> list[str]:
    """Files of a wheel that those of another do not equal."""
    mine = contents(wheel)
    unequal = [name for name in sorted({*mine, *other}) if mine.get(name) != other.get(name)]
    return [f"the wheel that the sdist builds differs in {name}" for name in unequal]


def lower_bounds(wheel: Path) -> list[str]:
    """What the wheel needs without an extra, each at its oldest supported version.

    A requirement with a marker is of some Python versions only: pip takes it as it is.
    """
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    needs = [need for need in metadata.get_all("Requires-Dist", []) if ";" not in need]
    return [re.sub(r">=([^,]+).*", r"==\1", need) for need in needs]


def trial(wheel: Path, options: argparse.Namespace) -> int:
    """Install the wheel where it is alone and run the smoke test there."""
    with tempfile.TemporaryDirectory() as folder:
        environment = options.environment or Path(folder) / "environment"
        python = environment.absolute() / "bin" / "python"
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        try:
            if options.environment:
                run([*install, "--no-deps", "--force-reinstall", str(wheel)])
            else:
                pins = lower_bounds(wheel) if options.versions == "oldest" else []
                more = ["mypy"] if options.types else []
                run([options.python, "-m", "venv", str(environment)])
                run([*install, str(wheel), *pins, *options.pin, *more])
            empty = Path(folder) / "empty"
            empty.mkdir()
            run([str(python), "-I", str(ROOT / "scripts" / "smoke.py")], cwd=empty)
            if options.types:
                run([str(python), "-I", "-m", "mypy", "--strict", consumer(empty)], cwd=empty)
        except subprocess.CalledProcessError as error:
            print(f"check_release: failed: {' '.join(map(str, error.cmd))}", file=sys.stderr)
            return 1
    return 0


def consumer(folder: Path) -> str:
    """A copy, beside which no checkout lies that a type checker could read instead."""
    text = (ROOT / "tests" / "consumer" / "segmenting.py").read_text()
    (folder / "segmenting.py").write_text(text)
    return "segmenting.py"


def run(command: list[str], cwd: Path | None = None) -> None:
    """Run a command that does not see this checkout."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, check=True, cwd=cwd, env=clean)


if __name__ == "__main__":
    sys.exit(main())
