"""The entropy semiring: the total holds the log partition and the entropy of the segmentations."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov.semirings.base import Element, from_the_end, log_share, log_sum


class EntropySemiring:
    """Log masses, each with the entropy in nats of what it is the mass of.

    An element is (2,): log mass and entropy. A sum adds the entropy of the choice to the mean of
    those behind it, with 0 log 0 = 0; a product adds entropies. Where the mass is 0, so is the
    entropy.

    Source: Li and Eisner, First- and second-order expectation semirings, EMNLP 2009.

    >>> semiring = EntropySemiring()
    >>> semiring.lower(semiring.sum(semiring.lift(torch.zeros(2)), dim=0))
    tensor(0.6931)
    """

    name = "entropy"
    components: tuple[int, ...] = (2,)
    arguments = 1
    zero: Element = (-torch.inf, 0.0)
    one: Element = (0.0, 0.0)
    neutral = 0.0
    forbidden = -torch.inf

    def lift(self, *scores: Tensor) -> Tensor:
        """(2, ...). Each score as a certain thing."""
        return torch.stack((scores[0], torch.zeros_like(scores[0])))

    def lower(self, value: Tensor) -> Tensor:
        """The entropy in nats; 0 where nothing is possible."""
        return value[1]

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """Log masses add, and so do entropies."""
        mass = a[0] + b[0]
        return torch.stack((mass, torch.where(mass == -torch.inf, 0.0, a[1] + b[1])))

    def sum(self, x: Tensor, dim: int) -> Tensor:
        """Log-sum-exp of the log masses, and the entropy of the mixture along ``dim``."""
        dim = from_the_end(dim, x)
        mass, entropy = x
        total = log_sum(mass, dim)
        log_p, alive = log_share(mass, total, dim)
        terms = torch.where(alive, log_p.exp() * (entropy - log_p), 0.0)
        return torch.stack((total, terms.sum(dim)))
