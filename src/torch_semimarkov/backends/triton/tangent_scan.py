"""Log partition and its slope in a direction, in one scan; for (C, C) transitions, in float64.

Every message is a pair: a log mass, and its derivative in the direction. Along a segmentation both
add up. In a sum over alternatives the log masses go into a log-sum-exp, and the slope is the mean
of the alternatives' slopes, weighted with their masses: the recurrence of ``scan``, with two
multiplications more for each exponential.

A program has one sequence. Positions are taken in blocks of BD. The segments that start in a block
are rows in memory, relative to the prefix sum at that edge of the block where the scan comes in;
what lies between the block and a position, the lead, is added up from the sums of whole blocks. So
no number grows with the sequence, and what is kept is what the combining pass needs. The other way
round, the same kernel gives the messages from the right; its blocks have the same edges.

Row p of a sequence has 4 C + 2 numbers: the segments that start at p and their slopes, alpha and
its slope, and the two normalisers after p. Those are whole numbers, so that their sums are exact.
"""

import triton
import triton.language as tl

from torch_semimarkov.backends.triton.per_duration_parts import NEGATIVE, wide
from torch_semimarkov.backends.triton.sums import finite

# Lanes of a part of the transitions.
PART = tl.constexpr(1024)


@triton.jit
def take_in(b_top, b_total, b_moment, b_x, b_y):
    """Lane by lane, log sums ``top + log(total)`` with x among them, and sums of mass times y."""
    b_factor = tl.exp(-tl.abs(b_x - finite(b_top)))
    m_larger = b_x > b_top
    b_total = tl.where(m_larger, b_total * b_factor + 1.0, b_total + b_factor)
    b_moment = tl.where(m_larger, b_moment * b_factor + b_y, b_moment + b_factor * b_y)
    return tl.maximum(b_top, b_x), b_total, b_moment


@triton.jit
def taken(b_top, b_total, b_moment):
    """Log sum over the first axis of what the lanes took in, and the mean of y."""
    b_best = finite(tl.max(b_top, axis=0))
    b_factor = tl.exp(b_top - b_best[None, :])
    b_whole = tl.sum(b_total * b_factor, axis=0)
    b_sum = tl.sum(b_moment * b_factor, axis=0)
    return tl.log(b_whole) + b_best, b_sum / tl.where(b_whole == 0.0, 1.0, b_whole)


@triton.jit
def load_pair(p_x, p_moved, o_x, m_x, like):
    """Entries of a term that may be absent, and of its direction; zeros if it is."""
    b_x, b_moved = tl.zeros_like(like), tl.zeros_like(like)
    if p_x is not None:
        b_x = tl.load(p_x + o_x, mask=m_x, other=0.0)
        b_moved = tl.load(p_moved + o_x, mask=m_x, other=0.0)
    return b_x, b_moved


@triton.jit
def enter(p_row, p_transition, p_moved, C, BC: tl.constexpr):
    """Sum over the labels before, whose alpha is in a row, and the mean of the slopes."""
    BS: tl.constexpr = PART // BC if BC * BC > PART else BC
    i_c = tl.arange(0, BC)
    b_top = tl.full((BS, BC), NEGATIVE, tl.float64)
    b_total = tl.zeros((BS, BC), tl.float64)
    b_moment = tl.zeros((BS, BC), tl.float64)
    for first in range(0, BC, BS):
        i_source = first + tl.arange(0, BS)
        m_pair = (i_source < C)[:, None] & (i_c < C)[None, :]
        o_pair = i_source[:, None] * C + i_c[None, :]
        b_alpha = tl.load(p_row + 2 * C + i_source, mask=i_source < C, other=NEGATIVE)
        b_slope = tl.load(p_row + 3 * C + i_source, mask=i_source < C, other=0.0)
        b_x = b_alpha[:, None] + tl.load(p_transition + o_pair, mask=m_pair, other=NEGATIVE)
        b_y = b_slope[:, None] + tl.load(p_moved + o_pair, mask=m_pair, other=0.0)
        b_top, b_total, b_moment = take_in(b_top, b_total, b_moment, b_x, b_y)
    return taken(b_top, b_total, b_moment)


@triton.jit
def leave(
    p_rows, p_sums, p_bias, p_moved, b_lead, b_slide, b_open, p, reach, MASK, K, C,
    BD: tl.constexpr, BC: tl.constexpr, REVERSED: tl.constexpr,
):  # fmt: skip
    """Sum over all segments that began at most ``reach`` positions before p, and their slope.

    b_lead, b_slide: (BC,). What lies between the edge of p's block and the end of p.
    """
    i_c, i_d = tl.arange(0, BC), tl.arange(0, BD)
    b_top = tl.full((BD, BC), NEGATIVE, tl.float64)
    b_total = tl.zeros((BD, BC), tl.float64)
    b_moment = tl.zeros((BD, BC), tl.float64)
    farthest = p + reach if REVERSED else p - reach
    for i in range(0, tl.abs(farthest // BD - p // BD) + 1):
        j = wide(i)
        if REVERSED:
            block = p // BD + j
            i_age = block * BD + i_d - p
        else:
            block = p // BD - j
            i_age = p - block * BD - i_d
        place = block & MASK
        m_far = (i_c < C) & (i_c * 0 + j > 0)
        p_sum = p_sums + place * 2 * C + i_c
        b_lead += tl.load(p_sum, mask=m_far, other=0.0)
        b_slide += tl.load(p_sum + C, mask=m_far, other=0.0)
        m_x = ((i_age >= 0) & (i_age <= reach))[:, None] & (i_age[:, None] < b_open[None, :])
        p_x = p_rows + (place * BD + i_d)[:, None] * (4 * C + 2) + i_c[None, :]
        o_bias = i_age[:, None] * C + i_c[None, :]
        b_x = tl.load(p_x, mask=m_x, other=NEGATIVE) + b_lead[None, :]
        b_x += tl.load(p_bias + o_bias, mask=m_x, other=0.0)
        b_y = tl.load(p_x + C, mask=m_x, other=0.0) + b_slide[None, :]
        b_y += tl.load(p_moved + o_bias, mask=m_x, other=0.0)
        b_top, b_total, b_moment = take_in(b_top, b_total, b_moment, b_x, b_y)
    return taken(b_top, b_total, b_moment)


@triton.jit
def steps_of(b_alpha, b_slope):
    """What the normalisers grow by: the largest alpha and its slope, as whole numbers."""
    largest = tl.max(b_alpha, axis=0)
    slope = tl.max(tl.where(b_alpha == largest, b_slope, NEGATIVE), axis=0)
    m_finite = tl.abs(largest) < -NEGATIVE
    step = tl.floor(tl.where(m_finite, largest, 0.0) + 0.5)
    return step, tl.floor(tl.where(m_finite, slope, 0.0) + 0.5)


@triton.jit(do_not_specialize=["T", "K", "RING", "MASK"])
def tangent_scan_kernel(
    p_scores,  # (B, T, C), as the next five; of the reversed scan, ends are starts
    p_starts,  # or None
    p_ends,  # or None
    p_moved_scores,  # directions
    p_moved_starts,
    p_moved_ends,
    p_tables,  # transition (C, C), bias (K, C), start and end (C,), and their directions
    p_lengths,  # (B,) int64
    p_rows,  # (B, RING * BD, 4 C + 2)
    p_sums,  # (B, RING, 2, C): of the scores and their directions in whole blocks
    p_open,  # (B, T, C) int32 or None: how long a segment may be that ends here in the scan
    p_result,  # (B, 4): log mass and normaliser, slope and normaliser
    T,
    K,
    C,
    RING,  # blocks that there is memory for
    MASK,  # where a block lies: its number, and this
    BD: tl.constexpr,
    BC: tl.constexpr,
    REVERSED: tl.constexpr,
):
    """Scan one sequence, from left to right or from right to left."""
    b = tl.program_id(0).to(tl.int64)
    i_c = tl.arange(0, BC)
    m_c = i_c < C
    p_bias = p_tables + C * C
    p_start, size = p_bias + K * C, C * C + K * C + 2 * C
    p_rows += b * RING * BD * (4 * C + 2)
    p_sums += b * RING * 2 * C
    L = tl.load(p_lengths + b).to(tl.int32)

    b_entering = tl.load(p_start + i_c, mask=m_c, other=NEGATIVE)
    b_moving = tl.load(p_start + size + i_c, mask=m_c, other=0.0)
    b_alpha, b_slope = b_entering, b_moving
    b_sum, b_lean = tl.zeros((BC,), tl.float64), tl.zeros((BC,), tl.float64)
    b_open = tl.zeros((BC,), tl.int32)
    norm, drift = tl.full((), 0.0, tl.float64), tl.full((), 0.0, tl.float64)
    for i in range(0, L):
        p = wide(i)
        if REVERSED:
            p = L - 1 - p
        o_p = (b * T + p) * C + i_c
        p_row = p_rows + ((p // BD & MASK) * BD + p % BD) * (4 * C + 2)
        b_x, b_y = load_pair(p_starts, p_moved_starts, o_p, m_c, b_sum)
        tl.store(p_row + i_c, b_entering + b_x - b_sum, mask=m_c)
        tl.store(p_row + C + i_c, b_moving + b_y - b_lean, mask=m_c)
        b_scores = tl.load(p_scores + o_p, mask=m_c, other=NEGATIVE)
        m_dead = b_scores == NEGATIVE
        b_shift = tl.load(p_moved_scores + o_p, mask=m_c, other=0.0)
        b_sum += finite(b_scores)
        b_lean += tl.where(m_dead, 0.0, b_shift)
        b_open = tl.where(m_dead, 0, tl.minimum(b_open + 1, K))
        if p_open is not None:
            tl.store(p_open + o_p, b_open, mask=m_c)
        # other threads load this row
        tl.debug_barrier()

        reach = tl.minimum(wide(i), K - 1)
        b_alpha, b_slope = leave(
            p_rows, p_sums, p_bias, p_bias + size, b_sum, b_lean, b_open, p, reach, MASK, K, C, BD,
            BC, REVERSED,
        )  # fmt: skip
        b_x, b_y = load_pair(p_ends, p_moved_ends, o_p, m_c, b_sum)
        b_alpha, b_slope = b_alpha + b_x, b_slope + b_y
        step, slide = steps_of(b_alpha, b_slope)
        b_alpha, b_slope = b_alpha - step, b_slope - slide
        b_sum, b_lean = b_sum - step, b_lean - slide
        norm, drift = norm + step, drift + slide
        tl.store(p_row + 2 * C + i_c, b_alpha, mask=m_c)
        tl.store(p_row + 3 * C + i_c, b_slope, mask=m_c)
        tl.store(p_row + 4 * C, norm)
        tl.store(p_row + 4 * C + 1, drift)
        # and this one
        tl.debug_barrier()
        b_entering, b_moving = enter(p_row, p_tables, p_tables + size, C, BC)

        m_last = m_c & ((i_c * 0 + i == L - 1) | (i_c * 0 + p % BD == (0 if REVERSED else BD - 1)))
        p_sum = p_sums + (p // BD & MASK) * 2 * C + i_c
        tl.store(p_sum, b_sum, mask=m_last)
        tl.store(p_sum + C, b_lean, mask=m_last)
        b_sum, b_lean = tl.where(m_last, 0.0, b_sum), tl.where(m_last, 0.0, b_lean)

    b_end = tl.load(p_start + C + i_c, mask=m_c, other=NEGATIVE)
    b_x = tl.where(m_c, b_alpha, NEGATIVE) + b_end
    b_y = b_slope + tl.load(p_start + C + size + i_c, mask=m_c, other=0.0)
    best = finite(tl.max(b_x, axis=0))
    b_mass = tl.exp(b_x - best)
    whole = tl.sum(b_mass, axis=0)
    slope = tl.sum(b_mass * b_y, axis=0) / tl.where(whole == 0.0, 1.0, whole)
    tl.store(p_result + 4 * b, tl.log(whole) + best)
    tl.store(p_result + 4 * b + 1, norm)
    tl.store(p_result + 4 * b + 2, slope)
    tl.store(p_result + 4 * b + 3, drift)
