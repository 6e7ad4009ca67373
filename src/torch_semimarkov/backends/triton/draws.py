"""Random choices of walks side by side: numbers by counting, and entries drawn by their weights.

A number depends on the seed and on what it is for, and on nothing else: neither on how many samples
are drawn nor on what else is in the batch. The generator is Triton's Philox.

Source: Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011.
"""

import triton
import triton.language as tl

from torch_semimarkov.backends.triton.sums import finite


@triton.jit
def unit(b_high, b_low):
    """Numbers in [0, 1) of 53 bits, from two of 32 bits each."""
    b_whole = (b_high >> 5).to(tl.float64) * 67108864.0 + (b_low >> 6).to(tl.float64)
    return b_whole * 1.1102230246251565e-16


@triton.jit
def uniforms(seed, i_sample, i_b, b_count, part):
    """Two numbers in [0, 1) for each sample (S,): those of a part of its step ``b_count``."""
    i_zero = i_sample * 0
    first, second, third, fourth = tl.philox(seed, b_count, i_sample, i_zero + i_b, i_zero + part)
    return unit(first, second), unit(third, fourth)


@triton.jit
def draw(b_logs, b_point, KIND: tl.constexpr, LANES: tl.constexpr):
    """An entry of each row (S, LANES), drawn by ``exp(log)`` with a uniform number; its weights.

    The second result is the largest log, -inf if all are, and then the entry is 0; the third is the
    sum of the weights, relative to it. An entry of weight 0 is never drawn.
    """
    i_lane = tl.arange(0, LANES)[None, :]
    b_top = tl.max(b_logs, axis=1)
    b_weights = tl.exp((b_logs - finite(b_top)[:, None]).to(KIND)).to(tl.float64)
    b_sums = tl.cumsum(b_weights, 1)
    b_total = tl.sum(b_weights, axis=1)
    m_there = b_weights > 0.0
    m_beyond = m_there & (b_sums > (b_point * b_total)[:, None])
    b_entry = tl.min(tl.where(m_beyond, i_lane, LANES), axis=1)
    # rounding may leave the last one out
    b_entry = tl.minimum(b_entry, tl.max(tl.where(m_there, i_lane, 0), axis=1))
    return b_entry, b_top, b_total


@triton.jit
def either(
    b_choice, b_top, b_total, b_other, b_other_top, b_other_total, b_point, KIND: tl.constexpr
):
    """One of two choices, by the weights of what they were drawn from; the weight of both."""
    b_highest = tl.maximum(b_top, b_other_top)
    b_base = finite(b_highest)
    b_others = b_other_total * tl.exp((b_other_top - b_base).to(KIND))
    b_all = b_total * tl.exp((b_top - b_base).to(KIND)) + b_others
    return tl.where(b_point * b_all < b_others, b_other, b_choice), b_highest, b_all


@triton.jit
def take_turn(
    b_logs, b_choice, b_top, b_total, b_point, seed, i_sample, i_b, b_count, first,
    KIND: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Draw among the LANES entries from ``first`` on, and between that and the choice so far.

    ``b_point`` is for the first turn; later ones have numbers of their own.
    """
    if first > 0:
        b_point, b_keep = uniforms(seed, i_sample, i_b, b_count, first // LANES)
    else:
        b_keep = b_point * 0.0
    b_entry, b_best, b_sum = draw(b_logs, b_point, KIND, LANES)
    return either(b_choice, b_top, b_total, first + b_entry, b_best, b_sum, b_keep, KIND)
