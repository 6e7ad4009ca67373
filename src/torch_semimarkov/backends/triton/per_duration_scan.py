"""The recurrence for (K, C, C) transitions from left to right: one program a sequence.

Each position takes tiles of (durations, sources, labels) of the table of transitions. In the log
semiring every lane keeps a log sum of its own, and the lanes are summed once a position. In the max
semiring the best source is found for each duration, then the best duration, so that ties fall as
they do in the reference.
"""

import triton
import triton.language as tl

from torch_semimarkov.backends.triton.per_duration_parts import (
    NEGATIVE,
    segment_score,
    sequence_rows,
    sources_of,
    take_in,
    transition_tile,
    whole_part,
    wide,
)
from torch_semimarkov.backends.triton.sums import finite, log_sum_exp


@triton.jit
def log_sum_of_segments(
    rows, p_starts, p_transition, p_bias, here, prefix, blocked, lone, t, K, C,
    BD: tl.constexpr, BS: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Log sum (BC,) float64 over all segments that end at t; ``lone`` is the one from the start."""
    o_d, c = tl.arange(0, BD), tl.arange(0, BC)
    top = tl.full((BD, BS, BC), NEGATIVE, lone.dtype)
    total = tl.zeros((BD, BS, BC), lone.dtype)
    for first_d in range(0, tl.minimum(K, t - 1), BD):
        d = first_d + o_d
        s = wide(t - 1) - d
        m_d = (d < K) & (s >= 1)
        mask = m_d[:, None] & (c < C)[None, :] & (s[:, None] >= blocked[None, :])
        rest = segment_score(
            prefix[None, :], rows, p_starts, p_bias, here, s[:, None], d[:, None], c[None, :],
            mask, C,
        )  # fmt: skip
        for first_source in range(0, C, BS):
            source = first_source + tl.arange(0, BS)
            m_s = m_d[:, None] & (source < C)[None, :]
            alpha = sources_of(rows, s[:, None], source[None, :], m_s, C, p_bias)
            table = transition_tile(p_transition, first_d, first_source, K, C, BD, BS, BC)
            top, total = take_in(top, total, alpha[:, :, None] + table + rest[:, None, :])
    best = tl.maximum(tl.max(tl.max(top, axis=1), axis=0), lone)
    base = finite(best)
    parts = total * tl.exp(top - base[None, None, :])
    whole = tl.sum(tl.sum(parts, axis=1), axis=0) + tl.exp(lone - base)
    return tl.log(whole).to(tl.float64) + base.to(tl.float64)


@triton.jit
def best_of_segments(
    rows, p_starts, p_transition, p_bias, here, prefix, blocked, lone, t, K, C,
    BD: tl.constexpr, BS: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Best of all segments that end at t (BC,) float64, and its (duration - 1) * C + source."""
    o_d, c = tl.arange(0, BD), tl.arange(0, BC)
    top = tl.full((BD, BC), NEGATIVE, lone.dtype)
    choice = tl.zeros((BD, BC), tl.int32)
    for first_d in range(0, tl.minimum(K, t - 1), BD):
        d = first_d + o_d
        s = wide(t - 1) - d
        m_d = (d < K) & (s >= 1)
        mask = m_d[:, None] & (c < C)[None, :] & (s[:, None] >= blocked[None, :])
        best = tl.full((BD, BC), NEGATIVE, lone.dtype)
        origin = tl.zeros((BD, BC), tl.int32)
        for first_source in range(0, C, BS):
            source = first_source + tl.arange(0, BS)
            m_s = m_d[:, None] & (source < C)[None, :]
            alpha = sources_of(rows, s[:, None], source[None, :], m_s, C, p_bias)
            table = transition_tile(p_transition, first_d, first_source, K, C, BD, BS, BC)
            found, index = tl.max(alpha[:, :, None] + table, axis=1, return_indices=True)
            origin = tl.where(found > best, first_source + index, origin)
            best = tl.maximum(best, found)
        best += segment_score(
            prefix[None, :], rows, p_starts, p_bias, here, s[:, None], d[:, None], c[None, :],
            mask, C,
        )  # fmt: skip
        choice = tl.where(best > top, d[:, None] * C + origin, choice)
        top = tl.maximum(top, best)
    best = tl.max(top, axis=0)
    choice = tl.min(tl.where(top == best[None, :], choice, K * C), axis=0)
    choice = tl.where(lone > best, (t - 1) * C, choice)
    return tl.maximum(best, lone).to(tl.float64), choice


@triton.jit
def last_block(p_scores, here, first, K, C, c):
    """Position after the last forbidden one among the K before ``first``, for each label."""
    blocked = tl.zeros_like(c)
    for p in range(tl.maximum(first - K, 0), first):
        score = tl.load(p_scores + here + wide(p) * C + c, mask=c < C, other=0.0)
        blocked = tl.where(score == NEGATIVE, p + 1, blocked)
    return blocked


@triton.jit(do_not_specialize=["first", "stop", "before", "W", "T", "K"])
def scan(
    p_scores, p_starts, p_ends, p_transition, p_bias, p_edges, p_lengths, p_rows, p_total, p_back,
    first, stop, before, W, T, K, C, BD: tl.constexpr, BS: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Rows first + 1 to stop of one sequence, from the K rows up to ``first``.

    p_edges: (2, C). start and end. p_rows: (B, W, 2, C) float64. p_total: (B, 2) float64, the value
    and the normaliser. p_back: (B, stop - first, C) int32 for the max semiring; None for log.
    """
    b = tl.program_id(0).to(tl.int64)
    here, c = b * T * C, tl.arange(0, BC)
    L, m = tl.load(p_lengths + b).to(tl.int32), c < C
    rows = sequence_rows(p_rows, b, first, before, W, C, 2)
    prefix = tl.load(rows + (2 * wide(first) + 1) * C + c, mask=m, other=0.0)
    start = tl.load(p_edges + c, mask=m, other=NEGATIVE)
    end = tl.load(p_edges + C + c, mask=m, other=NEGATIVE)
    norm = tl.load(p_total + 2 * b + 1)
    blocked = last_block(p_scores, here, tl.minimum(first, L), K, C, c)
    for t in range(first + 1, tl.minimum(stop, L) + 1):
        score = tl.load(p_scores + here + wide(t - 1) * C + c, mask=m, other=0.0)
        blocked = tl.where(score == NEGATIVE, t, blocked)
        prefix += finite(score).to(tl.float64)
        m_lone = (m & (blocked == 0) & (tl.zeros_like(c) + t <= K))[None, :]
        zero = tl.zeros((1, 1), tl.int64)
        lone = segment_score(
            prefix[None, :], rows, p_starts, p_bias, here, zero, zero + t - 1, c[None, :], m_lone, C
        )
        lone = tl.reshape(lone, (BC,)) + start
        if p_back is None:
            alpha = log_sum_of_segments(
                rows, p_starts, p_transition, p_bias, here, prefix, blocked, lone, t, K, C,
                BD, BS, BC,
            )  # fmt: skip
        else:
            alpha, choice = best_of_segments(
                rows, p_starts, p_transition, p_bias, here, prefix, blocked, lone, t, K, C,
                BD, BS, BC,
            )  # fmt: skip
            back = p_back + (b * (stop - first) + t - 1 - first) * C
            tl.store(back + c, choice, mask=m)
        if p_ends is not None:
            alpha += tl.load(p_ends + here + wide(t - 1) * C + c, mask=m, other=0.0).to(tl.float64)
        step = whole_part(tl.max(alpha, axis=0))
        alpha, prefix, norm = alpha - step, prefix - step, norm + step
        tl.store(rows + 2 * wide(t) * C + c, alpha, mask=m)
        tl.store(rows + (2 * wide(t) + 1) * C + c, prefix, mask=m)
        # other threads load this row at the next position
        tl.debug_barrier()
    # no thread may find the new value where the old one lay
    tl.debug_barrier()
    tl.store(p_total + 2 * b + 1, norm)
    if (first < L) & (stop >= L):
        last = tl.load(rows + 2 * wide(L) * C + c, mask=m, other=NEGATIVE)
        if p_back is None:
            value = log_sum_exp(last + end.to(tl.float64), 0)
        else:
            value = tl.max(last + end.to(tl.float64), axis=0)
        tl.store(p_total + 2 * b, value + norm)


@triton.jit
def walk_back(back, table, plane, L, label, count, C):
    """Number of segments on the way back from the end; if ``count`` is known, they are stored.

    table: where the sequence's starts lie; ends and labels follow one and two planes later.
    """
    stop, found = L, 0
    while stop > 0:
        choice = tl.load(back + wide(stop - 1) * C + label)
        begin = stop - 1 - choice // C
        found += 1
        here = table + (count - found)
        tl.store(here, begin.to(tl.int64), mask=count > 0)
        tl.store(here + plane, stop.to(tl.int64), mask=count > 0)
        tl.store(here + 2 * plane, label.to(tl.int64), mask=count > 0)
        label = choice % C
        stop = begin
    return found


@triton.jit(do_not_specialize=["B", "T"])
def trace(p_rows, p_edges, p_lengths, p_total, p_back, p_table, p_count, B, T, C, BC: tl.constexpr):
    """Segments of the best segmentation of one sequence, in their order, and their number."""
    b = tl.program_id(0).to(tl.int64)
    L, c = tl.load(p_lengths + b).to(tl.int32), tl.arange(0, BC)
    last = tl.load(p_rows + (b * (T + 1) + L) * 2 * C + c, mask=c < C, other=NEGATIVE)
    last += tl.load(p_edges + C + c, mask=c < C, other=NEGATIVE).to(tl.float64)
    _, label = tl.max(last, axis=0, return_indices=True)
    L = tl.where(tl.load(p_total + 2 * b) == NEGATIVE, 0, L)
    back, table, plane = p_back + b * T * C, p_table + b * T, wide(B) * T
    count = walk_back(back, table, plane, L, label, 0, C)
    walk_back(back, table, plane, L, label, count, C)
    tl.store(p_count + b, count.to(tl.int64))
