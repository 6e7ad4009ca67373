"""Expected counts for (K, C, C) transitions: sums of shares over sequences and positions.

Once the masses are known, the order of the positions does not matter. A program sums over one part
of the blocks of positions, always in the same order, for one duration and a tile of sources.
"""

import triton
import triton.language as tl

from torch_semimarkov.backends.triton.per_duration_parts import (
    NEGATIVE,
    mass_to_share,
    segment_end,
    segment_score,
    sequence_rows,
    wide,
)
from torch_semimarkov.backends.triton.per_duration_pull import opening_segments

# Positions that are summed in the lanes' type before they join a sum in float64.
BLOCK = tl.constexpr(64)


@triton.jit
def shares_of_block(
    rows, flow, p_starts, p_ends, p_bias, here, low, high, d, source, table, C,
    BD: tl.constexpr, BS: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Sums of the shares of segments of d + 1 positions that start at ``low <= s < high``."""
    c = tl.arange(0, BC)[None, :]
    shares = tl.zeros((BD, BS, BC), table.dtype)
    for at in range(low, high, BD):
        s = wide(at) + tl.arange(0, BD)[:, None]
        t, mask = s + 1 + d, (s < high) & (c < C)
        end = segment_end(rows, flow, p_ends, here, t, d, c, mask, C)
        rest = segment_score(end, rows, p_starts, p_bias, here, s, wide(d), c, mask, C)
        mass = mass_to_share(flow, t, c, mask, C)
        m_s = (s < high) & (source < C)[None, :]
        alpha = tl.load(rows + 2 * s * C + source[None, :], mask=m_s, other=NEGATIVE)
        score = alpha.to(table.dtype)[:, :, None] + table[None, :, :] + rest[:, None, :]
        shares += tl.exp(score) * mass[:, None, :]
    return tl.sum(shares, axis=0)


@triton.jit(do_not_specialize=["first", "stop", "before", "W", "B", "T", "K"])
def count_pairs(
    p_starts, p_ends, p_transition, p_bias, p_lengths, p_rows, p_flow, p_counts,
    first, stop, before, W, B, T, K, C, BD: tl.constexpr, BS: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Add the expected segments of one duration that start from ``first + 1`` to ``stop``.

    p_counts: (parts, K, C, C) float64. Item i of all (block, sequence) belongs to part i % parts.
    """
    tiles, parts, part = tl.cdiv(C, BS), tl.num_programs(1), tl.program_id(1)
    d = tl.program_id(0) // tiles
    source, c = tl.program_id(0) % tiles * BS + tl.arange(0, BS), tl.arange(0, BC)
    m = (source < C)[:, None] & (c < C)[None, :]
    pair = wide(d) * C * C + source[:, None] * C + c[None, :]
    table = tl.load(p_transition + pair, mask=m, other=NEGATIVE)
    place = p_counts + (wide(part) * K) * C * C + pair
    counts = tl.load(place, mask=m, other=0.0)
    lowest, items = wide(first // BLOCK) * B, wide(tl.cdiv(stop, BLOCK)) * B
    highest = items - 1 - (items - 1 + parts - part) % parts
    for i in range(0, tl.cdiv(tl.maximum(highest - lowest + 1, 0), parts)):
        item = highest - wide(i) * parts
        b, block = item % B, (item // B).to(tl.int32)
        L = tl.load(p_lengths + b).to(tl.int32)
        rows = sequence_rows(p_rows, b, first, before, W, C, 2)
        flow = sequence_rows(p_flow, b, first, before, W, C, 4)
        low = block * BLOCK + 1
        high = tl.minimum(tl.minimum(low + BLOCK, stop + 1), L - d)
        found = shares_of_block(
            rows, flow, p_starts, p_ends, p_bias, b * T * C, low, high, d, source, table, C,
            BD, BS, BC,
        )  # fmt: skip
        counts += found.to(tl.float64)
    # no thread may find the new value where the old one lay
    tl.debug_barrier()
    tl.store(place, counts, mask=m)


@triton.jit(do_not_specialize=["before", "W", "B", "T", "K"])
def count_first(
    p_starts, p_ends, p_bias, p_edges, p_lengths, p_rows, p_flow, p_counts,
    before, W, B, T, K, C, BD: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Expected first segments of a tile of durations, (K, C) float64."""
    first_d, c = tl.program_id(0) * BD, tl.arange(0, BC)[None, :]
    d = first_d + tl.arange(0, BD)[:, None]
    start = tl.load(p_edges + c, mask=c < C, other=NEGATIVE)
    counts = tl.zeros((BD, BC), tl.float64)
    for i in range(0, B):
        b = wide(i)
        rows = sequence_rows(p_rows, b, 0, before, W, C, 2)
        flow = sequence_rows(p_flow, b, 0, before, W, C, 4)
        L = tl.load(p_lengths + b)
        rest, mass = opening_segments(
            rows, flow, p_starts, p_ends, p_bias, b * T * C, 0, L, first_d, K, C, BD, BC
        )
        counts += (tl.exp(start + rest) * mass).to(tl.float64)
    tl.store(p_counts + d * C + c, counts, mask=(d < K) & (c < C))
