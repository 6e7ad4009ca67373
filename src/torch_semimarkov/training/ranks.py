"""The processes that train or predict together, as ``torchrun`` starts them; one if it did not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from torch_semimarkov.errors import ConfigError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """This process among the others.

    Args:
        rank: 0..size-1.
        size: processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """The process group that is there, or this process alone."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """True for the process that writes and reports."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This process's part of what all have."""
        return list(items[self.rank :: self.size])

    def total(self, value: float) -> float:
        """The sum of a number over all processes, in a fixed order."""
        return float(sum(self.all(value)))

    def all(self, value: Any) -> list[Any]:
        """What each process holds, by rank; plain values."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Return once all processes are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def process_group(device: str = "cpu") -> Iterator[Ranks]:
    """The group of the processes that ``torchrun`` started, for the length of a block.

    Args:
        device: "cuda" exchanges by NCCL, anything else by gloo.

    Raises:
        ConfigError: torchrun's variables are there, and torch cannot make a group.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or (dist.is_available() and dist.is_initialized()):
        yield Ranks.here()
        return
    if not dist.is_available():
        raise ConfigError("this torch has no torch.distributed; start one process")
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Ranks.here()
    finally:
        dist.destroy_process_group()
