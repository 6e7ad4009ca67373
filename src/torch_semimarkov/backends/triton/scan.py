"""The scan from left to right in one kernel: log partition, best score, and what is kept of them.

A program holds a few sequences. The open segments are a tile of their starts and labels that stays
in registers: the segment that starts at position s is row s mod K_PAD of its label, relative to the
prefix sum of the label's scores. A step writes one row and sums all of them, with a duration bias
that is read from memory in the order of the rows; nothing is passed between lanes by memory.
docs/gpu-kernels.md explains it with a picture.
"""

import triton
import triton.language as tl

from torch_semimarkov.backends.triton.sums import (
    both,
    closed,
    finite,
    first_of_max,
    load_or_zero,
    opened,
    total,
)
from torch_semimarkov.backends.triton.tail import (
    either,
    grown,
    log_odds,
    store_long,
    stored_long,
)

# Positions after which prefix sums get a new base: float32 has few digits for large numbers.
REBASE = tl.constexpr(8)

# Most labels whose transitions stay in registers, and labels in a part of them beyond that.
WHOLE = tl.constexpr(64)
PART = tl.constexpr(16)


@triton.jit
def bias_by_slot(p_bias, t, K_PAD: tl.constexpr, C_PAD: tl.constexpr):
    """Durations (1, K_PAD, 1) of segments that end at t, and their bias, in the order of the rows.

    The table is padded with -inf to the shape of the tile, so the load has no mask.
    """
    i_slot, i_c = tl.arange(0, K_PAD)[None, :, None], tl.arange(0, C_PAD)[None, None, :]
    i_age = (t - i_slot) & (K_PAD - 1)
    return i_age + 1, tl.load(p_bias + i_age * C_PAD + i_c)


@triton.jit
def rows_by_age(o_state, m_state, t, K, C, K_PAD: tl.constexpr):
    """Where the K youngest rows of the tile lie in the kept state, before position t is taken in.

    ``o_state`` (N, C) is where the state of each sequence and label begins; the youngest is first.
    """
    i_age = ((t - 1 - tl.arange(0, K_PAD)) & (K_PAD - 1))[None, :, None]
    return o_state[:, None, :] + i_age * C, (i_age < K) & m_state[:, None, :]


@triton.jit
def enter_in_parts(
    b_alpha, p_transition, C, C_PAD: tl.constexpr, IS_MAX: tl.constexpr, CHOICES: tl.constexpr
):
    """Sum over the labels before, a few of them at a time; and the best of them if wanted."""
    i_c = tl.arange(0, C_PAD)
    b_total = tl.full(b_alpha.shape, float("-inf"), b_alpha.dtype)
    b_source = tl.zeros(b_alpha.shape, tl.int32)
    for first in range(0, C_PAD, PART):
        i_source = first + tl.arange(0, PART)
        m_part = (i_source < C)[:, None] & (i_c < C)[None, :]
        o_part = i_source[:, None] * C + i_c[None, :]
        b_part = tl.load(p_transition + o_part, mask=m_part, other=float("-inf"))
        i_lane = i_source[None, :] + tl.zeros((b_alpha.shape[0], PART), tl.int32)
        b_ways = tl.gather(b_alpha, i_lane, 1)[:, :, None] + b_part[None, :, :]
        if CHOICES:
            b_top, b_first = first_of_max(b_ways, i_source[None, :, None], C_PAD, 1)
            b_source = tl.where(b_top > b_total, b_first, b_source)
            b_total = tl.maximum(b_total, b_top)
        else:
            b_total = both(b_total, total(b_ways, 1, IS_MAX), IS_MAX)
    return b_total, b_source


@triton.jit
def in_registers(p_transition, C, C_PAD: tl.constexpr):
    """The transitions of few labels, (source, label); nothing of many, which stay in memory."""
    if C_PAD <= WHOLE:
        i_c = tl.arange(0, C_PAD)
        m_pair = (i_c < C)[:, None] & (i_c < C)[None, :]
        o_pair = i_c[:, None] * C + i_c[None, :]
        return tl.load(p_transition + o_pair, mask=m_pair, other=float("-inf"))
    else:
        return None


@triton.jit
def enter(
    b_alpha, b_transition, p_transition, C, C_PAD: tl.constexpr, IS_MAX: tl.constexpr,
    CHOICES: tl.constexpr,
):  # fmt: skip
    """Sum over the labels before, of transitions in registers or in memory; the best if wanted."""
    if C_PAD > WHOLE:
        b_entering, b_source = enter_in_parts(b_alpha, p_transition, C, C_PAD, IS_MAX, CHOICES)
    else:
        b_ways = b_alpha[:, :, None] + b_transition[None, :, :]
        if CHOICES:
            i_source = tl.arange(0, C_PAD)[None, :, None]
            b_entering, b_source = first_of_max(b_ways, i_source, C_PAD, 1)
        else:
            b_entering, b_source = total(b_ways, 1, IS_MAX), tl.zeros(b_alpha.shape, tl.int32)
    return b_entering, b_source


@triton.jit
def scores_at(p_scores, p_start_scores, p_end_scores, o_t, m_t):
    """The terms of a position: -inf and zeros where the mask does not hold."""
    b_scores = tl.load(p_scores + o_t, mask=m_t, other=float("-inf"))
    b_starts = load_or_zero(p_start_scores, o_t, m_t, p_start_scores is not None, b_scores)
    b_ends = load_or_zero(p_end_scores, o_t, m_t, p_end_scores is not None, b_scores)
    return b_scores, b_starts, b_ends


@triton.jit
def with_fresh(b_ring, b_fresh, m_dead, t, K_PAD: tl.constexpr):
    """The tile with the row of the segments that start at t; nothing of a label without a score."""
    m_fresh = (tl.arange(0, K_PAD) == (t & (K_PAD - 1)))[None, :, None]
    b_ring = tl.where(m_fresh, b_fresh[:, None, :], b_ring)
    return tl.where(m_dead[:, None, :], float("-inf"), b_ring)


@triton.jit
def ended(b_ways, i_duration, K_PAD: tl.constexpr, IS_MAX: tl.constexpr, CHOICES: tl.constexpr):
    """Sum over the durations of what ends at a position; the shortest of the best if wanted."""
    if CHOICES:
        b_inner, b_duration = first_of_max(b_ways, i_duration, K_PAD, 1)
    else:
        b_inner = total(b_ways, 1, IS_MAX)
        b_duration = tl.zeros(b_inner.shape, tl.int32)
    return b_inner, b_duration


@triton.jit
def normed(b_wide, b_norm, b_sum, b_like):
    """Scores of a position less the best of them, which goes to the norm; prefix sums less it."""
    # the norm takes what the lanes can hold, so that what is kept of it is exact
    b_top = finite(tl.max(b_wide, axis=1)).to(b_like.dtype)
    b_alpha = (b_wide - b_top[:, None]).to(b_like.dtype)
    return b_alpha, b_top, b_norm + b_top, b_sum - b_top[:, None]


@triton.jit
def row_size(C, HAS_TAIL: tl.constexpr):
    """Numbers that are kept of a position for the backward."""
    return 5 * C + 1 if HAS_TAIL else 3 * C + 1


@triton.jit
def place_of_row(i_n, t, ROWS, C, HAS_TAIL: tl.constexpr):
    """Where the numbers begin that are kept of position t of each sequence."""
    return (i_n * ROWS + t % ROWS) * row_size(C, HAS_TAIL)


@triton.jit
def state_size(K, C, HAS_TAIL: tl.constexpr):
    """Numbers of a kept state, made even, so that whole float64 hold them."""
    labels = 5 * C if HAS_TAIL else 3 * C
    return (K * C + labels + 1) // 2 * 2


@triton.jit
def keep_row(p_rows, o_row, b_alpha, b_entering, b_open, b_top, m_t, m_n, C, C_PAD: tl.constexpr):
    """Store what the backward needs of a position, if it is wanted."""
    if p_rows is not None:
        p_row = p_rows + o_row[:, None] + tl.arange(0, C_PAD)[None, :]
        tl.store(p_row, b_alpha, mask=m_t)
        tl.store(p_row + C, b_entering, mask=m_t)
        tl.store(p_row + 2 * C, b_open.to(b_alpha.dtype), mask=m_t)
        tl.store(p_rows + o_row + 3 * C, b_top, mask=m_n)


@triton.jit
def keep_odds(p_rows, o_row, b_odds_older, b_odds_long, m_t, C, C_PAD: tl.constexpr):
    """Store the log odds of a tail behind what else is kept of a position, if it is wanted."""
    if p_rows is not None:
        p_row = p_rows + (o_row + 3 * C + 1)[:, None] + tl.arange(0, C_PAD)[None, :]
        tl.store(p_row, b_odds_older, mask=m_t)
        tl.store(p_row + C, b_odds_long, mask=m_t)


@triton.jit
def last_total(p_end, b_last, C, C_PAD: tl.constexpr, IS_MAX: tl.constexpr):
    """The semiring's sum over the last label, and the lowest of the best."""
    i_c = tl.arange(0, C_PAD)
    b_end = tl.load(p_end + i_c, mask=i_c < C, other=float("-inf")).to(tl.float64)
    b_final = b_end[None, :] + b_last
    b_top, b_label = first_of_max(b_final, i_c[None, :], C_PAD, 1)
    return b_top if IS_MAX else total(b_final, 1, IS_MAX), b_label


@triton.jit(do_not_specialize=["T", "first", "stop", "ROWS"])
def scan_kernel(
    p_scores,  # (B, T, C)
    p_start_scores,  # (B, T, C) or None
    p_end_scores,  # (B, T, C) or None
    p_tables,  # duration bias (K_PAD, C_PAD), transition (C, C), start (C), end (C)
    p_lengths,  # (programs * N,) int64, 0 for a sequence that is not there
    p_value,  # (programs * N,) float64; the norm, until the last stretch
    p_tail,  # bias of K positions (C,), tail (C,); or None
    p_rows,  # (programs * N, ROWS, row_size) or None: alpha, entering, open, top of a position
    p_state,  # (checkpoints, programs * N, state_size) or None, from first's on
    p_best,  # (programs * N, T, 2 C) int32 or None: best duration, best source
    T,
    K,
    C,
    first,
    stop,
    ROWS,
    N: tl.constexpr,
    K_PAD: tl.constexpr,
    C_PAD: tl.constexpr,
    IS_MAX: tl.constexpr,
):
    """Scan the positions from ``first`` on and before ``stop`` of N sequences."""
    D = p_scores.dtype.element_ty
    i_n = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    i_c = tl.arange(0, C_PAD)
    b_length = tl.load(p_lengths + i_n)
    # masks are made of blocks: the interpreter makes an int of one that is a block and a number
    b_zero = tl.zeros_like(b_length)
    m_c = (i_c < C)[None, :] & (i_n >= 0)[:, None]
    o_c = i_c[None, :] + tl.zeros_like(i_n)[:, None]
    p_transition = p_tables + K_PAD * C_PAD
    b_transition = in_registers(p_transition, C, C_PAD)
    p_start, p_end = p_transition + C * C, p_transition + C * C + C

    m_state, o_state = m_c, o_c
    b_entering = tl.load(p_start + o_c, mask=m_c, other=float("-inf"))
    b_ring = tl.full((N, K_PAD, C_PAD), float("-inf"), D)
    b_last = tl.full((N, C_PAD), float("-inf"), D)
    b_open = tl.zeros((N, C_PAD), tl.int32)
    b_sum = tl.zeros((N, C_PAD), tl.float64)
    b_norm = finite(tl.max(b_entering, axis=1)).to(tl.float64)
    b_entering = (b_entering - b_norm[:, None]).to(D)
    if p_state is not None:
        m_state = m_c & (b_zero + first > 0)[:, None]
        o_state = (i_n * state_size(K, C, p_tail is not None))[:, None] + i_c[None, :]
        o_ring, m_ring = rows_by_age(o_state, m_state, first, K, C, K_PAD)
        b_ring = tl.load(p_state + o_ring, mask=m_ring, other=float("-inf"))
        p_labels = p_state + o_state + K * C
        b_entering = tl.where(m_state, tl.load(p_labels, mask=m_state, other=0.0), b_entering)
        b_open = tl.load(p_labels + C, mask=m_state, other=0.0).to(tl.int32)
        b_last = tl.load(p_labels + 2 * C, mask=m_state, other=float("-inf"))
        m_norm = (b_zero + first > 0) & (b_length > 0)
        b_norm = tl.where(m_norm, tl.load(p_value + i_n, mask=m_norm, other=0.0), b_norm)

    if p_tail is not None:
        b_long = stored_long(p_state, o_state + (K + 3) * C, m_state, C, N, C_PAD)
        b_age = tl.zeros((N, C_PAD), tl.int32)

    zero = tl.full((), 0, tl.int32)
    for i in range(first, tl.minimum(stop, tl.max(b_length, axis=0).to(tl.int32))):
        t = zero + i  # the interpreter counts in Python's ints
        m_t = m_c & (t < b_length)[:, None]
        o_t = ((i_n * T + t) * C)[:, None] + i_c[None, :]
        b_scores, b_start_scores, b_end_scores = scores_at(
            p_scores, p_start_scores, p_end_scores, o_t, m_t
        )

        m_dead = b_scores == float("-inf")
        b_open = tl.where(m_dead, 0, tl.minimum(b_open + 1, K))
        b_fresh = opened(b_entering, b_start_scores, b_sum).to(D)
        b_ring = with_fresh(b_ring, b_fresh, m_dead, t, K_PAD)
        i_duration, b_bias = bias_by_slot(p_tables, t, K_PAD, C_PAD)
        b_inner, b_duration = ended(b_ring + b_bias, i_duration, K_PAD, IS_MAX, p_best is not None)

        b_sum += finite(b_scores)
        b_wide = closed(b_inner, b_end_scores, b_sum)
        if p_tail is not None:
            # read at each position, so that they take no registers between two
            b_longest = tl.load(p_tail + o_c, mask=m_c, other=0.0)
            b_rate = tl.load(p_tail + C + o_c, mask=m_c, other=0.0)
            b_long, b_odds_older = grown(
                b_long, b_rate, b_ring, i_duration, b_scores, b_sum, K, IS_MAX
            )
            b_wide_long = closed(b_long, b_end_scores, b_longest)
            b_odds_long = log_odds(b_wide_long, b_wide, b_scores)
            b_wide = either(b_wide, b_wide_long, b_scores, IS_MAX)
            b_age = tl.where(b_odds_older > 0.0, b_age + 1, K)
            b_duration = tl.where(b_odds_long > 0.0, b_age, b_duration)
        b_alpha, b_top, b_norm, b_sum = normed(b_wide, b_norm, b_sum, b_scores)
        b_last = tl.where((t == b_length - 1)[:, None], b_alpha, b_last)
        o_row = place_of_row(i_n, t, ROWS, C, p_tail is not None)
        keep_row(p_rows, o_row, b_alpha, b_entering, b_open, b_top, m_t, t < b_length, C, C_PAD)
        if p_tail is not None:
            b_long -= b_top[:, None]
            keep_odds(p_rows, o_row, b_odds_older, b_odds_long, m_t, C, C_PAD)

        b_entering, b_source = enter(
            b_alpha, b_transition, p_transition, C, C_PAD, IS_MAX, p_best is not None
        )
        if p_best is not None:
            p_row = p_best + ((i_n * T + t) * (2 * C))[:, None] + i_c[None, :]
            tl.store(p_row, b_duration, mask=m_t)
            tl.store(p_row + 3 * C, b_source, mask=m_t & (t + 1 < b_length)[:, None])

        if t % REBASE == REBASE - 1:
            b_base = b_sum.to(D)
            b_ring += b_base[:, None, :]
            b_sum = tl.zeros((N, C_PAD), tl.float64)

    # lanes that lag behind still load what others would already have stored
    tl.debug_barrier()
    if p_state is not None and p_rows is None:
        m_state = m_c & (stop < b_length)[:, None]
        o_state += tl.num_programs(0).to(tl.int64) * N * state_size(K, C, p_tail is not None)
        o_ring, m_ring = rows_by_age(o_state, m_state, stop, K, C, K_PAD)
        tl.store(p_state + o_ring, b_ring, mask=m_ring)
        p_labels = p_state + o_state + K * C
        tl.store(p_labels, b_entering, mask=m_state)
        tl.store(p_labels + C, b_open.to(D), mask=m_state)
        tl.store(p_labels + 2 * C, b_last, mask=m_state)
        if p_tail is not None:
            store_long(p_state, o_state + (K + 3) * C, m_state, C, b_long, b_last)
    b_total, b_label = last_total(p_end, b_last, C, C_PAD, IS_MAX)
    if p_best is not None:
        tl.store(p_best + i_n * T * (2 * C) + C, b_label, mask=b_length > 0)
    b_value = tl.where(stop < b_length, b_norm, b_norm + b_total)
    tl.store(p_value + i_n, b_value, mask=first < b_length)
