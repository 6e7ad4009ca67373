"""Hooks of mkdocs: links out of docs/ find their file on the site too, as a page of its own.

A page links a file of the repository by its relative path, so that the link also works where the
repository is shown. The site gets a copy of each such file, and of those that a copy links.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
COPIES = "repository"  # folder of the site
LINK = re.compile(r"(?<=\]\()(?!#|[a-z]+:)([^)\s#]+)(#[^)\s]*)?(?=\))")
# Code is left as it is: in it, a[i](b) is a call.
FENCED = re.compile(r"(^(`{3,}).*?^\2$)", re.DOTALL | re.MULTILINE)
LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml"}
_log = get_plugin_logger("site_hooks")


def place_of(uri: str) -> str:
    """Path in the repository of a page of the site.

    >>> place_of("recipes/song.md"), place_of("repository/benchmarks/README.md")
    ('docs/recipes/song.md', 'benchmarks/README.md')
    """
    inside = uri.removeprefix(f"{COPIES}/")
    return inside if inside != uri else f"docs/{uri}"


def page_of(place: str) -> str:
    """Page of the site for a path in the repository.

    >>> page_of("docs/recipes/song.md"), page_of("src/a.py"), page_of("README.md")
    ('recipes/song.md', 'repository/src/a.py.md', 'repository/README.md')
    """
    if place.startswith("docs/"):
        return place.removeprefix("docs/")
    return f"{COPIES}/{place}" if place.endswith(".md") else f"{COPIES}/{place}.md"


def relinked(text: str, uri: str) -> tuple[str, list[str]]:
    """A page with its links as they are on the site, and the files outside docs/ that it links.

    >>> relinked("[how](../README.md#speed)", "start.md")
    ('[how](repository/README.md#speed)', ['README.md'])
    """
    folder, outside = posixpath.dirname(place_of(uri)), []

    def on_the_site(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[1]))
        if target.startswith("docs/"):
            place = target.removeprefix("docs/")
        else:
            place = page_of(target)
            outside.append(target)
        return posixpath.relpath(place, posixpath.dirname(uri) or ".") + (found[2] or "")

    # Each fence is followed by its own ticks, which the split returns too.
    parts = FENCED.split(text)
    prose = [LINK.sub(on_the_site, part) for part in parts[::3]]
    fences = [*parts[1::3], ""]
    return "".join(part for pair in zip(prose, fences, strict=True) for part in pair), outside


def copy_of(place: str) -> str:
    """Text of the page for a file outside docs/."""
    text = (ROOT / place).read_text(encoding="utf-8")
    if place.endswith(".md"):
        return text
    return f"# {place}\n\n````{LANGUAGES.get(Path(place).suffix, '')}\n{text}\n````\n"


def on_files(files, config):
    """Add a page for each file that a page links outside docs/."""
    texts = {file.src_uri: file.content_string for file in files.documentation_pages()}
    waiting = list(texts)
    while waiting:
        uri = waiting.pop()
        for place in relinked(texts[uri], uri)[1]:
            new = page_of(place)
            if not (ROOT / place).is_file():
                _log.warning(f"{uri} links {place}, which is no file of the repository")
            elif new not in texts:
                texts[new] = copy_of(place)
                files.append(File.generated(config, new, content=texts[new]))
                waiting += [new] if place.endswith(".md") else []
    return files


def on_page_markdown(markdown, page, config, files):
    """Let links out of docs/ point at the copies."""
    return relinked(markdown, page.file.src_uri)[0]
