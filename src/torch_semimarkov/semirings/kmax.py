"""The k-max semiring: the total holds the scores of the k best segmentations."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov.errors import UnsupportedError
from torch_semimarkov.segments import as_count
from torch_semimarkov.semirings.base import Element, filled, from_the_end


class KMaxSemiring:
    """The k largest scores, best first: sums keep the k best of all, products the k best pairs.

    An element is (k,), in descending order and filled up with -inf.

    Args:
        k: how many scores to keep, >= 1.

    Raises:
        UnsupportedError: k is no integer >= 1.

    Source: Goodman, Semiring parsing, Computational Linguistics 1999.

    >>> best = KMaxSemiring(2)
    >>> best.sum(best.lift(torch.tensor([1.0, 3.0, 2.0])), dim=0)
    tensor([3., 2.])
    """

    name = "kmax"
    arguments = 1
    neutral = 0.0
    forbidden = -torch.inf

    def __init__(self, k: int):
        k = as_count("k", k, UnsupportedError)
        self.k = k
        self.components: tuple[int, ...] = (k,)
        self.zero: Element = (-torch.inf,) * k
        self.one: Element = (0.0, *(-torch.inf,) * (k - 1))

    def lift(self, *scores: Tensor) -> Tensor:
        """(k, ...). Each score as the best and only one."""
        others = filled(-torch.inf, (self.k - 1, *scores[0].shape), scores[0])
        return torch.cat((scores[0][None], others))

    def lower(self, value: Tensor) -> Tensor:
        """(k, ...). The scores, best first; -inf where there are fewer than k."""
        return value

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """The k best among the sums of one score of ``a`` and one of ``b``."""
        return self._best((a[:, None] + b[None, :]).flatten(0, 1))

    def sum(self, x: Tensor, dim: int) -> Tensor:
        """The k best of all scores along ``dim``."""
        rows = x.movedim(from_the_end(dim, x), 0)
        return self._best(rows.flatten(0, 1))

    def _best(self, candidates: Tensor) -> Tensor:
        """(k, ...) of (n, ...), with gradient 0 where a score is -inf."""
        few = self.k - candidates.shape[0]
        if few > 0:
            padding = filled(-torch.inf, (few, *candidates.shape[1:]), candidates)
            candidates = torch.cat((candidates, padding))
        best = candidates.topk(self.k, dim=0).values
        return torch.where(best == -torch.inf, -torch.inf, best)
