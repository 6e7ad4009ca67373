"""Parts of the scan kernels: the ops, scans of a tile, and which tile a program has.

Triton reverses a scan unreliably, so a program reads its positions in the order of the scan. No
kernel sums and scans with 8 warps, which crashed on sm_90 (fla 734).
"""

from __future__ import annotations

import triton
import triton.language as tl

# The ops as kernels know them.
OPS = {"add": 0, "mul": 1, "max": 2, "min": 3, "logaddexp": 4}


@triton.jit
def add(a, b):
    return a + b


@triton.jit
def mul(a, b):
    return a * b


@triton.jit
def larger(a, b):
    """Of equal values the later; NaN is never lost."""
    return tl.where((b >= a) | (b != b), b, a)


@triton.jit
def smaller(a, b):
    """Of equal values the later; NaN is never lost."""
    return tl.where((b <= a) | (b != b), b, a)


@triton.jit
def logaddexp(a, b):
    """log(exp(a) + exp(b)); infinite where both are the same infinity, NaN where one is."""
    top = tl.where(a > b, a, b)
    low = tl.where(a > b, b, a)
    # The difference of two equal infinities would be NaN.
    endless = (low == top) & (tl.abs(top) == float("inf"))
    base = tl.where(endless, 0.0, top)
    found = base + tl.log(1.0 + tl.exp(tl.where(endless, 0.0, low) - base))
    found = tl.where(endless, top, found)
    return tl.where((a != a) | (b != b), a + b, found)


@triton.jit
def then(gate, value, next_gate, next_value):
    """Two steps of a linear recurrence as one."""
    return gate * next_gate, next_gate * value + next_value


@triton.jit
def combine(a, b, OP: tl.constexpr):
    """What is known of earlier positions, and of later ones."""
    if OP == 0:
        return add(a, b)
    elif OP == 1:
        return mul(a, b)
    elif OP == 2:
        return larger(a, b)
    elif OP == 3:
        return smaller(a, b)
    else:
        return logaddexp(a, b)


@triton.jit
def scan_of_tile(x, OP: tl.constexpr):
    """The scan of a tile (positions, columns) along its positions."""
    if OP == 0:
        return tl.associative_scan(x, 0, add)
    elif OP == 1:
        return tl.associative_scan(x, 0, mul)
    elif OP == 2:
        return tl.associative_scan(x, 0, larger)
    elif OP == 3:
        return tl.associative_scan(x, 0, smaller)
    else:
        return tl.associative_scan(x, 0, logaddexp)


@triton.jit
def total_of_tile(x, OP: tl.constexpr):
    """The combination of all positions of a tile."""
    if OP == 0:
        return tl.reduce(x, 0, add)
    elif OP == 1:
        return tl.reduce(x, 0, mul)
    elif OP == 2:
        return tl.reduce(x, 0, larger)
    elif OP == 3:
        return tl.reduce(x, 0, smaller)
    else:
        return tl.reduce(x, 0, logaddexp)


@triton.jit
def last_of_tile(x, SIZE: tl.constexpr):
    """The last position of a tile; the others do not matter, whatever they hold."""
    row = tl.arange(0, SIZE)[:, None]
    return tl.sum(tl.where(row == SIZE - 1, x, tl.zeros_like(x)), 0)


@triton.jit
def place(blocks, tiles):
    """Outer index, block of positions, and tile of columns of this program, in 64 bits."""
    i_program = tl.program_id(0).to(tl.int64)
    i_tile = i_program % tiles
    i_rest = i_program // tiles
    return i_rest // blocks, i_rest % blocks, i_tile


@triton.jit
def count_of(p_lengths, i_outer, T, HAS_LENGTHS: tl.constexpr):
    """How many positions the scan of an outer index has."""
    if HAS_LENGTHS:
        return tl.load(p_lengths + i_outer).to(tl.int64)
    else:
        return i_outer * 0 + T


@triton.jit
def position(k, count, REVERSE: tl.constexpr):
    """Where the k-th step of a scan lies."""
    if REVERSE:
        return count - 1 - k
    else:
        return k
