"""Calls behind questions about the posterior: messages and max-marginals, without gradients."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from torch_semimarkov.dispatch.registry import PosteriorBackend
from torch_semimarkov.dispatch.select import choose
from torch_semimarkov.potentials import Potentials


def messages(p: Potentials, backend: str | None = None) -> tuple[Tensor, Tensor]:
    """``alpha`` (B, T, C) and ``entering`` (B, T, C), or (B, T, K, C) for (K, C, C) transitions.

    ``alpha[b, t-1, c]``: log of the sum over segmentations of the first t positions that end with
    label c. ``entering[b, s, c]``: over those of the first s positions, with the transition into c;
    or ``entering[b, t, d-1, c]``: with that into a segment of d positions whose last is t.
    """
    chosen = cast(PosteriorBackend, choose("messages", p, "log", backend))
    with torch.no_grad():
        return chosen.messages(p)


def carried(
    p: Potentials,
    gates: Tensor,
    inputs: Tensor,
    *,
    reverse: bool = False,
    backend: str | None = None,
) -> Tensor:
    """A recurrence of log sums along the positions, O(T C), by the backend of the messages.

    ``x[t]`` is the log of exp(inputs[t]) + exp(gates[t] + x[t-1]); with ``reverse``, of
    exp(inputs[t]) + exp(gates[t+1] + x[t+1]). All are (B, T, C) float64 on the device of ``p``.
    """
    chosen = cast(PosteriorBackend, choose("messages", p, "log", backend))
    return chosen.carried(gates, inputs, reverse)


def max_marginals(p: Potentials, backend: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Best scores with a label at, a start at and an end at each position, (B, T, C) float64."""
    return cast(PosteriorBackend, choose("max_marginals", p, "max", backend)).max_marginals(p)
