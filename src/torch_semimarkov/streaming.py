"""The established streaming call, on prefix sums of the scores."""

from __future__ import annotations

import importlib.util
from contextlib import nullcontext

import torch
from torch import Tensor

from torch_semimarkov.dispatch import leave_out
from torch_semimarkov.errors import ShapeError
from torch_semimarkov.functional import log_partition
from torch_semimarkov.segments import require_tensors

HAS_TRITON = importlib.util.find_spec("triton") is not None


def semi_crf_streaming_forward(
    cum_scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    lengths: Tensor,
    K: int,
    semiring: str = "log",
    proj_start: Tensor | None = None,
    proj_end: Tensor | None = None,
    use_triton: bool = True,
    num_warps: int = 4,
    checkpoint_interval: int | None = None,
    *,
    start: Tensor | None = None,
    end: Tensor | None = None,
    tail: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Log partition or best score from prefix sums of the scores; differentiable in every tensor.

    Args:
        cum_scores: (B, T+1, C) float. Prefix sums of the label scores, in nats; only differences
            of neighbours matter.
        transition: (C, C) or (K, C, C) float, ``[..., source, destination]``.
        duration_bias: (K, C) float. Row d-1 is added to a segment of d positions, 1 <= d <= K.
        lengths: (B,) int, 1 <= lengths <= T. Positions past a length have no effect.
        K: longest duration, the number of rows of ``duration_bias``.
        semiring: "log" for the log partition, "max" for the score of the best segmentation.
        proj_start: (B, T, C) float. Added at the first position of a segment; default zeros.
        proj_end: (B, T, C) float. Added at the last position of a segment; default zeros.
        use_triton: False leaves the Triton kernels out of the automatic choice of a backend.
        num_warps: 1, 2, 4, 8 or 16; a wish for GPU kernels, without meaning on other devices.
        checkpoint_interval: as in :func:`torch_semimarkov.log_partition`.
        start: (C,) float. Added for the first label; default zeros.
        end: (C,) float. Added for the last label; default zeros.
        tail: (C,) float. As in :func:`torch_semimarkov.log_partition`; default none.
        backend: a name from ``available_backends()``; default the first that can run the call.

    Returns:
        (B,) in the type of ``cum_scores`` (half types: float32).

    Raises:
        ShapeError, UnsupportedError: as :func:`torch_semimarkov.log_partition`.

    The first segment takes ``start``, zeros by default, and never a row of ``transition``.

    >>> cum_scores = torch.zeros(1, 3, 1)
    >>> lengths = torch.tensor([2])
    >>> semi_crf_streaming_forward(cum_scores, torch.zeros(1, 1), torch.zeros(2, 1), lengths, 2)
    tensor([0.6931])
    """
    require_tensors(cum_scores=cum_scores, duration_bias=duration_bias)
    if cum_scores.dim() != 3 or cum_scores.shape[1] < 2 or not cum_scores.is_floating_point():
        kind = f"{tuple(cum_scores.shape)} {str(cum_scores.dtype)[6:]}"
        raise ShapeError(f"cum_scores must be (B, T+1, C) float with T >= 1, got {kind}")
    if duration_bias.shape[:1] != (K,):
        got = tuple(duration_bias.shape)
        raise ShapeError(f"duration_bias must be (K, C) with K = {K}, got {got}")
    if num_warps not in (1, 2, 4, 8, 16):
        raise ShapeError(f"num_warps must be 1, 2, 4, 8 or 16, got {num_warps}")
    wide = cum_scores.to(torch.promote_types(cum_scores.dtype, torch.float32))
    with nullcontext() if use_triton else leave_out("triton", "use_triton=False"):
        return log_partition(
            wide[:, 1:] - wide[:, :-1], transition, duration_bias, lengths, start=start, end=end,
            start_scores=proj_start, end_scores=proj_end, tail=tail, semiring=semiring,
            backend=backend, checkpoint_interval=checkpoint_interval,
        )  # fmt: skip
