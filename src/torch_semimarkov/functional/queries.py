"""Questions about the posterior whose answers are no gradient of the log partition.

One pass for the marginals and the messages of one left-to-right scan answer any number of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_semimarkov import dispatch
from torch_semimarkov.errors import SegmentError, ShapeError
from torch_semimarkov.functional.covering import covered, covering, posterior, probability
from torch_semimarkov.functional.inputs import gather, nan_in, result_dtype, spoil, wants_validation
from torch_semimarkov.functional.partial import log_prob_known
from torch_semimarkov.functional.posterior import marginals
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.segments import Segments, as_count, require_tensors


class MaxMarginals(NamedTuple):
    """The best score, in nats, of a segmentation that has something at a position; -inf if none.

    labels: (B, T, C). Position t has label c.
    starts: (B, T, C). A segment labelled c starts at position t.
    ends: (B, T, C). A segment labelled c has position t as its last.
    """

    labels: Tensor
    starts: Tensor
    ends: Tensor


def segment_marginals(
    segments: Segments,
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    lengths: Tensor | None = None,
    *,
    backend: str | None = None,
    validate_args: bool | None = None,
    **terms: Any,
) -> Tensor:
    """Probability that each given segment is one of the segmentation: its start, end and label.

    Args:
        segments: (..., B) lists of segments; they need not tile their sequence.
        scores, transition, duration_bias, lengths, backend, validate_args: as in
            :func:`log_partition`.
        **terms: start, end, start_scores, end_scores, tail, as there.

    Returns:
        (..., B, N) in the type of the scores (half types: float32), 0 in the padding; no gradient.
        O(1) a segment, with a tail too; O(C) where that meets (K, C, C) transitions.

    Raises:
        ShapeError, UnsupportedError: as :func:`log_partition`.
        SegmentError: a segment outside of its sequence, or a label outside 0..C-1; names it.

    Two positions, one label, durations 1 and 2, all scores 0: one segment or two, alike.

    >>> segments = Segments.from_list([[(0, 2, 0), (1, 2, 0)]])
    >>> segment_marginals(segments, torch.zeros(1, 2, 1), torch.zeros(1, 1), torch.zeros(2, 1))
    tensor([[0.5000, 0.5000]])
    """
    call = (scores, transition, duration_bias, lengths)
    p = gather(*call, validate_args=validate_args, **terms)
    _check_inside(p, segments, wants_validation(validate_args, p.device))
    q = posterior(p, backend)
    row = torch.arange(p.B, device=p.device)[:, None]
    start, end = segments.starts.clamp(min=0), segments.ends.clamp(min=1)
    found = probability(q, row, start, end, segments.labels.clamp(min=0))
    return torch.where(segments.mask, found, 0.0).to(result_dtype(scores))


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
        O(K C) for each of the K positions before one, which windows near each other share; with a
        tail, and O(T C) for all of them.

    Raises:
        ShapeError, UnsupportedError: as :func:`log_partition`; or a window outside its sequence.

    >>> call = torch.zeros(1, 2, 1), torch.zeros(1, 1), torch.zeros(2, 1)
    >>> window_marginals(torch.tensor([[[1, 2]]]), *call)
    tensor([[0.5000]])
    """
    call = (scores, transition, duration_bias, lengths)
    p = gather(*call, validate_args=validate_args, **terms)
    checked = wants_validation(validate_args, p.device)
    _check_table("windows", windows, f"(B, M, 2) = ({p.B}, M, 2)", (p.B, 2), 3)
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
    longest = None if longest is None else as_count("longest", longest)
    _check_table("positions", positions, f"(B, M) = ({p.B}, M)", (p.B,), 2)
    windows = torch.stack((positions, positions + 1), -1)
    first, stop = _windows(windows, p, "positions", checked).unbind(-1)
    q, rows = posterior(p, backend), p.longest
    if longest is None or longest > rows:
        return covering(q, first, stop, longest or rows).to(result_dtype(scores))
    found = covering(q, first, stop, longest - 1)
    label = q.labels[torch.arange(p.B, device=p.device)[:, None], first]
    rest = (label - found.sum(-2)).clamp(min=0)[..., None, :]
    return torch.cat((found, rest), -2).to(result_dtype(scores))


def run_marginals(
    runs: Segments,
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    lengths: Tensor | None = None,
    *,
    backend: str | None = None,
    validate_args: bool | None = None,
    **terms: Any,
) -> Tensor:
    """Probability that all positions of each given run have its label, in one segment or more.

    Args:
        runs: B lists of (start, end, label), half-open; they may overlap.
        scores, transition, duration_bias, lengths, backend, validate_args, **terms: as in
            :func:`segment_marginals`.

    Returns:
        (B, N) in the type of the scores (half types: float32), 0 in the padding. Differentiable.
        One partition for each of the N columns, and one more.

    Raises:
        ShapeError, UnsupportedError, SegmentError: as :func:`segment_marginals`.

    Two positions and two labels that are all alike:

    >>> call = torch.zeros(1, 2, 2), torch.zeros(2, 2), torch.zeros(1, 2)
    >>> run_marginals(Segments.from_list([[(0, 1, 0), (0, 2, 0)]]), *call)
    tensor([[0.5000, 0.2500]])
    """
    call = {"scores": scores, "transition": transition, "duration_bias": duration_bias, **terms}
    p = gather(**call, lengths=lengths, validate_args=validate_args)
    _check_inside(p, runs, wants_validation(validate_args, p.device))
    given = {**dict(p.terms()), "lengths": p.lengths, "validate_args": False}
    position = torch.arange(p.T, device=p.device)
    label = torch.arange(p.C, device=p.device)
    found = []
    columns = [x.unbind(-1) for x in (runs.starts, runs.ends, runs.labels)]
    for start, end, c in zip(*columns, strict=True):
        within = (position >= start[:, None]) & (position < end[:, None])
        allowed = ~within[..., None] | (label == c[:, None, None])
        found.append(log_prob_known(given, allowed, None, backend, checked=False).exp())
    return torch.where(runs.mask, torch.stack(found, -1), 0.0).to(result_dtype(scores))


def expected_segments(
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    lengths: Tensor | None = None,
    *,
    backend: str | None = None,
    validate_args: bool | None = None,
    **terms: Any,
) -> Tensor:
    """Expected number of segments of each label in each sequence.

    Args:
        scores, transition, duration_bias, lengths, backend, validate_args, **terms: as in
            :func:`segment_marginals`.

    Returns:
        (B, C) in the type of the scores (half types: float32); differentiable.

    Raises:
        ShapeError, UnsupportedError: as :func:`log_partition`.

    >>> expected_segments(torch.zeros(1, 2, 1), torch.zeros(1, 1), torch.zeros(2, 1))
    tensor([[1.5000]])
    """
    call = {"scores": scores, "transition": transition, "duration_bias": duration_bias, **terms}
    call |= {"lengths": lengths}
    return marginals(**call, backend=backend, validate_args=validate_args).starts.sum(1)


def max_marginals(
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    lengths: Tensor | None = None,
    *,
    backend: str | None = None,
    validate_args: bool | None = None,
    **terms: Any,
) -> MaxMarginals:
    """The score of the best segmentation with each label, start and end at each position.

    Less the best score of all, it says what it costs to insist on something.

    Args:
        scores, transition, duration_bias, lengths, backend, validate_args, **terms: as in
            :func:`segment_marginals`.

    Returns:
        :class:`MaxMarginals` in the type of the scores (half types: float32); no gradient. Two
        sweeps like that of Viterbi, O(T (K C + C^2)), with a tail too; O(T K C^2)
        for (K, C, C) transitions.

    Raises:
        ShapeError, UnsupportedError: as :func:`log_partition`.

    >>> scores = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])
    >>> max_marginals(scores, torch.zeros(2, 2), torch.zeros(1, 2)).labels
    tensor([[[3., 1.],
             [2., 3.]]])
    """
    p = gather(
        scores, transition, duration_bias, lengths, validate_args=validate_args, **terms
    )  # fmt: skip
    found = dispatch.max_marginals(p.map_terms(Tensor.detach), backend)
    bad = nan_in(p, validate_args)
    return MaxMarginals(*(spoil(x, bad, 0).to(result_dtype(scores)) for x in found))


def _check_table(name: str, x: Tensor, wanted: str, sizes: tuple[int, ...], dim: int) -> None:
    """Refuse what is no tensor of integers of ``dim`` axes, every other one of these sizes."""
    require_tensors(**{name: x})
    integers = not x.is_floating_point() and x.dtype != torch.bool
    if x.dim() != dim or tuple(x.shape[::2]) != sizes or not integers:
        got = f"{tuple(x.shape)} {str(x.dtype)[6:]}"
        raise ShapeError(f"{name} must be {wanted} int, got {got}")


def _windows(windows: Tensor, p: Potentials, name: str, checked: bool) -> Tensor:
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


def _check_inside(p: Potentials, segments: Segments, checked: bool) -> None:
    if not isinstance(segments, Segments):
        raise ShapeError(f"segments must be Segments, got {type(segments).__name__}")
    if segments.batch_size != p.B:
        raise ShapeError(f"segments must hold B = {p.B} sequences, got {segments.batch_size}")
    if not checked:
        return
    bad = (segments.starts < 0) | (segments.durations < 1)
    bad |= segments.ends > p.lengths[:, None]  # type: ignore[index]
    bad |= (segments.labels < 0) | (segments.labels >= p.C)
    bad &= segments.mask
    if bool(bad.any()):
        at = tuple(bad.nonzero()[0].tolist())
        place = [int(x[at]) for x in (segments.starts, segments.ends, segments.labels)]
        raise SegmentError(
            f"sequence {at[-2]}, segment {at[-1]} must lie in its {int(p.lengths[at[-2]])} "  # type: ignore[index]
            f"positions with a label in 0..{p.C - 1}, got [{place[0]}, {place[1]}) with label "
            f"{place[2]}"
        )
