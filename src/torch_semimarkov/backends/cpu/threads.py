"""Work shared among as many threads as torch uses; kernels release the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch

# Cells of the recurrence below which a second thread costs more than it brings: about 1 ms.
_WORTH_THREADS = 3_000_000


def run(task: Callable[[int], None], count: int, work: int) -> None:
    """Call ``task(i)`` for each i below ``count``; as :func:`share` otherwise."""

    def each(items: np.ndarray) -> None:
        for i in items.tolist():
            task(i)

    share(each, count, work)


def share(task: Callable[[np.ndarray], None], count: int, work: int) -> None:
    """Call ``task`` with shares of ``range(count)``, in threads if the ``work`` is worth it.

    Args:
        task: writes its own part of the result, so that the shares do not matter.
        count: number of items.
        work: size of all items together, in cells of the recurrence.
    """
    threads = min(torch.get_num_threads(), count) if work > _WORTH_THREADS else 1
    items = np.arange(count)
    if threads == 1:
        task(items)
        return
    pool = _pool(threads, os.getpid())
    others = [pool.submit(task, items[i::threads]) for i in range(1, threads)]
    task(items[::threads])
    for other in others:
        other.result()


@lru_cache(maxsize=2)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """A pool of this process: threads do not survive a fork, so a child makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"torch_semimarkov-{process}")
