"""How parts of kernels are compiled: to code that only their kernel optimises, with all the rest.

Left to itself, numba optimises each function together with all that it calls, and makes machine
code of that, which nobody runs: a function five calls below a kernel is compiled five times.
"""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

from torch_semimarkov.collector import paused_collector


class KernelCompiler(Compiler):
    """Numba's own compiler, for a kernel with all its parts."""

    def compile_extra(self, function: Any) -> Any:
        """Compile a function; the collector of garbage would add a fifth to the time."""
        with paused_collector():
            return super().compile_extra(function)


class PartCompiler(Compiler):
    """Numba's own compiler, but for the library that holds the result."""

    def define_pipelines(self) -> Any:
        """The usual passes."""
        state = self.state
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        return super().define_pipelines()


class _PartLibrary(JITCodeLibrary):  # type: ignore[misc]
    """The code of a part as LLVM has it before optimisation, to be linked into kernels."""

    def _optimize_final_module(self) -> None:
        """The kernel does that."""

    def _finalize_final_module(self) -> None:
        """There is no machine code to load."""
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """No address, as of every function that Python cannot call."""
        self._ensure_finalized()
        return 0

    @property
    def codegen(self) -> Any:
        """Who would set the environment of the loaded code: nobody."""
        return self

    def set_env(self, name: str, environment: Any) -> None:
        """Without loaded code there is none to set."""
