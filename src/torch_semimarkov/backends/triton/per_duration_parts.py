"""What the kernels for (K, C, C) transitions share: the score of a segment, tiles, sums.

Those over explicit edges take the last two parts from here.

A segment of d + 1 positions from s to t, with source c' and label c, has the score

    alpha[s, c'] + transition[d, c', c]
        + bias[d, c] + start_scores[s, c] + prefix[t, c] - prefix[s, c]

Row t of ``rows`` holds alpha and prefix in float64, both less the normaliser at t. So neither grows
with the sequence, and a difference of prefixes loses nothing before it is rounded to the lanes.
Forbidden positions are left out of the prefixes: a segment across one is masked instead.
"""

import triton
import triton.language as tl

from torch_semimarkov.backends.triton.sums import finite

NEGATIVE = tl.constexpr(float("-inf"))


@triton.jit
def wide(number):
    """A number as int64, whether it is a tensor, a constant or a plain int."""
    return tl.full((), 0, tl.int64) + number


@triton.jit
def sequence_rows(p_rows, b, first, before, W, C, planes: tl.constexpr):
    """Where row 0 of sequence b would lie: the window of W rows begins ``before`` rows earlier."""
    return p_rows + (b * W + before - first) * planes * C


@triton.jit
def segment_score(end, rows, p_starts, p_bias, here, s, d, c, mask, C):
    """Score of segments less that of their sources, (N, BC) in the lanes' type.

    end: float64. What the end of each segment brings. s, d: (N, 1) int64, starts and durations - 1.
    """
    begin = tl.load(rows + (2 * s + 1) * C + c, mask=mask, other=0.0)
    if p_starts is not None:
        begin -= tl.load(p_starts + here + s * C + c, mask=mask, other=0.0)
    bias = tl.load(p_bias + d * C + c, mask=mask, other=NEGATIVE)
    return (end - begin).to(bias.dtype) + bias


@triton.jit
def segment_end(rows, flow, p_ends, here, t, d, c, mask, C):
    """What an end at t brings to a share of alpha[t], float64 (N, BC); -inf if it cannot be.

    Row t of ``flow`` says how long a segment that ends there may be.
    """
    alpha = tl.load(rows + 2 * t * C + c, mask=mask, other=NEGATIVE)
    prefix = tl.load(rows + (2 * t + 1) * C + c, mask=mask, other=0.0)
    longest = tl.load(flow + (4 * t + 3) * C + c, mask=mask, other=0.0)
    if p_ends is not None:
        prefix += tl.load(p_ends + here + (t - 1) * C + c, mask=mask, other=0.0)
    fits = (alpha > NEGATIVE) & (longest > d)
    return tl.where(fits, prefix - tl.where(fits, alpha, 0.0), NEGATIVE)


@triton.jit
def mass_to_share(flow, t, c, mask, C):
    """Mass of a label at t over what its shares sum to, (N, BC); 0 where no segment ends."""
    mass = tl.load(flow + 4 * t * C + c, mask=mask, other=0.0)
    whole = tl.load(flow + (4 * t + 2) * C + c, mask=mask, other=1.0)
    return tl.where(whole > 0, mass / tl.where(whole > 0, whole, 1.0), 0.0)


@triton.jit
def sources_of(rows, s, source, mask, C, p_like):
    """Alpha of sources (N, BS) in the lanes' type; -inf where masked."""
    alpha = tl.load(rows + 2 * s * C + source, mask=mask, other=NEGATIVE)
    return alpha.to(p_like.dtype.element_ty)


@triton.jit
def transition_tile(
    p_transition, first_d, first_source, K, C, BD: tl.constexpr, BS: tl.constexpr, BC: tl.constexpr
):
    """(BD, BS, BC) of the transitions from a duration and a source on; -inf outside."""
    d, c = tl.arange(0, BD)[:, None, None], tl.arange(0, BC)[None, None, :]
    source = first_source + tl.arange(0, BS)[None, :, None]
    mask = (first_d + d < K) & (source < C) & (c < C)
    tile = p_transition + wide(first_d) * C * C
    return tl.load(tile + (d * C + source) * C + c, mask=mask, other=NEGATIVE)


@triton.jit
def whole_part(largest):
    """The step of a normaliser: a whole number, so that sums of steps are exact; 0 of infinity."""
    return tl.floor(tl.where(tl.abs(largest) < -NEGATIVE, largest, 0.0) + 0.5)


@triton.jit
def take_in(top, total, x):
    """Lane by lane, log sums ``top + log(total)`` with x among them; one exponential each."""
    factor = tl.exp(-tl.abs(x - finite(top)))
    total = tl.where(x > top, total * factor + 1.0, total + factor)
    return tl.maximum(top, x), total
