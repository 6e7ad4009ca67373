"""What a geometric tail adds to a position, in lanes: all long segments of a label are one number.

A segment is long from its K-th position on. The scan keeps the score of everything that ends in a
long segment which is still open: what has just become K positions old, and one tail more of what
was long before. The combining pass keeps the probability that belongs to it, and takes the parts
of it from the logs of their odds, which the scan has stored. A tail adds up over any number of
positions, so scores and masses are float64; exponentials are in the type of the lanes.
"""

import triton
import triton.language as tl

from torch_semimarkov.backends.triton.sums import add_to, finite


@triton.jit
def log_of_one_and(b_x):
    """Log of 1 + x for 0 <= x <= 1, to the last digits of the result however small x is."""
    TERMS: tl.constexpr = 16 if b_x.dtype == tl.float64 else 8
    # 2 artanh(x / (2 + x)) as a series: tl.log may lose all digits near 1
    b_ratio = b_x / (2.0 + b_x)
    b_square = b_ratio * b_ratio
    b_sum = tl.zeros_like(b_x)
    for i in tl.static_range(TERMS):
        b_sum = b_sum * b_square + 2.0 / (2 * (TERMS - i) - 1)
    return b_ratio * b_sum


@triton.jit
def either(b_x, b_y, b_like, IS_MAX: tl.constexpr):
    """The semiring's sum of two float64 blocks."""
    b_top = tl.maximum(b_x, b_y)
    if not IS_MAX:
        b_less = tl.exp((tl.minimum(b_x, b_y) - finite(b_top)).to(b_like.dtype))
        b_top += log_of_one_and(b_less).to(tl.float64)
    return b_top


@triton.jit
def log_odds(b_x, b_y, b_like):
    """How much ``b_x`` is above ``b_y``, in the type of ``b_like``; -inf where ``b_x`` is."""
    b_odds = (finite(b_x) - b_y).to(b_like.dtype)
    return tl.where(b_x == float("-inf"), float("-inf"), b_odds)


@triton.jit
def grown(b_long, b_rate, b_ring, i_duration, b_scores, b_sum, K, IS_MAX: tl.constexpr):
    """Open long segments with a position more; the log odds that one was long before."""
    b_new = tl.max(tl.where(i_duration == K, b_ring, float("-inf")), axis=1) + b_sum
    b_older = b_long + b_rate + b_scores
    return either(b_new, b_older, b_scores, IS_MAX), log_odds(b_older, b_new, b_scores)


@triton.jit
def parts_by(b_odds, b_mass):
    """The two parts of a mass that have these log odds; their sum is the mass to the last bit."""
    b_less = tl.exp(-tl.abs(b_odds))
    b_small = b_mass * (b_less / (1.0 + b_less))
    b_large = b_mass - b_small
    return tl.where(b_odds > 0, b_large, b_small), tl.where(b_odds > 0, b_small, b_large)


@triton.jit
def long_and_short(p_odds, b_ends, m_t, HAS_TAIL: tl.constexpr):
    """Of the segments that end at a position, those that are long and the others."""
    if HAS_TAIL:
        return parts_by(tl.load(p_odds, mask=m_t, other=float("-inf")), b_ends)
    else:
        return tl.zeros_like(b_ends), b_ends


@triton.jit
def with_long(b_joint, b_long, i_duration, K):
    """What ends, by durations, the long among those of K positions; K is None without a tail."""
    if K is not None:
        b_joint += tl.where(i_duration == K, b_long[:, None, :], 0.0)
    return b_joint


@triton.jit
def older_and_new(p_odds, p_beyond, b_older, b_long, b_pending, b_weight, i_duration, m_t, K):
    """Of the long segments at a position those that were long before, and the open short ones.

    ``b_long`` end here and ``b_older`` later. Those that have K positions here are short before.
    """
    if K is not None:
        b_odds = tl.load(p_odds, mask=m_t, other=float("-inf"))
        b_older, b_new = parts_by(b_odds, b_older + b_long)
        add_to(p_beyond, b_older * b_weight[:, None], m_t)
        b_pending += tl.where(i_duration == K, b_new.to(b_pending.dtype)[:, None, :], 0.0)
    return b_older, b_pending


@triton.jit
def open_labels(b_pending, b_older, HAS_TAIL: tl.constexpr):
    """The probability of each label at a position, from the open segments of all lengths."""
    b_labels = tl.sum(b_pending, axis=1)
    if HAS_TAIL:
        b_labels += b_older.to(b_labels.dtype)
    return b_labels


@triton.jit
def scaled(b_older, b_scale, HAS_TAIL: tl.constexpr):
    """The mass of the long segments times the scale of all that is open."""
    if HAS_TAIL:
        b_older *= b_scale
    return b_older


@triton.jit
def stored_long(p_state, o_high, m_state, C, N: tl.constexpr, C_PAD: tl.constexpr):
    """Scores of open long segments, float64, that lie in a state as sums of two; -inf of none."""
    b_long = tl.full((N, C_PAD), float("-inf"), tl.float64)
    if p_state is not None:
        b_long = tl.load(p_state + o_high, mask=m_state, other=float("-inf")).to(tl.float64)
        b_long += tl.load(p_state + o_high + C, mask=m_state, other=0.0)
    return b_long


@triton.jit
def store_long(p_state, o_high, m_state, C, b_long, b_like):
    """Store them, as sums of two of the type of ``b_like``."""
    b_high = b_long.to(b_like.dtype)
    b_low = (finite(b_long) - finite(b_high)).to(b_like.dtype)
    tl.store(p_state + o_high, b_high, mask=m_state)
    tl.store(p_state + o_high + C, b_low, mask=m_state)
