"""Scans on the GPU: from a call to launches, one or three whatever the batch.

A scan that fits one block of positions is one launch; any other is three: totals of the blocks,
the states before them, and the scan of each block from there.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from torch_semimarkov.backends.triton import scan_kernels, scan_linear
from torch_semimarkov.backends.triton.scan_parts import OPS
from torch_semimarkov.backends.triton.scan_tiles import Tile
from torch_semimarkov.backends.triton.scan_tuning import tile_for

NAME = "triton"

# Kernels compute in the second type.
_TYPES = {
    torch.float16: (torch.float32, tl.float32),
    torch.bfloat16: (torch.float32, tl.float32),
    torch.float32: (torch.float32, tl.float32),
    torch.float64: (torch.float64, tl.float64),
    torch.int8: (torch.int8, tl.int8),
    torch.int16: (torch.int16, tl.int16),
    torch.int32: (torch.int32, tl.int32),
    torch.int64: (torch.int64, tl.int64),
}
# Sums of float32 over more positions than this run in float64.
_LONG = 8192
_COMPLEX = (torch.complex64, torch.complex128)


def interpreted() -> bool:
    """True where kernels run on CPU tensors in Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def reasons_against(op: str, x: Tensor) -> list[str]:
    """Why this backend cannot run a scan; empty if it can."""
    reasons = []
    if x.device.type != "cuda" and not (interpreted() and x.device.type == "cpu"):
        reasons.append(f"needs a CUDA device, got {x.device}")
    if x.dtype not in _TYPES and not (x.dtype in _COMPLEX and op == "add"):
        reasons.append(f"has no kernel of op={op!r} for {str(x.dtype)[6:]}")
    return reasons


def slower(op: str, x: Tensor, reverse: bool) -> str:
    """Why the next backend is the better choice for this call; empty if none is."""
    return "runs in Triton's interpreter, for tests" if x.device.type == "cpu" else ""


def associative_scan(
    x: Tensor,
    op: str,
    reverse: bool,
    exclusive: bool,
    initial: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The scan of (outer, T, inner) in its type, and its last value in the accumulator's."""
    x = x.detach()
    if x.dtype in _COMPLEX:
        parts = torch.view_as_real(x.resolve_conj().resolve_neg()).flatten(2)
        first = None if initial is None else torch.view_as_real(initial.resolve_conj()).flatten(1)
        y, final = associative_scan(parts, op, reverse, exclusive, first, lengths)
        return tuple(torch.view_as_complex(part.unflatten(-1, (-1, 2))) for part in (y, final))
    wide, kind = _TYPES[x.dtype]
    x, neutral = _with_unit_stride(x), _neutral(op, x.dtype)
    # Sums of float32 cross the borders of blocks in float64, and long ones also run in it.
    carried = torch.float64 if op == "add" and x.dtype == torch.float32 else wide
    if carried != wide and x.shape[1] > _LONG:
        kind = tl.float64
    first = _edge(x, initial, carried, neutral)
    y, final = _result(x, lengths), first.to(wide, copy=True)
    if x.numel() == 0:
        return y, final
    same = {"NEUTRAL": neutral, "OP": OPS[op]}
    flags = {**same, "REVERSE": reverse, "HAS_LENGTHS": lengths is not None, "WIDE": kind}

    def launch(tile: Tile) -> None:
        sizes = _sizes(x, tile)
        shape = {"BLOCK": tile.block, "COLUMNS": tile.columns}
        grid = (x.shape[0] * sizes[-2] * sizes[-1],)
        place = (x.shape[1], x.shape[2], x.stride(0), x.stride(1), *sizes)
        before = first
        if sizes[-2] > 1:
            totals = torch.empty(_per_block(x, sizes), dtype=carried, device=x.device)
            before = torch.empty_like(totals)
            scan_kernels.block_totals[grid](
                x, totals, lengths, *place, **flags, **shape, num_warps=tile.warps
            )
            scan_kernels.scan_totals[(x.shape[0] * sizes[-1],)](
                totals, before, first, x.shape[2], *sizes, **same, **_few(sizes, tile)
            )
        options = {**flags, "EXCLUSIVE": exclusive, **shape, "num_warps": tile.warps}
        scan_kernels.apply_blocks[grid](x, y, before, final, lengths, *place, **options)

    _run(launch, op, x)
    return y, final


def linear_scan(
    gates: Tensor,
    inputs: Tensor,
    reverse: bool,
    shifted: bool,
    initial: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The states (outer, T, inner) in the type of the inputs, and the last one."""
    wide, kind = _TYPES[inputs.dtype]
    gates, x = (_with_unit_stride(tensor.detach()) for tensor in (gates, inputs))
    first = _edge(x, initial, wide, 0)
    y, final = _result(x, lengths), first.clone()
    if x.numel() == 0:
        return y, final
    flags = {"REVERSE": reverse, "SHIFTED": shifted, "HAS_LENGTHS": lengths is not None}
    flags["WIDE"] = kind
    strides = gates.stride(0), gates.stride(1), x.stride(0), x.stride(1)

    def launch(tile: Tile) -> None:
        sizes = _sizes(x, tile)
        shape = {"BLOCK": tile.block, "COLUMNS": tile.columns}
        grid = (x.shape[0] * sizes[-2] * sizes[-1],)
        place, before = (x.shape[1], x.shape[2], *sizes), first
        if sizes[-2] > 1:
            steps = torch.empty((2, *_per_block(x, sizes)), dtype=wide, device=x.device)
            before = torch.empty_like(steps[0])
            # It scans and sums, so not with 8 warps: see scan_parts.
            scan_linear.linear_totals[grid](
                gates, x, *strides, steps[0], steps[1], lengths, *place, **flags, **shape,
                num_warps=4,
            )  # fmt: skip
            scan_linear.scan_linear_totals[(x.shape[0] * sizes[-1],)](
                steps[0], steps[1], before, first, x.shape[2], *sizes, **_few(sizes, tile)
            )
        scan_linear.apply_linear[grid](
            gates, x, *strides, y, before, final, lengths, *place, **flags, **shape,
            num_warps=tile.warps,
        )  # fmt: skip

    _run(launch, "linear", x)
    return y, final


def _run(launch: Any, op: str, x: Tensor) -> None:
    if x.device.type != "cuda":
        launch(tile_for(launch, op, x))
        return
    with torch.cuda.device(x.device):
        launch(tile_for(launch, op, x))


def _sizes(x: Tensor, tile: Tile) -> tuple[int, int]:
    """Blocks of positions, and tiles of columns."""
    return triton.cdiv(x.shape[1], tile.block), triton.cdiv(x.shape[2], tile.columns)


def _per_block(x: Tensor, sizes: tuple[int, int]) -> tuple[int, int, int]:
    return x.shape[0], sizes[0], x.shape[2]


def _few(sizes: tuple[int, int], tile: Tile) -> dict[str, int]:
    """The tile of a program that scans the totals of blocks: it scans and sums, with 4 warps."""
    most = 1024 // tile.columns
    block = max(2, min(most, triton.next_power_of_2(sizes[0])))
    return {"BLOCK": block, "COLUMNS": tile.columns, "num_warps": 4}


def _with_unit_stride(x: Tensor) -> Tensor:
    """The tensor itself if columns are neighbours in memory, else a copy."""
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def _edge(x: Tensor, initial: Tensor | None, dtype: torch.dtype, neutral: float) -> Tensor:
    shape = (x.shape[0], x.shape[2])
    if initial is None:
        return torch.full(shape, neutral, dtype=dtype, device=x.device)
    return initial.detach().to(dtype).contiguous()


def _result(x: Tensor, lengths: Tensor | None) -> Tensor:
    make = torch.empty if lengths is None else torch.zeros
    return make(x.shape, dtype=x.dtype, device=x.device)


def _neutral(op: str, dtype: torch.dtype) -> float:
    if op in ("add", "mul"):
        return int(op == "mul")
    if not dtype.is_floating_point:
        return torch.iinfo(dtype).max if op == "min" else torch.iinfo(dtype).min
    return float("inf") if op == "min" else float("-inf")
