"""Which positions lie inside their sequences, and what an encoder asks of its features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torch_semimarkov.errors import ConfigError, ShapeError
from torch_semimarkov.functional.inputs import wants_validation
from torch_semimarkov.segments import check_lengths, lengths_problem


def inside_lengths(
    lengths: Tensor | None, shape: Sequence[int], device: torch.device, checked: bool
) -> Tensor:
    """(B, T) bool. True before each length; everywhere if there are none.

    Args:
        lengths: (B,) int, on any device, or None.
        shape: starts with B, T.
        device: where the mask is made.
        checked: also look at the values of ``lengths``, which synchronises a GPU.

    Raises:
        ShapeError: lengths of another shape or dtype, or (``checked``) outside 1..T.

    >>> inside_lengths(torch.tensor([1, 2]), (2, 2), torch.device("cpu"), checked=True)
    tensor([[ True, False],
            [ True,  True]])
    """
    B, T = shape[:2]
    if lengths is None:
        return torch.ones(B, T, dtype=torch.bool, device=device)
    if checked:
        check_lengths(lengths, B, T, device)
    elif problem := lengths_problem(lengths, B, T):
        raise ShapeError(problem)
    return torch.arange(T, device=device) < lengths.to(device)[:, None]


def features_inside(features: Tensor, lengths: Tensor | None, D: int) -> Tensor:
    """(B, T, 1) bool, True before each length.

    Raises:
        ShapeError: features that are not (B, T, D), or lengths that do not fit them.
    """
    if features.dim() != 3 or features.shape[2] != D or 0 in features.shape:
        raise ShapeError(
            f"features must be (B, T, input_dim) = (B, T, {D}) with B, T >= 1, "
            f"got {tuple(features.shape)}"
        )
    checked = wants_validation(None, features.device)
    return inside_lengths(lengths, features.shape, features.device, checked)[..., None]


def check_kernel_size(kernel_size: int) -> None:
    """Refuse a width of convolutions that has no middle.

    Raises:
        ConfigError: it is even, or below 1.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ConfigError(f"kernel_size must be odd and >= 1, got {kernel_size}")
