"""The one place where an algebra is defined. To add one: one file and one line here."""

from __future__ import annotations

from torch_semimarkov.errors import UnsupportedError
from torch_semimarkov.semirings.base import Semiring
from torch_semimarkov.semirings.log import LogSemiring
from torch_semimarkov.semirings.max import MaxSemiring

SEMIRINGS: dict[str, type] = {"log": LogSemiring, "max": MaxSemiring}


def by_name(name: str) -> Semiring:
    """The semiring called ``name``.

    Raises:
        UnsupportedError: no semiring has this name.

    >>> by_name("max").name
    'max'
    """
    if name not in SEMIRINGS:
        raise UnsupportedError(f"semiring must be one of {sorted(SEMIRINGS)}, got {name!r}")
    return SEMIRINGS[name]()


__all__ = ["SEMIRINGS", "LogSemiring", "MaxSemiring", "Semiring", "by_name"]
