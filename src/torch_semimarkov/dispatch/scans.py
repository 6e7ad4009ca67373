"""Which backend runs an associative scan: a priority list, each entry with its reasons against."""

from __future__ import annotations

import importlib
import sys
from functools import lru_cache
from typing import Protocol, cast

from torch import Tensor

from torch_semimarkov.collector import paused_collector
from torch_semimarkov.dispatch.select import Explanation, pinned
from torch_semimarkov.errors import UnsupportedError, raise_all

_MODULES = {
    "triton": "torch_semimarkov.backends.triton.scans",
    "cpu": "torch_semimarkov.backends.cpu.scans",
    "reference": "torch_semimarkov.backends.reference.scans",
}


class ScanBackend(Protocol):
    """What a module of scan kernels offers; every tensor is (outer, T, inner)."""

    NAME: str

    def reasons_against(self, op: str, x: Tensor) -> list[str]:
        """Why this backend cannot run a scan; empty if it can."""
        ...

    def slower(self, op: str, x: Tensor, reverse: bool) -> str:
        """Why the next backend is the better choice; it holds in the automatic choice only."""
        ...

    def associative_scan(
        self,
        x: Tensor,
        op: str,
        reverse: bool,
        exclusive: bool,
        initial: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The scan in the type of ``x``, and its last value in the accumulator's type."""
        ...

    def linear_scan(
        self,
        gates: Tensor,
        inputs: Tensor,
        reverse: bool,
        shifted: bool,
        initial: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The states in the type of ``inputs``, and the last one in the accumulator's type."""
        ...


def asked(backend: str | None) -> str:
    """The backend that a call or a pin asks for, or "auto".

    Raises:
        UnsupportedError: there is no such backend.
    """
    name = (pinned() or "auto") if backend in (None, "auto") else cast(str, backend)
    if name != "auto" and name not in _MODULES:
        known = ", ".join(repr(other) for other in _MODULES)
        raise UnsupportedError(f"backend must be one of {known} or 'auto', got {name!r}")
    return name


def choose(op: str, x: Tensor, reverse: bool, backend: str) -> ScanBackend:
    """The backend that runs a scan.

    Raises:
        UnsupportedError: the backend asked for cannot run it; with the reasons.
    """
    for name in _candidates(backend):
        if not _reasons(name, op, x, reverse, backend):
            return _loaded(name)
    found = explain(op, x, reverse, backend)
    lines = [f"{name}: {reason}" for name, why in found.reasons.items() for reason in why]
    raise_all(UnsupportedError, f"cannot run {found.call} by backend={backend!r}", lines)
    raise UnsupportedError(f"no backend for {found.call}")


def explain(op: str, x: Tensor, reverse: bool, backend: str) -> Explanation:
    """The choice of backend for a scan with its reasons, without running anything."""
    reasons = {name: _reasons(name, op, x, reverse, backend) for name in _candidates(backend)}
    chosen = next((name for name, against in reasons.items() if not against), None)
    way = ", reverse" if reverse else ""
    call = f"scan(op={op!r}{way}) of {tuple(x.shape)} on device={x.device}, {str(x.dtype)[6:]}"
    return Explanation(call, chosen, None if backend == "auto" else backend, reasons)


def _candidates(backend: str) -> tuple[str, ...]:
    return tuple(_MODULES) if backend == "auto" else (backend,)


def _reasons(name: str, op: str, x: Tensor, reverse: bool, backend: str) -> list[str]:
    missing = _why_missing(name)
    if missing:
        return [missing]
    against = _loaded(name).reasons_against(op, x)
    slower = "" if against or backend != "auto" else _loaded(name).slower(op, x, reverse)
    return [slower] if slower else against


@lru_cache(maxsize=8)
def _why_missing(name: str) -> str:
    """Why the module of a backend cannot be imported; empty if it can."""
    try:
        with paused_collector():
            importlib.import_module(_MODULES[name])
    except ImportError as error:
        return f"cannot be loaded: {error}"
    return ""


def _loaded(name: str) -> ScanBackend:
    return cast(ScanBackend, sys.modules[_MODULES[name]])
