"""The probability of what is known of a sequence, when not all of it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torch_semimarkov import dispatch
from torch_semimarkov.errors import NumericsError, ShapeError
from torch_semimarkov.functional.constraints import restrict
from torch_semimarkov.functional.inputs import (
    check_interval,
    gather,
    result_dtype,
    wants_validation,
)
from torch_semimarkov.functional.known import checked_allowed, checked_boundaries
from torch_semimarkov.functional.segment import relative_to


def partial_log_prob(
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
    allowed: Tensor | None = None,
    boundaries: Tensor | None = None,
    backend: str | None = None,
    checkpoint_interval: int | None = None,
    validate_args: bool | None = None,
) -> Tensor:
    """Log-probability that a segmentation agrees with what is known; never above 0.

    It is ``log_partition`` of the segmentations that agree, less that of all: 0 where nothing is
    known, and the log-probability of one segmentation where every label and boundary is. Labels
    alone leave open where runs of one label are cut. Costs two partitions, one of them on 2 C
    labels if a boundary is known; see :func:`constrain`.

    Args:
        scores, transition, duration_bias, lengths, start, end, start_scores, end_scores, backend,
            checkpoint_interval, validate_args: as in :func:`log_partition`.
        tail: as in :func:`constrain`.
        allowed: (B, T, C) bool. Labels that each position may have; default all. See
            :func:`allowed_from_labels`.
        boundaries: (B, T) int. 1: a segment starts here; 0: none does; -1: unknown (default).

    Returns:
        (B,) in the type of the scores (half types: float32), in nats; differentiable.

    Raises:
        ShapeError, UnsupportedError: as :func:`log_partition`; or neither ``allowed`` nor
            ``boundaries`` is given.
        SegmentError: ``allowed`` excludes every label at a position; names it.
        NumericsError: no segmentation of a sequence agrees; names it.

    Source: Tsuboi et al., Training conditional random fields using incomplete annotations,
    COLING 2008.

    Two positions, one label, durations 1 and 2, all scores 0: a boundary between them is as likely
    as none.

    >>> call = torch.zeros(1, 2, 1), torch.zeros(1, 1), torch.zeros(2, 1)
    >>> partial_log_prob(*call, boundaries=torch.tensor([[1, 0]]))
    tensor([-0.6931])
    """
    named = {
        "scores": scores, "transition": transition, "duration_bias": duration_bias,
        "start": start, "end": end, "start_scores": start_scores, "end_scores": end_scores,
        "tail": tail,
    }  # fmt: skip
    terms: dict[str, Any] = {name: x for name, x in named.items() if x is not None}
    terms |= {"lengths": lengths, "validate_args": validate_args}
    check_interval(checkpoint_interval)
    found = log_prob_known(terms, allowed, boundaries, backend, checkpoint_interval)
    return found.to(result_dtype(scores))


def log_prob_known(
    terms: dict[str, Any],
    allowed: Tensor | None,
    boundaries: Tensor | None,
    backend: str | None = None,
    checkpoint_interval: int | None = None,
    checked: bool | None = None,
) -> Tensor:
    """(B,) float64. :func:`partial_log_prob` of keyword arguments.

    Args:
        terms: keyword arguments for functions on potentials.
        allowed, boundaries, backend, checkpoint_interval: as in :func:`partial_log_prob`.
        checked: look at the values of what is known; default as ``validate_args`` of the terms.
    """
    if allowed is None and boundaries is None:
        raise ShapeError("what is known must be given as allowed, as boundaries or as both")
    p = gather(**terms)
    if checked is None:
        checked = wants_validation(terms.get("validate_args"), p.device)
    rules: dict[str, Tensor] = {}
    if allowed is not None:
        rules["allowed"] = checked_allowed(allowed, p.inside(), p.C, checked)
    if boundaries is not None:
        rules["boundaries"] = checked_boundaries(boundaries, p.inside(), checked)
    agreeing = restrict({**terms, "validate_args": False}, rules)
    total = dispatch.log_partition(p, "log", backend, checkpoint_interval)
    known = dispatch.log_partition(gather(**agreeing.terms), "log", backend, checkpoint_interval)
    if checked:
        _refuse_contradiction(total, known, list(rules))
    return relative_to(total, known)


def _refuse_contradiction(total: Tensor, known: Tensor, names: list[str]) -> None:
    bad = (known.detach() == -torch.inf).nonzero()[:, 0].tolist()
    if not bad:
        return
    totals = total.detach().tolist()
    possible = [b for b in bad if totals[b] > -torch.inf]
    if not possible:
        raise NumericsError(
            f"no segmentation of sequences {bad[:8]} is possible, whatever is known of them: allow "
            "more labels, transitions or durations"
        )
    raise NumericsError(
        f"no segmentation of sequences {possible[:8]} agrees with {' and '.join(names)}: they "
        "contradict each other or what the model allows (transitions, durations, first and last "
        "labels); correct them, or relax the model"
    )
