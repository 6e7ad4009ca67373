"""Every Python block of the pages runs, page by page, and prints what stands below it."""

import contextlib
import doctest
import io
import re
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
# A block of Python, and the text right below it, if there is one.
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)
# A block that begins so is a file, which later blocks import.
FILE = re.compile(r"# (\w+\.py)\n")
# A block that begins so runs where this library is installed.
NEEDS = re.compile(r"# needs (\w+)\n")


def blocks(page: str) -> list[tuple[str, str | None]]:
    """Code and expected output of a page, None where nothing is expected."""
    found = BLOCK.finditer((ROOT / page).read_text(encoding="utf-8"))
    return [(match[1], match[2]) for match in found]


def run_doctest(code: str, names: dict[str, object], page: str) -> None:
    """Run a block that is a session of the interpreter."""
    session = doctest.DocTestParser().get_doctest(code, names, page, page, 0)
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(session, clear_globs=False)
    names.update(session.globs)
    assert runner.summarize(verbose=False).failed == 0


def output_of(code: str, names: dict[str, object], page: str) -> str:
    """What a block prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        exec(compile(code, page, "exec"), names)
    return printed.getvalue()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_the_blocks_of_a_page_run_in_order_and_print_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, object] = {}
    for code, expected in blocks(page):
        if NEEDS.match(code):
            continue
        if FILE.match(code):
            file = tmp_path / FILE.match(code)[1]
            file.write_text(code, encoding="utf-8")
            sys.modules.pop(file.stem, None)
            continue
        if code.startswith(">>> "):
            run_doctest(code, names, page)
            continue
        printed = output_of(code, names, page)
        if expected is not None:
            assert printed == expected


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", ["flash_semicrf", "torch_struct"])
def test_what_is_said_of_another_library_holds_where_it_is_installed(library):
    pytest.importorskip(
        library, reason=f"needs {library}, of the extra bench", exc_type=ImportError
    )
    names: dict[str, object] = {}
    found = [pair for pair in blocks("docs/coming-from.md") if f"# needs {library}\n" in pair[0]]
    assert found
    for code, expected in found:
        assert output_of(code, names, library) == expected


def test_there_are_pages_with_blocks_and_none_is_indented_away():
    assert any(blocks(page) for page in PAGES)
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert text.count("```python") == len(blocks(page))


@pytest.mark.parametrize(
    ("page", "folder"), [("docs/cpu-kernels.md", "cpu"), ("docs/gpu-kernels.md", "triton")]
)
def test_a_page_on_kernels_names_every_file_of_its_backend(page, folder):
    text = (ROOT / page).read_text(encoding="utf-8")
    files = (ROOT / "src/torch_semimarkov/backends" / folder).glob("*.py")
    assert [file.name for file in files if f"`{file.name}`" not in text] == []
