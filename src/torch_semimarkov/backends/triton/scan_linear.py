"""Linear scans on the GPU, y[t] = gates[t] y[t-1] + inputs[t]: reduce, scan the sums, apply.

A block of positions is one step y -> gate y + value. Shifted, a position takes the gate of the one
before it, and the final state is the last y times the last gate.
"""

from __future__ import annotations

import triton
import triton.language as tl

from torch_semimarkov.backends.triton.scan_parts import (
    count_of,
    last_of_tile,
    place,
    position,
    then,
)


@triton.jit
def scan_steps(
    p_gates, p_inputs, outer_gates, step_gates, outer_inputs, step_inputs,
    k, i, i_outer, inner, count,
    REVERSE: tl.constexpr, SHIFTED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Gate and value of all steps up to each, as one; steps past the end change nothing."""
    columns = i[None, :] < inner
    k_gate = k - 1 if SHIFTED else k
    o_gate = i_outer * outer_gates + i[None, :]
    o_gate += position(k_gate, count, REVERSE) * step_gates
    inside = (k_gate >= 0) & (k < count) & columns
    b_gate = tl.load(p_gates + o_gate, mask=inside, other=1.0).to(WIDE)
    o_value = i_outer * outer_inputs + i[None, :]
    o_value += position(k, count, REVERSE) * step_inputs
    b_value = tl.load(p_inputs + o_value, mask=(k < count) & columns, other=0.0).to(WIDE)
    return tl.associative_scan((b_gate, b_value), 0, then)


@triton.jit
def linear_totals(
    p_gates, p_inputs, outer_gates, step_gates, outer_inputs, step_inputs,
    p_gate, p_value, p_lengths, T, inner, blocks, tiles,
    REVERSE: tl.constexpr, SHIFTED: tl.constexpr, HAS_LENGTHS: tl.constexpr, WIDE: tl.constexpr,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write each block as one step, its gate and its value, both (outer, blocks, inner)."""
    i_outer, i_block, i_tile = place(blocks, tiles)
    count = count_of(p_lengths, i_outer, T, HAS_LENGTHS)
    k = i_block * BLOCK + tl.arange(0, BLOCK)[:, None]
    i = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    b_gate, b_value = scan_steps(
        p_gates, p_inputs, outer_gates, step_gates, outer_inputs, step_inputs,
        k, i, i_outer, inner, count, REVERSE, SHIFTED, WIDE,
    )  # fmt: skip
    o_carry = (i_outer * blocks + i_block) * inner + i
    tl.store(p_gate + o_carry, last_of_tile(b_gate, BLOCK), mask=i < inner)
    tl.store(p_value + o_carry, last_of_tile(b_value, BLOCK), mask=i < inner)


@triton.jit
def scan_linear_totals(
    p_gate, p_value, p_before, p_initial, inner, blocks, tiles,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the state before each block (outer, blocks, inner), from the blocks as steps."""
    i_outer, _, i_tile = place(1, tiles)
    i = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    state = tl.load(p_initial + i_outer * inner + i, mask=i < inner, other=0.0)
    for first in range(0, blocks, BLOCK):
        k = first + tl.arange(0, BLOCK)[:, None]
        o_carry = (i_outer * blocks + k) * inner + i[None, :]
        inside = (k < blocks) & (i[None, :] < inner)
        b_gate = tl.load(p_gate + o_carry, mask=inside, other=1.0)
        b_value = tl.load(p_value + o_carry, mask=inside, other=0.0)
        b_gate, b_value = tl.associative_scan((b_gate, b_value), 0, then)
        b_after = b_gate * state[None, :] + b_value
        o_first = (i_outer * blocks + first) * inner + i
        tl.store(p_before + o_first, state, mask=i < inner)
        following = (k + 1 < blocks) & (k < first + BLOCK - 1) & (i[None, :] < inner)
        tl.store(p_before + o_carry + inner, b_after, mask=following)
        state = last_of_tile(b_after, BLOCK)


@triton.jit
def apply_linear(
    p_gates, p_inputs, outer_gates, step_gates, outer_inputs, step_inputs,
    p_y, p_carry, p_final, p_lengths, T, inner, blocks, tiles,
    REVERSE: tl.constexpr, SHIFTED: tl.constexpr, HAS_LENGTHS: tl.constexpr, WIDE: tl.constexpr,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Run each block from the state before it; the last one also writes the final state."""
    i_outer, i_block, i_tile = place(blocks, tiles)
    count = count_of(p_lengths, i_outer, T, HAS_LENGTHS)
    k = i_block * BLOCK + tl.arange(0, BLOCK)[:, None]
    i = i_tile * COLUMNS + tl.arange(0, COLUMNS)
    columns = i[None, :] < inner
    b_gate, b_value = scan_steps(
        p_gates, p_inputs, outer_gates, step_gates, outer_inputs, step_inputs,
        k, i, i_outer, inner, count, REVERSE, SHIFTED, WIDE,
    )  # fmt: skip
    state = tl.load(p_carry + (i_outer * blocks + i_block) * inner + i, mask=i < inner, other=0.0)
    b_y = b_gate * state[None, :] + b_value
    b_final = b_y
    last = (k == count - 1) & columns
    if SHIFTED:
        o_gate = i_outer * outer_gates + i[None, :]
        o_gate += position(k, count, REVERSE) * step_gates
        b_final = b_y * tl.load(p_gates + o_gate, mask=last, other=1.0).to(WIDE)
    o_final = i_outer * inner + i[None, :] + k * 0
    tl.store(p_final + o_final, b_final, mask=last)
    o_y = (i_outer * T + position(k, count, REVERSE)) * inner + i[None, :]
    tl.store(p_y + o_y, b_y.to(p_y.dtype.element_ty), mask=(k < count) & columns)
