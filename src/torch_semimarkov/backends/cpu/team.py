"""Work handed to the threads that torch itself keeps: those of the OpenMP runtime it is linked to.

They wait for work by spinning, so that it costs a few microseconds to hand it to them after a call
of torch; threads of our own would first have to take a core from them.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from torch_semimarkov.backends.cpu.threads import SHARES, share

# Values of a scan below which a second thread costs more than it brings: about 0.1 ms.
WORTH = 200_000
_WORD = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()
_forked: list[int] = []
os.register_at_fork(after_in_child=lambda: _forked.append(os.getpid()))


class Span(NamedTuple):
    """Items from ``low`` on and before ``high``, for ``threads`` threads of the runtime ``team``.

    ``team`` is the address of the runtime's function GOMP_parallel; one thread needs none.
    """

    low: int
    high: int
    threads: int = 1
    team: int = 0


def split(task: Callable[[Span], None], count: int, values: int) -> None:
    """Call ``task`` once with all items, or in threads of our own where torch's are out of reach.

    Args:
        task: hands its span to a kernel, which goes through it by :func:`in_team`.
        count: how many items there are.
        values: elements of the scan.
    """
    threads = min(torch.get_num_threads(), count) if values >= WORTH else 1
    team = _team() if threads > 1 and not _forked else 0
    if threads == 1 or team:
        task(Span(0, count, threads, team))
        return

    def part(items: np.ndarray) -> None:
        task(Span(int(items[0]), int(items[-1]) + 1))

    share(part, count, 3 * values)


@lru_cache(maxsize=1)
def _team() -> int:
    """Address of GOMP_parallel in the runtime of torch; 0 if it has another one or none."""
    if not torch.backends.openmp.is_available():
        return 0
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:  # a library that is loaded finds the functions of all that it is linked to
        function = ctypes.CDLL(str(library)).GOMP_parallel
    except (OSError, AttributeError):
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@intrinsic
def in_team(typing: Any, kernel: Any, arguments: Any, span: Any) -> Any:
    """Call ``kernel(*arguments, low, high)`` on parts of a span, in its threads.

    The kernel is a part of the caller and raises nothing. Which thread has which items must not
    matter to the result.
    """
    kinds = (*arguments.types, types.intp, types.intp)
    called = kernel.get_call_type(typing, kinds, {})
    compiled = kernel.dispatcher.overloads[called.args]

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        context.add_linking_libs((compiled.library,))
        low, high, threads, team = cgutils.unpack_tuple(builder, args[2])

        def call(where: Any, given: Any, first: Any, last: Any) -> None:
            every = [*cgutils.unpack_tuple(where, given), first, last]
            context.call_internal_no_propagate(where, compiled.fndesc, called, every)

        alone = builder.icmp_signed("==", threads, ir.Constant(_WORD, 1))
        with builder.if_else(alone) as (one, many):
            with one:
                call(builder, args[1], low, high)
            with many:
                _fork(builder, call, args[1], (low, high, threads, team))
        return context.get_dummy_value()

    return types.void(kernel, arguments, span), emit


def _fork(builder: Any, call: Any, arguments: Any, span: tuple[Any, ...]) -> None:
    """Let the runtime call, in each of its threads, a function that takes shares of the span."""
    low, high, threads, team = span
    count = builder.sub(high, low)
    most = builder.mul(threads, ir.Constant(_WORD, SHARES))
    fewer = builder.icmp_signed("<", count, most)
    shares = builder.select(fewer, count, most)
    zero = ir.Constant(_WORD, 0)
    shared = cgutils.make_anonymous_struct(builder, [zero, shares, low, count, arguments])
    place = cgutils.alloca_once_value(builder, shared)
    worker = _worker(builder.module, shared.type, call)
    width = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [worker.type, _BYTES, width, width])
    start = builder.inttoptr(team, kind.as_pointer())
    flags = ir.Constant(width, 0)
    data = builder.bitcast(place, _BYTES)
    builder.call(start, [worker, data, builder.trunc(threads, width), flags])


def _worker(module: Any, shared: Any, call: Any) -> Any:
    """A function of the address of what is shared: next share, shares, low, count, arguments."""
    kind = ir.FunctionType(ir.VoidType(), [_BYTES])
    function = ir.Function(module, kind, name=module.get_unique_name("team_worker"))
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    place = builder.bitcast(function.args[0], shared.as_pointer())
    _, shares, low, count, given = (
        builder.load(cgutils.gep_inbounds(builder, place, 0, i)) for i in range(5)
    )
    next_share = cgutils.gep_inbounds(builder, place, 0, 0)
    take, work, done = (function.append_basic_block(name) for name in ("take", "work", "done"))
    builder.branch(take)
    builder.position_at_end(take)
    one = ir.Constant(_WORD, 1)
    mine = builder.atomic_rmw("add", next_share, one, "monotonic")
    builder.cbranch(builder.icmp_signed("<", mine, shares), work, done)
    builder.position_at_end(work)
    first, last = (
        builder.add(low, builder.sdiv(builder.mul(number, count), shares))
        for number in (mine, builder.add(mine, one))
    )
    call(builder, given, first, last)
    builder.branch(take)
    builder.position_at_end(done)
    builder.ret_void()
    return function
