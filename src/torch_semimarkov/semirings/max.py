"""The max semiring: the total is the score of the best segmentation (Viterbi)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from torch_semimarkov.semirings.base import live


class MaxSemiring:
    """(max, +) over scores in nats; of equal alternatives the first one takes the gradient.

    >>> MaxSemiring().sum(torch.tensor([1.0, 3.0]), dim=0)
    tensor(3.)
    """

    name: ClassVar[str] = "max"
    zero: ClassVar[float] = -torch.inf
    one: ClassVar[float] = 0.0

    def sum(self, x: Tensor, dim: int) -> Tensor:
        """Largest value along ``dim``; -inf, with gradient 0, if all are -inf."""
        safe, dead = live(x, dim)
        return torch.where(dead.squeeze(dim), self.zero, safe.max(dim).values)
