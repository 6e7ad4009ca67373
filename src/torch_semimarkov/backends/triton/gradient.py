"""The combining pass from right to left: every gradient, as probabilities that are never rescaled.

Where the scan summed, this pass divides: the probability that a segment ends at t is shared out
among its possible starts by the weights that the scan summed, the probability that one starts
among the labels before it. Each share is divided by the sum of its own weights, so no error of the
messages adds up over the sequence, whatever its length, and nothing underflows that is not 0.
docs/gpu-kernels.md explains it with a picture.
"""

import triton
import triton.language as tl

from torch_semimarkov.backends.triton.scan import (
    PART,
    REBASE,
    WHOLE,
    bias_by_slot,
    in_registers,
    place_of_row,
)
from torch_semimarkov.backends.triton.sums import add_to, finite, load_or_zero, opened
from torch_semimarkov.backends.triton.tail import (
    long_and_short,
    older_and_new,
    open_labels,
    scaled,
    with_long,
)

# Positions after which what adds up is written to float64; a stretch has a multiple of them.
FLUSH = tl.constexpr(32)


@triton.jit
def shares(b_logs, axis: tl.constexpr):
    """Each entry's share of the sum of the exponentials along an axis; 0 where all are -inf."""
    b_top = finite(tl.max(b_logs, axis=axis))
    b_weights = tl.exp(b_logs - tl.expand_dims(b_top, axis))
    b_total = tl.expand_dims(tl.sum(b_weights, axis=axis), axis)
    return b_weights / tl.where(b_total == 0.0, 1.0, b_total)


@triton.jit
def flush(p_counts, p_sums, b_weight, SIZE: tl.constexpr):
    """Add weighted counts of each sequence to its sums in float64, a part at a time; empty them."""
    PART: tl.constexpr = 1024 if SIZE > 1024 else SIZE
    for first in range(0, SIZE, PART):
        i_entry = first + tl.arange(0, PART)[None, :]
        p_count = p_counts + i_entry
        p_sum = p_sums[:, None] + i_entry
        b_count = tl.load(p_count)
        tl.store(p_sum, tl.load(p_sum) + b_count * b_weight[:, None])
        tl.debug_barrier()
        tl.store(p_count, tl.zeros_like(b_count))
    # the lanes that add next are others
    tl.debug_barrier()


@triton.jit
def work_size(C, K_PAD: tl.constexpr, C_PAD: tl.constexpr, HAS_TAIL: tl.constexpr):
    """Numbers of a sequence that go from one span to the next: a tail's are the last."""
    labels = 6 * C if HAS_TAIL else 4 * C
    return 2 * K_PAD * C_PAD + C * C + labels


@triton.jit
def add_moves(p_moves, o_pair, b_moves, m_pair, i_n):
    """Add transitions (sequence, label before, label) to the sums of each sequence."""
    m_moves = m_pair[None, :, :] & (i_n >= 0)[:, None, None]
    add_to(p_moves[:, None, None] + o_pair[None, :, :], b_moves, m_moves)


@triton.jit
def with_row(b_ring, b_fresh, s, K_PAD: tl.constexpr):
    """The tile with the row of the segments that start at s."""
    m_fresh = (tl.arange(0, K_PAD) == (s & (K_PAD - 1)))[None, :, None]
    return tl.where(m_fresh, b_fresh.to(b_ring.dtype)[:, None, :], b_ring)


@triton.jit
def store_if_wanted(p_x, o_x, b_x, m_x):
    """Store a block to a tensor that may be absent."""
    if p_x is not None:
        tl.store(p_x + o_x, b_x, mask=m_x)


@triton.jit
def flow(b_alpha, b_entering, b_starts, b_transition):
    """What ``b_starts`` gives to the labels before, (sequence, label before, label)."""
    b_logs = b_alpha[:, :, None] + b_transition[None, :, :]
    b_ways = tl.exp(b_logs - finite(b_entering)[:, None, :])
    b_total = tl.sum(b_ways, axis=1)
    return b_ways * (b_starts / tl.where(b_total == 0.0, 1.0, b_total))[:, None, :]


@triton.jit
def flow_in_parts(
    b_alpha, b_entering, b_starts, b_weight, p_transition, p_moves, C, C_PAD: tl.constexpr
):
    """What ``b_starts`` gives to the labels before, a few labels that start at a time."""
    i_c = tl.arange(0, C_PAD)
    b_ends = tl.zeros_like(b_alpha)
    for first in range(0, C_PAD, PART):
        i_to = first + tl.arange(0, PART)
        m_part = ((i_c < C)[:, None] & (i_to < C)[None, :])[None, :, :]
        o_part = (i_c[:, None] * C + i_to[None, :])[None, :, :]
        b_part = tl.load(p_transition + o_part, mask=m_part, other=float("-inf"))
        i_lane = i_to[None, :] + tl.zeros((b_alpha.shape[0], PART), tl.int32)
        b_base = finite(tl.gather(b_entering, i_lane, 1))
        b_ways = tl.exp(b_alpha[:, :, None] + b_part - b_base[:, None, :])
        b_total = tl.sum(b_ways, axis=1)
        b_share = tl.gather(b_starts, i_lane, 1) / tl.where(b_total == 0.0, 1.0, b_total)
        b_flow = b_ways * b_share[:, None, :]
        b_ends += tl.sum(b_flow, axis=2)
        p_part = p_moves[:, None, None] + o_part
        m_part = m_part & (i_lane >= 0)[:, None, :]
        add_to(p_part, b_flow * b_weight[:, None, None], m_part)
    return b_ends


@triton.jit
def row_at(
    p_scores, p_start_scores, p_rows, i_n, b_length, b_lead, s, T, C, ROWS, C_PAD: tl.constexpr,
    HAS_TAIL: tl.constexpr,
):  # fmt: skip
    """Row in float64 of starts at s, and the sum of scores from there on to the latest base."""
    i_c = tl.arange(0, C_PAD)
    b_s = tl.zeros_like(b_length) + s
    m_there = (b_s >= 0) & (b_s < b_length)
    m_s = m_there[:, None] & (i_c < C)[None, :]
    o_s = ((i_n * T + s) * C)[:, None] + i_c[None, :]
    o_row = place_of_row(i_n, tl.maximum(s, 0), ROWS, C, HAS_TAIL)
    b_scores = tl.load(p_scores + o_s, mask=m_s, other=0.0)
    p_entering = p_rows + o_row[:, None] + C + i_c[None, :]
    b_entering = tl.load(p_entering, mask=m_s, other=float("-inf"))
    b_top = tl.load(p_rows + o_row + 3 * C, mask=m_there, other=0.0)
    b_lead += finite(b_scores).to(tl.float64) - b_top[:, None]
    b_start_scores = load_or_zero(p_start_scores, o_s, m_s, p_start_scores is not None, b_scores)
    return opened(b_entering, b_start_scores, -b_lead), b_lead


@triton.jit(do_not_specialize=["T", "first", "stop", "ROWS"])
def gradient_kernel(
    p_scores,  # (B, T, C)
    p_start_scores,  # (B, T, C) or None
    p_tables,  # duration bias (K_PAD, C_PAD), transition (C, C), start (C), end (C)
    p_lengths,  # (programs * N,) int64, 0 for a sequence that is not there
    p_weight,  # (programs * N,) float64
    p_rows,  # (programs * N, ROWS, row_size), of the scan
    p_work,  # (programs * N, work_size) float64: sums as in the tables, state, a tail's
    p_counts,  # (2, programs * N, K_PAD, C_PAD): counts to add to the sums; what is open
    p_grad_scores,  # (B, T, C)
    p_grad_starts,  # (B, T, C) or None
    p_grad_ends,  # (B, T, C) or None
    T,
    K,  # None where durations have no tail: then nothing asks for it
    C,
    first,
    stop,
    ROWS,
    N: tl.constexpr,
    K_PAD: tl.constexpr,
    C_PAD: tl.constexpr,
):
    """Go through the positions before ``stop`` down to ``first`` of N sequences."""
    D = p_scores.dtype.element_ty
    HAS_TAIL: tl.constexpr = K is not None
    i_n = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    i_c, i_slot = tl.arange(0, C_PAD), tl.arange(0, K_PAD)
    b_length = tl.load(p_lengths + i_n)
    b_weight = tl.load(p_weight + i_n)
    b_zero = tl.zeros_like(b_length)
    m_c = (i_c < C)[None, :] & (i_n >= 0)[:, None]
    o_c = i_c[None, :] + tl.zeros_like(i_n)[:, None]
    p_transition = p_tables + K_PAD * C_PAD
    b_transition = in_registers(p_transition, C, C_PAD)
    if C_PAD <= WHOLE:
        m_pair = (i_c < C)[:, None] & (i_c < C)[None, :]
        o_pair = i_c[:, None] * C + i_c[None, :]
        b_moves = tl.zeros((N, C_PAD, C_PAD), D)
    b_end = tl.load(p_transition + C * C + C + o_c, mask=m_c, other=float("-inf"))

    p_sums = p_work + i_n * work_size(C, K_PAD, C_PAD, HAS_TAIL)
    o_tile = i_slot[None, :, None] * C_PAD + i_c[None, None, :]
    p_counts += i_n[:, None] * (K_PAD * C_PAD)
    p_moves = p_sums + K_PAD * C_PAD
    p_labels = p_sums[:, None] + K_PAD * C_PAD + C * C + i_c[None, :]
    p_tile = p_sums[:, None, None] + K_PAD * C_PAD + C * C + 4 * C + o_tile
    longest = tl.max(b_length, axis=0).to(tl.int32)
    hi = tl.minimum(stop, longest)
    m_later = m_c & (b_zero + stop < longest)[:, None]
    m_tile = m_later[:, None, :] & (o_tile >= 0)
    m_rows = m_c[:, None, :] & (o_tile >= 0)
    p_start = p_labels + 4 * C
    b_lead = tl.load(p_labels + 2 * C, mask=m_later, other=0.0)
    b_ends = tl.load(p_labels + 3 * C, mask=m_later, other=0.0).to(D)
    p_open = p_counts[:, None, :] + tl.num_programs(0).to(tl.int64) * N * (K_PAD * C_PAD) + o_tile
    b_pending = tl.load(p_open, mask=m_tile, other=0.0)
    b_lag = tl.zeros((N, C_PAD), tl.float64)
    o_older = work_size(C, K_PAD, C_PAD, False) + i_c[None, :]
    b_older = load_or_zero(p_sums[:, None], o_older, m_later, HAS_TAIL, b_lead)
    p_beyond = p_sums[:, None] + o_older + C

    m_last = m_c & ((first < b_length) & (b_length <= stop))[:, None]
    o_last = place_of_row(i_n, tl.maximum(b_length - 1, 0), ROWS, C, HAS_TAIL)
    b_alpha = tl.load(p_rows + o_last[:, None] + i_c[None, :], mask=m_last, other=float("-inf"))
    b_last = shares(b_alpha + b_end, 1)
    tl.store(p_labels + C, b_last * b_weight[:, None], mask=m_last)
    for i in range(0, tl.where((first < longest) & (longest <= stop), K_PAD - 1, 0)):
        s = longest - 1 - i
        b_fresh, b_lead = row_at(
            p_scores, p_start_scores, p_rows, i_n, b_length, b_lead, s, T, C, ROWS, C_PAD, HAS_TAIL
        )
        tl.store(p_start + (s & (K_PAD - 1)) * C_PAD, b_fresh, mask=m_c)
    tl.debug_barrier()
    b_ring = tl.load(p_tile, mask=m_rows, other=float("-inf")).to(D)
    tl.debug_barrier()

    for i in range(0, tl.maximum(hi - first, 0)):
        t = hi - 1 - i
        s = t - (K_PAD - 1)
        b_fresh, b_lead = row_at(
            p_scores, p_start_scores, p_rows, i_n, b_length, b_lead, s, T, C, ROWS, C_PAD, HAS_TAIL
        )
        tl.store(p_start + (s & (K_PAD - 1)) * C_PAD, b_fresh, mask=m_c)
        b_ring = with_row(b_ring, b_fresh, s, K_PAD)

        m_t = m_c & (t < b_length)[:, None]
        o_row = place_of_row(i_n, t, ROWS, C, HAS_TAIL)
        p_row = p_rows + o_row[:, None] + i_c[None, :]
        b_entering = tl.load(p_row + C, mask=m_t, other=float("-inf"))
        b_open = tl.load(p_row + 2 * C, mask=m_t, other=0.0).to(tl.int32)
        b_ends = tl.where((t == b_length - 1)[:, None], b_last, b_ends)
        i_duration, b_bias = bias_by_slot(p_tables, t, K_PAD, C_PAD)
        m_open = i_duration <= b_open[:, None, :]
        b_logs = tl.where(m_open, b_ring + b_bias, float("-inf"))
        b_long, b_short = long_and_short(p_row + 4 * C + 1, b_ends, m_t, HAS_TAIL)
        b_joint = shares(b_logs, 1) * b_short[:, None, :]
        b_pending += b_joint
        b_joint = with_long(b_joint, b_long, i_duration, K)
        p_count = p_counts[:, None, :] + (i_duration - 1) * C_PAD + i_c[None, None, :]
        tl.store(p_count, tl.load(p_count) + b_joint)
        # other lanes add to the same durations in the next step
        tl.debug_barrier()

        b_older, b_pending = older_and_new(
            p_row + 3 * C + 1, p_beyond, b_older, b_long, b_pending, b_weight, i_duration, m_t, K
        )
        b_labels = open_labels(b_pending, b_older, HAS_TAIL)
        if t % FLUSH == 0:
            # what is open here is all there is: rounding that adds up ends here
            b_mass = tl.sum(b_labels, axis=1)
            b_scale = (1.0 / tl.where(b_mass == 0.0, 1.0, b_mass))[:, None]
            b_labels *= b_scale
            b_pending *= b_scale[:, None, :]
            b_older = scaled(b_older, b_scale, HAS_TAIL)
        m_start = (i_slot == (t & (K_PAD - 1)))[None, :, None]
        b_starts = tl.sum(tl.where(m_start, b_pending, 0.0), axis=1)
        b_pending = tl.where(m_start, 0.0, b_pending)
        o_t = ((i_n * T + t) * C)[:, None] + i_c[None, :]
        tl.store(p_grad_scores + o_t, b_labels * b_weight[:, None], mask=m_t)
        store_if_wanted(p_grad_starts, o_t, b_starts * b_weight[:, None], m_t)
        store_if_wanted(p_grad_ends, o_t, b_ends * b_weight[:, None], m_t)

        o_before = place_of_row(i_n, tl.maximum(t - 1, 0), ROWS, C, HAS_TAIL)
        p_before = p_rows + o_before[:, None] + i_c[None, :]
        b_alpha = tl.load(p_before, mask=m_t & (b_zero + t > 0)[:, None], other=float("-inf"))
        if C_PAD > WHOLE:
            b_ends = flow_in_parts(
                b_alpha, b_entering, b_starts, b_weight, p_transition, p_moves, C, C_PAD
            )
        else:
            b_flow = flow(b_alpha, b_entering, b_starts, b_transition)
            b_ends = tl.sum(b_flow, axis=2)
            b_moves += b_flow
        if t % FLUSH == 0:
            if C_PAD <= WHOLE:
                add_moves(p_moves, o_pair, b_moves * b_weight[:, None, None], m_pair, i_n)
                b_moves = tl.zeros((N, C_PAD, C_PAD), D)
            flush(p_counts, p_sums, b_weight, K_PAD * C_PAD)
            if t == 0:
                tl.store(p_labels, b_starts * b_weight[:, None], mask=m_c)

        # rows stay relative to where segments end, since there the weighty ones are near 0; they
        # come from float64, since far from there they are not, and float32 does not forget it
        b_scores = tl.load(p_scores + o_t, mask=m_t, other=0.0)
        b_top = tl.load(p_rows + o_row + 3 * C, mask=b_zero + t < b_length, other=0.0)
        b_lag += finite(b_scores).to(tl.float64) - b_top[:, None]
        if t % REBASE == 0:
            b_rows = tl.load(p_tile, mask=m_rows, other=float("-inf")) - b_lag[:, None, :]
            tl.debug_barrier()
            tl.store(p_tile, b_rows, mask=m_rows)
            tl.debug_barrier()
            b_ring = b_rows.to(D)
            b_lead -= b_lag
            b_lag = tl.zeros((N, C_PAD), tl.float64)

    tl.debug_barrier()
    m_before = m_c & (b_zero + first > 0)[:, None]
    m_tile = m_before[:, None, :] & (o_tile >= 0)
    tl.store(p_labels + 2 * C, b_lead, mask=m_before)
    tl.store(p_labels + 3 * C, b_ends, mask=m_before)
    tl.store(p_open, b_pending, mask=m_tile)
    if HAS_TAIL:
        tl.store(p_sums[:, None] + o_older, b_older, mask=m_before)
