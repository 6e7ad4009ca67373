"""The max semiring: the total is the score of the best segmentation (Viterbi)."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov.semirings.base import ScoreSemiring, live


class MaxSemiring(ScoreSemiring):
    """(max, +) over scores in nats; of equal alternatives the first one takes the gradient.

    >>> MaxSemiring().sum(torch.tensor([1.0, 3.0]), dim=0)
    tensor(3.)
    """

    name = "max"

    def sum(self, x: Tensor, dim: int) -> Tensor:
        """Largest value along ``dim``; -inf, with gradient 0, if all are -inf."""
        safe, dead = live(x, dim)
        return torch.where(dead.squeeze(dim), -torch.inf, safe.max(dim).values)
