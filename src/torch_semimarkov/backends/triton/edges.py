"""Explicit edge potentials on a GPU: one program a sequence, each edge loaded once where it lies.

    alpha[t, c] = log sum over d and sources c' of exp(alpha[t-d, c'] + edge[t-d, d-1, c, c'])

A program takes tiles of (durations, destinations, sources), and every lane keeps a log sum of its
own. Row t of ``rows`` holds alpha in float64, relative to a normaliser that follows it in whole
numbers, and then that normaliser: T + 1 rows are all that is kept. The backward goes from right to
left; the share of an edge in the mass of its end is exp(alpha[t-d, c'] + edge - alpha[t, c]). In
the max semiring there is no normaliser and sums are float64, so that the way back finds the numbers
of the way there.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from torch_semimarkov.backends.triton import edge_kept_shape
from torch_semimarkov.backends.triton.per_duration_parts import NEGATIVE, take_in, whole_part
from torch_semimarkov.backends.triton.sums import finite, log_sum_exp
from torch_semimarkov.potentials import EdgePotentials

# Lanes of a tile, there and back, the warps that share it, and durations in it at most: what keeps
# every kernel within its registers.
TILE, TILE_BACK, WARPS, MOST_DURATIONS = 4096, 2048, 8, 8


@triton.jit
def tile_of(first_d, first_source, K, C, BD: tl.constexpr, BC: tl.constexpr, BS: tl.constexpr):
    """Durations - 1, destinations and sources of a tile, along its three axes."""
    d = first_d + tl.arange(0, BD)[:, None, None]
    c = tl.arange(0, BC)[None, :, None]
    source = first_source + tl.arange(0, BS)[None, None, :]
    return d, c, source, (d < K) & (c < C) & (source < C)


@triton.jit
def edges_into(p_edge, rows, b, t, d, c, source, mask, T, K, C, norm, kind: tl.constexpr):
    """Scores of the edges that end at t, relative to a normaliser; -inf outside the mask."""
    start = t - 1 - d
    m = mask & (start >= 0)
    place = ((b * T + start) * K + d) * C * C + c * C + source
    score = tl.load(p_edge + place, mask=m, other=NEGATIVE).to(kind)
    m_s = (start >= 0) & (source < C)
    row = rows + start * (C + 1)
    before = tl.load(row + source, mask=m_s, other=NEGATIVE)
    before += tl.load(row + C, mask=start >= 0, other=0.0) - norm
    return score + before.to(kind)


@triton.jit(do_not_specialize=["T", "K"])
def edge_log_scan(
    p_edge, p_lengths, p_rows, p_total, T, K, C, BD: tl.constexpr, BC: tl.constexpr,
    BS: tl.constexpr,
):  # fmt: skip
    """Rows of one sequence and its log partition.

    p_lengths: (B,) int64 positions. p_rows: (B, T + 1, C + 1) float64. p_total: (B,) float64.
    """
    b = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BC)
    kind: tl.constexpr = p_edge.dtype.element_ty
    L, rows, norm = tl.load(p_lengths + b), p_rows + b * (T + 1) * (C + 1), tl.zeros((), tl.float64)
    alpha = tl.where(lanes < C, tl.zeros((BC,), tl.float64), NEGATIVE)
    tl.store(rows + lanes, alpha, mask=lanes < C)
    tl.store(rows + C, norm)
    tl.debug_barrier()
    for i in range(0, L):
        t = tl.full((), 1, tl.int64) + i
        top = tl.full((BD, BC, BS), NEGATIVE, kind)
        total = tl.zeros((BD, BC, BS), kind)
        for first_d in range(0, tl.minimum(K, t), BD):
            for first_source in range(0, C, BS):
                d, c, source, mask = tile_of(first_d, first_source, K, C, BD, BC, BS)
                x = edges_into(p_edge, rows, b, t, d, c, source, mask, T, K, C, norm, kind)
                top, total = take_in(top, total, x)
        best = tl.max(tl.max(top, axis=2), axis=0)
        base = finite(best)
        total = total * tl.exp(top - base[None, :, None])
        whole = tl.sum(tl.sum(total, axis=2), axis=0)
        alpha = tl.log(whole).to(tl.float64) + base.to(tl.float64)
        alpha = tl.where(lanes < C, alpha, NEGATIVE)
        step = whole_part(tl.max(alpha, axis=0))
        alpha, norm = alpha - step, norm + step
        row = rows + t * (C + 1)
        tl.store(row + lanes, alpha, mask=lanes < C)
        tl.store(row + C, norm)
        # other threads load this row at the next position
        tl.debug_barrier()
    tl.store(p_total + b, log_sum_exp(alpha, 0) + norm)


@triton.jit(do_not_specialize=["T", "K"])
def edge_max_scan(
    p_edge, p_lengths, p_rows, p_total, T, K, C, BD: tl.constexpr, BC: tl.constexpr,
    BS: tl.constexpr,
):  # fmt: skip
    """Rows of one sequence in the max semiring, without a normaliser, and its best score.

    Arguments as for ``edge_log_scan``.
    """
    b = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BC)
    L, rows, zero = tl.load(p_lengths + b), p_rows + b * (T + 1) * (C + 1), tl.zeros((), tl.float64)
    alpha = tl.where(lanes < C, tl.zeros((BC,), tl.float64), NEGATIVE)
    tl.store(rows + lanes, alpha, mask=lanes < C)
    tl.store(rows + C, zero)
    tl.debug_barrier()
    spoilt = tl.zeros((), tl.int32)
    for i in range(0, L):
        t = tl.full((), 1, tl.int64) + i
        top = tl.full((BD, BC, BS), NEGATIVE, tl.float64)
        for first_d in range(0, tl.minimum(K, t), BD):
            for first_source in range(0, C, BS):
                d, c, source, mask = tile_of(first_d, first_source, K, C, BD, BC, BS)
                x = edges_into(p_edge, rows, b, t, d, c, source, mask, T, K, C, zero, tl.float64)
                # a maximum loses NaN
                bad = tl.max(tl.max(tl.max((x != x).to(tl.int32), axis=2), axis=1), axis=0)
                spoilt = tl.maximum(spoilt, bad)
                top = tl.maximum(top, x)
        alpha = tl.max(tl.max(top, axis=2), axis=0)
        row = rows + t * (C + 1)
        tl.store(row + lanes, alpha, mask=lanes < C)
        tl.store(row + C, zero)
        tl.debug_barrier()
    best = tl.max(tl.where(lanes < C, alpha, NEGATIVE), axis=0)
    tl.store(p_total + b, tl.where(spoilt > 0, float("nan"), best))


@triton.jit
def shares(p_edge, rows, mass, b, s, L, d, c, source, mask, T, K, C, kind: tl.constexpr):
    """Shares of the edges that start at s in the mass of their ends; 0 where there is none."""
    t = s + 1 + d
    m = mask & (t <= L)
    place = ((b * T + s) * K + d) * C * C + c * C + source
    score = tl.load(p_edge + place, mask=m, other=NEGATIVE)
    here, there = rows + s * (C + 1), rows + t * (C + 1)
    alpha = tl.load(here + source, mask=source < C, other=NEGATIVE)
    m_t = (d < K) & (t <= L)
    end = tl.load(there + c, mask=m_t & (c < C), other=NEGATIVE)
    norm = tl.load(there + C, mask=m_t, other=0.0) - tl.load(here + C)
    alive = m & (end > NEGATIVE)
    rest = (alpha - (tl.where(alive, end, 0.0) + norm)).to(kind)
    share = tl.exp(tl.where(alive, score + rest, NEGATIVE))
    weight = tl.load(mass + t * C + c, mask=m_t & (c < C), other=0.0)
    return share * weight.to(kind), place


@triton.jit(do_not_specialize=["T", "K"])
def edge_pull(
    p_edge, p_lengths, p_rows, p_weight, p_mass, p_grad, T, K, C, BD: tl.constexpr,
    BC: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    """Edge marginals of one sequence times its weight, from right to left.

    p_mass: (B, T + 1, C) float64, room. p_grad: like p_edge and full of 0.
    """
    b = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BC)
    kind: tl.constexpr = p_edge.dtype.element_ty
    L, rows = tl.load(p_lengths + b), p_rows + b * (T + 1) * (C + 1)
    mass = p_mass + b * (T + 1) * C
    last = tl.load(rows + L * (C + 1) + lanes, mask=lanes < C, other=NEGATIVE)
    largest = tl.max(last, axis=0)
    weights = tl.exp(last - finite(largest))
    total = tl.sum(weights, axis=0)
    weights = weights / tl.where(total == 0.0, 1.0, total) * tl.load(p_weight + b)
    tl.store(mass + L * C + lanes, weights, mask=lanes < C)
    tl.debug_barrier()
    for i in range(0, L):
        s = L - 1 - i
        for first_source in range(0, C, BS):
            before = tl.zeros((BS,), tl.float64)
            for first_d in range(0, tl.minimum(K, L - s), BD):
                d, c, source, mask = tile_of(first_d, first_source, K, C, BD, BC, BS)
                share, place = shares(
                    p_edge, rows, mass, b, s, L, d, c, source, mask, T, K, C, kind
                )
                tl.store(p_grad + place, share, mask=mask & (s + 1 + d <= L))
                before += tl.sum(tl.sum(share, axis=1), axis=0).to(tl.float64)
            o_s = first_source + tl.arange(0, BS)
            tl.store(mass + s * C + o_s, before, mask=o_s < C)
        # other threads take of this mass at the next position
        tl.debug_barrier()


@triton.jit(do_not_specialize=["T", "K"])
def edge_trace(
    p_edge, p_lengths, p_rows, p_weight, p_grad, T, K, C, BD: tl.constexpr, BC: tl.constexpr
):
    """Put the weight of a sequence on the edges of its best segmentation.

    Of equal ones the lowest last label, then from the end the shortest segment and lowest source.
    """
    b = tl.program_id(0).to(tl.int64)
    L, rows = tl.load(p_lengths + b), p_rows + b * (T + 1) * (C + 1)
    weight = tl.load(p_weight + b).to(p_edge.dtype.element_ty)
    last = tl.load(rows + L * (C + 1) + tl.arange(0, BC), mask=tl.arange(0, BC) < C, other=NEGATIVE)
    best = tl.max(last, axis=0)
    label = tl.min(tl.where(last == best, tl.arange(0, BC), C), axis=0).to(tl.int64)
    t = tl.where(best > NEGATIVE, L, 0)
    while t > 0:
        goal = tl.load(rows + t * (C + 1) + label)
        found = tl.zeros((), tl.int64) + K * C
        for first_d in range(0, tl.minimum(K, t), BD):
            d = first_d + tl.arange(0, BD)[:, None, None]
            source = tl.arange(0, BC)[None, None, :]
            mask = (d < K) & (source < C)
            x = edges_into(
                p_edge, rows, b, t, d, label, source, mask, T, K, C, goal * 0.0, tl.float64
            )
            index = tl.where(mask & (x == goal), d * C + source, K * C).to(tl.int64)
            found = tl.minimum(found, tl.min(tl.min(tl.min(index, axis=2), axis=1), axis=0))
        d, source = found // C, found % C
        start = t - 1 - d
        place = ((b * T + start) * K + d) * C * C + label * C + source
        tl.store(p_grad + place, weight, mask=found < K * C)
        t = tl.where(found < K * C, start, 0)
        label = source


def forward(p: EdgePotentials, semiring: str, keep: bool) -> tuple[Tensor, Tensor]:
    """The total (B,) float64, and the messages for the backward."""
    rows = torch.zeros(edge_kept_shape(p, keep), dtype=torch.float64, device=p.device)
    value = torch.empty(p.B, dtype=torch.float64, device=p.device)
    kernel = edge_max_scan if semiring == "max" else edge_log_scan
    BD, BC, BS = tile_sizes(p, TILE)
    edge, sizes = p.edge.detach(), (p.T, p.K, p.C)
    kernel[(p.B,)](edge, _positions(p), rows, value, *sizes, BD, BC, BS, num_warps=WARPS)
    return value, rows


def backward(p: EdgePotentials, semiring: str, kept: Tensor, weight: Tensor) -> Tensor:
    """Gradient of ``(weight * value).sum()``, in the type of the edges."""
    edge, found = p.edge.detach(), torch.zeros_like(p.edge)
    weight, sizes = weight.to(torch.float64).contiguous(), (p.T, p.K, p.C)
    BD, BC, BS = tile_sizes(p, TILE_BACK)
    if semiring == "max":
        edge_trace[(p.B,)](edge, _positions(p), kept, weight, found, *sizes, BD, BC)
        return found
    mass = kept.new_empty(p.B, p.T + 1, p.C)
    edge_pull[(p.B,)](
        edge, _positions(p), kept, weight, mass, found, *sizes, BD, BC, BS, num_warps=WARPS
    )
    return found


def _positions(p: EdgePotentials) -> Tensor:
    """Positions of each sequence, which are one fewer than its length."""
    return p.lengths - 1  # type: ignore[operator]


def tile_sizes(p: EdgePotentials, lanes: int) -> tuple[int, int, int]:
    """Durations, destinations and sources of a tile of so many lanes."""
    BC = triton.next_power_of_2(p.C)
    BS = max(1, min(BC, lanes // BC))
    durations = min(MOST_DURATIONS, max(1, lanes // (BC * BS)), triton.next_power_of_2(p.K))
    return durations, BC, BS
