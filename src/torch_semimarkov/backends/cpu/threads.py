"""Work shared among as many threads as torch uses; kernels release the interpreter's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch

# Cells of the recurrence below which a second thread costs more than it brings: about 2 ms.
_WORTH_THREADS = 6_000_000
# Shares a thread, so that one that comes late leaves its work to the others.
SHARES = 4


def run(task: Callable[[int], None], count: int, work: int) -> None:
    """Call ``task(i)`` for each i below ``count``; as :func:`share` otherwise."""

    def each(items: np.ndarray) -> None:
        for i in items.tolist():
            task(i)

    share(each, count, work)


def share(task: Callable[[np.ndarray], None], items: int | np.ndarray, work: int) -> None:
    """Call ``task`` with shares of the items, in threads if the ``work`` is worth it.

    Threads take shares as they come: torch's own wait for work by spinning, and may hold a core
    for some time after a call of torch.

    Args:
        task: writes its own part of the result, so that the shares do not matter.
        items: numbers of what is to be done, or how many there are.
        work: size of all items together, in cells of the recurrence.
    """
    items = np.arange(items) if isinstance(items, int) else items
    count = len(items)
    threads = min(torch.get_num_threads(), count) if work > _WORTH_THREADS else 1
    if threads == 1:
        task(items)
        return
    shares = deque(np.array_split(items, min(count, SHARES * threads)))

    def take_shares() -> None:
        while True:
            try:
                share = shares.popleft()
            except IndexError:
                return
            task(share)

    pool = _pool(threads, os.getpid())
    others = [pool.submit(take_shares) for _ in range(threads - 1)]
    take_shares()
    for other in others:
        if not other.cancel():
            other.result()


@lru_cache(maxsize=2)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """A pool of this process: threads do not survive a fork, so a child makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"torch_semimarkov-{process}")
