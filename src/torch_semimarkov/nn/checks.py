"""Finding NaN and Inf: which tensor, how many values, which sequences, and what to try."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torch_semimarkov.errors import ConfigError, NumericsError, ShapeError
from torch_semimarkov.functional.inputs import wants_validation
from torch_semimarkov.segments import check_lengths, lengths_problem

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


def check_settings(
    sizes: tuple[int, int, int | None], boundary_scores: bool, tail: str | None
) -> None:
    """Refuse sizes (num_classes, max_duration, hidden_dim) and choices that a head cannot have.

    Raises:
        ConfigError: naming the setting.
    """
    for name, value in zip(("num_classes", "max_duration", "hidden_dim"), sizes, strict=True):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ConfigError(f"{name} must be an integer >= 1, got {value!r}")
    if boundary_scores and sizes[2] is None:
        raise ConfigError("boundary_scores=True projects hidden states, so it needs hidden_dim")
    if tail not in (None, "geometric"):
        raise ConfigError(f'tail must be "geometric" or None, got {tail!r}')
