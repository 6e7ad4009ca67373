"""Compilation at the first call, and the cache on disk that makes it happen once a machine.

Numba's index of a cached function holds numba's version, a stamp of the source file, and for each
entry the types, the CPU's name and features, and a hash of the function's bytecode. It does not see
the other files whose functions are compiled into it, nor llvmlite. So the stamp here is of all
files of this folder, of the package and of llvmlite: code of another state is never loaded.
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from functools import lru_cache
from importlib import resources
from typing import Any

import llvmlite
from numba import njit, types
from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache
from numba.core.runtime import rtsys

from torch_semimarkov import __version__
from torch_semimarkov.backends.cpu.linking import KernelCompiler, PartCompiler
from torch_semimarkov.collector import paused_collector

_log = logging.getLogger("torch_semimarkov")


# Rewrites are for array expressions, of which kernels have none.
_OPTIONS = {"nogil": True, "error_model": "numpy", "no_rewrites": True}


def compiled(function: Any) -> Any:
    """Compile at the first call, and keep the code on disk where there is a place to write to."""
    dispatcher = njit(pipeline_class=KernelCompiler, no_cfunc_wrapper=True, **_OPTIONS)(function)
    dispatcher._cache = KernelCache(function)
    return dispatcher


def part(function: Any) -> Any:
    """A part of kernels, which only kernels call: its machine code is a part of theirs."""
    return _part(function)


def small(function: Any) -> Any:
    """A part that is written into its callers as machine code: a call would cost more than it."""
    return _part(function, forceinline=True)


def inlined(function: Any) -> Any:
    """A part that is written into its one caller before types are known."""
    return njit(inline="always", **_OPTIONS)(function)


def _part(function: Any, **options: bool) -> Any:
    wrappers = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    dispatcher = njit(pipeline_class=PartCompiler, **wrappers, **options, **_OPTIONS)(function)
    template_of = dispatcher.get_call_template

    def template_of_any_value(args: Any, kws: Any) -> Any:
        """One compilation for all numbers: numba would do it anew for each that is a constant."""
        kinds = {name: types.unliteral(kind) for name, kind in kws.items()}
        return template_of([types.unliteral(kind) for kind in args], kinds)

    dispatcher.get_call_template = template_of_any_value
    return dispatcher


class KernelCache(NullCache):
    """The cache of one kernel; compiles without one if no folder can be written to."""

    def __init__(self, function: Any):
        try:
            self._files = _StampedCache(function)
        except RuntimeError:  # numba found no folder that it may write to
            self._files = NullCache()

    @property
    def cache_path(self) -> str | None:
        """Folder of the cache; None if there is none."""
        return self._files.cache_path

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The code for a signature; None if it has to be compiled, which the log says once."""
        try:
            with paused_collector():
                found = self._files.load_overload(signature, context)
        except Exception:  # a damaged file may raise anything, and costs no more than its absence
            found = None
            self.flush()
        if found is None:
            _announce(self.cache_path)
        return found

    def save_overload(self, signature: Any, code: Any) -> None:
        """Keep the code; a full disk, or a folder that has become read-only, is no error."""
        try:
            self._files.save_overload(signature, code)
        except OSError as error:
            _log.debug("compiled code was not kept: %s", error)

    def flush(self) -> None:
        """Forget what is kept."""
        with suppress(OSError):
            self._files.flush()


class _StampedCache(FunctionCache):
    """Numba's cache of a function, valid for one state of everything that goes into it."""

    def __init__(self, function: Any):
        super().__init__(function)
        self._cache_file = IndexDataCacheFile(
            self.cache_path, self._impl.filename_base, source_stamp=stamp()
        )

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Load the code with what it runs on: memory with counted references.

        What numba loads besides is for compilation, and takes longer than all the rest.
        """
        rtsys.initialize(context)
        return self._load_overload(signature, context)


@lru_cache(maxsize=1)
def stamp() -> tuple[str, str, str]:
    """Versions of the package and of llvmlite, and a hash of the sources in this folder."""
    digest = hashlib.sha256()
    folder = resources.files("torch_semimarkov.backends.cpu")
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".py"):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return __version__, llvmlite.__version__, digest.hexdigest()


def _announce(path: str | None) -> None:
    """Say once in a process that kernels are compiled, and where they are kept."""
    if _announced:
        return
    _announced.append(path)
    kept = "no folder can be written to, so set NUMBA_CACHE_DIR to keep them"
    if path is not None:
        kept = f"later runs load them from {path}"
    _log.warning("compiling the CPU kernels, which can take half a minute; %s", kept)


_announced: list[str | None] = []
