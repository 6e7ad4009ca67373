"""The log semiring: sums are log-sum-exp, so the total is the log partition."""

from __future__ import annotations

from torch import Tensor

from torch_semimarkov.semirings.base import ScoreSemiring, log_sum


class LogSemiring(ScoreSemiring):
    """(log-sum-exp, +) over scores in nats.

    >>> import torch
    >>> LogSemiring().sum(torch.tensor([0.0, 0.0]), dim=0)
    tensor(0.6931)
    """

    name = "log"

    def sum(self, x: Tensor, dim: int) -> Tensor:
        """Log of the sum of exponentials along ``dim``; -inf, with gradient 0, if all are -inf."""
        return log_sum(x, dim)
