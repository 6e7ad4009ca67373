"""Independent tasks on as many threads as torch uses; kernels release the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch


def run(task: Callable[[int], None], count: int, work: int) -> None:
    """Call ``task(i)`` for each i below ``count``, in threads if the ``work`` is worth it.

    Args:
        task: writes its own part of the result, so the order of the calls does not matter.
        count: number of tasks.
        work: size of all tasks together, in cells of the recurrence.
    """
    threads = min(torch.get_num_threads(), count)
    if threads == 1 or work < _WORTH_THREADS:
        for i in range(count):
            task(i)
        return
    _finish(_pool(threads, os.getpid()).map(task, range(count)))


_WORTH_THREADS = 200_000


def _finish(results: Iterable[None]) -> None:
    for _ in results:
        pass


@lru_cache(maxsize=2)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """A pool of this process: threads do not survive a fork, so a child makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"torch_semimarkov-{process}")
