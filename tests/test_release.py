"""What a release is made of fits together: versions, bounds, files and workflows."""

import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import torch_semimarkov

ROOT = Path(__file__).parents[1]
check_release = pytest.importorskip("check_release")
pyproject = (ROOT / "pyproject.toml").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def requirements():
    """name -> lower bound of what the package needs without an extra."""
    block = pyproject.split("\ndependencies = [")[1].split("\n]")[0]
    return dict(re.findall(r'"([\w-]+)>=([\d.]+)"', block))


def padded(version):
    return tuple(int(part) for part in (version + ".0.0").split(".")[:3])


def test_the_oldest_versions_that_are_tested_are_the_lower_bounds():
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    assert requirements().keys() <= pins.keys()
    assert all(padded(pins[name]) == padded(bound) for name, bound in requirements().items())


def test_the_newest_and_oldest_python_are_tested():
    named = re.findall(r"Python :: (3\.\d+)", pyproject)
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    tested = re.findall(r'python: "(3\.\d+)"', text)
    assert {named[0], named[-1]} <= set(tested) <= set(named)
    assert f'requires-python = ">={named[0]}"' in pyproject


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_targets_and_scripts_that_exist(path):
    jobs = yaml.safe_load(path.read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {name for text in commands for name in re.findall(r"\bmake ([a-z-]+)", text)}
    assert commands and called <= targets
    files = {name for text in commands for name in re.findall(r"[\w/-]+\.(?:py|txt)\b", text)}
    assert all((ROOT / name).is_file() for name in files)


def test_the_citation_is_of_this_version_and_names_the_paper_of_the_model():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == torch_semimarkov.__version__
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Sarawagi", "Cohen"]


def test_issue_forms_ask_for_what_a_report_needs():
    forms = [yaml.safe_load(path.read_text()) for path in (ROOT / ".github").rglob("*.yml")]
    asked = {field["id"] for form in forms for field in form.get("body", ())}
    assert {"what", "reproduce", "info"} <= asked


# The check of a built wheel and sdist


def built(folder, spoil=lambda names: names):
    """A wheel of the package's files, with what a build adds; ``spoil`` changes the names."""
    source = ROOT / "src"
    files = [p for p in (source / "torch_semimarkov").rglob("*") if p.is_file()]
    names = [str(p.relative_to(source)) for p in files if "__pycache__" not in p.parts]
    extra = [f"x.dist-info/{name}" for name in ("METADATA", "entry_points.txt", "licenses/LICENSE")]
    path = folder / "x.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in spoil([*names, *extra]):
            archive.writestr(name, METADATA if name.endswith("METADATA") else name)
    return path


METADATA = """Metadata-Version: 2.4
Requires-Dist: torch>=2.6
Requires-Dist: tomli>=2.0; python_version < '3.11'
Requires-Dist: matplotlib>=3.8; extra == 'plots'
"""


def test_a_whole_wheel_has_no_misfits_and_gives_its_oldest_versions(tmp_path):
    wheel = built(tmp_path)
    assert check_release.wheel_misfits(wheel, ROOT / "src") == []
    assert check_release.lower_bounds(wheel) == ["torch==2.6"]


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("py.typed", "lacks torch_semimarkov/py.typed"),
        ("nn/head.py", "lacks torch_semimarkov/nn/head.py"),
        ("LICENSE", "lacks licenses/LICENSE"),
    ],
)
def test_what_a_wheel_lacks_is_named(tmp_path, lost, message):
    wheel = built(tmp_path, lambda names: [n for n in names if not n.endswith(lost)])
    assert check_release.wheel_misfits(wheel, ROOT / "src") == [f"x.whl {message}"]


def test_what_does_not_belong_into_a_wheel_is_named(tmp_path):
    wheel = built(tmp_path, lambda names: [*names, "tests/oracle.py"])
    found = check_release.wheel_misfits(wheel, ROOT / "src")
    assert found == ["x.whl should not hold tests/oracle.py"]


def test_an_sdist_without_its_tests_and_a_wheel_that_differs_are_named(tmp_path):
    sdist = tmp_path / "x.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        for name in check_release.IN_SDIST:
            if name != "tests/oracle.py":
                archive.add(ROOT / name, f"x-1/{name}")
    assert check_release.sdist_misfits(sdist) == ["x.tar.gz lacks tests/oracle.py"]
    wheel = built(tmp_path)
    other = {**check_release.contents(wheel), "torch_semimarkov/py.typed": b"other"}
    assert check_release.differences(wheel, check_release.contents(wheel)) == []
    (found,) = check_release.differences(wheel, other)
    assert found.endswith("differs in torch_semimarkov/py.typed")


def test_a_folder_without_a_wheel_is_one_clear_error(tmp_path, capsys):
    assert check_release.main([str(tmp_path)]) == 1
    assert "must hold one *.whl, got none; run: make dist" in capsys.readouterr().err


def test_what_the_sdist_must_hold_is_there_and_known_to_git():
    try:
        command = ["git", "ls-files", "--error-unmatch", *check_release.IN_SDIST]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no git here")
    if "not a git repository" in done.stderr:
        pytest.skip("no checkout")
    assert done.returncode == 0, done.stderr
