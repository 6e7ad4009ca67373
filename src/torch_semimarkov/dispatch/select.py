"""Which backend runs a call: a priority list, each entry with its reasons against."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch_semimarkov.dispatch.registry import (
    Backend,
    available_backends,
    load,
    loaded,
    why_missing,
)
from torch_semimarkov.errors import UnsupportedError, raise_all
from torch_semimarkov.potentials import EdgePotentials, Potentials

AnyPotentials = Potentials | EdgePotentials

# Plain thread-local attributes: torch.compile can read them and compiles anew when they change,
# which it does neither for a ContextVar nor for class attributes of a subclass.
_here = threading.local()


def pinned() -> str | None:
    """The backend that a ``use_backend`` block asks for, or None."""
    return getattr(_here, "pinned", None)


def _left_out() -> dict[str, str]:
    return getattr(_here, "left_out", {})


@dataclass(frozen=True)
class Explanation:
    """Which backend would run a call, and what speaks against each of the others.

    Args:
        call: the operation in words.
        chosen: name of the backend that would run it; None if none can.
        asked: the backend asked for by name, or None.
        reasons: reasons against each backend, in the order of choice; empty means it can run.
        variant: which form of its kernels the chosen backend would run, in words; may be empty.
    """

    call: str
    chosen: str | None
    asked: str | None
    reasons: dict[str, list[str]]
    variant: str = ""

    def __str__(self) -> str:
        width = max(len(name) for name in self.reasons)
        lines = [f"{self.call}: {self.chosen or 'no backend'}"]
        for name, reasons in self.reasons.items():
            runs = f"runs: {self.variant}" if self.variant else "runs"
            verdict = "; ".join(reasons) or (runs if name == self.chosen else "could run")
            lines.append(f"  {name:<{width}}  {verdict}")
        return "\n".join(lines)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Pin the backend of every call inside a ``with`` block.

    Args:
        name: a name from ``available_backends()``, or "auto" for the automatic choice.

    Raises:
        UnsupportedError: there is no such backend.

    >>> with use_backend("reference"):
    ...     pass
    """
    if name != "auto":
        load(name)
    before = pinned()
    _here.pinned = None if name == "auto" else name
    try:
        yield
    finally:
        _here.pinned = before


@contextmanager
def leave_out(name: str, reason: str) -> Iterator[None]:
    """Keep a backend out of the automatic choice inside a ``with`` block; ``reason`` is shown."""
    before = _left_out()
    _here.left_out = {**before, name: reason}
    try:
        yield
    finally:
        _here.left_out = before


def choose(op: str, p: AnyPotentials, semiring: str = "log", backend: str | None = None) -> Backend:
    """The backend that runs ``op``.

    Raises:
        UnsupportedError: the backend asked for cannot run it, or none can; with the reasons.
    """
    asked, names = _candidates(backend)
    for name in names:
        if not _reasons(name, op, p, semiring, asked is not None):
            return loaded(name)
    found = explain_op(op, p, semiring, backend)
    only = "" if found.asked is None else f" by backend={found.asked!r}"
    lines = [f"{name}: {reason}" for name, why in found.reasons.items() for reason in why]
    raise_all(UnsupportedError, f"cannot run {found.call}{only}", lines)
    raise UnsupportedError(f"no backend for {found.call}")


def explain_op(
    op: str, p: AnyPotentials, semiring: str = "log", backend: str | None = None
) -> Explanation:
    """The choice of backend for ``op`` with its reasons, without running anything."""
    asked, names = _candidates(backend)
    reasons = {name: _reasons(name, op, p, semiring, asked is not None) for name in names}
    chosen = next((name for name, against in reasons.items() if not against), None)
    dtype = str(p.compute_dtype)[6:]
    call = f"{op}(semiring={semiring!r}) on device={p.device}, {dtype}"
    describe = None if chosen is None else getattr(loaded(chosen), "variant", None)
    return Explanation(call, chosen, asked, reasons, describe(p) if describe else "")


def _candidates(backend: str | None) -> tuple[str | None, tuple[str, ...]]:
    """The backend asked for, by the call or by a pin, and those to consider in their order."""
    asked = pinned() if backend in (None, "auto") else backend
    return asked, available_backends() if asked is None else (asked,)


def _reasons(name: str, op: str, p: AnyPotentials, semiring: str, asked: bool) -> list[str]:
    if not asked and name in _left_out():
        return [f"left out by {_left_out()[name]}"]
    missing = why_missing(name)
    if missing and asked:
        raise UnsupportedError(missing)
    if missing:
        return [missing]
    backend = loaded(name)
    reasons = backend.reasons_against(op, p, semiring)
    against_choice = getattr(backend, "reasons_against_choice", None)
    return reasons if reasons or asked or against_choice is None else against_choice(p)
