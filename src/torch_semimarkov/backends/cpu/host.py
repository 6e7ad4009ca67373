"""Calls for tensors of a GPU: their arguments are copied to memory, and the results back.

For what no kernel of a GPU gives: compiled loops and two copies are far faster than a loop of small
launches for each position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from torch_semimarkov.potentials import Potentials

Rest = ParamSpec("Rest")
Results = TypeVar("Results")
# The ops whose calls are wrapped here.
HOSTED = ("tangent", "kbest", "sample", "messages", "max_marginals")


def hosted(
    call: Callable[Concatenate[Potentials, Rest], Results],
) -> Callable[Concatenate[Potentials, Rest], Results]:
    """``call``, which takes potentials and tensors in memory, for those of any device."""

    @wraps(call)
    def wherever(potentials: Potentials, *args: Rest.args, **more: Rest.kwargs) -> Results:
        device = potentials.device
        if device.type == "cpu":
            return call(potentials, *args, **more)
        here: Any = [in_memory(x) for x in args]
        return sent(call(in_memory(potentials), *here, **more), device)

    return wherever


def in_memory(x: Any) -> Any:
    """Potentials, lengths too, or a tensor, without their graph; what is neither as it is."""
    if isinstance(x, Tensor):
        return x.detach().to("cpu")
    if not isinstance(x, Potentials):
        return x
    p = x.map_terms(in_memory)
    return p if p.lengths is None else replace(p, lengths=p.lengths.to("cpu"))


def sent(results: Any, device: torch.device) -> Any:
    """Results, tensors in tuples and dictionaries, on a device."""
    if isinstance(results, Tensor):
        return results.to(device)
    if isinstance(results, dict):
        return {name: sent(x, device) for name, x in results.items()}
    return tuple(sent(x, device) for x in results)


def takes(op: str, device: torch.device) -> bool:
    """True if calls of ``op`` take tensors of this device."""
    return device.type == "cpu" or (op in HOSTED and device.type == "cuda")
