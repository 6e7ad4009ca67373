"""From the arguments of a public function to checked, canonical potentials."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torch_semimarkov import dispatch
from torch_semimarkov.errors import ShapeError
from torch_semimarkov.potentials import TERMS, Potentials


def gather(
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    lengths: Tensor | None = None,
    *,
    validate_args: bool | None = None,
    **terms: Tensor | None,
) -> Potentials:
    """Checked and canonical potentials from a call's arguments.

    Raises:
        ShapeError: terms that do not fit together, or values that they must not hold.
        TypeError: an argument is not a tensor, or has an unknown name.
    """
    p = Potentials(scores, transition, duration_bias, lengths, **terms)
    for name, value in zip((*TERMS, "lengths"), p.fields(), strict=True):
        if value is not None and not isinstance(value, Tensor):
            raise ShapeError(f"{name} must be a tensor, got {type(value).__name__}")
    if not p.is_canonical():
        p = p.check().canonical()
    if wants_validation(validate_args, p.device) and not dispatch.looks_clean(p):
        p.check_values()
    return p


def check_interval(checkpoint_interval: int | None) -> None:
    """Refuse an interval without positions.

    Raises:
        ShapeError: it is below 1.
    """
    if checkpoint_interval is not None and checkpoint_interval < 1:
        raise ShapeError(f"checkpoint_interval must be >= 1, got {checkpoint_interval}")


def wants_validation(validate_args: bool | None, device: torch.device) -> bool:
    """Checks of values cost a GPU synchronisation: by default on CPU only, never in a trace.

    Nor under transforms of ``torch.func``: ``vmap`` allows no branch on a value.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return device.type == "cpu" if validate_args is None else validate_args


def nan_in(p: Potentials, validate_args: bool | None) -> Tensor | None:
    """(B,) bool: which sequences hold NaN that nobody refused; None if none does.

    Kernels that take maxima, or lists of what is possible, drop NaN. On a CPU a look costs 1 % of
    a call; on a GPU nobody looks.
    """
    return None if wants_validation(validate_args, p.device) else dispatch.holding_nan(p)


def spoil(value: Tensor, bad: Tensor | None, dim: int = -1) -> Tensor:
    """``value``, with NaN for the sequences, along ``dim``, that :func:`nan_in` found."""
    if bad is None:
        return value
    shape = [1] * value.dim()
    shape[dim] = -1
    return value * torch.where(bad, torch.nan, 1.0).to(value.dtype).view(shape)


def gradients(value: Tensor, p: Potentials, create_graph: bool) -> dict[str, Tensor]:
    """Gradient of ``value`` by the name of each term that is present."""
    tensors = [tensor for _, tensor in p.terms()]
    found: Any = torch.autograd.grad(
        value, tensors, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return dict(zip([name for name, _ in p.terms()], found, strict=True))


def result_dtype(scores: Tensor) -> torch.dtype:
    """Results come back in the type of the scores, half types as float32."""
    return torch.promote_types(scores.dtype, torch.float32)


def needs_grad(p: Potentials) -> bool:
    """True if autograd would record an operation on these potentials."""
    return torch.is_grad_enabled() and p.requires_grad
