"""Memory for large results in large pages, where Linux gives them to whoever asks.

The first touch of a new page costs more than a scan of what is in it, and a large page is 512 small
ones.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

# Size of a large page, and of the smallest tensors that are worth the question.
_PAGE = 1 << 21
_WORTH = 1 << 22
_WILL_BE_HUGE = 14  # MADV_HUGEPAGE


def empty(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """A contiguous tensor that holds anything."""
    x = torch.empty(shape, dtype=dtype)
    if x.nbytes >= _WORTH and (advise := _advise()):
        first = -(-x.data_ptr() // _PAGE) * _PAGE
        size = (x.data_ptr() + x.nbytes) // _PAGE * _PAGE - first
        if size > 0:
            advise(first, size, _WILL_BE_HUGE)  # a system that refuses leaves all as it was
    return x


@lru_cache(maxsize=1)
def _advise() -> Callable[[int, int, int], int] | None:
    """The function madvise of the C library; None where there is none."""
    if sys.platform != "linux":
        return None
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function
