"""What the metrics and plots are given, checked and named: arrays, numbers, names of labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from torch_semimarkov.errors import ConfigError, ShapeError

LabelNames = Sequence[str] | Mapping[int, str] | None


def as_array(name: str, values: Any) -> np.ndarray:
    """Numbers as float64; tensors are detached and brought to the CPU, None in a list is NaN.

    Raises:
        ShapeError: the values are not an array of numbers.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    try:
        array = np.asarray(values)
        if array.dtype.kind in "biuf" or (array.dtype.kind == "O" and array.ndim):
            return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"{name} must be an array of numbers: {error}") from None
    raise ShapeError(f"{name} must be an array of numbers, got {shown(values)}")


def as_integers(name: str, values: Any) -> np.ndarray:
    """(N,) whole numbers as int64.

    Raises:
        ShapeError: another shape, or a number that is not whole.
    """
    array = as_array(name, values)
    if array.ndim != 1 or not bool((np.isfinite(array) & (array == np.rint(array))).all()):
        raise ShapeError(f"{name} must be (N,) whole numbers, got {shown(values)}")
    return array.astype(np.int64)


def as_number(name: str, value: Any) -> float:
    """One number, which may be a scalar of numpy or torch.

    Raises:
        ConfigError: anything else.
    """
    try:
        if not isinstance(value, (str, bytes)) and np.ndim(value) == 0:
            return float(value)
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"{name} must be a number, got {shown(value)}")


def as_mapping(name: str, value: Any, expected: str) -> Mapping[Any, Any]:
    """The mapping itself.

    Raises:
        ConfigError: no mapping; the message says what was expected.
    """
    if isinstance(value, Mapping):
        return value
    raise ConfigError(f"{name} must be {expected}, got {shown(value)}")


def names_of(labels: Iterable[int], label_names: LabelNames) -> dict[int, str]:
    """The name of each label, by default its number.

    Raises:
        ConfigError: a label without a name, or something else than a list or mapping of names.

    >>> names_of([1], ["P", "QRS"])
    {1: 'QRS'}
    """
    wanted = sorted({int(label) for label in labels})
    if label_names is None:
        return {label: str(label) for label in wanted}
    listed = isinstance(label_names, Sequence) and not isinstance(label_names, (str, bytes))
    if not listed and not isinstance(label_names, Mapping):
        raise ConfigError(
            f"label_names must be a list of names or a mapping from label to name, "
            f"got {shown(label_names)}"
        )
    given = label_names if isinstance(label_names, Mapping) else dict(enumerate(label_names))
    missing = [label for label in wanted if label not in given]
    if missing:
        raise ConfigError(f"label_names has no name for labels {missing}")
    return {label: str(given[label]) for label in wanted}


def shown(value: Any) -> str:
    """A value for an error, on one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
