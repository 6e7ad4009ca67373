"""The cross-entropy semiring: the total holds the cross-entropy of one model under another."""

from __future__ import annotations

from torch import Tensor

from torch_semimarkov.semirings.pair import PairSemiring


class CrossEntropySemiring(PairSemiring):
    """Mean of -log q under p in nats, for two models p and q of the same segmentations.

    Infinite where p allows what q forbids.

    Source: Li and Eisner, First- and second-order expectation semirings, EMNLP 2009.

    >>> import torch
    >>> semiring = CrossEntropySemiring()
    >>> p, q = torch.tensor([0.25, 0.75]).log(), torch.zeros(2)
    >>> semiring.lower(semiring.sum(semiring.lift(p, q), dim=0))
    tensor(0.6931)
    """

    name = "cross_entropy"

    def cost(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """-log q."""
        return -log_q
