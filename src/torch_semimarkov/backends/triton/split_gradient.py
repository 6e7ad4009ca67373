"""The combining pass of many durations: what ended in a tile of positions goes to several programs.

Three kernels take turns, from right to left, a tile of TILE positions at a time: ``history_kernel``
of the scan sums over the starts before the tile; ``tile_gradient_kernel`` shares out, position by
position, what ends there: to the starts in the tile, and to all earlier ones together; and
``starts_kernel`` shares that out among them, a program for one earlier tile of starts and some
labels. Each share is divided by the sum of its own weights, as in ``gradient``.

In memory a sequence has, in float64, RING tiles of starts as in ``split``, each relative to the
prefix sum at the end of its tile, and the sums of the scores of each tile. In the type of the
scores: the mass of the open segments of each of those starts; the sums of that over each tile;
for every position of a tile what its history sums to and its mass; and the scale of the tile. RING
is one tile more than the history has: the tile itself.
"""

import triton
import triton.language as tl

from torch_semimarkov.backends.triton.gradient import flow, flow_in_parts, shares, store_if_wanted
from torch_semimarkov.backends.triton.scan import REBASE, WHOLE, in_registers, place_of_row
from torch_semimarkov.backends.triton.split import earlier_starts, place_of
from torch_semimarkov.backends.triton.sums import finite, load_or_zero, log_sum_exp, opened


@triton.jit
def open_tile(
    p_scores, p_start_scores, p_rows, i_n, i_c, i_from, length, T, C, ROWS, TILE: tl.constexpr
):
    """Starts (TILE, labels) of a tile relative to the prefix sum at its end, and the tile's sum."""
    i_s = i_from + tl.arange(0, TILE)
    m_there = (i_s >= 0) & (i_s < length)
    m_s = m_there[:, None] & (i_c < C)[None, :]
    o_s = ((i_n * T + i_s) * C)[:, None] + i_c[None, :]
    o_row = place_of_row(i_n, tl.maximum(i_s, 0), ROWS, C, False)
    b_scores = tl.load(p_scores + o_s, mask=m_s, other=0.0)
    b_top = tl.load(p_rows + o_row + 3 * C, mask=m_there, other=0.0)
    p_entering = p_rows + o_row[:, None] + C + i_c[None, :]
    b_entering = tl.load(p_entering, mask=m_s, other=float("-inf"))
    b_start_scores = load_or_zero(p_start_scores, o_s, m_s, p_start_scores is not None, b_scores)
    b_step = finite(b_scores).to(tl.float64) - b_top[:, None]
    b_lead = tl.cumsum(b_step, axis=0, reverse=True)
    return opened(b_entering, b_start_scores, -b_lead), tl.sum(b_step, axis=0)


@triton.jit(do_not_specialize=["T", "first", "ROWS"])
def starts_kernel(
    p_scores,  # (B, T, C)
    p_start_scores,  # (B, T, C) or None
    p_bias,  # (K_PAD, C_PAD), -inf beyond K and C
    p_lengths,  # (B,) int64
    p_rows,  # (B, ROWS, 3 C + 1), of the scan
    p_starts,  # (B, RING * TILE + 2, C) float64
    p_sums,  # (B, RING, C) float64
    p_state,  # (B, RING * TILE + RING + 2 TILE + 1, C)
    p_work,  # (B, 2 RING TILE C_PAD + C C + 2 C + 1) float64: see tile_gradient_kernel
    T,
    C,
    first,
    ROWS,
    TILE: tl.constexpr,
    LABELS: tl.constexpr,
    K_PAD: tl.constexpr,
    C_PAD: tl.constexpr,
):
    """Add to one tile of starts what ended in the tile from ``first`` on; or open that tile.

    All are opened where the sequence's last tile comes next, else the one that comes into reach.
    """
    RING: tl.constexpr = K_PAD // TILE + 1
    i_n, i_split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i_c = tl.program_id(2) * LABELS + tl.arange(0, LABELS)
    length = tl.load(p_lengths + i_n)
    splits = tl.num_programs(1) - 1
    i_from = first - (i_split + 1) * TILE
    i_row = place_of(first, i_split + 1, TILE, RING) * TILE + tl.arange(0, TILE)
    o_rows = i_row[:, None] * C + i_c[None, :]
    m_rows = (i_from + tl.arange(0, TILE) >= 0)[:, None] & (i_c < C)[None, :]
    p_mine = p_state + i_n * ((RING * TILE + RING + 2 * TILE + 1) * C)
    p_mass = p_mine + (RING * TILE + i_split) * C + i_c
    p_found = p_mine + (RING * TILE + RING) * C + i_c
    if (first < length) & (i_split < splits):
        D = p_scores.dtype.element_ty
        _, b_rows = earlier_starts(
            p_starts, p_sums, p_rows, i_n, i_c, i_split, first, C, ROWS, TILE, RING, K_PAD // TILE
        )
        b_rows = b_rows.to(D)
        size = 2 * RING * TILE * C_PAD
        p_counts = p_work + i_n * (size + C * C + 2 * C + 1)
        weight = tl.load(p_counts + size + C * C + 2 * C)
        p_counts += (i_split + 1) * (2 * TILE * C_PAD)
        b_mass = tl.load(p_mine + o_rows, mask=m_rows, other=0.0)
        for i in range(0, tl.minimum(length - first, TILE).to(tl.int32)):
            i_age = i + TILE - tl.arange(0, TILE)
            i_duration = i_age + i_split * TILE
            m_age = (i_duration < K_PAD)[:, None] & (i_c < C_PAD)[None, :]
            o_bias = i_duration[:, None] * C_PAD + i_c[None, :]
            b_ways = b_rows + tl.load(p_bias + o_bias, mask=m_age, other=float("-inf"))
            b_all = tl.load(p_found + 2 * i * C, mask=i_c < C, other=0.0)
            b_ends = tl.load(p_found + (2 * i + 1) * C, mask=i_c < C, other=0.0)
            b_joint = tl.exp(b_ways - finite(b_all)[None, :]) * b_ends[None, :]
            # where no segment is that began before the tile, the exponential may be infinite
            b_joint = tl.where((b_ends > 0.0)[None, :], b_joint, 0.0)
            b_mass += b_joint
            p_count = p_counts + i_age[:, None] * C_PAD + i_c[None, :]
            tl.store(p_count, tl.load(p_count, mask=m_age) + b_joint * weight, mask=m_age)
            # other lanes add to the same durations in the next step
            tl.debug_barrier()
        b_mass *= tl.load(p_found + 2 * TILE * C, mask=i_c < C, other=0.0)[None, :]
        tl.store(p_mine + o_rows, b_mass, mask=m_rows)
        tl.store(p_mass, tl.sum(b_mass, axis=0), mask=i_c < C)
    elif (first - TILE < length) & ((length <= first) | (i_split == splits)):
        b_rows, b_sum = open_tile(
            p_scores, p_start_scores, p_rows, i_n, i_c, i_from, length, T, C, ROWS, TILE
        )
        tl.store(p_starts + i_n * ((RING * TILE + 2) * C) + o_rows, b_rows, mask=m_rows)
        tl.store(p_mine + o_rows, tl.zeros((TILE, LABELS), p_state.dtype.element_ty), mask=m_rows)
        tl.store(p_mass, tl.zeros((LABELS,), p_state.dtype.element_ty), mask=i_c < C)
        p_sum = p_sums + (i_n * RING + place_of(first, i_split + 1, TILE, RING)) * C
        tl.store(p_sum + i_c, b_sum, mask=(i_c < C) & (i_c + i_from >= i_c))


@triton.jit
def all_and_shares(b_logs, b_past, b_ends):
    """What ends here, shared out: to the starts in the tile, and to those before it together."""
    b_top = finite(tl.maximum(tl.max(b_logs, axis=1), b_past))
    b_ways, b_before = tl.exp(b_logs - b_top[:, None, :]), tl.exp(b_past - b_top)
    b_total = tl.sum(b_ways, axis=1) + b_before
    b_each = b_ends / tl.where(b_total == 0.0, 1.0, b_total)
    return b_ways * b_each[:, None, :], b_before * b_each


@triton.jit(do_not_specialize=["T", "first", "ROWS"])
def tile_gradient_kernel(
    p_scores,  # (B, T, C)
    p_tables,  # duration bias (TILE, C_PAD), transition (C, C), start (C), end (C)
    p_lengths,  # (B,) int64
    p_rows,  # (B, ROWS, 3 C + 1), of the scan
    p_starts,  # (B, RING * TILE + 2, C) float64
    p_sums,  # (B, RING, C) float64
    p_parts,  # (1, B, splits, TILE, C), of history_kernel
    p_state,  # (B, RING * TILE + RING + 2 TILE + 1, C)
    p_work,  # (B, 2 RING TILE C_PAD + C C + 2 C + 1) float64: counts of durations (RING, 2 TILE,
    # C_PAD), transition (C, C), start (C), end (C), weight
    p_grad_scores,  # (B, T, C)
    p_grad_starts,  # (B, T, C) or None
    p_grad_ends,  # (B, T, C) or None
    T,
    K,
    C,
    first,
    ROWS,
    TILE: tl.constexpr,
    K_PAD: tl.constexpr,
    C_PAD: tl.constexpr,
):
    """Go through the TILE positions from ``first`` on, the last one first, of one sequence."""
    i_n = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    length = tl.load(p_lengths + tl.program_id(0)).to(tl.int32)
    if first < length:
        D = p_scores.dtype.element_ty
        RING: tl.constexpr = K_PAD // TILE + 1
        SPLITS: tl.constexpr = K_PAD // TILE
        i_c, i_slot = tl.arange(0, C_PAD), tl.arange(0, TILE)
        b_zero = tl.zeros_like(i_n)
        m_c = (i_c < C)[None, :] & (i_n >= 0)[:, None]
        m_tile = m_c[:, None, :] & (i_slot >= 0)[None, :, None]
        p_transition = p_tables + TILE * C_PAD
        b_transition = in_registers(p_transition, C, C_PAD)
        b_moves = tl.zeros((1, C_PAD, C_PAD) if C_PAD <= WHOLE else (1, 1, 1), D)
        p_end = p_transition + C * C + C + i_c[None, :]

        o_work = i_n * (2 * RING * TILE * C_PAD + C * C + 2 * C + 1)
        p_moves = p_work + o_work + 2 * RING * TILE * C_PAD
        p_labels = p_moves[:, None] + C * C + i_c[None, :]
        b_weight = tl.load(p_moves + C * C + 2 * C)
        place = place_of(first, 0, TILE, RING)
        o_tile = (place * TILE + i_slot)[None, :, None] * C + i_c[None, None, :]
        p_tile = p_starts + (i_n * ((RING * TILE + 2) * C))[:, None, None] + o_tile
        p_carry = p_starts + (i_n * ((RING * TILE + 2) * C) + RING * TILE * C)[:, None] + i_c
        p_mine = p_state + i_n * ((RING * TILE + RING + 2 * TILE + 1) * C)
        p_found = p_mine[:, None] + (RING * TILE + RING) * C + i_c[None, :]
        splits = (K - 2 + TILE) // TILE
        i_split = tl.arange(0, SPLITS)[None, :, None]
        m_before = i_split + first > i_split
        o_parts = i_n[:, None, None] * splits + i_split

        # the mass of what is open at the end of the tile: before the tile all of it, in it by start
        p_mass = p_mine[:, None, None] + (RING * TILE + 1 + i_split) * C + i_c[None, None, :]
        m_mass = m_c[:, None, :] & (i_split < splits)
        b_earlier = tl.sum(tl.load(p_mass, mask=m_mass, other=0.0), axis=1)
        b_pending = tl.load(p_mine[:, None, None] + o_tile, mask=m_tile, other=0.0)
        b_starts64 = tl.load(p_tile, mask=m_tile, other=float("-inf"))
        b_ring = b_starts64.to(D)
        b_past = tl.load(p_sums + (i_n[:, None] * RING + place) * C + i_c, mask=m_c, other=0.0)
        b_lag = tl.zeros((1, C_PAD), tl.float64)

        hi = tl.minimum(first + TILE, length)
        o_last = place_of_row(i_n, hi - 1, ROWS, C, False)
        p_last = p_rows + o_last[:, None] + i_c[None, :]
        b_last = tl.load(p_last, mask=m_c, other=float("-inf"))
        b_last += tl.load(p_end, mask=m_c, other=float("-inf"))
        b_last = shares(b_last, 1)
        m_last = (b_zero + length <= first + TILE)[:, None]
        tl.store(p_labels + C, b_last * b_weight[:, None], mask=m_c & m_last)
        m_later = m_c & (b_zero + length > first + TILE)[:, None]
        b_ends = tl.where(m_last, b_last, tl.load(p_carry, mask=m_later, other=0.0).to(D))

        for i in range(0, hi - first):
            t = hi - 1 - i
            o_row = place_of_row(i_n, t, ROWS, C, False)
            p_row = p_rows + o_row[:, None] + i_c[None, :]
            b_entering = tl.load(p_row + C, mask=m_c, other=float("-inf"))
            b_open = tl.load(p_row + 2 * C, mask=m_c, other=0.0).to(tl.int32)
            i_age = (t - first - i_slot)[None, :, None]
            m_age = (i_age >= 0) & m_c[:, None, :]
            o_bias = i_age * C_PAD + i_c[None, None, :]
            b_logs = b_ring + tl.load(p_tables + o_bias, mask=m_age, other=float("-inf"))
            b_logs = tl.where(i_age < b_open[:, None, :], b_logs, float("-inf"))
            m_part = (m_c & (b_open > t - first))[:, None, :] & (i_split < splits)
            o_part = (o_parts * TILE + (t - first)) * C + i_c[None, None, :]
            b_parts = tl.load(p_parts + o_part, mask=m_part & m_before, other=float("-inf"))
            b_found = log_sum_exp(b_parts, 1)
            b_joint, b_before = all_and_shares(b_logs, (b_found + b_past).to(D), b_ends)
            p_share = p_found + (2 * (t - first)) * C
            tl.store(p_share, b_found, mask=m_c)
            tl.store(p_share + C, b_before, mask=m_c)
            b_pending += b_joint
            b_earlier += b_before
            p_count = p_work + o_work[:, None, None] + TILE * C_PAD + o_bias
            b_add = b_joint * b_weight[:, None, None]
            tl.store(p_count, tl.load(p_count, mask=m_age) + b_add, mask=m_age)
            # other lanes add to the same durations in the next step
            tl.debug_barrier()

            b_labels = tl.sum(b_pending, axis=1) + b_earlier
            if t == first:
                # what is open here is all there is: rounding that adds up ends here
                b_mass = tl.sum(b_labels, axis=1)
                b_scale = (1.0 / tl.where(b_mass == 0.0, 1.0, b_mass))[:, None]
                b_labels *= b_scale
                b_pending *= b_scale[:, None, :]
                b_scale = b_scale + tl.zeros_like(b_labels)
                tl.store(p_found + 2 * TILE * C, b_scale, mask=m_c)
            b_starts = tl.sum(tl.where(i_age == 0, b_pending, 0.0), axis=1)
            b_pending = tl.where(i_age == 0, 0.0, b_pending)
            o_t = ((i_n * T + t) * C)[:, None] + i_c[None, :]
            tl.store(p_grad_scores + o_t, b_labels * b_weight[:, None], mask=m_c)
            store_if_wanted(p_grad_starts, o_t, b_starts * b_weight[:, None], m_c)
            store_if_wanted(p_grad_ends, o_t, b_ends * b_weight[:, None], m_c)

            o_before = place_of_row(i_n, tl.maximum(t - 1, 0), ROWS, C, False)
            p_before = p_rows + o_before[:, None] + i_c[None, :]
            b_alpha = tl.load(p_before, mask=m_c & (b_zero + t > 0)[:, None], other=float("-inf"))
            if C_PAD > WHOLE:
                b_ends = flow_in_parts(
                    b_alpha, b_entering, b_starts, b_weight, p_transition, p_moves, C, C_PAD
                )
            else:
                b_flow = flow(b_alpha, b_entering, b_starts, b_transition)
                b_ends = tl.sum(b_flow, axis=2)
                b_moves += b_flow
            if t == 0:
                tl.store(p_labels, b_starts * b_weight[:, None], mask=m_c)

            # starts stay relative to where segments end, since there the weighty ones are near 0
            b_scores = tl.load(p_scores + o_t, mask=m_c, other=0.0)
            b_top = tl.load(p_rows + o_row + 3 * C)
            b_lag += finite(b_scores).to(tl.float64) - b_top[:, None]
            if t % REBASE == 0:
                b_starts64 -= b_lag[:, None, :]
                b_ring = b_starts64.to(D)
                b_past -= b_lag
                b_lag = tl.zeros((1, C_PAD), tl.float64)

        tl.store(p_carry, b_ends.to(tl.float64), mask=m_c)
        if C_PAD <= WHOLE:
            o_pair = i_c[:, None] * C + i_c[None, :]
            m_pair = ((i_c < C)[:, None] & (i_c < C)[None, :])[None, :, :] & m_c[:, :, None]
            p_pair = p_moves[:, None, None] + o_pair[None, :, :]
            b_add = b_moves * b_weight[:, None, None]
            tl.store(p_pair, tl.load(p_pair, mask=m_pair, other=0.0) + b_add, mask=m_pair)
