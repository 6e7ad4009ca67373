"""The one place where an algebra is defined. To add one: one file and one line here."""

from __future__ import annotations

from torch_semimarkov.errors import UnsupportedError
from torch_semimarkov.semirings.base import Semiring, filled
from torch_semimarkov.semirings.cross_entropy import CrossEntropySemiring
from torch_semimarkov.semirings.entropy import EntropySemiring
from torch_semimarkov.semirings.kl_divergence import KLDivergenceSemiring
from torch_semimarkov.semirings.kmax import KMaxSemiring
from torch_semimarkov.semirings.log import LogSemiring
from torch_semimarkov.semirings.max import MaxSemiring
from torch_semimarkov.semirings.sampled import SampledSemiring
from torch_semimarkov.semirings.std import StdSemiring
from torch_semimarkov.semirings.tangent import TangentSemiring

SEMIRINGS: dict[str, type] = {
    "log": LogSemiring,
    "max": MaxSemiring,
    "std": StdSemiring,
    "kmax": KMaxSemiring,
    "entropy": EntropySemiring,
    "cross_entropy": CrossEntropySemiring,
    "kl_divergence": KLDivergenceSemiring,
    "sampled": SampledSemiring,
}

# What the protocol asks for.
_NEEDED = (
    "name", "components", "arguments", "zero", "one", "neutral", "forbidden",
    "lift", "lower", "times", "sum",
)  # fmt: skip


def by_name(name: str) -> Semiring:
    """The semiring called ``name``.

    Raises:
        UnsupportedError: no semiring has this name, or it needs more than a name.

    >>> by_name("max").name
    'max'
    """
    if name not in SEMIRINGS:
        raise UnsupportedError(f"semiring must be one of {sorted(SEMIRINGS)}, got {name!r}")
    if name == KMaxSemiring.name:
        raise UnsupportedError("semiring 'kmax' needs its k: pass KMaxSemiring(k) instead")
    return SEMIRINGS[name]()


def as_semiring(semiring: str | type | Semiring) -> Semiring:
    """A semiring from its name, its class or itself.

    Raises:
        UnsupportedError: it is none of these, or needs more than a name.

    >>> as_semiring("max").name, as_semiring(MaxSemiring).name, as_semiring(KMaxSemiring(2)).name
    ('max', 'max', 'kmax')
    """
    if isinstance(semiring, str):
        return by_name(semiring)
    if isinstance(semiring, type) and semiring in SEMIRINGS.values():
        return by_name(semiring.name)
    if isinstance(semiring, type) or not all(hasattr(semiring, name) for name in _NEEDED):
        raise UnsupportedError(
            f"semiring must be a name in {sorted(SEMIRINGS)} or a semiring, got {semiring!r}"
        )
    return semiring


__all__ = [
    "SEMIRINGS",
    "CrossEntropySemiring",
    "EntropySemiring",
    "KLDivergenceSemiring",
    "KMaxSemiring",
    "LogSemiring",
    "MaxSemiring",
    "SampledSemiring",
    "Semiring",
    "StdSemiring",
    "TangentSemiring",
    "as_semiring",
    "by_name",
    "filled",
]
