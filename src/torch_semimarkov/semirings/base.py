"""What a semiring is here: elements as tensors, a sum over alternatives, a product along a path."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

Element = float | tuple[float, ...]


class Semiring(Protocol):
    """An algebra over elements that the scores of segments are lifted into.

    An element is one number, or a few that come first: a tensor of elements is
    ``(*components, ...)``, with ``components`` () for plain numbers. ``zero`` is the neutral
    element of the sum and annihilates the product; ``one`` is the neutral element of the product;
    the product is commutative and distributes over the sum. Where every alternative is ``zero``,
    their sum is ``zero`` with gradient 0 and not NaN.

    name: what a call names it by.
    components: leading axes of a tensor of elements.
    arguments: how many tensors of scores :meth:`lift` takes: 2 where two models are compared.
    zero, one: an element as a number, or as one number for each component.
    neutral, forbidden: the scores that are lifted to ``one`` and to ``zero``.
    """

    @property
    def name(self) -> str: ...

    @property
    def components(self) -> tuple[int, ...]: ...

    @property
    def arguments(self) -> int: ...

    @property
    def zero(self) -> Element: ...

    @property
    def one(self) -> Element: ...

    @property
    def neutral(self) -> float: ...

    @property
    def forbidden(self) -> float: ...

    def lift(self, *scores: Tensor) -> Tensor:
        """(*components, ...) elements from scores (...)."""
        ...

    def lower(self, value: Tensor) -> Tensor:
        """What a total says: (...), or one leading axis where a total says several things."""
        ...

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """The semiring product, element by element; the axes behind the components broadcast."""
        ...

    def sum(self, x: Tensor, dim: int) -> Tensor:
        """The semiring sum along ``dim``, counted without the components or from the end."""
        ...


class ScoreSemiring:
    """What semirings share whose elements are the scores themselves and whose product is ``+``."""

    components: tuple[int, ...] = ()
    arguments = 1
    zero: Element = -torch.inf
    one: Element = 0.0
    neutral = 0.0
    forbidden = -torch.inf

    def lift(self, *scores: Tensor) -> Tensor:
        """The scores."""
        return scores[0]

    def lower(self, value: Tensor) -> Tensor:
        """The total itself."""
        return value

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """``a + b``."""
        return a + b


def filled(element: Element, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """(*components, *shape). Copies of one element, of the type and on the device of ``like``."""
    if isinstance(element, tuple):
        return torch.stack([filled(number, shape, like) for number in element])
    return torch.full(shape, element, dtype=like.dtype, device=like.device)


def from_the_end(dim: int, x: Tensor) -> int:
    """``dim`` of a tensor with one axis of components, counted from the end."""
    return dim if dim < 0 else dim + 1 - x.dim()


def live(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Separate the entries whose alternatives along ``dim`` are all -inf.

    Returns:
        ``x`` with those entries set to 0, so that no ``-inf - -inf`` arises, and a bool mask
        (with ``dim`` kept) that is True on them.
    """
    dead = x.detach().amax(dim, keepdim=True) == -torch.inf
    return torch.where(dead, 0.0, x), dead


def log_sum(x: Tensor, dim: int) -> Tensor:
    """Log of the sum of exponentials along ``dim``; -inf, with gradient 0, if all are -inf."""
    safe, dead = live(x, dim)
    return torch.where(dead.squeeze(dim), -torch.inf, torch.logsumexp(safe, dim))


def log_share(x: Tensor, total: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Log of the part that each of ``x`` has in their ``total`` along ``dim``.

    Returns:
        That logarithm, 0 where ``x`` is -inf, and a bool mask that is False there.
    """
    alive = x.detach() != -torch.inf
    whole = torch.where(total == -torch.inf, 0.0, total).unsqueeze(dim)
    return torch.where(alive, x, 0.0) - torch.where(alive, whole, 0.0), alive
