"""Python's garbage collector, paused where much is made and nearly all of it stays."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collector() -> Iterator[None]:
    """Do without the cyclic collector for a while; it goes on afterwards if it was on.

    An import of numba, or a compilation by it, makes so many objects that the collector looks
    through all of torch's several times, 0.1 s each, and finds next to nothing.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
