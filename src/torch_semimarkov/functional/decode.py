"""The best segmentation."""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from torch_semimarkov import dispatch
from torch_semimarkov.errors import NumericsError
from torch_semimarkov.functional.inputs import gather, nan_in, needs_grad, result_dtype, spoil
from torch_semimarkov.segments import Segments


class ViterbiResult(NamedTuple):
    """The best segmentation of each sequence.

    scores: (B,). Its score in nats (not its log-probability).
    segments: the B segmentations.
    """

    scores: Tensor
    segments: Segments


def viterbi(
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
    validate_args: bool | None = None,
) -> ViterbiResult:
    """The segmentation with the highest score, and that score.

    Of equally good segmentations the one is taken that has, from its end, the lowest label, then
    the shortest segment, then the lowest label before it, and so on. The result carries no
    gradient; ``log_partition(..., semiring="max")`` does.

    Args:
        scores, transition, duration_bias, lengths, start, end, start_scores, end_scores, tail,
            backend, validate_args: as in :func:`log_partition`.

    Returns:
        :class:`ViterbiResult`, its scores in the type of the scores (half types: float32).

    Raises:
        ShapeError, UnsupportedError: as :func:`log_partition`.
        NumericsError: no segmentation of a sequence is possible; names the sequences.

    With ``validate_args=False`` a NaN makes the score NaN, and its segmentation means nothing.

    Source: Sarawagi and Cohen, Semi-Markov conditional random fields, NIPS 2004.

    >>> scores = torch.tensor([[[2.0, 0.0], [2.0, 0.0], [0.0, 3.0]]])
    >>> result = viterbi(scores, torch.zeros(2, 2), torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    >>> result.segments.to_list()
    [[Segment(start=0, end=2, label=0), Segment(start=2, end=3, label=1)]]
    >>> result.scores
    tensor([8.])
    """
    p = gather(
        scores, transition, duration_bias, lengths, start=start, end=end,
        start_scores=start_scores, end_scores=end_scores, tail=tail,
        validate_args=validate_args,
    )  # fmt: skip
    # Where nothing is recorded, the guard would cost as much as the choice of a backend.
    with torch.no_grad() if needs_grad(p) else nullcontext():
        best, segments = dispatch.viterbi(p, backend, result_dtype(scores))
    bad = nan_in(p, validate_args)
    if bad is None and not torch.compiler.is_compiling():
        _refuse_without_segments(segments)
    return ViterbiResult(spoil(best, bad), segments)


def _refuse_without_segments(segments: Segments) -> None:
    # By a list: the comparison of tensors would cost more than the check.
    counts = segments.counts.tolist()
    if 0 in counts:
        refuse_impossible(segments.counts == 0)


def refuse_impossible(impossible: Tensor) -> None:
    """Refuse sequences for which ``impossible`` (B,) bool is True; synchronises a GPU.

    Raises:
        NumericsError: naming them.
    """
    found = [b for b, flag in enumerate(impossible.tolist()) if flag]
    if found:
        raise NumericsError(
            f"no segmentation of sequence {', '.join(map(str, found))} is possible: -inf "
            "entries of the potentials exclude them all; allow more labels, transitions or "
            "durations"
        )
