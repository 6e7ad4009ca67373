"""Gradients of a log partition and its slope: each position by itself, from messages of both sides.

Of each posterior expectation there are two: P itself, and its derivative in the direction, which is
P times what the slopes of its parts add up to, less the slope of log Z. Weighed with the upstream
gradients w of log Z and v of the slope, v P is the gradient in the direction and w P + v P' that in
the terms. Each kernel adds both up, the terms first.

The order of the positions does not matter: a program has blocks of them, always the same ones in
the same order, and sums of its own, which are added up in one order. Only ``tangent_labels_kernel``
has to go along the sequence, and that with one sum a block.
"""

import triton
import triton.language as tl

from torch_semimarkov.backends.triton.per_duration_parts import NEGATIVE, wide


@triton.jit
def scale_at(p_left, p_right, p_result, b, t, L, ROWS, C):
    """Messages at boundary t, 1 <= t <= L, to log probabilities: what to add, and to slopes."""
    p_before = p_left + (b * ROWS + t - 1) * (4 * C + 2) + 4 * C
    p_after = p_right + (b * ROWS + t) * (4 * C + 2) + 4 * C
    total, norm = tl.load(p_result + 4 * b), tl.load(p_result + 4 * b + 1)
    mean, drift = tl.load(p_result + 4 * b + 2), tl.load(p_result + 4 * b + 3)
    add = tl.load(p_before) + tl.load(p_after, mask=t < L, other=0.0) - norm - total
    shift = tl.load(p_before + 1) + tl.load(p_after + 1, mask=t < L, other=0.0) - drift - mean
    possible = total > NEGATIVE
    return tl.where(possible, add, NEGATIVE), tl.where(possible, shift, 0.0)


@triton.jit
def weights_of(p_weights, b, B):
    """Upstream gradients of the log partition and of its slope."""
    return tl.load(p_weights + b), tl.load(p_weights + B + b)


@triton.jit
def block_sums(p_sums, b, block, count, BLOCKS, C, BC: tl.constexpr):
    """Scores in a whole block, and their direction; zeros after the last of the sequence."""
    i_c = tl.arange(0, BC)
    m_c = (i_c < C) & (i_c * 0 + block < count)
    p_sum = p_sums + (b * BLOCKS + block) * 2 * C + i_c
    return tl.load(p_sum, mask=m_c, other=0.0), tl.load(p_sum + C, mask=m_c, other=0.0)


@triton.jit
def add_to(p_x, b_x, m_x):
    """Add to numbers in memory that no other lane adds to."""
    tl.store(p_x, tl.load(p_x, mask=m_x, other=0.0) + b_x, mask=m_x)


@triton.jit(do_not_specialize=["B", "T", "K", "BLOCKS"])
def tangent_durations_kernel(
    p_tables,  # transition (C, C), bias (K, C), start and end (C,), and their directions
    p_lengths,  # (B,) int64
    p_left,  # (B, BLOCKS * BD, 4 C + 2), of the scan from the left
    p_right,  # the same from the right
    p_sums,  # (B, BLOCKS, 2, C), of the scan from the left
    p_open,  # (B, T, C) int32: how long a segment may be that starts here
    p_result,  # (B, 4)
    p_weights,  # (2, B)
    p_starts,  # (2, B, T, C): masses of starts, to fill
    p_counts,  # (parts, 2, K, C): to add to
    B,
    T,
    K,
    C,
    BLOCKS,
    BD: tl.constexpr,
    SUB: tl.constexpr,
    BC: tl.constexpr,
):
    """Starts at some positions, SUB at a time, and counts of their durations."""
    i_c, parts = tl.arange(0, BC), tl.num_programs(0)
    p_bias, size = p_tables + C * C, C * C + K * C + 2 * C
    p_counts += wide(tl.program_id(0)) * 2 * K * C
    each = wide(BLOCKS) * (BD // SUB)
    for i in range(0, tl.cdiv(B * each - tl.program_id(0), parts)):
        item = wide(i) * parts + tl.program_id(0)
        b, first = item // each, item % each * SUB
        L = tl.load(p_lengths + b)
        i_s = first + tl.arange(0, SUB)
        m_s = (i_s < L)[:, None] & (i_c < C)[None, :]
        p_row = p_left + (b * BLOCKS * BD + i_s)[:, None] * (4 * C + 2) + i_c[None, :]
        b_x = tl.load(p_row, mask=m_s, other=NEGATIVE)
        b_y = tl.load(p_row + C, mask=m_s, other=0.0)
        o_s = ((b * T + i_s) * C)[:, None] + i_c[None, :]
        b_open = tl.load(p_open + o_s, mask=m_s, other=0)
        value_weight, slope_weight = weights_of(p_weights, b, B)
        b_plain, b_bent = tl.zeros((SUB, BC), tl.float64), tl.zeros((SUB, BC), tl.float64)

        # what lies between the left edge of the block of the starts and the one of the ends
        b_sum, b_lean = tl.zeros((BC,), tl.float64), tl.zeros((BC,), tl.float64)
        longest = tl.minimum(wide(K), L - first)
        lowest, count = first // BD, tl.cdiv(L, BD)
        for k in range(0, tl.where(first < L, (first + longest - 1) // BD - lowest + 1, 0)):
            block = lowest + k
            b_here, b_there = block_sums(p_sums, b, block, count, BLOCKS, C, BC)
            b_next, b_far = block_sums(p_sums, b, block + 1, count, BLOCKS, C, BC)
            edge, after = tl.minimum((block + 1) * BD, L), tl.minimum((block + 2) * BD, L)
            add, shift = scale_at(p_left, p_right, p_result, b, edge, L, BLOCKS * BD, C)
            add_next, shift_next = scale_at(p_left, p_right, p_result, b, after, L, BLOCKS * BD, C)
            b_sum, b_lean = b_sum + b_here, b_lean + b_there
            b_lead_here, b_slide_here = b_sum + add, b_lean + shift
            b_lead_next, b_slide_next = b_sum + b_next + add_next, b_lean + b_far + shift_next
            low = tl.maximum(block * BD - first, 0)
            high = tl.minimum((block + 1) * BD - first, longest)
            for j in range(0, high - low):
                d = low + j
                i_end = i_s + d
                m_d = d < b_open
                p_end = p_right + (b * BLOCKS * BD + i_end)[:, None] * (4 * C + 2) + i_c[None, :]
                o_bias, m_c = d * C + i_c, i_c < C
                b_bias = tl.load(p_bias + o_bias, mask=m_c, other=NEGATIVE)
                b_moved = tl.load(p_bias + size + o_bias, mask=m_c, other=0.0)
                # the last of the starts may reach into the next block
                m_next = (i_end >= (block + 1) * BD)[:, None]
                b_lead = tl.where(m_next, b_lead_next[None, :], b_lead_here[None, :])
                b_slide = tl.where(m_next, b_slide_next[None, :], b_slide_here[None, :])
                b_log = b_x + tl.load(p_end, mask=m_d, other=NEGATIVE) + b_lead + b_bias[None, :]
                b_slope = b_y + tl.load(p_end + C, mask=m_d, other=0.0) + b_slide + b_moved[None, :]
                b_mass = tl.exp(b_log)
                b_curved = b_mass * b_slope
                b_plain += b_mass
                b_bent += b_curved
                b_count = slope_weight * tl.sum(b_mass, axis=0)
                b_both = tl.sum(value_weight * b_mass + slope_weight * b_curved, axis=0)
                add_to(p_counts + o_bias, b_both, m_c)
                add_to(p_counts + K * C + o_bias, b_count, m_c)
        tl.store(p_starts + o_s, value_weight * b_plain + slope_weight * b_bent, mask=m_s)
        tl.store(p_starts + wide(B) * T * C + o_s, slope_weight * b_plain, mask=m_s)
        # the next block adds to the same counts
        tl.debug_barrier()


@triton.jit(do_not_specialize=["B", "T", "ROWS"])
def tangent_pairs_kernel(
    p_transition,  # (C, C)
    p_moved,  # its direction
    p_end,  # (C,)
    p_moved_end,
    p_lengths,  # (B,) int64
    p_left,  # (B, ROWS, 4 C + 2), of the scan from the left
    p_right,  # the same from the right
    p_result,  # (B, 4)
    p_weights,  # (2, B)
    p_ends,  # (2, B, T, C): masses of ends, to fill
    p_counts,  # (parts, 2, C, C): to fill
    B,
    T,
    C,
    ROWS,
    POSITIONS: tl.constexpr,
    BS: tl.constexpr,
    BC: tl.constexpr,
):
    """Ends of a tile of labels at some positions, and counts of the transitions after them."""
    i_c, i_source = tl.arange(0, BC), tl.program_id(1) * BS + tl.arange(0, BS)
    m_source = i_source < C
    m_pair, o_pair = m_source[:, None] & (i_c < C)[None, :], i_source[:, None] * C + i_c[None, :]
    b_transition = tl.load(p_transition + o_pair, mask=m_pair, other=NEGATIVE)
    b_moved = tl.load(p_moved + o_pair, mask=m_pair, other=0.0)
    b_plain, b_bent = tl.zeros((BS, BC), tl.float64), tl.zeros((BS, BC), tl.float64)
    plane = wide(B) * T * C
    each, parts = wide(tl.cdiv(T, POSITIONS)), tl.num_programs(0)
    for i in range(0, tl.cdiv(B * each - tl.program_id(0), parts)):
        item = wide(i) * parts + tl.program_id(0)
        b, first = item // each, item % each * POSITIONS
        L = tl.load(p_lengths + b)
        value_weight, slope_weight = weights_of(p_weights, b, B)
        stop = tl.minimum(first + POSITIONS, L)
        for j in range(0, tl.minimum(stop, L - 1) - first):
            p = first + j
            p_row = p_left + (b * ROWS + p) * (4 * C + 2) + 2 * C + i_source
            b_alpha = tl.load(p_row, mask=m_source, other=NEGATIVE)
            b_slope = tl.load(p_row + C, mask=m_source, other=0.0)
            p_row = p_right + (b * ROWS + p + 1) * (4 * C + 2) + 2 * C + i_c
            b_x = tl.load(p_row, mask=i_c < C, other=NEGATIVE)
            b_y = tl.load(p_row + C, mask=i_c < C, other=0.0)
            add, shift = scale_at(p_left, p_right, p_result, b, p + 1, L, ROWS, C)
            b_mass = tl.exp(b_alpha[:, None] + b_transition + (b_x + add)[None, :])
            b_curved = b_mass * (b_slope[:, None] + b_moved + (b_y + shift)[None, :])
            b_curved = value_weight * b_mass + slope_weight * b_curved
            b_mass *= slope_weight
            b_bent += b_curved
            b_plain += b_mass
            p_out = p_ends + (b * T + p) * C + i_source
            tl.store(p_out, tl.sum(b_curved, axis=1), mask=m_source)
            tl.store(p_out + plane, tl.sum(b_mass, axis=1), mask=m_source)
        if (first < L) & (stop == L):
            p_row = p_left + (b * ROWS + L - 1) * (4 * C + 2) + 2 * C + i_source
            add, shift = scale_at(p_left, p_right, p_result, b, L, L, ROWS, C)
            b_x = tl.load(p_row, mask=m_source, other=NEGATIVE) + add
            b_y = tl.load(p_row + C, mask=m_source, other=0.0) + shift
            b_x += tl.load(p_end + i_source, mask=m_source, other=NEGATIVE)
            b_y += tl.load(p_moved_end + i_source, mask=m_source, other=0.0)
            b_last = tl.exp(b_x)
            p_out = p_ends + (b * T + L - 1) * C + i_source
            tl.store(p_out, b_last * (value_weight + slope_weight * b_y), mask=m_source)
            tl.store(p_out + plane, b_last * slope_weight, mask=m_source)
    p_count = p_counts + wide(tl.program_id(0)) * 2 * C * C + o_pair
    tl.store(p_count, b_bent, mask=m_pair)
    tl.store(p_count + C * C, b_plain, mask=m_pair)


@triton.jit(do_not_specialize=["B", "T"])
def tangent_labels_kernel(
    p_lengths, p_starts, p_ends, p_labels, p_moved_labels, B, T, C, BT: tl.constexpr,
    BC: tl.constexpr,
):  # fmt: skip
    """Masses of labels at positions: those of all starts so far, less those of all ends before.

    p_starts, p_ends: (2, B, T, C). p_labels, p_moved_labels: (B, T, C), to fill: for the first and
    for the second of them.
    """
    b, which = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i_c, L = tl.arange(0, BC)[None, :], tl.load(p_lengths + b)
    b_inside = tl.zeros((1, BC), tl.float64)
    flows = (wide(which) * B + b) * T * C
    for i in range(0, tl.cdiv(T, BT)):
        i_p = wide(i) * BT + tl.arange(0, BT)[:, None]
        m_p = (i_p < L) & (i_c < C)
        o_p = i_p * C + i_c
        b_change = tl.load(p_starts + flows + o_p, mask=m_p, other=0.0)
        b_change -= tl.load(p_ends + flows + o_p - C, mask=m_p & (i_p > 0), other=0.0)
        b_labels = tl.where(m_p, b_inside + tl.cumsum(b_change, axis=0), 0.0)
        b_inside += tl.sum(b_change, axis=0)[None, :]
        m_out = (i_p < T) & (i_c < C)
        if which == 0:
            tl.store(p_labels + b * T * C + o_p, b_labels, mask=m_out)
        else:
            tl.store(p_moved_labels + b * T * C + o_p, b_labels, mask=m_out)
