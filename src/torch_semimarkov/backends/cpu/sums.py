"""Sums whose bits do not depend on the threads that find their parts."""

from __future__ import annotations

from threading import Lock

import numpy as np

# Sequences of a batch share so many partial sums at most, whatever the number of threads.
GROUPS = 32


class FixedSum:
    """Sum of one array a sequence, in the order of a binary tree, whoever comes first.

    So the bits of the sum do not depend on the threads, and few arrays wait for their neighbours.
    """

    def __init__(self, count: int) -> None:
        self._count, self._lock = count, Lock()
        self._waiting: dict[tuple[int, int], np.ndarray] = {}
        self.total = np.empty(0)

    def add(self, index: int, part: np.ndarray) -> None:
        """Add the array of one sequence, and keep it as room for sums."""
        nodes, level = self._count, 0
        while nodes > 1:
            if index ^ 1 < nodes:
                with self._lock:
                    other = self._waiting.pop((level, index ^ 1), None)
                    if other is None:
                        self._waiting[level, index] = part
                        return
                part += other
            index, nodes, level = index // 2, (nodes + 1) // 2, level + 1
        self.total = part
