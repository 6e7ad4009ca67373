"""The semiring of dual numbers: a log mass, and how fast it moves when the scores do."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov.semirings.base import Element, from_the_end, log_share, log_sum


class TangentSemiring:
    """Log masses, each with its derivative in one direction of the scores.

    An element is (2,): log mass and slope. Slopes add along a segmentation; the slope of a sum is
    their mean, weighted with the masses. Where the mass is 0, so is the slope.

    Source: Eisner, Parameter estimation for probabilistic finite-state transducers, ACL 2002 (the
    expectation semiring).

    >>> semiring = TangentSemiring()
    >>> semiring.sum(semiring.lift(torch.zeros(2), torch.tensor([1.0, 3.0])), dim=0)
    tensor([0.6931, 2.0000])
    """

    name = "tangent"
    components: tuple[int, ...] = (2,)
    arguments = 2
    zero: Element = (-torch.inf, 0.0)
    one: Element = (0.0, 0.0)
    neutral = 0.0
    forbidden = -torch.inf

    def lift(self, *scores: Tensor) -> Tensor:
        """(2, ...). Scores with the direction that they move in."""
        mass, slope = torch.broadcast_tensors(*scores)
        return torch.stack((mass, torch.where(mass == -torch.inf, 0.0, slope)))

    def lower(self, value: Tensor) -> Tensor:
        """(2, ...). Log mass and slope."""
        return value

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """Log masses add, and so do slopes."""
        mass = a[0] + b[0]
        return torch.stack((mass, torch.where(mass == -torch.inf, 0.0, a[1] + b[1])))

    def sum(self, x: Tensor, dim: int) -> Tensor:
        """Log-sum-exp of the log masses, and the mean slope along ``dim``."""
        dim = from_the_end(dim, x)
        mass, slope = x
        total = log_sum(mass, dim)
        log_p, alive = log_share(mass, total, dim)
        terms = torch.where(alive, log_p.exp() * slope, 0.0)
        return torch.stack((total, terms.sum(dim)))
