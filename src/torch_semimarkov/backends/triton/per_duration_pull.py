"""Posteriors for (K, C, C) transitions, from alpha alone, from right to left.

The mass of a label at t is the posterior that a segment ends there with it. A segment from s to t
takes from it the share exp(alpha[s] + transition + ... - alpha[t]), and the shares of a source are
its mass at s. So only neighbouring alphas are compared, and nothing depends on the length of the
sequence. What the shares of a label at t sum to is 1 but for rounding; it is summed first, for all
positions side by side, and divided out, so that no mass is lost on a long way.

Row t of ``flow`` holds, for each label, the mass, the posterior of a start, the sum of the shares,
and the longest segment that can end there.
"""

import triton
import triton.language as tl

from torch_semimarkov.backends.triton.per_duration_parts import (
    NEGATIVE,
    mass_to_share,
    segment_end,
    segment_score,
    sequence_rows,
    sources_of,
    transition_tile,
    wide,
)
from torch_semimarkov.backends.triton.sums import log_sum_exp


@triton.jit
def closing_segments(
    rows, flow, p_starts, p_ends, p_bias, here, t, first_d, K, C, BD: tl.constexpr, BC: tl.constexpr
):
    """Log shares of segments that end at t, less their sources (BD, BC), and where they start.

    From the duration ``first_d + 1`` on, and only those that do not begin the sequence.
    """
    d, c = first_d + tl.arange(0, BD)[:, None], tl.arange(0, BC)[None, :]
    s = wide(t) - 1 - d
    mask = (d < K) & (s >= 1) & (c < C)
    ends = tl.zeros((BD, 1), tl.int64) + t
    end = segment_end(rows, flow, p_ends, here, ends, d, c, mask, C)
    return segment_score(end, rows, p_starts, p_bias, here, s, d, c, mask, C), s


@triton.jit
def opening_segments(
    rows, flow, p_starts, p_ends, p_bias, here, s, L, first_d, K, C,
    BD: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Log shares of segments that start at s, less their sources, and their masses: (BD, BC)."""
    d, c = first_d + tl.arange(0, BD)[:, None], tl.arange(0, BC)[None, :]
    t = wide(s) + 1 + d
    mask = (d < K) & (t <= L) & (c < C)
    begin = tl.zeros((BD, 1), tl.int64) + s
    end = segment_end(rows, flow, p_ends, here, t, d, c, mask, C)
    mass = mass_to_share(flow, t, c, mask, C)
    return segment_score(end, rows, p_starts, p_bias, here, begin, d, c, mask, C), mass


@triton.jit
def longest_segment(p_scores, here, t, K, C, BD: tl.constexpr, BC: tl.constexpr):
    """Positions before t without a forbidden one among them, at most K, for each label (BC,)."""
    c = tl.arange(0, BC)[None, :]
    met, longest = tl.zeros((BC,), tl.int32), tl.zeros((BC,), tl.int32)
    for first_d in range(0, tl.minimum(K, t), BD):
        d = first_d + tl.arange(0, BD)[:, None]
        mask = (d < K) & (d < t) & (c < C)
        score = tl.load(p_scores + here + (wide(t) - 1 - d) * C + c, mask=mask, other=0.0)
        forbidden = (score == NEGATIVE).to(tl.int32)
        free = tl.cumsum(forbidden, axis=0) + met[None, :] == 0
        longest += tl.sum((free & mask).to(tl.int32), axis=0)
        met += tl.sum(forbidden, axis=0)
    return longest


@triton.jit(do_not_specialize=["first", "stop", "before", "W", "T", "K"])
def close(
    p_scores, p_starts, p_ends, p_transition, p_bias, p_edges, p_lengths, p_rows, p_flow,
    first, stop, before, W, T, K, C, BD: tl.constexpr, BS: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Into ``flow``: what the shares at one position sum to, and its longest segments."""
    b = (tl.program_id(0) // (stop - first)).to(tl.int64)
    t = first + 1 + tl.program_id(0) % (stop - first)
    here, c = b * T * C, tl.arange(0, BC)
    L, m = tl.load(p_lengths + b).to(tl.int32), c < C
    rows = sequence_rows(p_rows, b, first, before, W, C, 2)
    flow = sequence_rows(p_flow, b, first, before, W, C, 4)
    if t <= L:
        kind = p_scores.dtype.element_ty
        longest = longest_segment(p_scores, here, t, K, C, BD, BC)
        tl.store(flow + (4 * wide(t) + 3) * C + c, longest.to(kind), mask=m)
        tl.debug_barrier()
        total = tl.zeros((BD, BS, BC), kind)
        for first_d in range(0, tl.minimum(K, t - 1), BD):
            rest, s = closing_segments(
                rows, flow, p_starts, p_ends, p_bias, here, t, first_d, K, C, BD, BC
            )
            for first_source in range(0, C, BS):
                source = first_source + tl.arange(0, BS)[None, :]
                m_s = (first_d + tl.arange(0, BD)[:, None] < K) & (s >= 1) & (source < C)
                alpha = sources_of(rows, s, source, m_s, C, p_bias)
                table = transition_tile(p_transition, first_d, first_source, K, C, BD, BS, BC)
                total += tl.exp(alpha[:, :, None] + table + rest[:, None, :])
        d = tl.zeros((1, 1), tl.int64) + (t - 1)
        mask = m[None, :] & (d < K)
        end = segment_end(rows, flow, p_ends, here, d + 1, d, c[None, :], mask, C)
        lone = segment_score(end, rows, p_starts, p_bias, here, d * 0, d, c[None, :], mask, C)
        lone += tl.load(p_edges + c[None, :], mask=mask, other=NEGATIVE)
        whole = tl.sum(tl.sum(total, axis=1), axis=0) + tl.reshape(tl.exp(lone), (BC,))
        tl.store(flow + (4 * wide(t) + 2) * C + c, whole, mask=m)


@triton.jit
def pull_one(
    rows, flow, p_starts, p_ends, p_transition, p_bias, here, s, L, K, C,
    BD: tl.constexpr, BS: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Masses and starts at s > 0, from the masses at later positions."""
    c = tl.arange(0, BC)
    starts = tl.zeros((BC,), p_bias.dtype.element_ty)
    for first_source in range(0, C, BS):
        source = first_source + tl.arange(0, BS)
        begin = tl.zeros((BS,), tl.int64) + s
        alpha = sources_of(rows, begin, source, source < C, C, p_bias)
        shares = tl.zeros((BD, BS, BC), p_bias.dtype.element_ty)
        for first_d in range(0, tl.minimum(K, L - s), BD):
            rest, mass = opening_segments(
                rows, flow, p_starts, p_ends, p_bias, here, s, L, first_d, K, C, BD, BC
            )
            table = transition_tile(p_transition, first_d, first_source, K, C, BD, BS, BC)
            share = tl.exp(alpha[None, :, None] + table + rest[:, None, :])
            shares += share * mass[:, None, :]
        pairs = tl.sum(shares, axis=0)
        tl.store(flow + 4 * wide(s) * C + source, tl.sum(pairs, axis=1), mask=source < C)
        starts += tl.sum(pairs, axis=0)
    tl.store(flow + (4 * wide(s) + 1) * C + c, starts, mask=c < C)


@triton.jit(do_not_specialize=["first", "stop", "before", "W", "T", "K"])
def pull(
    p_starts, p_ends, p_transition, p_bias, p_edges, p_lengths, p_weight, p_rows, p_flow,
    first, stop, before, W, T, K, C, BD: tl.constexpr, BS: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Masses and starts of one sequence from ``stop`` down to ``first + 1``, times its weight.

    Down to 0 where ``first`` is 0, since no segment ends there.
    """
    b = tl.program_id(0).to(tl.int64)
    here, c = b * T * C, tl.arange(0, BC)
    L, m = tl.load(p_lengths + b).to(tl.int32), c < C
    rows = sequence_rows(p_rows, b, first, before, W, C, 2)
    flow = sequence_rows(p_flow, b, first, before, W, C, 4)
    start = tl.load(p_edges + c, mask=m, other=NEGATIVE)
    if (first < L) & (stop >= L):
        end = tl.load(p_edges + C + c, mask=m, other=NEGATIVE).to(tl.float64)
        last = tl.load(rows + 2 * wide(L) * C + c, mask=m, other=NEGATIVE)
        total = log_sum_exp(last + end, 0)
        possible = total > NEGATIVE
        share = tl.exp(tl.where(possible, last + end - tl.where(possible, total, 0.0), NEGATIVE))
        mass = (tl.load(p_weight + b) * share).to(start.dtype)
        tl.store(flow + 4 * wide(L) * C + c, mass, mask=m)
        tl.store(flow + (4 * wide(L) + 1) * C + c, tl.zeros_like(start), mask=m)
        tl.debug_barrier()
    high = tl.minimum(stop, L - 1)
    for i in range(0, high - first):
        pull_one(
            rows, flow, p_starts, p_ends, p_transition, p_bias, here, high - i, L, K, C, BD, BS, BC
        )
        # other threads take of this mass at the next position
        tl.debug_barrier()
    if first == 0:
        shares = tl.zeros((BD, BC), start.dtype)
        for first_d in range(0, tl.minimum(K, L), BD):
            rest, mass = opening_segments(
                rows, flow, p_starts, p_ends, p_bias, here, 0, L, first_d, K, C, BD, BC
            )
            shares += tl.exp(start[None, :] + rest) * mass
        tl.store(flow + c, tl.zeros_like(start), mask=m)
        tl.store(flow + C + c, tl.sum(shares, axis=0), mask=m)


@triton.jit(do_not_specialize=["first", "stop", "before", "W", "T"])
def spread(
    p_lengths, p_flow, p_inside, p_scores, p_starts, p_ends,
    first, stop, before, W, T, C, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Gradients at the positions from ``first`` to ``stop`` of one sequence, from its flow.

    p_inside: (B, C) float64. Posterior of each label at ``stop``; of that at ``first`` afterwards.
    p_scores: (B, T, C) gradient. p_starts, p_ends: the same, or None. Starts are those one
    position later, and those at 0.
    """
    b = tl.program_id(0).to(tl.int64)
    c, L = tl.arange(0, BC)[None, :], tl.load(p_lengths + b)
    flow = sequence_rows(p_flow, b, first, before, W, C, 4)
    inside = tl.load(p_inside + b * C + c, mask=c < C, other=0.0)
    blocks = tl.cdiv(stop - first, BT)
    for i in range(0, blocks):
        p = wide(first + (blocks - 1 - i) * BT) + tl.arange(0, BT)[:, None]
        mask = (p < stop) & (c < C)
        kept = mask & (p < L)
        ended = tl.load(flow + 4 * (p + 1) * C + c, mask=kept, other=0.0)
        opened = tl.load(flow + (4 * p + 5) * C + c, mask=kept, other=0.0)
        # a segment that starts at p + 1 is not open at p
        change = ended.to(tl.float64) - opened.to(tl.float64)
        labels = inside + tl.cumsum(change, axis=0, reverse=True)
        inside += tl.sum(change, axis=0)[None, :]
        place = (b * T + p) * C + c
        tl.store(p_scores + place, tl.where(kept, labels, 0.0).to(ended.dtype), mask=mask)
        if p_starts is not None:
            tl.store(p_starts + place + C, opened, mask=mask & (p < T - 1))
        if p_ends is not None:
            tl.store(p_ends + place, ended, mask=mask)
    if p_starts is not None:
        m_first = (c < C) & (c * 0 + first == 0)
        opened = tl.load(flow + C + c, mask=m_first, other=0.0)
        tl.store(p_starts + b * T * C + c, opened, mask=m_first)
    # no thread may find the new value where the old one lay
    tl.debug_barrier()
    tl.store(p_inside + b * C + c, inside, mask=c < C)
