"""Checkpoints: the whole state of a run in one file, and the signals that ask to stop."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from torch_semimarkov.data import atomic_write
from torch_semimarkov.errors import FileFormatError

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
CHECKPOINT_VERSION = 1


def write_checkpoint(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write a state of tensors and plain values, whole or not at all."""
    with atomic_write(path, "wb") as file:
        torch.save({"checkpoint_version": CHECKPOINT_VERSION, **state}, file)


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a state on the CPU; code in the file is not executed.

    Raises:
        FileFormatError: no file, a damaged one, or one of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileFormatError(path, "no checkpoint to resume from")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its parsers do
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else "empty"
        raise FileFormatError(path, f"damaged or truncated checkpoint ({reason})") from error
    version = state.get("checkpoint_version") if isinstance(state, dict) else None
    if version != CHECKPOINT_VERSION:
        raise FileFormatError(
            path, f"not a checkpoint of this version ({version} != {CHECKPOINT_VERSION})"
        )
    return state


class StopSignals:
    """Turns Ctrl-C (SIGINT) and SIGTERM into a wish to stop at the next safe place.

    The second signal stops at once. Only the main thread can listen; elsewhere nothing changes.

    >>> with StopSignals() as stop:
    ...     stop.requested
    False
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt("stopped at once; the last checkpoint stands")
        self.requested = True
        print("\nstopping after this batch; once more to stop at once", file=sys.stderr)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """State of the generators that dropout draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Put the generators back to a state of :func:`random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
