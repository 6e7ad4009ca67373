"""First-order linear recurrences along any dimension."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from torch_semimarkov.dispatch import scan_ops, scan_run, scans
from torch_semimarkov.errors import ShapeError, UnsupportedError, raise_all
from torch_semimarkov.scan import inputs as arguments
from torch_semimarkov.scan.associative import _each_way
from torch_semimarkov.segments import require_tensors


@overload
def linear_scan(
    gates: Tensor,
    inputs: Tensor,
    dim: int = ...,
    reverse: bool = ...,
    initial: Tensor | None = ...,
    *,
    return_final: Literal[False] = ...,
    lengths: Tensor | None = ...,
    dtype: torch.dtype | None = ...,
    backend: str | None = ...,
) -> Tensor: ...


@overload
def linear_scan(
    gates: Tensor,
    inputs: Tensor,
    dim: int = ...,
    reverse: bool = ...,
    initial: Tensor | None = ...,
    *,
    return_final: Literal[True],
    lengths: Tensor | None = ...,
    dtype: torch.dtype | None = ...,
    backend: str | None = ...,
) -> tuple[Tensor, Tensor]: ...


@overload
def linear_scan(
    gates: Tensor,
    inputs: Tensor,
    dim: int = ...,
    reverse: bool | str = ...,
    initial: Tensor | None = ...,
    *,
    return_final: bool = ...,
    lengths: Tensor | None = ...,
    dtype: torch.dtype | None = ...,
    backend: str | None = ...,
) -> Any: ...


def linear_scan(
    gates: Tensor,
    inputs: Tensor,
    dim: int = -1,
    reverse: bool | str = False,
    initial: Tensor | None = None,
    *,
    return_final: bool = False,
    lengths: Tensor | None = None,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Any:
    """The states of x[t] = gates[t] x[t-1] + inputs[t].

    Args:
        gates: floating or complex, any shape.
        inputs: the shape of ``gates``; their common type is that of the result. Half types are
            accumulated in float32, and under autocast give float32.
        dim: the dimension of the recurrence, -rank <= dim < rank. It is read where it lies.
        reverse: True runs from the last position, x[t] = gates[t] x[t+1] + inputs[t]; "both" gives
            both.
        initial: the shape of ``inputs`` without ``dim``, or broadcastable to it; the state before
            the first position, default 0.
        return_final: also give the last state, by which a next chunk goes on.
        lengths: integers in the shape of the first dimensions, all before ``dim``, for example
            (B,) or (B, H); 0 <= lengths <= T. Positions past a length have no effect, and hold 0.
        dtype: convert gates and inputs before the scan; default their common type.
        backend: "triton", "cpu" or "reference"; default the fastest that can run the call.

    Returns:
        The states in the shape of ``inputs``. With ``return_final`` a pair of them and the last
        state without ``dim`` (half types: float32). With ``reverse="both"`` a pair of what each
        way gives.

    Raises:
        ShapeError: gates and inputs of different shapes or devices, a dimension that is not there,
            initial or lengths that do not fit.
        UnsupportedError: integers, or a backend that cannot run the call.

    Source: Martin and Cundy, Parallelizing linear recurrent neural nets over sequence length,
    ICLR 2018.

    >>> linear_scan(torch.full((3,), 0.5), torch.ones(3))
    tensor([1.0000, 1.5000, 1.7500])
    """
    require_tensors(gates=gates, inputs=inputs)
    arguments.check_way(reverse)
    arguments.check_kinds(dim, dtype, initial, lengths)
    _check_pair(gates, inputs)
    result = dtype or torch.promote_types(gates.dtype, inputs.dtype)
    result = result if dtype else arguments.autocast_type(result, inputs.device)
    if not (result.is_floating_point or result.is_complex):
        remedy = "pass dtype=torch.float32, or convert them"
        raise UnsupportedError(f"gates and inputs must not both be integers: {remedy}")
    gates, inputs = gates.to(result), inputs.to(result)
    arguments.check_scan(inputs, dim, initial, lengths)
    name = scans.asked(backend)
    layout = arguments.layout_of(inputs, dim, in_order=lengths is not None)
    first = None if initial is None else layout.fold_edge(initial.to(scan_ops.wide(result)))
    options = False, first, arguments.fold_lengths(lengths, layout.shape, dim), name

    def run(way: bool) -> tuple[Tensor, Tensor]:
        return scan_run.linear_scan(layout.fold(gates), layout.fold(inputs), way, *options)

    return _each_way(reverse, return_final, layout, run)


def _check_pair(gates: Tensor, inputs: Tensor) -> None:
    problems = []
    if gates.shape != inputs.shape:
        problems.append(
            f"gates must have the shape of inputs, {tuple(inputs.shape)}, "
            f"got {tuple(gates.shape)}; expand them first"
        )
    if gates.device != inputs.device:
        problems.append(f"gates must be on {inputs.device}, where inputs are, got {gates.device}")
    raise_all(ShapeError, "gates and inputs do not fit together", problems)
