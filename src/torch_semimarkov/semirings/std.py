"""The standard semiring: weights are plain numbers, so the total is the partition, not its log."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov.semirings.base import Element


class StdSemiring:
    """(sum, product) over plain weights >= 0, not over scores in nats: a weight of 0 forbids.

    With weights of 0 and 1 the total counts segmentations. Products of many weights leave the range
    of a float; the log semiring does not.

    >>> StdSemiring().sum(torch.tensor([1.0, 3.0]), dim=0)
    tensor(4.)
    """

    name = "std"
    components: tuple[int, ...] = ()
    arguments = 1
    zero: Element = 0.0
    one: Element = 1.0
    neutral = 1.0
    forbidden = 0.0

    def lift(self, *scores: Tensor) -> Tensor:
        """The weights."""
        return scores[0]

    def lower(self, value: Tensor) -> Tensor:
        """The total itself."""
        return value

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """``a * b``."""
        return a * b

    def sum(self, x: Tensor, dim: int) -> Tensor:
        """The sum along ``dim``."""
        return torch.sum(x, dim)
