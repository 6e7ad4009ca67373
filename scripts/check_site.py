"""Look at the built site: each public name is described, and nothing is fetched from elsewhere.

python scripts/check_site.py site
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = "torch_semimarkov"
# Rooms whose names are public under their own name as well as, for some, under the root's.
ROOMS = (
    "functional", "nn", "scan", "ssm", "semirings", "metrics", "data", "training", "plots", "genes",
)  # fmt: skip
# Names that the established modules have; what else they import is not theirs.
ESTABLISHED = {
    "streaming": ("semi_crf_streaming_forward", "HAS_TRITON"),
    "triton_scan": ("semi_crf_triton_forward",),
}
FETCHED = re.compile(
    r"""<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=["']?(https?:)?//[^"' >]+"""
)


def value_of(path: Path, name: str) -> Any:
    """A constant of a file, which is not imported; None if it has none of this name."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    return None


def public_names() -> dict[str, tuple[str, ...]]:
    """Every public name, dotted, and the names under which a page may describe it."""
    source = ROOT / "src" / PACKAGE
    homes = value_of(source / "__init__.py", "_HOMES")

    def place(room: str, name: str) -> str:
        # Where a module has the name of what is in it, the bare name is that of the module.
        whole = f"{PACKAGE}.{room}.{name}"
        return f"{whole}.{name}" if (source / room / f"{name}.py").is_file() else whole

    found = {
        f"{PACKAGE}.{name}": (f"{PACKAGE}.{name}", place(home, name))
        for name, home in homes.items()
    }
    for room in ROOMS:
        for name in value_of(source / room / "__init__.py", "__all__"):
            also = f"{PACKAGE}.{name}" if homes.get(name) == room else ""
            found[f"{PACKAGE}.{room}.{name}"] = (place(room, name), also)
    for module, names in ESTABLISHED.items():
        found |= {f"{PACKAGE}.{module}.{name}": (f"{PACKAGE}.{module}.{name}",) for name in names}
    return found


def missing_names(described: set[str]) -> list[str]:
    """Public names of which no page says anything.

    >>> everything = {names[0] for names in public_names().values()}
    >>> missing_names(everything - {"torch_semimarkov.data.Record"})
    ['torch_semimarkov.data.Record']
    """
    return [name for name, names in public_names().items() if described.isdisjoint(names)]


def main() -> int:
    """Say what is missing; 1 if anything is."""
    site = Path(sys.argv[1])
    pages = {path: path.read_text(encoding="utf-8") for path in sorted(site.rglob("*.html"))}
    described = {
        name
        for text in pages.values()
        for name in re.findall(rf'<h[1-6] id="({PACKAGE}\.[\w.]+)"', text)
    }
    faults = [f"{name} is described nowhere" for name in missing_names(described)]
    for path, text in pages.items():
        faults += [f"{path}: fetches {found[0]}" for found in FETCHED.finditer(text)]
    print("\n".join(faults) or f"site: {len(pages)} pages, {len(described)} names")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
