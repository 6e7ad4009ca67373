"""The best segmentation: the choices of the scan followed back, and the table that is returned."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["T"])
def traceback_kernel(
    p_best,  # (B, T, 2 C) int32: best duration, best source; row 0 has the last label as a source
    p_value,  # (B,) float64
    p_lengths,  # (B,) int64
    p_walked,  # (B, T, 2) int32: end and label of the segments from the last one on
    p_count,  # (B,) int64
    T,
    C,
):
    """Walk one sequence back from its end."""
    i_b = tl.program_id(0).to(tl.int64)
    end = tl.load(p_lengths + i_b).to(tl.int32)
    if tl.load(p_value + i_b) == float("-inf"):
        end = end * 0
    label = tl.load(p_best + i_b * T * 2 * C + C)
    count = end * 0
    while end > 0:
        o_walked = (i_b * T + count) * 2
        tl.store(p_walked + o_walked, end)
        tl.store(p_walked + o_walked + 1, label)
        count += 1
        end -= tl.load(p_best + (i_b * T + end - 1) * 2 * C + label)
        label = tl.load(p_best + (i_b * T + end) * 2 * C + C + label)
    tl.store(p_count + i_b, count.to(tl.int64))


@triton.jit(do_not_specialize=["B", "T"])
def table_kernel(
    p_walked,  # (B, T, 2) int32
    p_count,  # (B,) int64
    p_table,  # (3, B, T) int64: starts, ends, labels, and PAD behind them
    B,
    T,
    PAD: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Turn a stretch of one sequence's segments round."""
    i_b = tl.program_id(0).to(tl.int64)
    i_segment = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    count = tl.load(p_count + i_b)
    m_segment = i_segment < count
    o_walked = (i_b * T + count - 1 - i_segment) * 2
    b_end = tl.load(p_walked + o_walked, mask=m_segment, other=PAD)
    b_label = tl.load(p_walked + o_walked + 1, mask=m_segment, other=PAD)
    m_before = m_segment & (i_segment > 0)
    b_start = tl.load(p_walked + o_walked + 2, mask=m_before, other=0)
    b_start = tl.where(m_segment, b_start, PAD)
    o_table, m_table = i_b * T + i_segment, i_segment < T
    p_row = p_table + o_table
    tl.store(p_row, b_start.to(tl.int64), mask=m_table)
    tl.store(p_row + B.to(tl.int64) * T, b_end.to(tl.int64), mask=m_table)
    tl.store(p_row + B.to(tl.int64) * T * 2, b_label.to(tl.int64), mask=m_table)
