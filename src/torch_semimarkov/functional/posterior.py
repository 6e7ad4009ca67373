"""Posterior marginals: the gradient of the log partition."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from torch_semimarkov import dispatch
from torch_semimarkov.functional.inputs import (
    check_interval,
    gather,
    gradients,
    nan_in,
    needs_grad,
    result_dtype,
    spoil,
)
from torch_semimarkov.potentials import PER_POSITION, Potentials


class Marginals(NamedTuple):
    """Posterior probabilities and expected counts.

    labels: (B, T, C), 0..1. Probability that position t has label c; sums to 1 over c.
    starts: (B, T, C), 0..1. Probability that a segment labelled c starts at position t.
    ends: (B, T, C), 0..1. Probability that a segment labelled c has position t as its last.
    boundaries: (B, T), 0..1. Probability that some segment starts at position t.
    transitions: (C, C) or (K, C, C). Expected number of transitions, summed over the batch.
    durations: (K, C). Expected number of segments of d positions in row d-1, summed over the batch;
        with a tail the last row counts those of K and more.
    log_partition: (B,). In nats.
    beyond: (C,). Expected number of positions beyond the first K of their segments, summed over the
        batch; 0 without a tail.
    """

    labels: Tensor
    starts: Tensor
    ends: Tensor
    boundaries: Tensor
    transitions: Tensor
    durations: Tensor
    log_partition: Tensor
    beyond: Tensor


def marginals(
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
) -> Marginals:
    """Posterior marginals of labels, segment starts and ends, transitions and durations.

    Args:
        scores, transition, duration_bias, lengths, start, end, start_scores, end_scores, tail,
            backend, checkpoint_interval, validate_args: as in :func:`log_partition`.

    Returns:
        :class:`Marginals` in the type of the scores (half types: float32). Differentiable if an
        argument requires a gradient. All 0 past a length and for a sequence without any possible
        segmentation.

    Raises:
        ShapeError, UnsupportedError: as :func:`log_partition`.

    Source: Sarawagi and Cohen, Semi-Markov conditional random fields, NIPS 2004.

    Two positions, one label, durations 1 and 2, all scores 0: a segment starts at position 1 in
    one of two segmentations.

    >>> zeros = torch.zeros
    >>> marginals(zeros(1, 2, 1), zeros(1, 1), zeros(2, 1)).boundaries
    tensor([[1.0000, 0.5000]])
    """
    p = gather(
        scores, transition, duration_bias, lengths, start=start, end=end,
        start_scores=start_scores, end_scores=end_scores, tail=tail,
        validate_args=validate_args,
    )  # fmt: skip
    check_interval(checkpoint_interval)
    p = _with_boundary_scores(p)
    direct = None if needs_grad(p) else dispatch.expectations(p, backend, checkpoint_interval)
    value, grads = direct or _by_autograd(p, backend, checkpoint_interval)
    dtype = result_dtype(scores)
    found = {name: grad.to(dtype) for name, grad in grads.items()}
    bad = nan_in(p, validate_args)
    if bad is not None:
        value = spoil(value, bad)
        found = {
            name: spoil(x, bad, 0) if name in PER_POSITION else x * torch.nan
            for name, x in found.items()
        }
    return Marginals(
        labels=found["scores"],
        starts=found["start_scores"],
        ends=found["end_scores"],
        boundaries=found["start_scores"].sum(-1),
        transitions=found["transition"],
        durations=found["duration_bias"],
        log_partition=value.to(dtype),
        beyond=found["tail"] if "tail" in found else scores.new_zeros(p.C, dtype=dtype),
    )


def _with_boundary_scores(p: Potentials) -> Potentials:
    """The same potentials with all terms that a marginal is the gradient of."""
    starts, ends = (
        torch.zeros_like(p.scores) if x is None else x for x in (p.start_scores, p.end_scores)
    )
    return replace(p, start_scores=starts, end_scores=ends)


def _by_autograd(
    p: Potentials, backend: str | None, checkpoint_interval: int | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The log partition and its gradients, differentiable where the potentials are."""
    differentiable = needs_grad(p)
    with torch.inference_mode(False), torch.enable_grad():
        p = _with_gradients(p, differentiable)
        value = dispatch.log_partition(p, "log", backend, checkpoint_interval)
        grads = gradients(value.sum(), p, create_graph=differentiable)
    return value if differentiable else value.detach(), grads


def _with_gradients(p: Potentials, differentiable: bool) -> Potentials:
    """Terms that all require a gradient, and that autograd may keep."""

    def ready(x: Tensor) -> Tensor:
        if differentiable and x.requires_grad:
            return x
        fresh = x.clone() if x.is_inference() else x.detach()
        return fresh.detach().requires_grad_()

    lengths = p.lengths
    if lengths is not None and lengths.is_inference():
        lengths = lengths.clone()
    return replace(p.map_terms(ready), lengths=lengths)
