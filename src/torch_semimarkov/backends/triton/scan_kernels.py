"""Associative scans on the GPU: reduce each block of positions, scan the sums, apply.

A program has one block of positions of one tile of columns, at one outer index. What crosses the
border of a block is kept in ``carry``, in float64 for sums of float32; those of more than 8192
positions also run in float64 within a block, so that rounding does not grow with the length.
"""

from __future__ import annotations

import triton
import triton.language as tl

from torch_semimarkov.backends.triton.scan_parts import (
    combine,
    count_of,
    last_of_tile,
    place,
    position,
    scan_of_tile,
    total_of_tile,
)


@triton.jit
def block_totals(
    p_x, p_totals, p_lengths, T, inner, stride_outer, stride_step, blocks, tiles,
    NEUTRAL: tl.constexpr, OP: tl.constexpr, REVERSE: tl.constexpr, HAS_LENGTHS: tl.constexpr,
    WIDE: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the total of each block (outer, blocks, inner)."""
    i_outer, i_block, i_tile = place(blocks, tiles)
    count = count_of(p_lengths, i_outer, T, HAS_LENGTHS)
    k = i_block * BLOCK + tl.arange(0, BLOCK)[:, None]
    i = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    o_x = i_outer * stride_outer + position(k, count, REVERSE) * stride_step + i[None, :]
    b_x = tl.load(p_x + o_x, mask=(k < count) & (i[None, :] < inner), other=NEUTRAL).to(WIDE)
    total = total_of_tile(b_x, OP)
    o_total = (i_outer * blocks + i_block) * inner + i
    tl.store(p_totals + o_total, total.to(p_totals.dtype.element_ty), mask=i < inner)


@triton.jit
def scan_totals(
    p_totals, p_before, p_initial, inner, blocks, tiles,
    NEUTRAL: tl.constexpr, OP: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the state before each block (outer, blocks, inner), from the blocks' totals."""
    i_outer, _, i_tile = place(1, tiles)
    i = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    state = tl.load(p_initial + i_outer * inner + i, mask=i < inner, other=NEUTRAL)
    state = state.to(p_before.dtype.element_ty)
    for first in range(0, blocks, BLOCK):
        k = first + tl.arange(0, BLOCK)[:, None]
        o_carry = (i_outer * blocks + k) * inner + i[None, :]
        inside = (k < blocks) & (i[None, :] < inner)
        b_total = tl.load(p_totals + o_carry, mask=inside, other=NEUTRAL)
        b_state = tl.broadcast_to(state[None, :], (BLOCK, COLUMNS))
        b_after = combine(b_state, scan_of_tile(b_total, OP), OP)
        o_first = (i_outer * blocks + first) * inner + i
        tl.store(p_before + o_first, state, mask=i < inner)
        following = (k + 1 < blocks) & (k < first + BLOCK - 1) & (i[None, :] < inner)
        tl.store(p_before + o_carry + inner, b_after, mask=following)
        state = last_of_tile(b_after, BLOCK)


@triton.jit
def apply_blocks(
    p_x, p_y, p_carry, p_final, p_lengths, T, inner, stride_outer, stride_step, blocks, tiles,
    NEUTRAL: tl.constexpr, OP: tl.constexpr, REVERSE: tl.constexpr, EXCLUSIVE: tl.constexpr,
    HAS_LENGTHS: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Scan each block from the state before it; the last one also writes the final state."""
    i_outer, i_block, i_tile = place(blocks, tiles)
    count = count_of(p_lengths, i_outer, T, HAS_LENGTHS)
    k = i_block * BLOCK + tl.arange(0, BLOCK)[:, None]
    i = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    columns = i[None, :] < inner
    o_x = i_outer * stride_outer + position(k, count, REVERSE) * stride_step + i[None, :]
    b_x = tl.load(p_x + o_x, mask=(k < count) & columns, other=NEUTRAL).to(WIDE)
    state = tl.load(p_carry + (i_outer * blocks + i_block) * inner + i, mask=i < inner, other=0)
    b_state = tl.broadcast_to(state[None, :], (BLOCK, COLUMNS))
    b_y = combine(b_state, scan_of_tile(b_x, OP).to(b_state.dtype), OP)
    o_final = i_outer * inner + i[None, :] + k * 0
    tl.store(p_final + o_final, b_y.to(p_final.dtype.element_ty), mask=(k == count - 1) & columns)
    o_y = i_outer * T * inner + i[None, :]
    if EXCLUSIVE:
        # A position gets what the scan has found one step before it.
        target = o_y + position(k + 1, count, REVERSE) * inner
        inside = (k + 1 < count) & (k < i_block * BLOCK + BLOCK - 1) & columns
        tl.store(p_y + target, b_y.to(p_y.dtype.element_ty), mask=inside)
        target = o_y + position(k, count, REVERSE) * inner
        first = (k == i_block * BLOCK) & (k < count) & columns
        tl.store(p_y + target, b_state.to(p_y.dtype.element_ty), mask=first)
    else:
        target = o_y + position(k, count, REVERSE) * inner
        tl.store(p_y + target, b_y.to(p_y.dtype.element_ty), mask=(k < count) & columns)
