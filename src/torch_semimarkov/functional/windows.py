"""Posterior of the segments that cover a window of positions, or one position."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torch_semimarkov.errors import ShapeError
from torch_semimarkov.functional.covering import covered, covering, posterior
from torch_semimarkov.functional.inputs import gather, result_dtype, wants_validation
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.segments import require_tensors


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
        O(K C) for each of the K positions before one, which windows that are near share; with a
        tail, and O(T C log T) for all of them.

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
    across = covered(posterior(p, backend), (first - 1).clamp(min=0), stop)
    none = torch.where(first > 0, across, 0.0)
    return (1.0 - none).clamp(0, 1).to(result_dtype(scores))


def duration_posterior(
    positions: Tensor,
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    lengths: Tensor | None = None,
    *,
    longest: int | None = None,
    backend: str | None = None,
    validate_args: bool | None = None,
    **terms: Any,
) -> Tensor:
    """Posterior of duration and label of the segment that covers each given position.

    Args:
        positions: (B, M) int, inside each sequence.
        longest: rows of the answer, of which the last is then that of so many positions and more.
        scores, transition, duration_bias, lengths, backend, validate_args, **terms: as in
            :func:`segment_marginals`.

    Returns:
        (B, M, K, C) in the type of the scores (half types: float32), row d-1 for d positions; sums
        to 1 over the last two. No gradient. O(K^2 C) a position: each pair of a start and an end
        has a probability of its own. With a tail, rows go on to T, which makes that O(T^2 C), and
        ``longest=n`` makes it O(n^2 C).

    Raises:
        ShapeError, UnsupportedError: as :func:`log_partition`; a position outside its sequence, or
            ``longest`` below 1.

    >>> call = torch.zeros(1, 2, 1), torch.zeros(1, 1), torch.zeros(2, 1)
    >>> duration_posterior(torch.tensor([[1]]), *call).flatten()
    tensor([0.5000, 0.5000])
    """
    call = (scores, transition, duration_bias, lengths)
    p = gather(*call, validate_args=validate_args, **terms)
    checked = wants_validation(validate_args, p.device)
    require_tensors(positions=positions)
    if longest is not None and (not isinstance(longest, int) or longest < 1):
        raise ShapeError(f"longest must be an integer >= 1, got {longest!r}")
    if positions.dim() != 2:
        raise ShapeError(f"positions must be (B, M), got {tuple(positions.shape)}")
    windows = torch.stack((positions, positions + 1), -1)
    first, stop = _windows(windows, p, "positions", checked).unbind(-1)
    q, rows = posterior(p, backend), p.longest
    if longest is None or longest > rows:
        return covering(q, first, stop, longest or rows).to(result_dtype(scores))
    found = covering(q, first, stop, longest - 1)
    label = q.labels[torch.arange(p.B, device=p.device)[:, None], first]
    rest = (label - found.sum(-2)).clamp(min=0)[..., None, :]
    return torch.cat((found, rest), -2).to(result_dtype(scores))


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
