"""What a causal layer carries from one chunk of a sequence to the next."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torch_semimarkov.errors import ShapeError, raise_all


class StreamState(NamedTuple):
    """The past of B sequences, as much of it as the future needs; its size does not grow.

    total: (B, r) float. The running sum, before division by a count.
    count: (B,) int64. Positions so far.
    tail: (B, kernel_size - 1, D) float. The last positions; zeros before the first.
    """

    total: Tensor
    count: Tensor
    tail: Tensor

    def check(self, x: Tensor, rank: int, width: int) -> None:
        """Refuse the state of another batch or another rank.

        Args:
            x: (B, L, D). The chunk that follows.
            rank: ranks r that the layer computes now.
            width: positions in the tail.

        Raises:
            ShapeError: naming every misfit.
        """
        B, _, D = x.shape
        wanted = {"total": (B, rank), "count": (B,), "tail": (B, width, D)}
        found = {name: tuple(value.shape) for name, value in self._asdict().items()}
        problems = [
            f"state.{name} must be {shape}, got {found[name]}"
            for name, shape in wanted.items()
            if found[name] != shape
        ]
        problems += [
            f"state.{name} must be on {x.device} as x, got {value.device}"
            for name, value in self._asdict().items()
            if value.device != x.device
        ]
        raise_all(ShapeError, "the state does not fit the chunk", problems)


def first_state(x: Tensor, rank: int, width: int) -> StreamState:
    """The state before the first position of (B, L, D) sequences."""
    B, _, D = x.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    return StreamState(
        torch.zeros(B, rank, dtype=wide, device=x.device),
        torch.zeros(B, dtype=torch.int64, device=x.device),
        x.new_zeros(B, width, D),
    )


def next_state(state: StreamState, x: Tensor, totals: Tensor, counts: Tensor) -> StreamState:
    """The state after a chunk.

    Args:
        state: before it.
        x: (B, L, D). The chunk.
        totals: (B, L, r). Running sums at its positions, those before it included.
        counts: (B,) int64, 0..L. Positions of the chunk that are inside.
    """
    total = _at(torch.cat([state.total[:, None], totals], 1), counts[:, None])[:, 0]
    width = state.tail.shape[1]
    last = counts[:, None] + torch.arange(width, device=x.device)
    tail = _at(torch.cat([state.tail, x], 1), last)
    return StreamState(total, state.count + counts, tail)


def _at(values: Tensor, index: Tensor) -> Tensor:
    """(B, N, D) rows of (B, L, D) values at (B, N) positions."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))
