"""The log semiring: sums are log-sum-exp, so the total is the log partition."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torch_semimarkov.semirings.base import live


class LogSemiring:
    """(log-sum-exp, +) over scores in nats.

    >>> LogSemiring().sum(torch.tensor([0.0, 0.0]), dim=0)
    tensor(0.6931)
    """

    name: ClassVar[str] = "log"
    zero: ClassVar[float] = -torch.inf
    one: ClassVar[float] = 0.0

    def sum(self, x: Tensor, dim: int) -> Tensor:
        """Log of the sum of exponentials along ``dim``; -inf, with gradient 0, if all are -inf."""
        safe, dead = live(x, dim)
        return torch.where(dead.squeeze(dim), self.zero, torch.logsumexp(safe, dim))
