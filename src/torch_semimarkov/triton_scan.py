"""The established call on explicit edge potentials."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from torch_semimarkov.dispatch import leave_out
from torch_semimarkov.errors import NumericsError, UnsupportedError
from torch_semimarkov.functional.edges import edge_log_partition

_SEMIRINGS = ("log", "max")
# What a value in float32, and one in float64, may be off: relative to 1 or to the value.
_ALLOWED = {torch.float32: 1e-5, torch.float64: 1e-11}


def semi_crf_triton_forward(
    edge: Tensor,
    lengths: Tensor | None = None,
    use_triton: bool = True,
    validate: bool = False,
    semiring: str = "log",
    use_compile: bool = True,
) -> Tensor:
    """Log partition or best score of explicit edge potentials; differentiable in them.

    The gradient is the edge marginals, or the indicator of the best segmentation. It comes from a
    kernel of its own, which keeps one number for each position and label beside the edges.

    Args:
        edge: (B, N-1, K, C, C) float, ``edge[b, start, d-1, destination, source]``, in nats; -inf
            forbids. The first segment may come after any source.
        lengths: (B,) int, 1 <= lengths <= N: positions plus one; default N.
        use_triton: False leaves the Triton kernels out of the automatic choice of a backend.
        validate: compute once more by the reference in float64, and compare.
        semiring: "log" for the log partition, "max" for the score of the best segmentation.
        use_compile: False runs plain torch, the reference backend, in place of compiled kernels.

    Returns:
        (B,) in the type of the edges (half types: float32).

    Raises:
        ShapeError: arguments that do not fit together, NaN or +inf among the edges.
        UnsupportedError: a semiring that is neither "log" nor "max".
        NumericsError: ``validate`` found another value; names the sequence and both values.

    Two positions, one label, durations 1 and 2, all edges 0: two segmentations, so log 2.

    >>> semi_crf_triton_forward(torch.zeros(1, 2, 2, 1, 1), torch.tensor([3]))
    tensor([0.6931])
    """
    if semiring not in _SEMIRINGS:
        raise UnsupportedError(
            f'semiring must be "log" or "max", got {semiring!r}; SemiMarkov(semiring) takes others'
        )
    backend = None if use_compile else "reference"
    with nullcontext() if use_triton else leave_out("triton", "use_triton=False"):
        value = edge_log_partition(edge, lengths, semiring=semiring, backend=backend)
    if validate:
        _compare(value.detach(), edge.detach(), lengths, semiring)
    return value


def _compare(value: Tensor, edge: Tensor, lengths: Tensor | None, semiring: str) -> None:
    """Raise where a value differs from the reference in float64; sequence by sequence."""
    for b in range(len(value)):
        alone = edge[b : b + 1].double()
        length = None if lengths is None else lengths[b : b + 1]
        with torch.no_grad():
            truth = edge_log_partition(alone, length, semiring=semiring, backend="reference")
        right, found = float(truth), float(value[b])
        allowed = _ALLOWED[value.dtype] * max(1.0, abs(right))
        if not (found == right or abs(found - right) <= allowed):
            raise NumericsError(
                f"sequence {b}: the {semiring} total is {found!r}, and {right!r} by the reference "
                f"in float64; allowed is a difference of {allowed:.1e}"
            )
