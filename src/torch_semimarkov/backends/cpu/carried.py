"""What is carried along a sequence and added to on the way: a recurrence of log sums, O(T C)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from torch_semimarkov.backends.cpu.compile import compiled
from torch_semimarkov.backends.cpu.threads import run

# Cells of a recurrence of log sums that take as long as one of the log partition's, about.
_CELLS = 20


@compiled
def carry(gates, found, C, reverse):
    """Add to each row of ``found``, flat (T, C), what the row before it carries through a gate.

    Args:
        gates: flat (T, C); a row stands between the one before and the one of ``found``.
        found: what is added at each position; changed.
        C: numbers in a row.
        reverse: from the last row to the first, through the same gates.
    """
    size = len(found)
    for k in range(C, size):
        at = size - 1 - k if reverse else k
        before, gate = (at + C, at + C) if reverse else (at - C, at)
        high, low = found[at], gates[gate] + found[before]
        if low > high:
            high, low = low, high
        if low != -np.inf:  # a NaN in one of them becomes the sum
            found[at] = high + np.log1p(np.exp(low - high))
        else:
            found[at] = high


def carried(gates: Tensor, inputs: Tensor, reverse: bool) -> Tensor:
    """(B, T, C) float64: see :func:`dispatch.queries.carried`."""
    found = inputs.to("cpu", copy=True).contiguous()
    closed, open_, (B, _, C) = gates.cpu().contiguous().numpy(), found.numpy(), gates.shape

    def task(b: int) -> None:
        carry(closed[b].reshape(-1), open_[b].reshape(-1), C, reverse)

    run(task, B, _CELLS * found.numel())
    return found.to(inputs.device)
