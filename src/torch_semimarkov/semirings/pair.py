"""What the semirings share that compare two models p and q of the same segmentations."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov.semirings.base import Element, from_the_end, log_share, log_sum


class PairSemiring:
    """Log masses under p and q, with the mean under p of a cost that adds up along a segmentation.

    An element is (3,): log mass under p, under q, and the mean cost. The cost is 0 where p has no
    mass, and infinite where p has mass and q has none; its gradient is 0 there.
    """

    components: tuple[int, ...] = (3,)
    arguments = 2
    zero: Element = (-torch.inf, -torch.inf, 0.0)
    one: Element = (0.0, 0.0, 0.0)
    neutral = 0.0
    forbidden = -torch.inf

    def cost(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Cost of a choice that has these log probabilities."""
        raise NotImplementedError

    def lift(self, *scores: Tensor) -> Tensor:
        """(3, ...). Scores under p and q, at no cost."""
        p, q = torch.broadcast_tensors(*scores)
        return _element(p, q, torch.zeros_like(p))

    def lower(self, value: Tensor) -> Tensor:
        """The mean cost in nats; 0 where p allows nothing."""
        return value[2]

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """Log masses add, and so do costs."""
        return _element(a[0] + b[0], a[1] + b[1], a[2] + b[2])

    def sum(self, x: Tensor, dim: int) -> Tensor:
        """Log-sum-exp of the log masses, and the cost of the mixture along ``dim``."""
        dim = from_the_end(dim, x)
        p, q, behind = x
        total_p, total_q = log_sum(p, dim), log_sum(q, dim)
        log_p, alive = log_share(p, total_p, dim)
        log_q, known = log_share(q, total_q, dim)
        infinite = alive & (~known | (behind.detach() == torch.inf))
        finite = alive & ~infinite
        costs = torch.where(finite, behind, 0.0) + self.cost(log_p, log_q)
        terms = torch.where(finite, log_p.exp() * costs, 0.0).sum(dim)
        return _element(total_p, total_q, torch.where(infinite.any(dim), torch.inf, terms))


def _element(p: Tensor, q: Tensor, cost: Tensor) -> Tensor:
    cost = torch.where(q == -torch.inf, torch.inf, cost)
    return torch.stack((p, q, torch.where(p == -torch.inf, 0.0, cost)))
