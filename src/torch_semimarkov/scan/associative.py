"""Running sums, products, extremes and log-sum-exps along any dimension."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from torch_semimarkov.dispatch import Explanation, scan_ops, scan_run, scans
from torch_semimarkov.scan import inputs as arguments
from torch_semimarkov.segments import require_tensors


@overload
def fused_associative_scan(
    x: Tensor,
    dim: int = ...,
    reverse: bool = ...,
    *,
    op: str = ...,
    exclusive: bool = ...,
    initial: Tensor | None = ...,
    return_final: Literal[False] = ...,
    lengths: Tensor | None = ...,
    dtype: torch.dtype | None = ...,
    backend: str | None = ...,
) -> Tensor: ...


@overload
def fused_associative_scan(
    x: Tensor,
    dim: int = ...,
    reverse: bool = ...,
    *,
    op: str = ...,
    exclusive: bool = ...,
    initial: Tensor | None = ...,
    return_final: Literal[True],
    lengths: Tensor | None = ...,
    dtype: torch.dtype | None = ...,
    backend: str | None = ...,
) -> tuple[Tensor, Tensor]: ...


@overload
def fused_associative_scan(
    x: Tensor,
    dim: int = ...,
    reverse: bool | str = ...,
    *,
    op: str = ...,
    exclusive: bool = ...,
    initial: Tensor | None = ...,
    return_final: bool = ...,
    lengths: Tensor | None = ...,
    dtype: torch.dtype | None = ...,
    backend: str | None = ...,
) -> Any: ...


def fused_associative_scan(
    x: Tensor,
    dim: int = -1,
    reverse: bool | str = False,
    *,
    op: str = "add",
    exclusive: bool = False,
    initial: Tensor | None = None,
    return_final: bool = False,
    lengths: Tensor | None = None,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Any:
    """Combine the elements of a dimension from its start up to each position.

    Args:
        x: any shape, strides and type; complex numbers have only "add" and "mul". Half types are
            accumulated in float32, and under autocast give float32.
        dim: the dimension to scan, -rank <= dim < rank. It is read where it lies.
        reverse: False from the first position on, True from the last one; "both" gives both.
        op: "add", "mul", "max", "min" or "logaddexp". "max" and "min" propagate NaN.
        exclusive: leave a position's own element out, so that the first result is ``initial``.
        initial: the shape of x without ``dim``, or broadcastable to it. Combined before the first
            element; default the op's neutral element.
        return_final: also give the combination of everything, by which a next chunk goes on.
        lengths: integers in the shape of x's first dimensions, all before ``dim``, for example
            (B,) or (B, H); 0 <= lengths <= T. Positions past a length have no effect, and hold 0.
        dtype: convert x before the scan; default its type, int64 for "add" and "mul" of integers.
        backend: "triton", "cpu" or "reference"; default the fastest that can run the call.

    Returns:
        The scan in the shape of x. With ``return_final`` a pair of it and the shape of x without
        ``dim`` (half types: float32). With ``reverse="both"`` a pair of what each way gives.

    Raises:
        ShapeError: a dimension that is not there; initial or lengths that do not fit; an argument
            that is not of its kind, such as a list for a tensor.
        UnsupportedError: an op that the type lacks, or a backend that cannot run the call.

    Source: Blelloch, Prefix sums and their applications, CMU-CS-90-190, 1990.

    >>> x = torch.tensor([1.0, 2.0, 3.0])
    >>> fused_associative_scan(x)
    tensor([1., 3., 6.])
    >>> fused_associative_scan(x, reverse=True, exclusive=True)
    tensor([5., 3., 0.])
    >>> fused_associative_scan(x, op="mul", initial=torch.tensor(2.0), return_final=True)
    (tensor([ 2.,  4., 12.]), tensor(12.))
    """
    require_tensors(x=x)
    arguments.check_way(reverse)
    arguments.check_kinds(dim, dtype, initial, lengths, exclusive)
    result = arguments.result_type(x, op, dtype)
    arguments.check_type(op, result)
    x = x.to(result)
    arguments.check_scan(x, dim, initial, lengths)
    name = scans.asked(backend)
    layout = arguments.layout_of(x, dim, in_order=lengths is not None)
    first = None if initial is None else layout.fold_edge(initial.to(scan_ops.wide(result)))
    options = exclusive, first, arguments.fold_lengths(lengths, layout.shape, dim), name
    return _each_way(
        reverse, return_final, layout, lambda way: _run(layout.fold(x), op, way, options)
    )


def _run(x: Tensor, op: str, reverse: bool, options: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    return scan_run.associative_scan(x, op, reverse, *options)


def _each_way(reverse: bool | str, return_final: bool, layout: Any, run: Any) -> Any:
    """What the caller asked for: one way or both, with the final values or without."""
    found = []
    for way in (False, True) if reverse == "both" else (bool(reverse),):
        y, final = run(way)
        y = layout.unfold(y)
        found.append((y, layout.unfold_edge(final)) if return_final else y)
    return tuple(found) if reverse == "both" else found[0]


def explain(
    x: Tensor,
    dim: int = -1,
    reverse: bool = False,
    *,
    op: str = "add",
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Explanation:
    """Say which backend would run a scan, with the reasons against each of the others.

    Args:
        x, dim, reverse, dtype, backend: as in :func:`fused_associative_scan`.
        op: its op, or "linear" for :func:`linear_scan`.

    Returns:
        An object whose ``chosen`` is a name or None and whose text is a table of reasons.

    Raises:
        ShapeError: a dimension that is not there.
        UnsupportedError: an op that the type lacks, or an unknown backend.

    >>> explain(torch.zeros(3), backend="reference").chosen
    'reference'
    """
    require_tensors(x=x)
    arguments.check_way(reverse)
    arguments.check_kinds(dim, dtype, None)
    result = arguments.result_type(x, op, dtype)
    if op != "linear":
        arguments.check_type(op, result)
    arguments.check_scan(x, dim, None, None)
    x = x.detach().to(result)
    folded = arguments.layout_of(x, dim, in_order=False).fold(x)
    return scans.explain(op, folded, reverse, scans.asked(backend))
