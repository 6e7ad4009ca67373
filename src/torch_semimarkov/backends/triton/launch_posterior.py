"""Messages and max-marginals for (C, C) transitions; nothing here waits for the device.

Both need the numbers that a scan keeps of each position, in nats. Those of the max semiring from
right to left are a scan of the reversed sequences, with the transition transposed.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from torch_semimarkov.backends.triton.cover import cover_kernel
from torch_semimarkov.backends.triton.launch import Run
from torch_semimarkov.backends.triton.scans import associative_scan
from torch_semimarkov.backends.triton.variants import power_of_two, up
from torch_semimarkov.potentials import Potentials

# Entries of a tile of starts and labels, those of a warp, and most labels in it; positions of a
# block at least, which are as many as rows of the tile, so that no program does most in vain.
ENTRIES, WARP_ENTRIES, LABELS, POSITIONS = 4096, 512, 32, 64


def messages(p: Potentials) -> tuple[Tensor, Tensor]:
    """``alpha`` and ``entering`` (B, T, C) float64 in nats; -inf past the lengths."""
    return in_nats(p, rows_of(p, "log"))


def max_marginals(p: Potentials) -> tuple[Tensor, Tensor, Tensor]:
    """Best scores (B, T, C) float64 with a label at, a start at and an end at each position."""
    p, inside = p.map_terms(Tensor.detach), p.inside()[..., None]
    rows, mirror = rows_of(p, "max"), reverse(p)
    alpha, entering = in_nats(p, rows)
    V, beta = (flip(p, x) for x in in_nats(mirror, rows_of(mirror, "max")))
    starts = torch.where(inside, entering + V, -torch.inf)
    ends = torch.where(inside, alpha + beta, -torch.inf)
    del V, alpha, mirror
    wide = torch.where(inside, p.scores, 0.0).to(torch.float64)
    wide = torch.where(wide == -torch.inf, 0.0, wide)
    sums = running(wide)
    opened, closed = entering - (sums - wide), beta + sums
    if p.start_scores is not None:
        opened += p.start_scores
    if p.end_scores is not None:
        closed += p.end_scores
    return cover(p, rows, opened, closed), starts, ends


def cover(p: Potentials, rows: Tensor, opened: Tensor, closed: Tensor) -> Tensor:
    """Best scores (B, T, C) float64 with a label at each position; see ``cover_kernel``."""
    K, C = min(p.K, p.T), p.C
    K_PAD = power_of_two(K)
    labels = min(power_of_two(C), LABELS, max(1, ENTRIES // K_PAD))
    positions = max(K_PAD, POSITIONS)
    found = torch.full_like(opened, -torch.inf)
    grid = p.B * (up(p.T, positions) // positions), up(C, labels) // labels
    cover_kernel[grid](
        rows, p.duration_bias, p.lengths, opened, closed, found, p.T, K, C,
        POSITIONS=positions, K_PAD=K_PAD, LABELS=labels,
        num_warps=min(16, max(1, K_PAD * labels // WARP_ENTRIES)), num_stages=1,
    )  # fmt: skip
    return found


def rows_of(p: Potentials, semiring: str) -> Tensor:
    """(B, T, 3 C + 1). What the scan keeps of each position; anything past the lengths."""
    run = Run(p)
    rows = run.empty(p.B, p.T, 3 * p.C + 1, dtype=p.scores.dtype)
    run.scan(semiring, run.empty(p.B), rows)
    return rows


def in_nats(p: Potentials, rows: Tensor) -> tuple[Tensor, Tensor]:
    """``alpha`` and ``entering`` (B, T, C) float64 without the norms; -inf past the lengths."""
    C, inside = p.C, p.inside()[..., None]
    tops = rows[..., 3 * C :].to(torch.float64)
    norms = running(tops)
    if p.start is not None:
        # what the scan takes out of the first message
        best = p.start.detach().amax().to(torch.float64)
        norms += torch.where(best == -torch.inf, 0.0, best)
    alpha = torch.where(inside, rows[..., :C] + norms, -torch.inf)
    entering = torch.where(inside, rows[..., C : 2 * C] + (norms - tops), -torch.inf)
    return alpha, entering


def running(x: Tensor) -> Tensor:
    """Sums of (B, T, n) float64 from the first position to each."""
    return associative_scan(x, "add", False, False, None, None)[0]


def reverse(p: Potentials) -> Potentials:
    """The same segmentations read from right to left."""
    starts, ends = (None if x is None else flip(p, x) for x in (p.end_scores, p.start_scores))
    return replace(
        p, scores=flip(p, p.scores), transition=p.transition.T.contiguous(), start=p.end,
        end=p.start, start_scores=starts, end_scores=ends,
    )  # fmt: skip


def flip(p: Potentials, x: Tensor) -> Tensor:
    """Reverse (B, T, C) over each sequence's own length; the padding holds copies of its start."""
    place = p.lengths[:, None] - 1 - torch.arange(p.T, device=p.device)  # type: ignore[index]
    return x.gather(1, place.clamp(min=0)[..., None].expand(-1, -1, p.C))
