"""How kernels are compiled: at the first call, without the interpreter's lock, kept on disk."""

from __future__ import annotations

from typing import Any

from numba import njit

_OPTIONS = {"nogil": True, "error_model": "numpy"}


def compiled(function: Any) -> Any:
    """Compile at the first call, and keep the code on disk where there is a place to write to."""
    try:
        return njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # numba found no folder that it may write its cache to
        return njit(**_OPTIONS)(function)


def part(function: Any) -> Any:
    """A part of kernels, which only kernels call: that saves compiling its entry from Python."""
    return njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)(function)


def inlined(function: Any) -> Any:
    """A part that is written into its one caller, which saves optimising it twice."""
    return njit(inline="always", **_OPTIONS)(function)
