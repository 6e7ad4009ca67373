"""Score and log-probability of given segmentations."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov import dispatch
from torch_semimarkov.errors import ShapeError
from torch_semimarkov.functional.inputs import (
    check_interval,
    gather,
    result_dtype,
    wants_validation,
)
from torch_semimarkov.functional.score import check_segments, check_support, score_of
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.segments import Segments

_ROUNDING = 1e-9


def segment_score(
    segments: Segments,
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    lengths: Tensor | None = None,
    *,
    start: Tensor | None = None,
    end: Tensor | None = None,
    start_scores: Tensor | None = None,
    end_scores: Tensor | None = None,
    tail: Tensor | None = None,
    validate_args: bool | None = None,
    validate_segments: bool | None = None,
) -> Tensor:
    """Score of given segmentations; differentiable in every term.

    Args:
        segments: B segmentations, or (..., B) of them, each tiling its sequence.
        scores, transition, duration_bias, lengths, start, end, start_scores, end_scores, tail:
            the potentials, as in :func:`log_partition`.
        validate_args: check the values of the potentials; default on CPU only.
        validate_segments: check that the segments tile the sequences and are in the support of the
            model; default as ``validate_args``.

    Returns:
        (..., B) in the type of the scores (half types: float32).

    Raises:
        ShapeError: arguments that do not fit together.
        SegmentError: a segmentation that is none, or that has a segment longer than K or a
            forbidden part; names the sequence and the segment.

    Positions score 1 and 2, the only segment is the whole sequence of 2, whose bias is 0.5:

    >>> segments = Segments.from_list([[(0, 2, 0)]])
    >>> scores = torch.tensor([[[1.0], [2.0]]])
    >>> segment_score(segments, scores, torch.zeros(1, 1), torch.tensor([[0.0], [0.5]]))
    tensor([3.5000])
    """
    p = gather(
        scores, transition, duration_bias, lengths, start=start, end=end,
        start_scores=start_scores, end_scores=end_scores, tail=tail,
        validate_args=validate_args,
    )  # fmt: skip
    checked = validate_args if validate_segments is None else validate_segments
    return checked_score(p, segments, checked).to(result_dtype(scores))


def segment_log_prob(
    segments: Segments,
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    lengths: Tensor | None = None,
    *,
    start: Tensor | None = None,
    end: Tensor | None = None,
    start_scores: Tensor | None = None,
    end_scores: Tensor | None = None,
    tail: Tensor | None = None,
    backend: str | None = None,
    checkpoint_interval: int | None = None,
    validate_args: bool | None = None,
    validate_segments: bool | None = None,
) -> Tensor:
    """Log-probability of given segmentations, ``score - log_partition``: never above 0.

    Args:
        segments: B segmentations, or (..., B) of them, each tiling its sequence.
        scores, transition, duration_bias, lengths, start, end, start_scores, end_scores, tail,
            backend, checkpoint_interval: as in :func:`log_partition`.
        validate_args, validate_segments: as in :func:`segment_score`.

    Returns:
        (..., B) in the type of the scores (half types: float32), in nats, <= 0.

    Raises:
        ShapeError, SegmentError, UnsupportedError: as :func:`segment_score`, :func:`log_partition`.

    Source: Sarawagi and Cohen, Semi-Markov conditional random fields, NIPS 2004.

    Two positions, one label, durations 1 and 2, all scores 0: each of two segmentations has 1/2.

    >>> segments = Segments.from_list([[(0, 2, 0)]])
    >>> segment_log_prob(segments, torch.zeros(1, 2, 1), torch.zeros(1, 1), torch.zeros(2, 1))
    tensor([-0.6931])
    """
    p = gather(
        scores, transition, duration_bias, lengths, start=start, end=end,
        start_scores=start_scores, end_scores=end_scores, tail=tail,
        validate_args=validate_args,
    )  # fmt: skip
    check_interval(checkpoint_interval)
    checked = validate_args if validate_segments is None else validate_segments
    score = checked_score(p, segments, checked)
    total = dispatch.log_partition(p, "log", backend, checkpoint_interval)
    return relative_to(total, score).to(result_dtype(scores))


def relative_to(total: Tensor, score: Tensor) -> Tensor:
    """Log-probabilities from scores and the log partition; -inf stays, and none is above 0."""
    log_prob = torch.where(score == -torch.inf, score, score - total)
    return _without_rounding(log_prob, total)


def checked_score(p: Potentials, segments: Segments, validate: bool | None) -> Tensor:
    """Scores of segmentations, which are looked at if ``validate`` says so."""
    if not isinstance(segments, Segments):
        raise ShapeError(f"segments must be Segments, got {type(segments).__name__}")
    checked = wants_validation(validate, p.device)
    if checked:
        check_segments(p, segments)
    score = score_of(p, segments)
    if checked:
        check_support(p, segments, score.detach())
    return score


def _without_rounding(log_prob: Tensor, total: Tensor) -> Tensor:
    """Take out an excess over 0 that rounding explains; a larger one would be a fault and stays."""
    excess = log_prob.detach().clamp(min=0.0)
    explained = excess <= _ROUNDING * (1.0 + total.detach().abs())
    return log_prob - torch.where(explained, excess, 0.0)
