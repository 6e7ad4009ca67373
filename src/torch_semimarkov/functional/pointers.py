"""Back pointers of a stream, in memory or in a file, read from the last position to the first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from torch_semimarkov.errors import ConfigError

# Bytes of the file that are mapped at a time.
_WINDOW = 1 << 26


class Pointers:
    """(n, B, C, width) bytes a chunk, kept in the order of the positions.

    Args:
        path: keep them in the file ``<path>.partial``, written in order, instead of in memory. It
            holds bytes (position, B, C, width) and nothing else, and is removed by :meth:`close`.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self._chunks: list[np.ndarray] = []
        self._shape: tuple[int, ...] = ()
        self._count = 0
        self.path = None if path is None else Path(f"{path}.partial")
        if self.path is not None:
            try:
                self._file = self.path.open("wb")
            except OSError as error:
                raise ConfigError(f"spill must be a path that can be written: {error}") from error

    def append(self, codes: np.ndarray) -> None:
        """Keep the pointers of the next positions."""
        self._shape = codes.shape[1:]
        self._count += len(codes)
        if self.path is None:
            self._chunks.append(codes)
        else:
            codes.tofile(self._file)

    def backwards(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first position, pointers) of stretches, the last one first."""
        if self.path is None:
            first = self._count
            for codes in reversed(self._chunks):
                first -= len(codes)
                yield first, codes
            return
        self._file.flush()
        row = int(np.prod(self._shape))
        stretch = max(1, _WINDOW // row)
        for first in reversed(range(0, self._count, stretch)):
            shape = (min(stretch, self._count - first), *self._shape)
            # a mapping of its own, which takes its pages along when it goes
            yield first, np.memmap(self.path, np.uint8, "r", offset=first * row, shape=shape)

    def close(self) -> None:
        """Forget the pointers, and remove their file."""
        self._chunks = []
        if self.path is not None:
            self._file.close()
            self.path.unlink(missing_ok=True)
