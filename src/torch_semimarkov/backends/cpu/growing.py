"""Tables that are filled without knowing how long they become."""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import part


@part
def grown(table, count):
    """The table, or a larger copy if it has fewer than ``count`` columns."""
    rows, columns = table.shape
    if count <= columns:
        return table
    larger = np.empty((rows, max(count, 2 * columns)), table.dtype)
    for row in range(rows):
        for i in range(columns):
            larger[row, i] = table[row, i]
    return larger


@part
def longer(table, count):
    """The table, or a larger copy if it has fewer than ``count`` rows."""
    rows, columns = table.shape
    if count <= rows:
        return table
    larger = np.empty((max(count, 2 * rows), columns), table.dtype)
    for i in range(rows):
        for column in range(columns):
            larger[i, column] = table[i, column]
    return larger


@part
def turn_round(found, first, stop):
    """Reverse the columns from ``first`` on and before ``stop``."""
    for row in range(found.shape[0]):
        i, j = first, stop - 1
        while i < j:
            found[row, i], found[row, j] = found[row, j], found[row, i]
            i, j = i + 1, j - 1
