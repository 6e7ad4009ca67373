"""Each example is run by a test; so are the scripts that draw and that make the site."""

import doctest
import importlib
import json
import re
import shutil
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from torch_semimarkov.data import write_wfdb_annotations

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
TESTS = {path.name: path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("*.py")}


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_an_example_is_run_by_a_test_or_by_an_example_that_is(path):
    if "__main__" in path.read_text(encoding="utf-8"):
        run = rf"examples/{path.name}|(?:importorskip|import_module)\(\"{path.stem}\""
        assert any(re.search(run, text) for text in TESTS.values())
    else:
        assert any(f"from {path.stem} import" in other.read_text() for other in EXAMPLES)


# Examples in docstrings; tests/test_import.py runs those of the package.


ROOTS = [ROOT / path for path in ("scripts", "benchmarks")]
ROOTS += [path for path in (ROOT / "benchmarks/practical_demonstration").iterdir() if path.is_dir()]
DOCUMENTED = [
    path
    for path in sorted([*ROOT.glob("scripts/*.py"), *ROOT.glob("benchmarks/**/*.py")])
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("path", DOCUMENTED, ids=[path.stem for path in DOCUMENTED])
def test_the_examples_in_docstrings_outside_the_package_hold(path):
    root = max((root for root in ROOTS if root in path.parents), key=lambda root: len(root.parts))
    name = ".".join(path.relative_to(root).with_suffix("").parts)
    result = doctest.testmod(pytest.importorskip(name))
    assert result.attempted and not result.failed


# ECG, on made records


LEADS = ("i", "ii", "iii", "avr", "avl", "avf", "v1", "v2", "v3", "v4", "v5", "v6")
BEAT = (("P", 50), ("", 20), ("QRS", 45), ("", 60), ("T", 95), ("", 130))


def write_record(folder, wfdb, number, rng):
    """A record as those of LUDB: 4 s of 12 leads at 500 Hz, each with its annotation."""
    heights, rows, waves, at = {"P": 0.2, "QRS": 1.5, "T": 0.4, "": 0.0}, [], [], 0
    for label, length in BEAT * 5:
        rows.append(heights[label] * np.sin(np.pi * np.arange(length) / length))
        waves += [(at, at + length, label)] if label else []
        at += length
    signal = np.concatenate(rows)[:, None] + rng.normal(0, 0.02, (at, len(LEADS)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wfdb.wrsamp(
            str(number), fs=500, units=["mV"] * 12, sig_name=list(LEADS), p_signal=signal,
            fmt=["16"] * 12, write_dir=str(folder),
        )  # fmt: skip
    first = write_wfdb_annotations(folder / str(number), waves, "i", sample_rate=500)
    for lead in LEADS[1:]:
        shutil.copy(first, first.with_suffix(f".{lead}"))


@pytest.mark.slow
def test_the_ecg_example_runs_on_a_few_records(tmp_path, capsys):
    wfdb = pytest.importorskip("wfdb")
    example = importlib.import_module("ecg_delineation")
    rng, parts = np.random.default_rng(0), example.split_numbers()
    numbers = [part[: round(len(part) / 20)] for part in parts]
    assert [len(part) for part in numbers] == [7, 1, 2]
    for number in [n for part in numbers for n in part]:
        write_record(tmp_path, wfdb, number, rng)
    few = ["--records", "10", "--copies", "1", "--output", str(tmp_path / "out")]
    example.main(["--data", str(tmp_path), *few])
    rows = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["model"] for row in rows[::6]] == ["semi-crf", "linear-crf", "argmax"]
    assert all(0 <= row["F1 20 ms"] <= row["F1 150 ms"] <= 100 for row in rows)
    assert (tmp_path / "out" / "semi-crf.png").stat().st_size > 10_000
    assert "QRS onset" in capsys.readouterr().out


@pytest.mark.parametrize("few", [["--records", "9"], ["--records", "201"], ["--copies", "0"]])
def test_the_ecg_example_refuses_other_numbers_in_one_line(few, capsys):
    pytest.importorskip("wfdb")
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module("ecg_delineation").main(["--data", "nowhere", *few])
    assert stopped.value.code == 2
    assert "--records must be in 10..200" in capsys.readouterr().err


# Pictures


NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")


def shapes_of(path):
    """Numbers of a picture, its text without them, and the version of matplotlib that drew it."""
    text = path.read_text(encoding="utf-8")
    version = re.search(r"Matplotlib v([\d.]+)", text)[1]
    text = re.sub(r'(?:id|href|clip-path)="[^"]*"', "", text)
    return np.array([float(x) for x in NUMBER.findall(text)]), NUMBER.sub("", text), version


def test_the_pictures_of_the_concepts_are_those_that_the_library_draws_now(tmp_path):
    pytest.importorskip("matplotlib")
    concepts = importlib.import_module("draw_concepts")
    concepts.main(tmp_path)
    page = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    for name in concepts.PICTURES:
        drawn, stored = tmp_path / f"concepts-{name}.svg", concepts.OUTPUT / f"concepts-{name}.svg"
        assert ET.parse(drawn).getroot().tag.endswith("svg")
        assert f"(images/concepts-{name}.svg)" in page
        numbers, text, version = shapes_of(drawn)
        if version == shapes_of(stored)[2]:
            assert text == shapes_of(stored)[1]
            np.testing.assert_allclose(numbers, shapes_of(stored)[0], atol=0.01)


def test_the_picture_of_entities_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "entities.png"
    importlib.import_module("draw_entities").main(["--steps", "3", "--output", str(path)])
    assert path.stat().st_size > 10_000


# The site


def test_every_public_name_has_its_place_in_the_reference():
    check = importlib.import_module("check_site")
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "docs/reference").glob("*.md")]
    shown = {name for page in pages for name in re.findall(r"^::: ([\w.]+)$", page, re.MULTILINE)}
    assert check.missing_names(shown) == []
    assert check.missing_names(shown - {"torch_semimarkov.functional.viterbi"}) != []


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": ([\w/-]+\.md)$", text, re.MULTILINE))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert pages == listed
