"""Posterior of the segments that cover a window of positions, or one position."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torch_semimarkov.errors import ShapeError
from torch_semimarkov.functional.inputs import gather, result_dtype, wants_validation
from torch_semimarkov.functional.segment_posterior import (
    SegmentPosterior,
    posterior_of,
    probability_of,
)
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.segments import require_tensors

# Probabilities of segments that are held at a time.
_NUMBERS = 1 << 22


def window_marginals(
    windows: Tensor,
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    lengths: Tensor | None = None,
    *,
    backend: str | None = None,
    validate_args: bool | None = None,
    **terms: Any,
) -> Tensor:
    """Probability that at least one segment starts inside each window of positions.

    Args:
        windows: (B, M, 2) int, [first, stop) with 0 <= first < stop <= the sequence's length.
        scores, transition, duration_bias, lengths, backend, validate_args, **terms: as in
            :func:`segment_marginals`.

    Returns:
        (B, M) in the type of the scores (half types: float32); no gradient. O(K) a window, and
        O(K C) for each of the K positions before one; windows that are near share these.

    Raises:
        ShapeError, UnsupportedError: as :func:`log_partition`; or a window outside its sequence.

    >>> call = torch.zeros(1, 2, 1), torch.zeros(1, 1), torch.zeros(2, 1)
    >>> window_marginals(torch.tensor([[[1, 2]]]), *call)
    tensor([[0.5000]])
    """
    call = (scores, transition, duration_bias, lengths)
    p = gather(*call, validate_args=validate_args, **terms)
    checked = wants_validation(validate_args, p.device)
    first, stop = _windows(windows, p, "windows", checked).unbind(-1)
    q = posterior_of(p, backend)
    none = torch.stack(
        [_uncut(q, b, *pair) for b, pair in enumerate(zip(first, stop, strict=True))]
    )
    return (1.0 - none).clamp(0, 1).to(result_dtype(scores))


def duration_posterior(
    positions: Tensor,
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    lengths: Tensor | None = None,
    *,
    backend: str | None = None,
    validate_args: bool | None = None,
    **terms: Any,
) -> Tensor:
    """Posterior of duration and label of the segment that covers each given position.

    Args:
        positions: (B, M) int, inside each sequence.
        scores, transition, duration_bias, lengths, backend, validate_args, **terms: as in
            :func:`segment_marginals`.

    Returns:
        (B, M, K, C) in the type of the scores (half types: float32), row d-1 for d positions; sums
        to 1 over the last two. No gradient. With a tail, rows go on to T. O(K^2 C) a position.

    Raises:
        ShapeError, UnsupportedError: as :func:`log_partition`; or a position outside its sequence.

    >>> call = torch.zeros(1, 2, 1), torch.zeros(1, 1), torch.zeros(2, 1)
    >>> duration_posterior(torch.tensor([[1]]), *call).flatten()
    tensor([0.5000, 0.5000])
    """
    call = (scores, transition, duration_bias, lengths)
    p = gather(*call, validate_args=validate_args, **terms)
    checked = wants_validation(validate_args, p.device)
    require_tensors(positions=positions)
    if positions.dim() != 2:
        raise ShapeError(f"positions must be (B, M), got {tuple(positions.shape)}")
    windows = torch.stack((positions, positions + 1), -1)
    first, stop = _windows(windows, p, "positions", checked).unbind(-1)
    return _covering(posterior_of(p, backend), first, stop).to(result_dtype(scores))


def _uncut(q: SegmentPosterior, b: int, first: Tensor, stop: Tensor) -> Tensor:
    """(M,). Probability that one segment of sequence b covers a window and the position before it.

    ``longer[s, d-1]`` is the probability that a segment of d positions or more starts at s.
    """
    p, reach = q.p, min(q.p.K, q.p.T)
    found = q.alpha.new_zeros(first.shape)
    asked = torch.zeros(p.T + 1, dtype=torch.int64, device=p.device)
    asked.index_add_(0, (first - reach).clamp(min=0), torch.ones_like(first))
    asked.index_add_(0, first, -torch.ones_like(first))
    starts = (asked.cumsum(0) > 0).nonzero()[:, 0]
    place = (asked.cumsum(0) > 0).cumsum(0) - 1
    row, label = torch.tensor(b, device=p.device), torch.arange(p.C, device=p.device)
    duration = torch.arange(1, p.K + 1, device=p.device)[:, None]
    for at in range(0, len(starts), block := max(1, _NUMBERS // (p.K * p.C))):
        some = starts[at : at + block]
        end = some[:, None, None] + duration
        within = end <= p.lengths[b]  # type: ignore[index]
        one = probability_of(q, row, some[:, None, None], end.minimum(p.lengths[b]), label)  # type: ignore[index]
        longer = torch.where(within, one, 0.0).sum(-1).flip(1).cumsum(1).flip(1)
        here = ((first > some[0]) & (first <= some[-1] + reach)).nonzero()[:, 0]
        for before in range(1, reach + 1):
            start = first[here] - before
            most = stop[here] - start
            valid = (start >= some[0]) & (start <= some[-1]) & (most <= p.K)
            of = (place[start.clamp(min=0)] - at).clamp(0, len(some) - 1)
            found[here] += torch.where(valid, longer[of, most.clamp(max=p.K) - 1], 0.0)
    return found


def _covering(q: SegmentPosterior, first: Tensor, stop: Tensor) -> Tensor:
    """(B, M, K, C). Probability that one segment of d positions covers all of [first, stop)."""
    p = q.p
    found = q.alpha.new_zeros((*first.shape, p.K, p.C))
    row = torch.arange(p.B, device=p.device)[:, None, None, None]
    label = torch.arange(p.C, device=p.device)
    duration = torch.arange(1, p.K + 1, device=p.device)[:, None]
    lengths = p.lengths[:, None, None, None]  # type: ignore[index]
    first, stop = first[..., None, None], stop[..., None, None]
    for before in range(min(p.K, p.T)):
        start = first - before
        end = start + duration
        valid = (start >= 0) & (end >= stop) & (end <= lengths)
        end = end.clamp(min=1).minimum(lengths)
        here = probability_of(q, row, start.clamp(min=0), end, label)
        found += torch.where(valid, here, 0.0)
    return found


def _windows(windows: Tensor, p: Potentials, name: str, checked: bool) -> Tensor:
    require_tensors(**{name: windows})
    integers = not windows.is_floating_point() and windows.dtype != torch.bool
    if windows.dim() != 3 or windows.shape[::2] != (p.B, 2) or not integers:
        got = f"{tuple(windows.shape)} {str(windows.dtype)[6:]}"
        raise ShapeError(f"windows must be (B, M, 2) = ({p.B}, M, 2) int, got {got}")
    windows = windows.to(p.device, torch.int64)
    if checked:
        first, stop = windows.unbind(-1)
        bad = (first < 0) | (stop <= first) | (stop > p.lengths[:, None])  # type: ignore[index]
        if bool(bad.any()):
            b, m = bad.nonzero()[0].tolist()
            raise ShapeError(
                f"{name} must lie in their sequences, 0 <= first < stop <= length, got "
                f"{windows[b, m].tolist()} at sequence {b} of length {int(p.lengths[b])}"  # type: ignore[index]
            )
    return windows
