"""Explicit edge potentials on the compiled kernels: totals and their gradients."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.backends.cpu import edge_kernels
from torch_semimarkov.backends.cpu.threads import share
from torch_semimarkov.backends.cpu.vector_types import padded
from torch_semimarkov.potentials import EdgePotentials


def kept_shape(p: EdgePotentials, keep: bool) -> tuple[int, ...]:
    """Shape of the messages of each sequence, alpha and its normaliser, or of nothing."""
    return (p.B, (p.T + 1) * (padded(p.C) + 1)) if keep else (1, 0)


def forward(p: EdgePotentials, semiring: str, keep: bool) -> tuple[Tensor, Tensor]:
    """The total (B,) float64, and the messages for the backward."""
    kernel = edge_kernels.max_forward if semiring == "max" else edge_kernels.log_forward
    # zeros, since nothing is kept of positions past a length
    kept, value = np.zeros(kept_shape(p, keep)), np.empty(p.B)
    edge, sizes, positions = _arguments(p)

    def task(items: np.ndarray) -> None:
        kernel(edge, sizes, positions, items, kept, value)

    share(task, p.B, p.edge.numel())
    return torch.from_numpy(value), torch.from_numpy(kept)


def backward(p: EdgePotentials, semiring: str, kept: Tensor, weight: Tensor) -> Tensor:
    """Gradient of ``(weight * value).sum()``, in the type of the edges."""
    is_max = semiring == "max"
    kernel = edge_kernels.max_backward if is_max else edge_kernels.log_backward
    edge, sizes, positions = _arguments(p)
    # the best path touches few edges, and pages of zeros that nobody writes cost nothing
    found = np.zeros(edge.shape, edge.dtype) if is_max else np.empty(edge.shape, edge.dtype)
    weights, messages = np.ascontiguousarray(weight.numpy(), np.float64), kept.numpy()

    def task(items: np.ndarray) -> None:
        kernel(edge, sizes, positions, items, messages, weights, found)

    share(task, p.B, p.edge.numel())
    return torch.from_numpy(found).view(p.edge.shape)


def _arguments(p: EdgePotentials) -> tuple[np.ndarray, tuple[int, int, int, int], np.ndarray]:
    """Flat edges, sizes, and positions of each sequence, which are one fewer than its length."""
    positions = p.lengths.numpy() - 1  # type: ignore[union-attr]
    return p.edge.detach().numpy().reshape(-1), (p.T, p.K, p.C, padded(p.C)), positions
