"""One compiled look at all values of a call: numpy or torch would take longer than a small kernel.

It works from addresses, since numpy's view of a tensor would cost as much again.
"""

from __future__ import annotations

import numpy as np
from numba import carray, types
from numba.extending import intrinsic

from torch_semimarkov.backends.cpu.arguments import NOTHING
from torch_semimarkov.backends.cpu.compile import compiled, part
from torch_semimarkov.potentials import Potentials


def looks_clean(p: Potentials) -> bool:
    """True if all lengths are in 1..T, and no value, padding included, is NaN or +inf."""
    present = [x for x in p.fields() if x is not None]
    addresses = tuple([x.data_ptr() for x in present])
    return _look(addresses, tuple([x.numel() for x in present]), NOTHING[p.scores.dtype], p.T)


@intrinsic
def _pointer(typing_context, address, dtype):
    """An address as a pointer to numbers of a type."""
    kind = types.CPointer(dtype.dtype)

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(kind))

    return kind(types.intp, dtype), generate


@part
def _is_clean(values):
    """True if every value is a number or -inf."""
    clean = True
    for i in range(len(values)):
        clean &= values[i] < np.inf
    return clean


@compiled
def _look(addresses, counts, like, T):
    """True if the terms, and the lengths after them, are as they must be."""
    last = len(addresses) - 1
    for i in range(last):
        if not _is_clean(carray(_pointer(addresses[i], like.dtype), counts[i])):
            return False
    for length in carray(_pointer(addresses[last], np.int64), counts[last]):
        if not 1 <= length <= T:
            return False
    return True
