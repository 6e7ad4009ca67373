"""The errors of the library. Each says what was expected, what came, and the remedy."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable


class SemiMarkovError(Exception):
    """Base of every error that a user's input can cause."""


class ShapeError(SemiMarkovError, ValueError):
    """Tensors do not fit together: shapes, dtypes, devices or ranges."""


class SegmentError(SemiMarkovError, ValueError):
    """A segmentation is malformed or outside the support of the model."""


class UnsupportedError(SemiMarkovError, RuntimeError):
    """No backend, or not the one asked for, can do what was asked."""


class NumericsError(SemiMarkovError, ArithmeticError):
    """NaN or Inf where a number must be, or a sequence without any possible segmentation."""


class FileFormatError(SemiMarkovError, ValueError):
    """A file cannot be read; the message starts with its path and, where known, its line."""

    def __init__(self, path: object, problem: str, line: int | None = None):
        where = f"{path}:{line}" if line is not None else f"{path}"
        super().__init__(f"{where}: {problem}")
        self.path = str(path)
        self.line = line


class ConfigError(SemiMarkovError, ValueError):
    """A setting is unknown or out of its range."""


def raise_all(error: type[SemiMarkovError], heading: str, problems: Iterable[str]) -> None:
    """Raise ``error`` with every problem on a line of its own; do nothing without problems."""
    lines = list(problems)
    if lines:
        raise error("\n  ".join([f"{heading}:", *lines]))


def warn_caller(message: str) -> None:
    """Warn, and point at the line that called the library, however deep in it this is."""
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] == _PACKAGE:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


_PACKAGE = __name__.split(".")[0]
