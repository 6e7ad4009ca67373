"""Finding NaN and Inf: which tensor, how many values, which sequences, and what to try."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torch_semimarkov.errors import NumericsError

_SHOWN = 8
# What the axes of a tensor count, by the last word of its name; any other tensor has an index only.
_POSITIONS = ("sequence", "position", "label")
_AXES = {
    "hidden": ("sequence", "position", "feature"),
    "scores": _POSITIONS,
    "start_scores": _POSITIONS,
    "end_scores": _POSITIONS,
    "transition": ("source", "destination"),
    "duration_bias": ("duration", "label"),
    "start": ("label",),
    "end": ("label",),
    "partition": ("sequence",),
}


def require_finite(
    name: str,
    tensor: Tensor,
    remedy: str,
    *,
    allow_forbidden: bool = False,
    axis: str = "sequences",
) -> None:
    """Raise if ``tensor`` holds NaN or Inf.

    Args:
        name: what the tensor is, for the message.
        tensor: (B, ...) or a parameter of any shape; padding must have been filled before.
        remedy: what to try, for the message.
        allow_forbidden: -inf is a forbidden label and not a fault.
        axis: what the first dimension counts, for the message.

    Raises:
        NumericsError: with the number of values, the sequences and the remedy.

    >>> require_finite("hidden", torch.tensor([[1.0], [float("nan")]]), "look at the input")
    Traceback (most recent call last):
    torch_semimarkov.errors.NumericsError: hidden holds 1 NaN and 0 Inf of 2 values (in sequences \
1; first at index (1, 0)); look at the input
    """
    values = torch.atleast_1d(tensor.detach())
    lowest, highest = (x.item() for x in torch.aminmax(values))  # NaN if any value is
    if highest < torch.inf and (allow_forbidden or lowest > -torch.inf):
        return
    nan, inf = values.isnan(), values.isinf()
    if allow_forbidden:
        inf = values == torch.inf
    bad = nan | inf
    index = bad.nonzero()
    rows = index[:, 0].unique().tolist()
    shown = ", ".join(map(str, rows[:_SHOWN])) + (", ..." if len(rows) > _SHOWN else "")
    raise NumericsError(
        f"{name} holds {int(nan.sum())} NaN and {int(inf.sum())} Inf of {values.numel()} values "
        f"(in {axis} {shown}; first at {place_of(name, index[0].tolist())}); {remedy}"
    )


def place_of(name: str, index: Sequence[int]) -> str:
    """An entry of a tensor in words; its index where the name does not tell what the axes count.

    Args:
        name: of the tensor, as in "the gradient of scores" or "scores (after the projection)".
        index: of the entry; durations count from 1 on, all else from 0 on.

    >>> place_of("the gradient of duration_bias", [3, 1])
    'duration 4, label 1'
    >>> place_of("x", [3, 1])
    'index (3, 1)'
    """
    axes = _AXES.get(name.split(" (")[0].split()[-1], ())
    if name.endswith("transition") and len(index) == 3:
        axes = ("duration", *axes)
    if len(axes) != len(index):
        return f"index {tuple(index)}"
    numbers = [i + (axis == "duration") for axis, i in zip(axes, index, strict=True)]
    return ", ".join(f"{axis} {i}" for axis, i in zip(axes, numbers, strict=True))


def watch_gradient(name: str, tensor: Tensor, remedy: str, axis: str = "sequences") -> Tensor:
    """Check the gradient of ``tensor`` when the backward reaches it.

    Args:
        name, tensor, remedy, axis: as in :func:`require_finite`.

    Returns:
        The tensor itself, or a view of it if it is a leaf, so that no hook stays on a parameter.
    """
    if not (tensor.requires_grad and torch.is_grad_enabled()):
        return tensor
    watched = tensor.view_as(tensor) if tensor.is_leaf else tensor
    title = f"the gradient of {name}"
    watched.register_hook(lambda grad: require_finite(title, grad, remedy, axis=axis))
    return watched


def require_partition(partition: Tensor) -> None:
    """Raise if a log partition is no number.

    Raises:
        NumericsError: naming the sequences.
    """
    values = partition.detach()
    if bool(values.isfinite().all()):
        return
    impossible = (values == -torch.inf).nonzero()[:, 0].tolist()
    if impossible:
        raise NumericsError(
            f"no segmentation of sequences {impossible[:_SHOWN]} is possible: allow more labels, "
            "transitions or durations"
        )
    require_finite("the log partition", partition, "lower the learning rate or scale the scores")
