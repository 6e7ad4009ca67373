"""The registered ops of the scans: fake tensors, vmap, autograd, torch.compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torch_semimarkov.dispatch.scans import choose

HALF_TYPES = (torch.float16, torch.bfloat16)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type in which a scan accumulates: float32 for half types, else the type itself."""
    return torch.float32 if dtype in HALF_TYPES else dtype


@torch.library.custom_op("torch_semimarkov::associative_scan", mutates_args=())
def associative_scan_op(
    x: Tensor,
    op: str,
    reverse: bool,
    exclusive: bool,
    initial: Tensor | None,
    lengths: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The scan of (outer, T, inner) along T, and its last value (outer, inner)."""
    chosen = choose(op, x, reverse, backend)
    return chosen.associative_scan(x, op, reverse, exclusive, initial, lengths)


@torch.library.custom_op("torch_semimarkov::linear_scan", mutates_args=())
def linear_scan_op(
    gates: Tensor,
    inputs: Tensor,
    reverse: bool,
    shifted: bool,
    initial: Tensor | None,
    lengths: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The states (outer, T, inner) of y[t] = gates[t] y[t-1] + inputs[t], and the last one."""
    chosen = choose("linear", inputs, reverse, backend)
    return chosen.linear_scan(gates, inputs, reverse, shifted, initial, lengths)


def _fake(x: Tensor) -> tuple[Tensor, Tensor]:
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return y, y.new_empty((x.shape[0], x.shape[2]), dtype=wide(x.dtype))


@associative_scan_op.register_fake
def _(x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    return _fake(x)


@linear_scan_op.register_fake
def _(gates: Tensor, inputs: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    return _fake(inputs)


# vmap: one more leading dimension, folded into the outer one.


def _folded(x: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    if x is None:
        return None
    x = x.movedim(dim, 0) if dim is not None else x.expand(size, *x.shape)
    return x.reshape(-1, *x.shape[2:])


def _fit(x: Tensor, size: int) -> Tensor:
    return x.reshape(size, x.shape[0] // size, *x.shape[1:])


@associative_scan_op.register_vmap
def _(info: Any, in_dims: Any, x: Tensor, *options: Any) -> tuple[Any, Any]:
    op, reverse, exclusive, initial, lengths, backend = options
    size = info.batch_size
    x, initial, lengths = (
        _folded(tensor, dim, size)
        for tensor, dim in zip(
            (x, initial, lengths), (in_dims[0], in_dims[4], in_dims[5]), strict=True
        )
    )
    results = associative_scan_op(x, op, reverse, exclusive, initial, lengths, backend)
    return tuple(_fit(result, size) for result in results), (0, 0)


@linear_scan_op.register_vmap
def _(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
    gates, inputs, reverse, shifted, initial, lengths, backend = arguments
    size = info.batch_size
    gates, inputs, initial, lengths = (
        _folded(tensor, dim, size)
        for tensor, dim in zip(
            (gates, inputs, initial, lengths),
            (in_dims[0], in_dims[1], in_dims[4], in_dims[5]),
            strict=True,
        )
    )
    results = linear_scan_op(gates, inputs, reverse, shifted, initial, lengths, backend)
    return tuple(_fit(result, size) for result in results), (0, 0)
