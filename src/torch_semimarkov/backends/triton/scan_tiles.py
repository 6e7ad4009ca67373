"""Which tile of positions and columns a program of a scan has: a table per architecture."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton


class Tile(NamedTuple):
    """Positions of a block, columns of a tile, and warps of a program."""

    block: int
    columns: int
    warps: int


# By architecture: for columns that are neighbours in memory, and for positions that are. The first
# holds 128 bytes of float32 a row; the second is one row of 16 values a thread. From the sizes of
# shared memory and registers, not from measurements.
_TABLE = {
    "sm_80": (Tile(256, 32, 8), Tile(2048, 1, 4)),
    "sm_89": (Tile(128, 32, 4), Tile(2048, 1, 4)),
    "sm_90": (Tile(256, 32, 8), Tile(4096, 1, 8)),
    "sm_100": (Tile(256, 32, 8), Tile(4096, 1, 8)),
    "gfx942": (Tile(256, 32, 8), Tile(4096, 1, 4)),
}
_DEFAULT = "sm_80"
# A whole scan of so many values is one program.
_ONE_PROGRAM = 8192


def architecture(device: torch.device) -> str:
    """Name of a device's architecture as in the table; the default where there is no device."""
    if device.type != "cuda":
        return _DEFAULT
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return str(properties.gcnArchName).split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


def candidates(arch: str, T: int, inner: int, itemsize: int) -> list[Tile]:
    """Tiles worth a trial, the table's own choice first."""
    beside, along = _TABLE.get(arch, _TABLE[_DEFAULT])
    tile = beside if inner > 1 else along
    if itemsize > 4:
        tile = tile._replace(block=tile.block // 2)
    columns = min(tile.columns, triton.next_power_of_2(inner))
    whole = triton.next_power_of_2(T)
    block = whole if whole * columns <= _ONE_PROGRAM else tile.block
    first = tile._replace(block=max(2, min(block, whole)), columns=columns)
    others = [
        first._replace(block=max(2, min(whole, first.block * factor // 2)), warps=warps)
        for factor in (1, 2, 4)
        for warps in (4, 8)
    ]
    return list(dict.fromkeys([first, *others]))
