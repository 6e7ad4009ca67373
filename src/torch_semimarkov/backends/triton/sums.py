"""The semiring and the score of a segment, in lanes: what every kernel of this backend adds with.

The semiring's zero is -inf and nothing else.
"""

import triton
import triton.language as tl


@triton.jit
def finite(b_x):
    """``b_x`` with 0 in place of -inf: what can be subtracted from -inf."""
    return tl.where(b_x == float("-inf"), 0.0, b_x)


@triton.jit
def log_sum_exp(b_x, axis: tl.constexpr):
    """Log of the sum of exponentials along an axis; -inf where every entry is."""
    b_top = finite(tl.max(b_x, axis=axis))
    b_total = tl.sum(tl.exp(b_x - tl.expand_dims(b_top, axis)), axis=axis)
    return b_top + tl.log(b_total)


@triton.jit
def total(b_x, axis: tl.constexpr, IS_MAX: tl.constexpr):
    """The semiring's sum along an axis: the largest entry, or log-sum-exp."""
    if IS_MAX:
        return tl.max(b_x, axis=axis)
    else:
        return log_sum_exp(b_x, axis)


@triton.jit
def both(b_x, b_y, IS_MAX: tl.constexpr):
    """The semiring's sum of two blocks, entry by entry."""
    b_top = tl.maximum(b_x, b_y)
    if not IS_MAX:
        b_base = finite(b_top)
        b_top = b_base + tl.log(tl.exp(b_x - b_base) + tl.exp(b_y - b_base))
    return b_top


@triton.jit
def first_of_max(b_x, i_entry, MANY: tl.constexpr, axis: tl.constexpr):
    """The largest entry along an axis, and the lowest of the int32 numbers of those that have it.

    ``i_entry`` holds the number of each entry, at most ``MANY``, and has the shape of ``b_x``.
    """
    b_top = tl.max(b_x, axis=axis)
    m_top = b_x == tl.expand_dims(b_top, axis)
    return b_top, tl.min(tl.where(m_top, i_entry, MANY), axis=axis)


@triton.jit
def load_or_zero(p_x, o_x, m_x, HAS_X: tl.constexpr, like):
    """Entries of a term that may be absent, where the mask holds; zeros of the type of ``like``."""
    b_x = tl.zeros_like(like)
    if HAS_X:
        b_x = tl.load(p_x + o_x, mask=m_x, other=0.0)
    return b_x


@triton.jit
def add_to(p_sum, b_x, m_x):
    """Add a block to what lies in memory."""
    tl.store(p_sum, tl.load(p_sum, mask=m_x, other=0.0) + b_x, mask=m_x)


@triton.jit
def opened(b_entering, b_start_scores, b_sum):
    """Score of a segment that starts here, relative to the prefix sum of its label's scores."""
    return b_entering + b_start_scores - b_sum


@triton.jit
def closed(b_open, b_end_scores, b_sum):
    """Score of all segments that end here, of which ``b_open`` is relative to the prefix sum."""
    return b_open + b_sum + b_end_scores
