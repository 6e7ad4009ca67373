"""The log partition of a semi-Markov CRF."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov import dispatch
from torch_semimarkov.errors import ShapeError, raise_all
from torch_semimarkov.functional.inputs import (
    check_interval,
    gather,
    nan_in,
    needs_grad,
    result_dtype,
    spoil,
    wants_validation,
)
from torch_semimarkov.functional.score import score_of
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.semirings import Semiring, as_semiring


def log_partition(
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
    semiring: str | Semiring = "log",
    backend: str | None = None,
    checkpoint_interval: int | None = None,
    validate_args: bool | None = None,
) -> Tensor:
    """Log of the sum, over all segmentations, of the exponential of their scores.

    Args:
        scores: (B, T, C) float. One score per position and label, in nats; -inf forbids.
        transition: (C, C) float, ``transition[source, destination]``; or (K, C, C), where row d-1
            is used on entering a segment of d positions.
        duration_bias: (K, C) float. Row d-1 is added to a segment of d positions, 1 <= d <= K.
        lengths: (B,) int, 1 <= lengths <= T; default T. Positions past a length have no effect.
        start: (C,) float. Added for the first label; default zeros.
        end: (C,) float. Added for the last label; default zeros.
        start_scores: (B, T, C) float. Added at the first position of a segment; default zeros.
        end_scores: (B, T, C) float. Added at the last position of a segment; default zeros.
        tail: (C,) float, in nats. A segment of d > K positions is possible too, and has the score
            of row K-1 and ``(d - K) * tail``: a geometric tail of durations without a ceiling.
            Default none; -inf gives a label none.
        semiring: "log" for the log partition, "max" for the score of the best segmentation, or
            another of ``semirings``: "entropy" in nats, "sampled" whose gradient is a sample, "std"
            whose terms are plain weights >= 0 and neutral at 1, or ``KMaxSemiring(k)`` itself.
        backend: a name from ``available_backends()``; default the first that can run the call.
        checkpoint_interval: keep for the backward only the state every so many positions, and
            run the forward between them once more; worth it from several K positions on. Default
            keeps everything.
        validate_args: check the range of lengths and look for NaN and +inf; default on CPU only.

    Returns:
        (B,) in the type of the scores (half types: float32); -inf if no segmentation is possible.
        (k, B) for KMax, best first.

    Raises:
        ShapeError: arguments that do not fit together; every misfit is named.
        UnsupportedError: no backend, or not the one asked for, can run the call.

    Source: Sarawagi and Cohen, Semi-Markov conditional random fields, NIPS 2004.

    Two positions, one label, durations 1 and 2, all scores 0: two segmentations, so log 2.

    >>> zeros = torch.zeros
    >>> log_partition(zeros(1, 2, 1), zeros(1, 1), zeros(2, 1))
    tensor([0.6931])
    """
    p = gather(
        scores, transition, duration_bias, lengths, start=start, end=end,
        start_scores=start_scores, end_scores=end_scores, tail=tail,
        validate_args=validate_args,
    )  # fmt: skip
    check_interval(checkpoint_interval)
    name = semiring if isinstance(semiring, str) else as_semiring(semiring).name
    if name == "std" and wants_validation(validate_args, p.device):
        _refuse_negative(p)
    if name == "max" and needs_grad(p):
        found = _best_score(p, backend).to(result_dtype(scores))
    else:
        dtype = result_dtype(scores)
        found = dispatch.log_partition(p, semiring, backend, checkpoint_interval, dtype)
    return spoil(found, nan_in(p, validate_args))


def _best_score(p: Potentials, backend: str | None) -> Tensor:
    """The score of the best segmentation, whose gradient is the indicator of that segmentation."""
    with torch.no_grad():
        best, segments = dispatch.viterbi(p, backend)
    possible = best > -torch.inf
    filled = torch.where(possible, score_of(p, segments), 0.0)
    return torch.where(possible, filled, best)


def _refuse_negative(p: Potentials) -> None:
    inside = p.inside()[..., None]
    negative = [
        name
        for name, term in p.terms()
        if bool(((term < 0) & (inside if term.shape == p.scores.shape else True)).any())
    ]
    raise_all(
        ShapeError,
        "semiring 'std' takes weights >= 0, of which 0 forbids",
        [
            f"{name} holds negative numbers; exponentiate scores in nats, or use semiring 'log'"
            for name in negative
        ],
    )
