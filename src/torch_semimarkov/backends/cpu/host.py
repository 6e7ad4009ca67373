"""Calls for tensors of a GPU: their terms are copied to memory, and the results back.

For answers without a gradient that no kernel of a GPU gives: compiled loops and two copies are far
faster than a loop of small launches for each position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor

from torch_semimarkov.potentials import Potentials

Rest = ParamSpec("Rest")
Call = Callable[Concatenate[Potentials, Rest], tuple[Tensor, ...]]
# The ops whose calls are wrapped here.
HOSTED = ("kbest", "sample", "messages", "max_marginals")


def hosted(call: Call[Rest]) -> Call[Rest]:
    """``call``, which takes potentials in memory, for those of any device."""

    @wraps(call)
    def wherever(potentials: Potentials, *args: Rest.args, **more: Rest.kwargs) -> tuple:
        device = potentials.device
        if device.type == "cpu":
            return call(potentials, *args, **more)
        return sent(call(in_memory(potentials), *args, **more), device)

    return wherever


def in_memory(potentials: Potentials) -> Potentials:
    """Copies of the terms and lengths, without their graph."""
    p = potentials.map_terms(lambda x: x.detach().to("cpu"))
    return p if p.lengths is None else replace(p, lengths=p.lengths.to("cpu"))


def sent(results: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, ...]:
    """The results on a device."""
    return tuple(x.to(device) for x in results)


def takes(op: str, device: torch.device) -> bool:
    """True if calls of ``op`` take tensors of this device."""
    return device.type == "cpu" or (op in HOSTED and device.type == "cuda")
