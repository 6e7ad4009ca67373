"""Exact samples: every one walks back from its end, over the messages that the scan has kept.

A program has some samples of one sequence, in rows. At an end a row draws how long the segment is
that ends there, durations in the lanes, and then the label before it. Many durations come in turns:
each turn draws one of its own, and the one drawn so far is kept or makes way, by the weights of
both. So one pass over the durations is enough, whatever K.

A walk runs twice: first it counts its segments, then it writes them to their places. Both times it
is the same compiled kernel with the same random numbers, so both times it is the same walk.

Source: forward filtering, backward sampling; Chib, Calculating posterior distributions and modal
estimates in Markov mixture models, J. Econometrics 75, 1996.
"""

import triton
import triton.language as tl

from torch_semimarkov.backends.triton.draws import draw, take_turn, uniforms
from torch_semimarkov.backends.triton.per_duration_parts import take_in
from torch_semimarkov.backends.triton.sums import finite, load_or_zero


@triton.jit
def begin(p_lengths, p_value, p_count, B, S, N, SAMPLES: tl.constexpr):
    """Sequence, samples (SAMPLES,), their rows, where each of them ends, and segments if known.

    What is no sample, and every sample of a sequence that has no segmentation, ends at 0.
    """
    i_program = tl.program_id(0).to(tl.int64)
    i_b = i_program % B
    i_sample = (i_program // B * SAMPLES + tl.arange(0, SAMPLES)).to(tl.int32)
    i_row = i_sample.to(tl.int64) * B + i_b
    length = tl.load(p_lengths + i_b).to(tl.int32)
    length = tl.where(tl.load(p_value + i_b) == float("-inf"), 0, length)
    b_end = tl.where(i_sample < S, length, 0)
    b_slots = tl.load(p_count + i_row, mask=(i_sample < S) & (i_sample * 0 + N > 0), other=0)
    return i_b, i_sample, i_row, b_end, b_slots.to(tl.int32)


@triton.jit
def labels_if(b_there, C, C_PAD: tl.constexpr):
    """Labels (1, C_PAD), and a mask (S, C_PAD) of those that there are, in rows that are there."""
    i_c = tl.arange(0, C_PAD)[None, :]
    return i_c, (i_c < C) & b_there[:, None]


@triton.jit
def last_label(p_alpha, p_end, b_there, b_point, C, KIND: tl.constexpr, C_PAD: tl.constexpr):
    """The label of the last segment of each row, from alpha at the last position."""
    i_c, m_c = labels_if(b_there, C, C_PAD)
    o_c = i_c + b_there.to(tl.int32)[:, None] * 0
    b_logs = tl.load(p_alpha + o_c, mask=m_c, other=float("-inf")).to(tl.float64)
    b_logs += load_or_zero(p_end, o_c, m_c, p_end is not None, b_logs)
    b_label, _, _ = draw(b_logs, b_point, KIND, C_PAD)
    return b_label


@triton.jit
def last_of(b_x, LANES: tl.constexpr):
    """The last entry of each row (S, LANES)."""
    return tl.sum(tl.where(tl.arange(0, LANES)[None, :] == LANES - 1, b_x, 0.0), axis=1)


@triton.jit
def store_segments(p_table, i_row, b_slot, b_start, b_end, b_label, B, S, N):
    """Write a segment of each row to its place among N; nothing if there is no such place."""
    p_place = p_table + i_row * N + b_slot
    plane = (i_row * 0 + S) * B * N
    m_place = (b_slot >= 0) & (b_slot < N) & (b_end > 0)
    tl.store(p_place, b_start.to(tl.int64), mask=m_place)
    tl.store(p_place + plane, b_end.to(tl.int64), mask=m_place)
    tl.store(p_place + 2 * plane, b_label.to(tl.int64), mask=m_place)


@triton.jit
def store_counts(p_count, i_row, i_sample, b_count, S, N):
    """Write how many segments there are, unless that is known."""
    tl.store(p_count + i_row, b_count.to(tl.int64), mask=(i_sample < S) & (i_sample * 0 + N == 0))


@triton.jit(do_not_specialize=["seed", "B", "S", "T", "K", "N"])
def walk_kernel(
    p_scores,  # (B, T, C)
    p_start_scores,  # (B, T, C) or None
    p_bias,  # (K, C)
    p_transition,  # (C, C)
    p_end,  # (C,) or None
    p_lengths,  # (B,) int64
    p_value,  # (B,) float64, -inf if no segmentation is possible
    p_rows,  # (B, T, 3 C + 1), of the scan
    p_count,  # (S, B) int64; known if there is a table
    p_table,  # (3, S, B, N) int64, or anything if N is 0
    seed,
    B,
    S,
    T,
    K,
    C,
    N,
    SAMPLES: tl.constexpr,
    LANES: tl.constexpr,
    C_PAD: tl.constexpr,
):
    """Draw some samples of one sequence with (C, C) transitions."""
    D: tl.constexpr = p_scores.dtype.element_ty
    i_b, i_sample, i_row, b_end, b_slots = begin(p_lengths, p_value, p_count, B, S, N, SAMPLES)
    p_mine = p_rows + i_b * T * (3 * C + 1)
    p_last = p_mine + tl.maximum(tl.max(b_end, axis=0) - 1, 0).to(tl.int64) * (3 * C + 1)
    b_count = b_end * 0
    _, b_other = uniforms(seed, i_sample, i_b.to(tl.int32), b_count - 1, 0)
    b_label = last_label(p_last, p_end, b_end > 0, b_other, C, D, C_PAD)
    while tl.max(b_end, axis=0) > 0:
        b_top = tl.full((SAMPLES,), float("-inf"), tl.float64)
        b_total = tl.zeros((SAMPLES,), tl.float64)
        b_before, b_choice = tl.zeros((SAMPLES,), tl.float64), b_end * 0
        b_point, b_other = uniforms(seed, i_sample, i_b.to(tl.int32), b_count, 0)
        for first in range(0, tl.minimum(K, tl.max(b_end, axis=0)), LANES):
            i_d = first + tl.arange(0, LANES)[None, :]
            i_s = (b_end[:, None] - 1 - i_d).to(tl.int64)
            m_s = (i_s >= 0) & (i_d < K)
            o_s = (i_b * T + i_s) * C + b_label[:, None]
            b_scores = tl.load(p_scores + o_s, mask=m_s, other=float("-inf"))
            p_row = p_mine + i_s * (3 * C + 1)
            # both are of the position itself: their sum is relative to the norm at the end
            b_step = b_scores.to(tl.float64) - tl.load(p_row + 3 * C, mask=m_s, other=0.0)
            b_content = b_before[:, None] + tl.cumsum(b_step, 1)
            b_before = last_of(b_content, LANES)
            p_entering = p_row + C + b_label[:, None]
            b_logs = b_content + tl.load(p_entering, mask=m_s, other=float("-inf"))
            b_logs += load_or_zero(p_start_scores, o_s, m_s, p_start_scores is not None, b_scores)
            o_bias = i_d * C + b_label[:, None]
            b_logs += tl.load(p_bias + o_bias, mask=m_s, other=float("-inf"))
            b_choice, b_top, b_total = take_turn(
                b_logs, b_choice, b_top, b_total, b_point, seed, i_sample, i_b.to(tl.int32),
                b_count, first, D, LANES,
            )  # fmt: skip
        b_start = tl.maximum(b_end - 1 - b_choice, 0)
        b_slot = b_slots - 1 - b_count
        store_segments(p_table, i_row, b_slot, b_start, b_end, b_label, B, S, N)
        b_count += (b_end > 0).to(tl.int32)
        i_c, m_c = labels_if(b_start > 0, C, C_PAD)
        o_before = tl.maximum(b_start - 1, 0).to(tl.int64) * (3 * C + 1)
        p_before = p_mine + o_before[:, None] + i_c
        b_logs = tl.load(p_before, mask=m_c, other=float("-inf")).to(tl.float64)
        p_into = p_transition + i_c * C + b_label[:, None]
        b_logs += tl.load(p_into, mask=m_c, other=float("-inf"))
        b_label, _, _ = draw(b_logs, b_other, D, C_PAD)
        b_end = b_start
    store_counts(p_count, i_row, i_sample, b_count, S, N)


@triton.jit
def sum_of_sources(
    p_rows, p_into, p_bias, i_s, o_into, m_s, C, SAMPLES: tl.constexpr, LANES: tl.constexpr,
    SOURCES: tl.constexpr,
):  # fmt: skip
    """Log sum (S, LANES) float64 over the labels before segments that start at ``i_s``.

    o_into: where the transitions into each segment's label lie, by source.
    """
    KIND: tl.constexpr = p_bias.dtype.element_ty
    i_source = tl.arange(0, SOURCES)[None, None, :]
    b_top = tl.full((SAMPLES, LANES, SOURCES), float("-inf"), KIND)
    b_total = tl.zeros((SAMPLES, LANES, SOURCES), KIND)
    m_way = (m_s & (i_s > 0))[:, :, None]
    for first in range(0, C, SOURCES):
        m_both = m_way & (first + i_source < C)
        o_alpha = (2 * C * i_s)[:, :, None] + first + i_source
        b_way = tl.load(p_rows + o_alpha, mask=m_both, other=float("-inf")).to(KIND)
        p_part = p_into + o_into[:, :, None] + first + i_source
        b_way += tl.load(p_part, mask=m_both, other=float("-inf"))
        b_top, b_total = take_in(b_top, b_total, b_way)
    b_best = tl.max(b_top, axis=2)
    b_base = finite(b_best)
    b_whole = tl.sum(b_total * tl.exp(b_top - b_base[:, :, None]), axis=2)
    b_found = tl.log(tl.where(b_whole > 0.0, b_whole, 1.0)).to(tl.float64) + b_base.to(tl.float64)
    return tl.where(b_whole > 0.0, b_found, float("-inf"))


@triton.jit(do_not_specialize=["seed", "B", "S", "T", "K", "N"])
def walk_pairs_kernel(
    p_scores,  # (B, T, C)
    p_start_scores,  # (B, T, C) or None
    p_bias,  # (K, C)
    p_tables,  # transitions by label, duration and source (C, K, C), start (C), end (C)
    p_lengths,  # (B,) int64
    p_value,  # (B,) float64, -inf if no segmentation is possible
    p_rows,  # (B, T + 1, 2, C) float64, of the scan: alpha and prefix
    p_count,  # (S, B) int64; known if there is a table
    p_table,  # (3, S, B, N) int64, or anything if N is 0
    seed,
    B,
    S,
    T,
    K,
    C,
    N,
    SAMPLES: tl.constexpr,
    LANES: tl.constexpr,
    SOURCES: tl.constexpr,
    C_PAD: tl.constexpr,
):
    """Draw some samples of one sequence with (K, C, C) transitions."""
    D: tl.constexpr = p_scores.dtype.element_ty
    i_b, i_sample, i_row, b_end, b_slots = begin(p_lengths, p_value, p_count, B, S, N, SAMPLES)
    p_mine = p_rows + i_b * (T + 1) * (2 * C)
    p_start = p_tables + (i_b * 0 + C) * K * C
    p_last = p_mine + tl.max(b_end, axis=0).to(tl.int64) * (2 * C)
    b_count = b_end * 0
    _, b_other = uniforms(seed, i_sample, i_b.to(tl.int32), b_count - 1, 0)
    b_label = last_label(p_last, p_start + C, b_end > 0, b_other, C, D, C_PAD)
    while tl.max(b_end, axis=0) > 0:
        b_top = tl.full((SAMPLES,), float("-inf"), tl.float64)
        b_total = tl.zeros((SAMPLES,), tl.float64)
        b_before, b_choice = tl.zeros((SAMPLES,), tl.float64), b_end * 0
        b_first = tl.load(p_start + b_label).to(tl.float64)
        b_prefix = tl.load(p_mine + (2 * b_end.to(tl.int64) + 1) * C + b_label)
        o_label = b_label.to(tl.int64) * K * C
        b_point, b_other = uniforms(seed, i_sample, i_b.to(tl.int32), b_count, 0)
        for first in range(0, tl.minimum(K, tl.max(b_end, axis=0)), LANES):
            i_d = first + tl.arange(0, LANES)[None, :]
            i_s = (b_end[:, None] - 1 - i_d).to(tl.int64)
            m_s = (i_s >= 0) & (i_d < K)
            o_s = (i_b * T + i_s) * C + b_label[:, None]
            b_scores = tl.load(p_scores + o_s, mask=m_s, other=float("-inf"))
            # prefixes have the finite scores: this has only to find the others
            b_step = tl.where(b_scores == float("-inf"), float("-inf"), 0.0).to(tl.float64)
            b_content = b_before[:, None] + tl.cumsum(b_step, 1)
            b_before = last_of(b_content, LANES)
            o_into = o_label[:, None] + i_d * C
            b_logs = sum_of_sources(
                p_mine, p_tables, p_bias, i_s, o_into, m_s, C, SAMPLES, LANES, SOURCES
            )
            b_logs = tl.where(i_s == 0, b_first[:, None], b_logs) + b_content
            p_begin = p_mine + (2 * i_s + 1) * C + b_label[:, None]
            b_logs += b_prefix[:, None] - tl.load(p_begin, mask=m_s, other=0.0)
            b_logs += load_or_zero(p_start_scores, o_s, m_s, p_start_scores is not None, b_scores)
            o_bias = i_d * C + b_label[:, None]
            b_logs += tl.load(p_bias + o_bias, mask=m_s, other=float("-inf"))
            b_choice, b_top, b_total = take_turn(
                b_logs, b_choice, b_top, b_total, b_point, seed, i_sample, i_b.to(tl.int32),
                b_count, first, D, LANES,
            )  # fmt: skip
        b_start = tl.maximum(b_end - 1 - b_choice, 0)
        b_slot = b_slots - 1 - b_count
        store_segments(p_table, i_row, b_slot, b_start, b_end, b_label, B, S, N)
        b_count += (b_end > 0).to(tl.int32)
        i_c, m_c = labels_if(b_start > 0, C, C_PAD)
        p_before = p_mine + (b_start.to(tl.int64) * (2 * C))[:, None] + i_c
        b_logs = tl.load(p_before, mask=m_c, other=float("-inf")).to(tl.float64)
        p_into = p_tables + (o_label + b_choice * C)[:, None] + i_c
        b_logs += tl.load(p_into, mask=m_c, other=float("-inf"))
        b_label, _, _ = draw(b_logs, b_other, D, C_PAD)
        b_end = b_start
    store_counts(p_count, i_row, i_sample, b_count, S, N)
