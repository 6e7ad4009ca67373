"""The optional search for a scan's tile: each candidate is timed once, and the choice is kept.

Set TORCH_SEMIMARKOV_AUTOTUNE=1 to search at the first call of each kind and size. What is found is
written to TORCH_SEMIMARKOV_AUTOTUNE_FILE if that names a file, and read from there by later runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from torch_semimarkov.backends.triton.scan_tiles import Tile, architecture, candidates

SWITCH, FILE = "TORCH_SEMIMARKOV_AUTOTUNE", "TORCH_SEMIMARKOV_AUTOTUNE_FILE"
_found: dict[str, Tile] = {}


def tile_for(launch: Callable[[Tile], None], op: str, x: Tensor) -> Tile:
    """The tile of a scan of (outer, T, inner): the table's, or the fastest where that is wanted."""
    arch = architecture(x.device)
    tiles = candidates(arch, x.shape[1], x.shape[2], x.element_size())
    if os.environ.get(SWITCH) != "1":
        return tiles[0]
    key = "/".join(map(str, (arch, op, str(x.dtype)[6:], *x.shape)))
    if key not in _found:
        _found.update(_read())
    if key not in _found:
        _found[key] = min(tiles, key=lambda tile: seconds(lambda: launch(tile)))
        _write()
    return _found[key]


def seconds(run: Callable[[], Any]) -> float:
    """Time of one launch."""
    from triton.testing import do_bench

    return float(do_bench(run, warmup=5, rep=20, return_mode="median"))


def _path() -> Path | None:
    name = os.environ.get(FILE)
    return Path(name) if name else None


def _read() -> dict[str, Tile]:
    """What earlier runs have found; nothing where there is no file, or not one of ours."""
    path = _path()
    if path is None or not path.is_file():
        return {}
    try:
        return {key: Tile(*map(int, tile)) for key, tile in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def _write() -> None:
    path = _path()
    if path is not None:
        path.write_text(json.dumps({**_read(), **_found}, indent=1, sort_keys=True))
