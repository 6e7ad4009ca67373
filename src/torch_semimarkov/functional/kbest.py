"""The k best segmentations."""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from torch_semimarkov import dispatch
from torch_semimarkov.errors import warn_caller
from torch_semimarkov.functional.decode import refuse_impossible
from torch_semimarkov.functional.inputs import gather, nan_in, needs_grad, result_dtype, spoil
from torch_semimarkov.segments import Segments, as_count

_SHOWN = 8


class KBestResult(NamedTuple):
    """The k best segmentations of each sequence, best first.

    scores: (k, B). Their scores in nats; -inf where a sequence has fewer than k segmentations.
    segments: (k, B) segmentations, all different; with count 0 where there is none.
    """

    scores: Tensor
    segments: Segments


def kbest(
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    lengths: Tensor | None = None,
    *,
    k: int,
    start: Tensor | None = None,
    end: Tensor | None = None,
    start_scores: Tensor | None = None,
    end_scores: Tensor | None = None,
    tail: Tensor | None = None,
    backend: str | None = None,
    validate_args: bool | None = None,
) -> KBestResult:
    """The k segmentations with the highest scores, in their order, and those scores.

    The first is that of :func:`viterbi`, by the same rule among equals; the order of equally good
    ones after it is fixed but not said. No two are the same. The result carries no gradient.

    Args:
        scores, transition, duration_bias, lengths, start, end, start_scores, end_scores, tail,
            backend, validate_args: as in :func:`log_partition`; with a tail, every duration up to T
            takes a row of its own on the reference, and with (K, C, C) transitions on each backend.
        k: how many, >= 1. A sequence that has fewer gets them all, scores of -inf and counts of 0
            for the rest, and a warning that names it.

    Returns:
        :class:`KBestResult`, its scores in the type of the scores (half types: float32).

    Raises:
        ShapeError, UnsupportedError: as :func:`log_partition`; or k is no integer >= 1.
        NumericsError: no segmentation of a sequence is possible; names the sequences.

    Source: Huang and Chiang, Better k-best parsing, IWPT 2005; Jimenez and Marzal, Computing the K
    shortest paths, WAE 1999.

    Two positions, one label; a segment of two scores 1 more than two of one position.

    >>> from torch import zeros
    >>> best = kbest(zeros(1, 2, 1), zeros(1, 1), torch.tensor([[0.0], [1.0]]), k=2)
    >>> best.scores
    tensor([[1.],
            [0.]])
    >>> best.segments.counts
    tensor([[1],
            [2]])
    """
    k = as_count("k", k)
    p = gather(
        scores, transition, duration_bias, lengths, start=start, end=end,
        start_scores=start_scores, end_scores=end_scores, tail=tail, validate_args=validate_args,
    )  # fmt: skip
    if p.per_duration:
        p = p.without_tail()
    with torch.no_grad() if needs_grad(p) else nullcontext():
        best, segments = dispatch.kbest(p, k, backend, result_dtype(scores))
    bad = nan_in(p, validate_args)
    if bad is None and not torch.compiler.is_compiling():
        refuse_impossible(segments.counts[0] == 0)
        _say_where_fewer(segments.counts, k)
    return KBestResult(spoil(best, bad), segments)


def _say_where_fewer(counts: Tensor, k: int) -> None:
    """Warn of sequences with fewer than k segmentations."""
    found = (counts > 0).sum(0).tolist()
    few = [f"sequence {b} has {count}" for b, count in enumerate(found) if count < k]
    if few:
        more = f", and {len(few) - _SHOWN} more sequences have fewer" if len(few) > _SHOWN else ""
        warn_caller(
            f"there are not k = {k} segmentations: {', '.join(few[:_SHOWN])}{more}; the rest have "
            "score -inf and count 0"
        )
