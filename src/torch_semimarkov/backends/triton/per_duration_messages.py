"""Messages for (K, C, C) transitions: alpha of the scan, and with it every entering message.

What enters a segment depends on where it starts, its duration and its label, so there are K C of
them at each position. No two of them wait for each other: a program has one start and some
durations.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from torch_semimarkov.backends.triton import per_duration
from torch_semimarkov.backends.triton.per_duration_parts import NEGATIVE, take_in, transition_tile
from torch_semimarkov.backends.triton.scans import associative_scan
from torch_semimarkov.backends.triton.sums import finite
from torch_semimarkov.backends.triton.variants import power_of_two, up
from torch_semimarkov.potentials import Potentials

# Lanes of a tile of (durations, sources, labels), half as many in float64; sources in it, warps.
TILE, SOURCES, WARPS = 4096, 8, 8


@triton.jit(do_not_specialize=["T", "K"])
def entering_kernel(
    p_transition,  # (K, C, C)
    p_start,  # (C,)
    p_lengths,  # (B,) int64
    p_rows,  # (B, T + 1, 2, C) float64, of the scan; only alpha is read
    p_norms,  # (B, T) float64, of the rows from the second one on
    p_entering,  # (B, T, K, C) float64, to fill by last position, where a segment fits
    T,
    K,
    C,
    BD: tl.constexpr,
    BS: tl.constexpr,
    BC: tl.constexpr,
):
    """Fill what enters the segments that start at one position, of BD durations."""
    b, s = (tl.program_id(0) // T).to(tl.int64), tl.program_id(0) % T
    first_d, c = tl.program_id(1) * BD, tl.arange(0, BC)[None, :]
    d = first_d + tl.arange(0, BD)[:, None]
    length = tl.load(p_lengths + b).to(tl.int32)
    kind: tl.constexpr = p_transition.dtype.element_ty
    top = tl.full((BD, BS, BC), NEGATIVE, kind)
    total = tl.zeros((BD, BS, BC), kind)
    row = p_rows + (b * (T + 1) + s) * (2 * C)
    for first_source in range(0, C, BS):
        source = first_source + tl.arange(0, BS)
        alpha = tl.load(row + source, mask=source < C, other=NEGATIVE).to(kind)
        table = transition_tile(p_transition, first_d, first_source, K, C, BD, BS, BC)
        top, total = take_in(top, total, alpha[None, :, None] + table)
    best = tl.max(top, axis=1)
    base = finite(best)
    whole = tl.sum(total * tl.exp(top - base[:, None, :]), axis=1)
    found = tl.log(whole).to(tl.float64) + base.to(tl.float64)
    if s > 0:
        found += tl.load(p_norms + b * T + s - 1)
    else:
        found = tl.load(p_start + c + d * 0, mask=c + d * 0 < C, other=NEGATIVE).to(tl.float64)
    place = ((b * T + s + d) * K + d) * C + c
    tl.store(p_entering + place, found, mask=(d < K) & (s + d < length) & (c < C))


def messages(p: Potentials) -> tuple[Tensor, Tensor]:
    """``alpha`` (B, T, C) and ``entering`` (B, T, K, C) float64 in nats, K at most T.

    ``entering`` goes by the last position of a segment; -inf past the lengths, and where none fits.
    """
    (B, T, C), K = p.scores.shape, min(p.K, p.T)
    _, rows = per_duration.forward(p, "log", True, None)
    inside = p.inside()[..., None]
    scores = torch.where(inside, p.scores.detach(), 0.0)[..., :1].to(torch.float64)
    scores = torch.where(scores == -torch.inf, 0.0, scores)
    prefix, _ = associative_scan(scores, "add", False, False, None, None)
    # rows have prefixes less the norm, which is a whole number
    norms = (prefix - rows[:, 1:, 1, :1]).round()
    alpha = torch.where(inside, rows[:, 1:, 0] + norms, -torch.inf)
    start = p.scores.new_zeros(C) if p.start is None else p.start.detach()
    entering = torch.full((B, T, K, C), -torch.inf, dtype=torch.float64, device=p.device)
    BC = power_of_two(C)
    BS = min(BC, SOURCES)
    tile = TILE // 2 if p.scores.dtype == torch.float64 else TILE
    BD = min(power_of_two(K), max(1, tile // (BC * BS)))
    entering_kernel[B * T, up(K, BD) // BD](
        p.transition, start, p.lengths, rows, norms, entering, T, K, C, BD=BD, BS=BS, BC=BC,
        num_warps=max(1, min(WARPS, BD * BS * BC // 512)), num_stages=1,
    )  # fmt: skip
    return alpha, entering
