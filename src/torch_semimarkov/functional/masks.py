"""Hard constraints as masks: True for what a model may do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torch_semimarkov.errors import ConfigError

PerLabel = int | Sequence[int] | Tensor


def transition_mask(allowed: Tensor | Sequence[Sequence[bool]], C: int) -> Tensor:
    """(C, C) bool. True where ``[source, destination]`` is allowed.

    Raises:
        ConfigError: another shape, or values that are not bool or 0/1.
    """
    mask = _tensor("allowed_transitions", allowed)
    if tuple(mask.shape) != (C, C):
        raise ConfigError(
            f"allowed_transitions must be (C, C) = ({C}, {C}), [source, destination], "
            f"got {tuple(mask.shape)}"
        )
    return _truths("allowed_transitions", mask)


def duration_mask(
    shortest: PerLabel | None,
    longest: PerLabel | None,
    K: int,
    C: int,
    name: str = "label_max_duration",
) -> Tensor:
    """(K, C) bool. True where a duration is allowed.

    Args:
        shortest, longest: one number, or one a label.
        K, C: longest duration and labels of the model.
        name: of the argument that ``longest`` came as.

    Raises:
        ConfigError: a bound outside 1..K, or a shortest above a longest duration.
    """
    low = _per_label("min_duration", shortest, 1, K, C)
    high = _per_label(name, longest, K, K, C)
    if bool((low > high).any()):
        label = int((low > high).nonzero()[0])
        raise ConfigError(
            f"min_duration must be <= {name}, got {int(low[label])} > {int(high[label])} "
            f"for label {label}"
        )
    durations = torch.arange(1, K + 1)[:, None]
    return (durations >= low) & (durations <= high)


def label_mask(name: str, allowed: Tensor | Sequence[bool], C: int) -> Tensor:
    """(C,) bool. True where a label is allowed, first or last as ``name`` says.

    Raises:
        ConfigError: another shape, values that are not bool or 0/1, or no label left.
    """
    mask = _tensor(name, allowed)
    if tuple(mask.shape) != (C,):
        raise ConfigError(
            f"{name} must be (C,) = ({C},), one bool a label, got {tuple(mask.shape)}"
        )
    mask = _truths(name, mask)
    if not bool(mask.any()):
        raise ConfigError(f"{name} must allow at least one label")
    return mask


def _truths(name: str, mask: Tensor) -> Tensor:
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise ConfigError(f"{name} must hold bools or 0 and 1")
    return mask.to(torch.bool)


def _per_label(name: str, value: PerLabel | None, default: int, K: int, C: int) -> Tensor:
    bounds = _tensor(name, default if value is None else value)
    integers = not bounds.is_floating_point() and bounds.dtype != torch.bool
    if not integers or bounds.dim() > 1 or bounds.numel() not in (1, C):
        raise ConfigError(f"{name} must be one integer or C = {C} integers, got {value}")
    if bool(((bounds < 1) | (bounds > K)).any()):
        raise ConfigError(f"{name} must be in 1..K = 1..{K}, the model's durations, got {value}")
    return bounds.expand(C)


def _tensor(name: str, value: object) -> Tensor:
    try:
        return torch.as_tensor(value, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{name} must be numbers in even rows, got {value!r}") from error
