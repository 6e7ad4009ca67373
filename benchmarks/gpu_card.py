"""The GPU that is measured: its clock, its memory, and what stands of it in a row."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch
from rows import Row

# Written between two calls, so that no call finds its inputs in a cache; while it is written, the
# host has time to launch the call, so that the clock sees the GPU and not Python.
SWEEP_BYTES = 2**29


class Card:
    """The current CUDA (or ROCm) device, with our backend for it."""

    backend = "triton"

    def __init__(self) -> None:
        self.device = f"cuda:{torch.cuda.current_device()}"
        self.name = torch.cuda.get_device_name()
        self._sweep: torch.Tensor | None = None

    def clock(self, run: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds between two events around a call whose inputs are in no cache; its result."""
        if self._sweep is None:
            self._sweep = torch.empty(SWEEP_BYTES, dtype=torch.uint8, device=self.device)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        self._sweep.zero_()
        begin.record()
        result = run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000, result

    def peak(self, run: Callable[[], Any]) -> tuple[int, Any]:
        """The most bytes that a call held beyond what lay there before it; its result."""
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before, result

    def facts(self) -> Row:
        """Columns of every row."""
        runtime = torch.version.cuda or torch.version.hip
        return {"device": self.name, "triton": triton_version(), "runtime": runtime}


def find_card() -> Card | None:
    """The device, or None where there is none."""
    return Card() if torch.cuda.is_available() else None


def triton_version() -> str:
    """Of the installed package."""
    for package in ("triton", "pytorch-triton-rocm"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


def file_name(device: str) -> str:
    """The name of the CSV of a device.

    >>> file_name("NVIDIA H200")
    'gpu_nvidia_h200.csv'
    """
    return f"gpu_{re.sub('[^a-z0-9]+', '_', device.lower()).strip('_')}.csv"
