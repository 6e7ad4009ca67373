"""The sampling semiring: totals are those of the log semiring, gradients are exact samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from torch_semimarkov.semirings.base import ScoreSemiring, log_sum


class SampledSemiring(ScoreSemiring):
    """(log-sum-exp, +), whose sums pass their gradient on to one alternative, drawn at random.

    It is drawn by its probability. So the gradient of the total is the indicator of one
    segmentation, drawn from the model: forward filtering, backward sampling. Every backward pass
    draws anew.

    Args:
        generator: source of randomness, on the device of the scores; default torch's own.

    >>> x = torch.zeros(3, requires_grad=True)
    >>> semiring = SampledSemiring(torch.Generator().manual_seed(0))
    >>> semiring.sum(x, dim=0).backward()
    >>> sorted(x.grad.tolist())
    [0.0, 0.0, 1.0]
    """

    name = "sampled"

    def __init__(self, generator: torch.Generator | None = None):
        self.generator = generator

    def sum(self, x: Tensor, dim: int) -> Tensor:
        """Log of the sum of exponentials along ``dim``; its gradient is a sample."""
        return _Draw.apply(x, dim, self.generator)


class _Draw(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, generator: torch.Generator | None) -> Tensor:
        value = log_sum(x, dim)
        ctx.dim, ctx.generator = dim, generator
        ctx.save_for_backward(x, value)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        x, value = ctx.saved_tensors
        dead = (value == -torch.inf).unsqueeze(ctx.dim)
        p = (x - torch.where(dead, 0.0, value.unsqueeze(ctx.dim))).exp()
        # Of exponential arrival times with these rates, the first is one with its probability.
        rate = torch.empty_like(p).exponential_(generator=ctx.generator)
        chosen = torch.where(p > 0, p / rate, -1.0).argmax(ctx.dim, keepdim=True)
        taken = torch.where(dead, 0.0, weight.unsqueeze(ctx.dim))
        return torch.zeros_like(p).scatter(ctx.dim, chosen, taken), None, None
