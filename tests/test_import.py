"""Importing the package is light, and every public name is there and says what it is."""

import doctest
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import torch_semimarkov

ROOT = Path(__file__).parents[1]
HEAVY = ["click", "matplotlib", "mir_eval", "numba", "pandas", "scipy", "sklearn", "triton", "wfdb"]
# Modules that need one of these are left out of the examples' test where it is not installed.
OPTIONAL = {"Bio", "librosa", "lightning", "matplotlib", "praatio", "soundfile", "triton", "wfdb"}
DOCTEST_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

IMPORT_AND_REPORT = """
import json, sys, time
import torch
before, start = set(sys.modules), time.perf_counter()
import torch_semimarkov
seconds = time.perf_counter() - start
added = sorted(set(sys.modules) - before)
heavy = sorted({name.split(".")[0] for name in sys.modules} & set(sys.argv[1:]))
print(json.dumps({"seconds": seconds, "added": added, "heavy": heavy}))
"""


@pytest.fixture(scope="module")
def imported():
    command = [sys.executable, "-c", IMPORT_AND_REPORT, *HEAVY]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_importing_loads_no_heavy_library(imported):
    assert imported["heavy"] == []


def test_importing_adds_only_modules_of_our_own(imported):
    print(f"import torch_semimarkov, after torch: {imported['seconds'] * 1e3:.2f} ms")
    assert {name.split(".")[0] for name in imported["added"]} == {"torch_semimarkov"}


def test_version_is_one_of_a_release():
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?(\.dev\d+)?", torch_semimarkov.__version__)


PUBLIC = sorted(set(getattr(torch_semimarkov, "__all__", [])) - {"__version__"})


def test_the_main_names_are_public():
    main = {"Segment", "Segments", "SemiMarkovCRFHead", "log_partition", "marginals", "viterbi"}
    assert main <= set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_resolves_and_is_documented(name):
    value = getattr(torch_semimarkov, name)
    assert name in dir(torch_semimarkov)
    if inspect.isclass(value) or callable(value):
        # A dataclass or named tuple without a docstring gets its signature for one.
        assert not (inspect.getdoc(value) or f"{name}(").startswith(f"{name}(")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = torch_semimarkov.no_such_name


MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(
        torch_semimarkov.__path__, "torch_semimarkov.", onerror=print
    )
)


@pytest.mark.parametrize("name", ["torch_semimarkov", *MODULES])
def test_examples_in_docstrings_hold(name):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in OPTIONAL:
            raise
        pytest.skip(f"{name} needs {error.name}")
    result = doctest.testmod(module, optionflags=DOCTEST_FLAGS)
    assert result.failed == 0, "the failing examples are printed above"


PAGES = [
    str(page.relative_to(ROOT))
    for page in [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
    if ">>>" in page.read_text()
]


@pytest.mark.parametrize("page", PAGES)
def test_examples_in_pages_hold(page):
    # A fence would be read as the last line of the output above it.
    text = re.sub(r"^\s*```.*$", "", (ROOT / page).read_text(), flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(text, {}, page, page, 0)
    runner = doctest.DocTestRunner(optionflags=DOCTEST_FLAGS)
    assert runner.run(test).failed == 0, "the failing examples are printed above"
