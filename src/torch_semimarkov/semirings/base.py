"""What a semiring is here: a sum over alternatives, and ``+`` along a segmentation."""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor


class Semiring(Protocol):
    """An algebra over scores in nats: the product is ``+``, zero is -inf and one is 0.

    ``zero`` is the neutral element of the sum and annihilates the product; ``one`` is the neutral
    element of the product. ``sum`` must return ``zero`` where every alternative is ``zero``, with
    gradient 0 there and not NaN.
    """

    name: ClassVar[str]
    zero: ClassVar[float]
    one: ClassVar[float]

    def sum(self, x: Tensor, dim: int) -> Tensor:
        """The semiring sum of ``x`` along ``dim``."""
        ...


def live(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Separate the entries whose alternatives along ``dim`` are all -inf.

    Returns:
        ``x`` with those entries set to 0, so that no ``-inf - -inf`` arises, and a bool mask
        (with ``dim`` kept) that is True on them.
    """
    dead = x.detach().amax(dim, keepdim=True) == -torch.inf
    return torch.where(dead, 0.0, x), dead
