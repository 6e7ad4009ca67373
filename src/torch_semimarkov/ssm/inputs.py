"""Checks of what a layer is given: the numbers it is built from, and the sequences."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from torch_semimarkov.errors import ShapeError
from torch_semimarkov.functional.inputs import wants_validation
from torch_semimarkov.segments import check_lengths, lengths_problem
from torch_semimarkov.ssm.sums import NORMALISERS

_SIZES = ("d_model", "max_rank", "min_rank", "gate_hidden_dim", "kernel_size")
_SWITCHES = ("use_fused_scan", "causal", "own_reverse", "gradient_checkpointing")


def setting_problems(given: Any) -> list[str]:
    """What is wrong with the attributes of a layer.

    Args:
        given: has the arguments of :class:`AdaptiveRankSemiseparableLayer` for attributes.
    """
    sizes = {name: getattr(given, name) for name in _SIZES}
    problems = [
        f"{name} must be an integer >= 1, got {value!r}"
        for name, value in sizes.items()
        if type(value) is not int or value < 1
    ]
    if not problems and given.min_rank > given.max_rank:
        problems.append(f"min_rank must be <= max_rank = {given.max_rank}, got {given.min_rank}")
    if not problems and given.kernel_size % 2 == 0:
        problems.append(f"kernel_size must be odd, got {given.kernel_size}")
    weight = given.l1_regularization
    if type(weight) not in (int, float) or not 0 <= weight < math.inf:
        problems.append(f"l1_regularization must be a number >= 0, got {weight!r}")
    if given.normaliser not in (None, *NORMALISERS):
        known = ", ".join(NORMALISERS)
        problems.append(f"normaliser must be None or one of {known}, got {given.normaliser!r}")
    problems += [
        f"{name} must be true or false, got {getattr(given, name)!r}"
        for name in _SWITCHES
        if type(getattr(given, name)) is not bool
    ]
    if given.causal is True and given.own_reverse is True:
        problems.append("own_reverse is for layers that are not causal")
    return problems


def check_features(x: Tensor, D: int) -> None:
    """Refuse anything but (B, L, D) floats.

    Raises:
        ShapeError: naming what came.
    """
    if x.dim() != 3 or x.shape[2] != D:
        raise ShapeError(f"x must be (B, L, d_model) = (B, L, {D}), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ShapeError(f"x must be floating point, got {str(x.dtype)[6:]}")


def inside_of(x: Tensor, lengths: Tensor | None) -> Tensor | None:
    """(B, L, 1) bool, True before each length; None without lengths.

    Raises:
        ShapeError: lengths of another shape or dtype, or a value outside 1..L.
    """
    if lengths is None:
        return None
    B, L = x.shape[:2]
    if wants_validation(None, x.device):
        check_lengths(lengths, B, L, x.device)
    elif problem := lengths_problem(lengths, B, L):
        raise ShapeError(problem)
    return (torch.arange(L, device=x.device) < lengths.to(x.device)[:, None])[..., None]


def chunk_counts(x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Positions of a chunk that are inside: (B,) int64 counts and a (B, L, 1) bool mask.

    Raises:
        ShapeError: lengths of another shape or dtype, or a value outside 0..L.
    """
    B, L = x.shape[:2]
    if lengths is None:
        lengths = torch.full((B,), L, device=x.device)
    elif lengths_problem(lengths, B, L) or (
        wants_validation(None, x.device) and bool(((lengths < 0) | (lengths > L)).any())
    ):
        found = f"{tuple(lengths.shape)} {str(lengths.dtype)[6:]} {lengths.tolist()}"
        raise ShapeError(f"lengths must be (B,) = ({B},) integers in 0..L = 0..{L}, got {found}")
    counts = lengths.to(x.device, torch.int64)
    return counts, (torch.arange(L, device=x.device) < counts[:, None])[..., None]
