"""What is known of sequences, position by position: checks, and labels with gaps as sets."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov.errors import SegmentError, ShapeError
from torch_semimarkov.segments import require_tensors


def allowed_from_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Sets of allowed labels from labels of which some are unknown.

    Args:
        labels: (B, T) int, 0..C-1, or -1 where the label is unknown.
        num_classes: labels C.

    Returns:
        (B, T, C) bool. The label alone where it is known, else every label.

    Raises:
        ShapeError: not (B, T) integers, or a label outside -1..C-1.

    >>> allowed_from_labels(torch.tensor([[1, -1]]), 2)
    tensor([[[False,  True],
             [ True,  True]]])
    """
    require_tensors(labels=labels)
    if labels.dim() != 2 or labels.is_floating_point() or labels.dtype == torch.bool:
        kind = str(labels.dtype)[6:]
        raise ShapeError(f"labels must be (B, T) int, got {tuple(labels.shape)} {kind}")
    wrong = (labels < -1) | (labels >= num_classes)
    if bool(wrong.any()):
        b, t = wrong.nonzero()[0].tolist()
        raise ShapeError(
            f"labels must be -1 or in 0..{num_classes - 1}, got {int(labels[b, t])} at sequence "
            f"{b}, position {t}"
        )
    label = torch.arange(num_classes, device=labels.device)
    return (labels[..., None] == label) | (labels[..., None] == -1)


def checked_allowed(allowed: Tensor, inside: Tensor, C: int, checked: bool) -> Tensor:
    """(B, T, C) bool. The sets as they are, all labels past the lengths.

    Raises:
        ShapeError: not (B, T, C) bool.
        SegmentError: a position without any label (``checked``); names it.
    """
    require_tensors(allowed=allowed)
    shape = (*inside.shape, C)
    if allowed.shape != shape or allowed.dtype != torch.bool:
        got = f"{tuple(allowed.shape)} {str(allowed.dtype)[6:]}"
        raise ShapeError(f"allowed must be (B, T, C) = {shape} bool, got {got}")
    allowed = allowed.to(inside.device) | ~inside[..., None]
    empty = ~allowed.any(-1)
    if checked and bool(empty.any()):
        b, t = empty.nonzero()[0].tolist()
        raise SegmentError(
            f"allowed excludes every label at sequence {b}, position {t} ({int(empty.sum())} such "
            "positions); allow at least one, or all where nothing is known"
        )
    return allowed


def checked_boundaries(boundaries: Tensor, inside: Tensor, checked: bool) -> Tensor:
    """(B, T) int64 of -1, 0 and 1; -1 past the lengths, 1 at position 0.

    Raises:
        ShapeError: not (B, T) integers or bool, or (``checked``) another value.
        SegmentError: position 0 of a sequence is said to start no segment (``checked``).
    """
    require_tensors(boundaries=boundaries)
    if boundaries.shape != inside.shape or boundaries.is_floating_point():
        got = f"{tuple(boundaries.shape)} {str(boundaries.dtype)[6:]}"
        raise ShapeError(f"boundaries must be (B, T) = {tuple(inside.shape)} int, got {got}")
    known = torch.where(inside, boundaries.to(inside.device, torch.int64), -1)
    if checked:
        wrong = (known < -1) | (known > 1)
        if bool(wrong.any()):
            b, t = wrong.nonzero()[0].tolist()
            raise ShapeError(
                "boundaries must be 1 (a segment starts here), 0 (none does) or -1 (unknown), got "
                f"{int(known[b, t])} at sequence {b}, position {t}"
            )
        if bool((known[:, 0] == 0).any()):
            b = int((known[:, 0] == 0).nonzero()[0])
            raise SegmentError(
                f"boundaries forbid position 0 of sequence {b}, where its first segment starts; "
                "pass 1 or -1 there"
            )
    known[:, 0] = 1
    return known
