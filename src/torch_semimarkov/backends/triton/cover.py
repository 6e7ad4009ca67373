"""The best score with a label at each position, from what comes before a start and after an end.

    labels[t, c] = max over s <= t <= e of opened[s, c] + bias[e - s, c] + closed[e, c]

where [s, e] has no forbidden position and at most K positions. Maxima have no order, so every block
of positions has a program of its own, and every few labels. It goes from right to left, and begins
K - 1 positions to the right of its block. A row of its tile belongs to a start, in a ring as in the
scan: what the best end at the position or later brings.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["T", "K"])
def cover_kernel(
    p_rows,  # (B, T, 3 C + 1), of the scan: how many positions a segment that ends here may have
    p_bias,  # (K, C)
    p_lengths,  # (B,) int64
    p_opened,  # (B, T, C) float64: the best with a start here, less the scores before it
    p_closed,  # (B, T, C) float64: the best with an end here, with the scores up to it
    p_labels,  # (B, T, C) float64, to fill before the lengths
    T,
    K,
    C,
    POSITIONS: tl.constexpr,
    K_PAD: tl.constexpr,
    LABELS: tl.constexpr,
):
    """Fill POSITIONS positions and LABELS labels of one sequence."""
    blocks = (T + POSITIONS - 1) // POSITIONS
    i_b = (tl.program_id(0) // blocks).to(tl.int64)
    first = tl.program_id(0) % blocks * POSITIONS
    i_c = tl.program_id(1) * LABELS + tl.arange(0, LABELS)[None, :]
    i_slot = tl.arange(0, K_PAD)[:, None]
    m_c = i_c < C
    length = tl.load(p_lengths + i_b).to(tl.int32)
    stop = tl.minimum(first + POSITIONS, length)
    last = tl.minimum(stop + K - 1, length)
    i_start = last - 1 - ((last - 1 - i_slot) & (K_PAD - 1))
    o_start = (i_b * T + i_start) * C + i_c
    b_opened = tl.load(p_opened + o_start, mask=(i_start >= 0) & m_c, other=float("-inf"))
    b_rest = tl.full((K_PAD, LABELS), float("-inf"), tl.float64)
    for i in range(0, last - first):
        t = last - 1 - i
        o_t = (i_b * T + t) * C + i_c
        i_age = (t - i_slot) & (K_PAD - 1)
        p_open = p_rows + (i_b * T + t) * (3 * C + 1) + 2 * C + i_c
        m_age = (i_age < tl.load(p_open, mask=m_c, other=0.0).to(tl.int32)) & m_c
        b_bias = tl.load(p_bias + i_age * C + i_c, mask=m_age, other=float("-inf"))
        b_closed = tl.load(p_closed + o_t, mask=m_c, other=float("-inf"))
        b_rest = tl.maximum(b_rest, b_bias + b_closed)
        if t < stop:
            b_best = tl.max(b_opened + b_rest, axis=0)
            tl.store(p_labels + o_t, b_best[None, :], mask=m_c)
        # the start at t makes way for one that is as far back as the ring is long
        m_fresh = i_slot == (t & (K_PAD - 1))
        m_before = m_c & (i_c * 0 + t >= K_PAD)
        b_fresh = tl.load(p_opened + o_t - K_PAD * C, mask=m_before, other=float("-inf"))
        b_opened = tl.where(m_fresh, b_fresh, b_opened)
        b_rest = tl.where(m_fresh, float("-inf"), b_rest)
