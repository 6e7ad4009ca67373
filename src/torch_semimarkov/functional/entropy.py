"""Entropy of a semi-Markov CRF, and what compares two of them, from log Z and its slope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from torch_semimarkov import dispatch
from torch_semimarkov.errors import ShapeError, raise_all
from torch_semimarkov.functional.inputs import check_interval, gather, result_dtype
from torch_semimarkov.potentials import TERMS, Potentials

Model = Potentials | Mapping[str, Any]


def entropy(
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
) -> Tensor:
    """Entropy of the segmentations in nats: how uncertain the model is; differentiable.

    Args:
        scores, transition, duration_bias, lengths, start, end, start_scores, end_scores,
            checkpoint_interval, validate_args: as in :func:`log_partition`.
        backend: as there; ``explain(..., op="tangent")`` says which backends can run it.

    Returns:
        (B,) in the type of the scores (half types: float32), >= 0 up to rounding; 0 for a sequence
        without any possible segmentation. ``log_partition`` less the expected score.

    Raises:
        ShapeError, UnsupportedError: as :func:`log_partition`.

    Source: Mann and McCallum, Efficient computation of entropy gradient for semi-supervised
    conditional random fields, NAACL 2007.

    Two positions, one label, durations 1 and 2, all scores 0: a fair coin, so log 2.

    >>> from torch import zeros
    >>> entropy(zeros(1, 2, 1), zeros(1, 1), zeros(2, 1))
    tensor([0.6931])
    """
    p = gather(
        scores, transition, duration_bias, lengths, start=start, end=end,
        start_scores=start_scores, end_scores=end_scores, tail=tail, validate_args=validate_args,
    )  # fmt: skip
    check_interval(checkpoint_interval)
    return entropy_of(p, backend, checkpoint_interval).to(result_dtype(scores))


def cross_entropy(
    p: Model,
    q: Model,
    *,
    backend: str | None = None,
    checkpoint_interval: int | None = None,
    validate_args: bool | None = None,
) -> Tensor:
    """Mean of -log q(y) over segmentations y drawn from p, in nats; differentiable in both.

    Args:
        p, q: :class:`Potentials`, or dicts with the arguments of :func:`log_partition`, of two
            models of the same sequences. Their longest durations may differ.
        backend, checkpoint_interval, validate_args: as in :func:`entropy`.

    Returns:
        (B,) in the wider type of the two scores (half types: float32). +inf where p gives some
        probability, however small, to what q forbids; the gradient of such a sequence is 0. 0 where
        p has no segmentation.

    Raises:
        ShapeError: the models have other sizes or lengths; or as :func:`log_partition`.
        UnsupportedError: as :func:`log_partition`.

    Source: Li and Eisner, First- and second-order expectation semirings, EMNLP 2009.

    Under q the second of two positions starts a segment with probability 3/4, under p with 1/2.

    >>> from torch import zeros
    >>> p = {"scores": zeros(1, 2, 1), "transition": zeros(1, 1), "duration_bias": zeros(2, 1)}
    >>> q = {**p, "transition": torch.tensor([[3.0]]).log()}
    >>> cross_entropy(p, q)
    tensor([0.8370])
    """
    check_interval(checkpoint_interval)
    p, q, dtype = _two_models(p, q, validate_args)
    total = dispatch.log_partition(q, "log", backend, checkpoint_interval)
    direction = _finite_part(p, q)
    value, slope = dispatch.tangent(p, direction, backend, checkpoint_interval)
    return _compared(p, q, value, total - slope, backend).to(dtype)


def kl_divergence(
    p: Model,
    q: Model,
    *,
    backend: str | None = None,
    checkpoint_interval: int | None = None,
    validate_args: bool | None = None,
) -> Tensor:
    """Mean of log p(y) - log q(y) over segmentations y drawn from p; differentiable in both.

    Args:
        p, q, backend, checkpoint_interval, validate_args: as in :func:`cross_entropy`.

    Returns:
        (B,) in nats, as :func:`cross_entropy`: >= 0 up to rounding, exactly 0 for equal models,
        +inf where p allows what q forbids, and 0 where p has no segmentation.

    Raises:
        ShapeError, UnsupportedError: as :func:`cross_entropy`.

    Source: Li and Eisner, First- and second-order expectation semirings, EMNLP 2009.

    Under q the second of two positions starts a segment with probability 3/4, under p with 1/2.

    >>> from torch import zeros
    >>> p = {"scores": zeros(1, 2, 1), "transition": zeros(1, 1), "duration_bias": zeros(2, 1)}
    >>> q = {**p, "transition": torch.tensor([[3.0]]).log()}
    >>> kl_divergence(p, q), kl_divergence(p, p)
    (tensor([0.1438]), tensor([0.]))
    """
    check_interval(checkpoint_interval)
    p, q, dtype = _two_models(p, q, validate_args)
    totals = [dispatch.log_partition(x, "log", backend, checkpoint_interval) for x in (p, q)]
    direction = _difference(_finite_part(p, q), _finite_part(q, p))
    _, slope = dispatch.tangent(p, direction, backend, checkpoint_interval)
    return _compared(p, q, totals[0], totals[1] - totals[0] - slope, backend).to(dtype)


def entropy_of(
    p: Potentials, backend: str | None = None, checkpoint_interval: int | None = None
) -> Tensor:
    """(B,) float64. Entropy of canonical potentials; 0 where no segmentation is possible."""
    p = _wide(p)
    direction = _finite_part(p, p)
    value, slope = dispatch.tangent(p, direction, backend, checkpoint_interval)
    return torch.where(value == -torch.inf, 0.0, value - slope)


def _compared(
    p: Potentials, q: Potentials, value: Tensor, result: Tensor, backend: str | None
) -> Tensor:
    """``result``, but 0 where p has no segmentation, and +inf where it has one that q forbids."""
    result = torch.where(value == -torch.inf, 0.0, result)
    return torch.where(_allows_more(p, q, backend), torch.inf, result)


@torch.no_grad()
def _allows_more(p: Potentials, q: Potentials, backend: str | None) -> Tensor:
    """(B,) bool. True where p has a segmentation that q forbids.

    Probabilities may underflow, so they do not decide: p's segmentations get a score of 1 for each
    part that q forbids, and the best of them has more than 0 or not.
    """
    forbidden = {
        name: (x != -torch.inf) & (y == -torch.inf)
        for (name, x), (_, y) in zip(p.terms(), q.terms(), strict=True)
    }
    inside = p.inside()[..., None]
    found = [x & inside if x.shape == p.scores.shape else x for x in forbidden.values()]
    if not torch.compiler.is_compiling() and not any(bool(x.any()) for x in found):
        return torch.zeros(p.B, dtype=torch.bool, device=p.device)
    parts = {
        name: torch.where(x == -torch.inf, x, forbidden[name].to(x.dtype)) for name, x in p.terms()
    }
    return dispatch.log_partition(replace(p, **parts), "max", backend) > 0


def _two_models(
    p: Model, q: Model, validate_args: bool | None
) -> tuple[Potentials, Potentials, torch.dtype]:
    """Two models with the same terms in the same shapes, in float64, and the type of results."""
    models, dtype = [], torch.float32
    for name, model in (("p", p), ("q", q)):
        terms = _terms_of(name, model)
        try:
            models.append(_wide(gather(**terms, validate_args=validate_args)))
        except ShapeError as error:
            raise ShapeError(f"of the model {name}: {error}") from None
        dtype = torch.promote_types(dtype, result_dtype(terms["scores"]))
    return (*_alike(*models), dtype)


def _terms_of(name: str, model: Model) -> dict[str, Any]:
    """The arguments of ``gather``."""
    if isinstance(model, Potentials):
        return dict(zip((*TERMS, "lengths"), model.fields(), strict=True))
    if not isinstance(model, Mapping):
        kind = type(model).__name__
        raise ShapeError(f"{name} must be Potentials or a dict of their terms, got {kind}")
    return dict(model)


def _alike(p: Potentials, q: Potentials) -> tuple[Potentials, Potentials]:
    """The same two models with the same terms, in the same shapes.

    Raises:
        ShapeError: other sizes, lengths or devices; every misfit is named.
    """
    problems = [
        f"q must have {name} = {mine} like p, got {theirs}"
        for name, mine, theirs in [
            ("(B, T, C)", tuple(p.scores.shape), tuple(q.scores.shape)),
            ("device", p.device, q.device),
        ]
        if mine != theirs
    ]
    comparable = not problems and not torch.compiler.is_compiling()
    if comparable and not torch.equal(_lengths(p), _lengths(q)):
        problems = [
            f"q must have lengths {_lengths(p).tolist()} like p, got {_lengths(q).tolist()}"
        ]
    raise_all(ShapeError, "p and q must be models of the same sequences", problems)
    K, per_duration = max(p.K, q.K), p.per_duration or q.per_duration
    names = {name for model in (p, q) for name, _ in model.terms()}
    return _shaped(p, K, per_duration, names), _shaped(q, K, per_duration, names)


def _lengths(p: Potentials) -> Tensor:
    return torch.full((p.B,), p.T) if p.lengths is None else p.lengths


def _shaped(p: Potentials, K: int, per_duration: bool, names: set[str]) -> Potentials:
    """The same model with K rows of durations, forbidden or of its tail, and all ``names``."""
    rows = K - p.K
    if p.tail is None:
        more = p.duration_bias.new_full((rows, p.C), -torch.inf)
    else:
        beyond = torch.arange(1, rows + 1, device=p.device)[:, None]
        more = p.duration_bias[-1] + beyond * p.tail
    bias, transition = torch.cat((p.duration_bias, more)), p.transition
    if p.per_duration:
        transition = torch.cat((transition, transition[-1:].expand(rows, -1, -1)))
    elif per_duration:
        transition = transition.expand(K, p.C, p.C).contiguous()
    neutral = {
        name: torch.zeros_like(p.scores if name.endswith("_scores") else p.scores[0, 0])
        for name in names - {name for name, _ in p.terms()}
    }
    if "tail" in neutral:
        neutral["tail"] = torch.full_like(neutral["tail"], -torch.inf)
    return replace(p, duration_bias=bias, transition=transition, **neutral)


def _wide(p: Potentials) -> Potentials:
    """The same in float64, where the differences that follow keep their digits."""
    wide = torch.float32 if p.device.type == "mps" else torch.float64
    return p.map_terms(lambda x: x.to(wide))


def _finite_part(p: Potentials, q: Potentials) -> Potentials:
    """The terms of q as a direction in those of p: 0 where one of the two forbids."""
    parts = {
        name: torch.where((x == -torch.inf) | (y == -torch.inf), 0.0, y)
        for (name, x), (_, y) in zip(p.terms(), q.terms(), strict=True)
    }
    # torch 2.6 compiles no dataclasses.replace
    return Potentials(lengths=q.lengths, **parts)


def _difference(p: Potentials, q: Potentials) -> Potentials:
    """p less q, term by term."""
    parts = {name: x - y for (name, x), (_, y) in zip(p.terms(), q.terms(), strict=True)}
    return Potentials(lengths=p.lengths, **parts)
