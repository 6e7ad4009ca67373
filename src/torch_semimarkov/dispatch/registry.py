"""Which backends there are, and what each must offer. To add one: one folder and one line."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol, cast

import numpy as np
from torch import Generator, Tensor

from torch_semimarkov.collector import paused_collector
from torch_semimarkov.errors import UnsupportedError
from torch_semimarkov.potentials import EdgePotentials, Potentials
from torch_semimarkov.segments import Segments
from torch_semimarkov.semirings import Semiring

_MODULES: dict[str, str] = {
    "triton": "torch_semimarkov.backends.triton",
    "cpu": "torch_semimarkov.backends.cpu",
    "reference": "torch_semimarkov.backends.reference",
}
# Names of backends whose modules are imported.
_READY: set[str] = set()


class Backend(Protocol):
    """What every backend module offers.

    A composite backend is plain torch: it is called directly and autograd follows it. A compiled
    one is a :class:`CompiledBackend` and runs inside a registered op.
    """

    NAME: str
    COMPOSITE: bool

    def reasons_against(
        self, op: str, potentials: Potentials | EdgePotentials, semiring: str = "log"
    ) -> list[str]:
        """Why this backend cannot run ``op``; empty if it can."""
        ...

    # Two more functions are optional: ``reasons_against_choice(potentials)``, what keeps a backend
    # that can run a call out of the automatic choice; ``variant(potentials)``, how it would run it.


class CompositeBackend(Backend, Protocol):
    """Plain torch, differentiable by autograd."""

    def log_partition(
        self, potentials: Potentials, semiring: str | Semiring, checkpoint_interval: int | None
    ) -> Tensor:
        """(B,) float64. The semiring total, or what the semiring makes of it."""
        ...

    def tangent(
        self, potentials: Potentials, direction: Potentials, checkpoint_interval: int | None
    ) -> tuple[Tensor, Tensor]:
        """(B,) float64 twice: log partition, and its derivative in a direction of the terms."""
        ...

    def viterbi(self, potentials: Potentials) -> tuple[Tensor, Segments]:
        """(B,) float64 and the best segmentations."""
        ...

    def kbest(self, potentials: Potentials, k: int) -> tuple[Tensor, Segments]:
        """(k, B) float64, -inf where there are fewer, and the k best segmentations."""
        ...

    def sample(
        self, potentials: Potentials, num_samples: int, generator: Generator | None
    ) -> Segments:
        """(num_samples, B) segmentations, drawn with their probabilities."""
        ...

    def differentiable_gradient(
        self,
        potentials: Potentials,
        weight: Tensor,
        needed: Sequence[bool],
        checkpoint_interval: int | None,
    ) -> list[Tensor | None]:
        """Gradients of ``(weight * log_partition).sum()``, one a term, for further derivatives."""
        ...

    def edge_log_partition(
        self,
        edge: Tensor | tuple[Tensor, ...],
        lengths: Tensor,
        semiring: Semiring,
        tree: bool = False,
    ) -> Tensor:
        """The semiring total of explicit edges, differentiable to any order."""
        ...


class CompiledBackend(Backend, Protocol):
    """Kernels with a hand-written backward; every argument is canonical."""

    def kept_shape(
        self, potentials: Potentials, keep: bool, checkpoint_interval: int | None
    ) -> tuple[int, ...]:
        """Shape of the float64 messages that the forward keeps for the backward."""
        ...

    def forward(
        self, potentials: Potentials, semiring: str, keep: bool, checkpoint_interval: int | None
    ) -> tuple[Tensor, Tensor]:
        """The total (B,) float64, and the kept messages."""
        ...

    def backward(
        self, potentials: Potentials, value: Tensor, kept: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        """Gradients of ``(weight * value).sum()`` by term, in the terms' types."""
        ...

    # The next three only where ``reasons_against("tangent", ...)`` is empty. Potentials and
    # directions are float64; a direction has the terms of the potentials, and is finite.

    def tangent_kept_shape(self, potentials: Potentials, keep: bool) -> tuple[int, ...]:
        """Shape of the float64 messages that the tangent keeps for its backward."""
        ...

    def tangent(
        self, potentials: Potentials, direction: Potentials, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log partition (B,), its derivative in a direction (B,), and the kept messages."""
        ...

    def tangent_backward(
        self,
        potentials: Potentials,
        direction: Potentials,
        kept: Tensor,
        weight: Tensor,
        slope_weight: Tensor,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Gradients of ``(weight * value + slope_weight * slope).sum()``: of terms, of directions.

        Nothing may have been kept; then the forward runs once more.
        """
        ...

    def viterbi(self, potentials: Potentials) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (B,) float64, a (3, B, T) int64 table of starts, ends and labels, counts (B,)."""
        ...

    # Optional, as ``reasons_against`` says: both give a (3, n, B, N) int64 table of starts, ends
    # and labels, -1 past the counts (n, B), with N the largest of these and at least 1.

    def kbest(self, potentials: Potentials, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (k, B) float64, -inf where there are fewer, table and counts."""
        ...

    def sample(self, potentials: Potentials, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
        """Table and counts, which depend on the seed and not on the number of threads."""
        ...

    def edge_kept_shape(self, p: EdgePotentials, keep: bool) -> tuple[int, ...]:
        """Shape of the float64 messages that the forward over edges keeps for the backward."""
        ...

    def edge_forward(self, p: EdgePotentials, semiring: str, keep: bool) -> tuple[Tensor, Tensor]:
        """The total (B,) float64 of explicit edges, and the kept messages."""
        ...

    def edge_backward(
        self, p: EdgePotentials, semiring: str, kept: Tensor, weight: Tensor
    ) -> Tensor:
        """Gradient of ``(weight * total).sum()`` in the edges, in their type."""
        ...


class PosteriorBackend(Backend, Protocol):
    """What any backend may offer besides, each as ``reasons_against`` says; without gradients."""

    def messages(self, potentials: Potentials) -> tuple[Tensor, Tensor]:
        """``alpha`` and ``entering`` in float64; see :func:`dispatch.queries.messages`."""
        ...

    def carried(self, gates: Tensor, inputs: Tensor, reverse: bool) -> Tensor:
        """What goes with the messages: see :func:`dispatch.queries.carried`."""
        ...

    def max_marginals(self, potentials: Potentials) -> tuple[Tensor, Tensor, Tensor]:
        """Best scores (B, T, C) float64 with a label at, a start at, an end at each position."""
        ...


class Stepper(Protocol):
    """The recurrence of one semiring, position by position, in states of the backend's own.

    A backend that streams makes it: ``stepper(potentials, semiring)`` reads the shared terms only.
    """

    def begin(self, label: int | None = None) -> Any:
        """The state before the first position, or after a segment of this label with score 0."""
        ...

    def advance(self, states: Sequence[Any], terms: tuple[np.ndarray, ...]) -> np.ndarray:
        """Take (B, n, C) scores, start_scores and end_scores in; (n, B, C, width) codes."""
        ...

    def ends(self, state: Any, last: bool) -> tuple[np.ndarray, float]:
        """(C,) score of all that ends here by its label, and a number to add to each."""
        ...

    def follow(self, codes: np.ndarray, first: int, b: int, walk: np.ndarray) -> np.ndarray:
        """(3, N) starts, ends and labels, the last first, that begin among some positions.

        ``walk`` (5,) int64 is changed: 0, position, position + 1 and label of the last segment's
        end, and room; then as the call for later positions left it.
        """
        ...


def register_backend(name: str, module: str, first: bool = False) -> None:
    """Make a backend known: ``module`` is imported at the first call that considers it.

    Args:
        name: what users write in ``backend=``.
        module: dotted path of a module that offers what :class:`Backend` asks for.
        first: put it before the others in the order of automatic choice, else after them.
    """
    others = {key: value for key, value in _MODULES.items() if key != name}
    ordered = {name: module, **others} if first else {**others, name: module}
    _READY.clear()
    _MODULES.clear()
    _MODULES.update(ordered)


def unregister_backend(name: str) -> None:
    """Forget a backend."""
    del _MODULES[name]
    _READY.clear()


def available_backends() -> tuple[str, ...]:
    """Names of the backends, in the order in which automatic choice considers them.

    >>> "reference" in available_backends()
    True
    """
    return tuple(_MODULES)


def why_missing(name: str) -> str:
    """Why there is no backend of this name, or why its module cannot be imported; empty if it can.

    torch.compile runs this when it traces, and cannot trace it. Afterwards every module that can be
    is imported, since a trace sees ``sys.modules`` as they were when it first looked.
    """
    if name in _READY:
        return ""
    if name not in _MODULES:
        known = ", ".join(repr(other) for other in _MODULES)
        return f"backend must be one of {known} or 'auto', got {name!r}"
    failures = {other: _import(module) for other, module in _MODULES.items()}
    _READY.update(other for other, failure in failures.items() if not failure)
    return f"backend {name!r} cannot be loaded: {failures[name]}" if failures[name] else ""


# What torch.compiler.assume_constant_result sets; calling that imports the compiler, for 2 seconds.
why_missing._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _import(module: str) -> str:
    """Import a module; the reason if that fails, else an empty text."""
    try:
        with paused_collector():
            importlib.import_module(module)
    except ImportError as error:
        if error.name == "numba":
            _advise_numba()
        return str(error)
    return ""


@lru_cache(maxsize=1)
def _advise_numba() -> None:
    """Say once in a process what would speed calls on CPU tensors up."""
    logging.getLogger("torch_semimarkov").warning(
        "numba is not installed, so CPU tensors run on the slow reference backend; "
        "`pip install numba` gives the compiled one"
    )


def load(name: str) -> Backend:
    """The backend called ``name``; its module is imported at the first call.

    Raises:
        UnsupportedError: there is no such backend, or its module cannot be imported.
    """
    missing = why_missing(name)
    if missing:
        raise UnsupportedError(missing)
    return loaded(name)


def compiled(name: str) -> CompiledBackend:
    """The compiled backend called ``name``, as :func:`load` finds it."""
    return cast(CompiledBackend, load(name))


def reference() -> CompositeBackend:
    """The backend in plain torch, from which further derivatives come."""
    return cast(CompositeBackend, load("reference"))


def is_imported(name: str) -> bool:
    """True if a call has already considered the backend of this name, and it can be loaded."""
    return name in _READY


def loaded(name: str) -> Backend:
    """The backend called ``name``, of which :func:`why_missing` says nothing."""
    return sys.modules[_MODULES[name]]  # type: ignore[return-value]
