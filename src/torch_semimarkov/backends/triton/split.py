"""The scan of many durations: the history of a tile of positions is summed by several programs.

Two kernels take turns, a tile of TILE positions at a time. ``history_kernel`` sums, for every
position of the tile, over the segments that started before it: a program has the starts of one
earlier tile. ``tile_kernel`` is the scan within the tile: the segments that start in it stay in
registers, and each step adds what the first kernel found. Then it publishes its starts. The order
of the launches is all that keeps the two apart; docs/gpu-kernels.md.

In memory a sequence has, in the type of the scores, RING tiles of starts, a tile's place is its
number mod RING, each relative to the prefix sum at the end of its tile; then two more rows: what
enters the next tile, and how long a segment may be that is open there. In float64 it has the sums
of the scores of each tile.
"""

import triton
import triton.language as tl

from torch_semimarkov.backends.triton.scan import (
    REBASE,
    bias_by_slot,
    enter,
    in_registers,
    keep_row,
    last_total,
    normed,
    place_of_row,
    scores_at,
    with_fresh,
)
from torch_semimarkov.backends.triton.sums import (
    both,
    closed,
    finite,
    first_of_max,
    opened,
    total,
)


@triton.jit
def place_of(first, i_back, TILE: tl.constexpr, RING: tl.constexpr):
    """Which of the RING tiles in memory is the one so many tiles before that of ``first``."""
    return (first // TILE + RING - i_back) % RING


@triton.jit
def earlier_starts(
    p_starts, p_sums, p_rows, i_n, i_c, i_split, first, C, ROWS, TILE: tl.constexpr,
    RING: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Positions (TILE,) of the tile ``i_split + 1`` before ``first``, and its starts (TILE, C).

    They are relative to the prefix sum at ``first``, in float64, and -inf of segments that ended
    before. How long a segment may be that is open at ``first`` says the position before it in
    ``p_rows``, or the last row of ``p_starts`` if there are no rows.
    """
    i_start = first - (i_split + 1) * TILE + tl.arange(0, TILE)
    m_rows = (i_start >= 0)[:, None] & (i_c < C)[None, :]
    p_mine = p_starts + i_n * ((RING * TILE + 2) * C)
    i_row = place_of(first, i_split + 1, TILE, RING) * TILE + tl.arange(0, TILE)
    b_rows = tl.load(p_mine + i_row[:, None] * C + i_c[None, :], mask=m_rows, other=float("-inf"))
    if p_rows is None:
        b_open = tl.load(p_mine + (RING * TILE + 1) * C + i_c, mask=i_c < C, other=0.0)
    else:
        o_open = place_of_row(i_n, first - 1, ROWS, C, False) + 2 * C
        b_open = tl.load(p_rows + o_open + i_c, mask=i_c < C, other=0.0)

    i_back = 1 + tl.arange(0, SPLITS)
    m_near = ((i_back <= i_split) & (i_back * TILE <= first))[:, None] & (i_c < C)[None, :]
    p_near = p_sums + i_n * (RING * C) + place_of(first, i_back, TILE, RING)[:, None] * C
    b_move = tl.sum(tl.load(p_near + i_c[None, :], mask=m_near, other=0.0), axis=0)
    m_alive = (first - i_start)[:, None] <= b_open.to(tl.int32)[None, :]
    return i_start, tl.where(m_alive, b_rows + b_move[None, :], float("-inf"))


@triton.jit(do_not_specialize=["first", "ROWS"])
def history_kernel(
    p_bias,  # (K_PAD, C_PAD), -inf beyond K and C
    p_lengths,  # (B,) int64
    p_starts,  # (B, RING * TILE + 2, C)
    p_sums,  # (B, RING, C) float64
    p_rows,  # (B, ROWS, 3 C + 1) of the scan, or None
    p_parts,  # (1 or 2, B, SPLITS, TILE, C): sums, and best durations if they are wanted
    C,
    first,
    ROWS,
    TILE: tl.constexpr,
    POSITIONS: tl.constexpr,
    RING: tl.constexpr,
    K_PAD: tl.constexpr,
    C_PAD: tl.constexpr,
    IS_MAX: tl.constexpr,
    CHOICES: tl.constexpr,
):
    """Sum over one earlier tile's starts, for some of the positions from ``first`` on."""
    i_n, i_split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if first < tl.load(p_lengths + i_n):
        D = p_parts.dtype.element_ty
        i_c = tl.arange(0, C_PAD)
        i_start, b_rows = earlier_starts(
            p_starts, p_sums, p_rows, i_n, i_c, i_split, first, C, ROWS, TILE, RING, K_PAD // TILE
        )
        b_rows = b_rows.to(D)
        i_first = tl.program_id(2) * POSITIONS
        size = tl.num_programs(0).to(tl.int64) * tl.num_programs(1) * (TILE * C)
        p_out = p_parts + (i_n * tl.num_programs(1) + i_split) * (TILE * C) + i_c
        for i in range(POSITIONS):
            i_age = first + i_first + i - i_start
            m_age = (i_age < K_PAD)[:, None] & (i_c >= 0)[None, :]
            o_bias = i_age[:, None] * C_PAD + i_c[None, :]
            b_ways = b_rows + tl.load(p_bias + o_bias, mask=m_age, other=float("-inf"))
            p_sum = p_out + (i_first + i) * C
            if CHOICES:
                i_duration = i_age[:, None] + 1
                b_sum, b_best = first_of_max(b_ways, i_duration, K_PAD + TILE, 0)
                tl.store(p_sum + size, b_best.to(D), mask=i_c < C)
            else:
                b_sum = total(b_ways, 0, IS_MAX)
            tl.store(p_sum, b_sum, mask=i_c < C)


@triton.jit
def with_history(
    b_inner, b_duration, b_past, p_parts, o_part, m_part, size, IS_MAX: tl.constexpr,
    CHOICES: tl.constexpr,
):  # fmt: skip
    """What ends here, with the segments from before the tile; the shortest of the best if wanted.

    Those that started in the tile are shorter, and among the parts the first has the shortest.
    """
    b_parts = tl.load(p_parts + o_part, mask=m_part, other=float("-inf"))
    if CHOICES:
        b_ends = tl.load(p_parts + size + o_part, mask=m_part, other=0.0).to(tl.int32)
        b_found = tl.max(b_parts, axis=1)
        m_best = m_part & (b_parts == b_found[:, None, :])
        b_ends = tl.min(tl.where(m_best, b_ends, 1 << 30), axis=1)
    else:
        b_found = total(b_parts, 1, IS_MAX)
    b_found = (b_found + b_past).to(b_inner.dtype)
    if CHOICES:
        b_duration = tl.where(b_found > b_inner, b_ends, b_duration)
    return both(b_inner, b_found, IS_MAX), b_duration


@triton.jit(do_not_specialize=["T", "first", "ROWS"])
def tile_kernel(
    p_scores,  # (B, T, C)
    p_start_scores,  # (B, T, C) or None
    p_end_scores,  # (B, T, C) or None
    p_tables,  # duration bias (TILE, C_PAD), transition (C, C), start (C), end (C)
    p_lengths,  # (B,) int64
    p_value,  # (B,) float64; the norm, until the last tile
    p_rows,  # (B, ROWS, 3 C + 1) or None
    p_starts,  # (B, K_PAD + 2, C), K_PAD / TILE tiles and two rows
    p_sums,  # (B, K_PAD / TILE, C) float64
    p_parts,  # (1 or 2, B, splits, TILE, C), of history_kernel
    p_best,  # (B, T, 2 C) int32 or None: best duration, best source
    T,
    K,
    C,
    first,
    ROWS,
    TILE: tl.constexpr,
    K_PAD: tl.constexpr,
    C_PAD: tl.constexpr,
    IS_MAX: tl.constexpr,
):
    """Scan the TILE positions from ``first`` on of one sequence."""
    D = p_scores.dtype.element_ty
    CHOICES: tl.constexpr = p_best is not None
    i_n = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    i_c, i_slot = tl.arange(0, C_PAD), tl.arange(0, TILE)
    b_length = tl.load(p_lengths + i_n)
    b_zero = tl.zeros_like(b_length)
    m_c = (i_c < C)[None, :] & (i_n >= 0)[:, None]
    p_transition = p_tables + TILE * C_PAD
    p_start, p_end = p_transition + C * C, p_transition + C * C + C
    b_transition = in_registers(p_transition, C, C_PAD)

    b_entering = tl.load(p_start + i_c[None, :], mask=m_c, other=float("-inf"))
    b_norm = finite(tl.max(b_entering, axis=1)).to(tl.float64)
    b_entering = (b_entering - b_norm[:, None]).to(D)
    # what the tiles before left
    m_n = (b_zero + first > 0) & (b_length > first)
    m_before = m_c & m_n[:, None]
    p_labels = p_starts + (i_n * ((K_PAD + 2) * C) + K_PAD * C)[:, None] + i_c[None, :]
    b_entering = tl.where(m_before, tl.load(p_labels, mask=m_before, other=0.0), b_entering)
    b_open = tl.load(p_labels + C, mask=m_before, other=0.0).to(tl.int32)
    b_norm = tl.where(m_n, tl.load(p_value + i_n, mask=m_n, other=0.0), b_norm)

    b_ring = tl.full((1, TILE, C_PAD), float("-inf"), D)
    b_last = tl.full((1, C_PAD), float("-inf"), D)
    b_sum = tl.zeros((1, C_PAD), tl.float64)
    b_past = tl.zeros((1, C_PAD), tl.float64)
    SPLITS: tl.constexpr = K_PAD // TILE
    splits = (K - 2 + TILE) // TILE
    i_split = tl.arange(0, SPLITS)
    o_parts = (i_n * splits)[:, None] + i_split[None, :]
    size = tl.num_programs(0).to(tl.int64) * splits * (TILE * C)

    zero = tl.full((), 0, tl.int32)
    for i in range(first, tl.minimum(first + TILE, tl.max(b_length, axis=0).to(tl.int32))):
        t = zero + i  # the interpreter counts in Python's ints
        m_t = m_c & (t < b_length)[:, None]
        o_t = ((i_n * T + t) * C)[:, None] + i_c[None, :]
        b_scores, b_start_scores, b_end_scores = scores_at(
            p_scores, p_start_scores, p_end_scores, o_t, m_t
        )
        m_dead = b_scores == float("-inf")
        b_open = tl.where(m_dead, 0, tl.minimum(b_open + 1, K))
        b_fresh = opened(b_entering, b_start_scores, b_sum).to(D)
        b_ring = with_fresh(b_ring, b_fresh, m_dead, t, TILE)
        i_duration, b_bias = bias_by_slot(p_tables, t, TILE, C_PAD)
        if CHOICES:
            b_inner, b_duration = first_of_max(b_ring + b_bias, i_duration, TILE, 1)
        else:
            b_inner, b_duration = total(b_ring + b_bias, 1, IS_MAX), b_open
        # a label without a score since the tile began has no history
        m_part = (m_before & (b_open > t - first))[:, None, :] & (i_split < splits)[None, :, None]
        o_part = ((o_parts * TILE + (t - first)) * C)[:, :, None] + i_c[None, None, :]
        b_inner, b_duration = with_history(
            b_inner, b_duration, b_past, p_parts, o_part, m_part, size, IS_MAX, CHOICES
        )
        if CHOICES:
            p_row = p_best + ((i_n * T + t) * (2 * C))[:, None] + i_c[None, :]
            tl.store(p_row, b_duration, mask=m_t)

        b_sum += finite(b_scores)
        b_wide = closed(b_inner, b_end_scores, b_sum)
        b_alpha, b_top, b_norm, b_sum = normed(b_wide, b_norm, b_sum, b_scores)
        b_last = tl.where((t == b_length - 1)[:, None], b_alpha, b_last)
        o_row = place_of_row(i_n, t, ROWS, C, False)
        keep_row(p_rows, o_row, b_alpha, b_entering, b_open, b_top, m_t, t < b_length, C, C_PAD)
        b_entering, b_source = enter(b_alpha, b_transition, p_transition, C, C_PAD, IS_MAX, CHOICES)
        if CHOICES:
            p_row = p_best + ((i_n * T + t) * (2 * C) + 3 * C)[:, None] + i_c[None, :]
            tl.store(p_row, b_source, mask=m_t & (t + 1 < b_length)[:, None])
        if t % REBASE == REBASE - 1:
            b_step = b_sum.to(D)
            b_ring += b_step[:, None, :]
            b_past += b_step
            b_sum = tl.zeros((1, C_PAD), tl.float64)

    # lanes that lag behind still load what others would already have stored
    tl.debug_barrier()
    m_after = m_c & (first + TILE < b_length)[:, None]
    o_ring = (place_of(first, 0, TILE, SPLITS) * TILE + i_slot)[None, :, None] * C - K_PAD * C
    tl.store(p_labels[:, None, :] + o_ring, b_ring, mask=m_after[:, None, :] & (o_ring < 0))
    tl.store(p_labels, b_entering, mask=m_after)
    tl.store(p_labels + C, b_open.to(D), mask=m_after)
    o_sum = (i_n * SPLITS + place_of(first, 0, TILE, SPLITS)) * C
    tl.store(p_sums + o_sum[:, None] + i_c[None, :], b_past, mask=m_after)
    b_total, b_label = last_total(p_end, b_last, C, C_PAD, IS_MAX)
    if CHOICES:
        tl.store(p_best + i_n * T * (2 * C) + C, b_label, mask=first < b_length)
    b_value = tl.where(first + TILE < b_length, b_norm, b_norm + b_total)
    tl.store(p_value + i_n, b_value, mask=first < b_length)
