"""The KL semiring: the total holds the Kullback-Leibler divergence of one model from another."""

from __future__ import annotations

from torch import Tensor

from torch_semimarkov.semirings.pair import PairSemiring


class KLDivergenceSemiring(PairSemiring):
    """Mean of log p - log q under p in nats, for two models p and q of the same segmentations.

    Infinite where p allows what q forbids.

    Source: Li and Eisner, First- and second-order expectation semirings, EMNLP 2009.

    >>> import torch
    >>> semiring = KLDivergenceSemiring()
    >>> p, q = torch.tensor([1.0, 0.0]).log(), torch.zeros(2)
    >>> semiring.lower(semiring.sum(semiring.lift(p, q), dim=0))
    tensor(0.6931)
    """

    name = "kl_divergence"

    def cost(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """log p - log q."""
        return log_p - log_q
