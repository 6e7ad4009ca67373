"""The sum over segmentations whose every segment has its own score, in any semiring.

A segmentation is a path over the boundaries 0, 1, ..., T of a sequence: ``edge[b, s, d-1, c, c']``
leads from boundary s with label c' to boundary s + d with label c. The label at boundary 0 is free.
Two scans find the same total. The linear one walks along the boundaries, O(T K C^2) work and T
steps. The tree multiplies operators on what is open at a boundary, (K, C) boundaries behind it with
their labels, pair by pair: O(T (K C)^3) work and log2 T steps.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from torch_semimarkov.semirings import Semiring, filled

Edges = Tensor | tuple[Tensor, ...]


def edge_log_partition(
    edge: Edges, lengths: Tensor, semiring: Semiring, tree: bool = False
) -> Tensor:
    """(B,) float64, or with the axis that the semiring's ``lower`` puts first. The total."""
    return semiring.lower(edge_total(edge, lengths, semiring, tree))


def edge_total(edge: Edges, lengths: Tensor, semiring: Semiring, tree: bool = False) -> Tensor:
    """(*components, B) float64. The total as an element of the semiring.

    Args:
        edge: (B, N-1, K, C, C) float, ``edge[b, start, d-1, destination, source]``; one for each
            argument of the semiring's ``lift``.
        lengths: (B,) int64, 1 <= lengths <= N: positions plus one. Edges that end past a length
            have no effect, whatever they hold.
        semiring: how scores are lifted, multiplied and summed.
        tree: multiply operators pair by pair; default walks along the sequence.
    """
    edges = edge if isinstance(edge, tuple) else (edge,)
    return (_tree if tree else _linear)(edges, lengths, semiring)


def _linear(edges: tuple[Tensor, ...], lengths: Tensor, semiring: Semiring) -> Tensor:
    """Walk along the boundaries; what starts at one is added to the K boundaries it can reach."""
    B, _, K, C, _ = edges[0].shape
    like = _wide(edges[0][:0])
    alpha = filled(semiring.one, (B, C), like)
    waiting = filled(semiring.zero, (B, K, C), like)
    blank = filled(semiring.zero, (B, 1, C), like)
    duration = torch.arange(1, K + 1, device=lengths.device)
    alphas = [alpha]
    for s, here in enumerate(zip(*(edge.unbind(1) for edge in edges), strict=True)):
        fits = duration <= (lengths - 1 - s)[:, None]
        elements = _lifted(here, fits, semiring)
        reached = semiring.sum(semiring.times(elements, alpha[..., None, None, :]), -1)
        # The newest comes first, so of equally good ones the shortest takes the gradient of a max.
        waiting = semiring.sum(torch.stack((reached, waiting), -1), -1)
        alpha = waiting[..., 0, :]
        waiting = torch.cat((waiting[..., 1:, :], blank), -2)
        alphas.append(alpha)
    row = torch.arange(B, device=lengths.device)
    return semiring.sum(torch.stack(alphas, -2)[..., row, lengths - 1, :], -1)


def _tree(edges: tuple[Tensor, ...], lengths: Tensor, semiring: Semiring) -> Tensor:
    """Multiply the operators of all positions, neighbour with neighbour until one is left."""
    B, _, K, C, _ = edges[0].shape
    head = semiring.components
    operators = _operators(edges, lengths, semiring)
    while operators.shape[-3] > 1:
        if operators.shape[-3] % 2:
            identity = _identity(K * C, operators, semiring).expand(*head, B, 1, K * C, K * C)
            operators = torch.cat((operators, identity), -3)
        left, right = operators[..., 0::2, :, :], operators[..., 1::2, :, :]
        products = semiring.times(left[..., None], right[..., None, :, :])
        operators = semiring.sum(products, -2)
    at_boundaries = operators[..., 0, :C, :C]
    return semiring.sum(semiring.sum(at_boundaries, -1), -1)


def _operators(edges: tuple[Tensor, ...], lengths: Tensor, semiring: Semiring) -> Tensor:
    """(*components, B, T, K C, K C). How each position changes what is open.

    Row (j, c'): the last boundary is j positions behind and has label c'. With one more position
    it is j + 1 positions behind, column (j + 1, c'), or a segment of j + 1 positions ends here,
    column (0, c). Past its length, nothing changes for a sequence.
    """
    _, T, K, C, _ = edges[0].shape
    n = K * C
    position = torch.arange(T, device=lengths.device)
    start = position[:, None] - torch.arange(K, device=lengths.device)
    inside = position < (lengths - 1)[:, None]
    fits = inside[:, :, None] & (start >= 0)
    row = torch.arange(K, device=lengths.device)
    ending = _lifted([edge[:, start.clamp(min=0), row] for edge in edges], fits, semiring)
    closing = ending.transpose(-1, -2).flatten(-3, -2)
    identity = _identity(n, closing, semiring)
    # Column (j + 1, c') takes over row (j, c'): so these are the identity's first.
    ageing = identity[..., : n - C].expand(*closing.shape[:-1], n - C)
    operators = torch.cat((closing, ageing), -1)
    return torch.where(inside[..., None, None], operators, identity)


def _identity(n: int, like: Tensor, semiring: Semiring) -> Tensor:
    """(*components, 1, 1, n, n). The operator that changes nothing."""
    shape = (1, 1, n, n)
    diagonal = torch.eye(n, dtype=torch.bool, device=like.device)
    return torch.where(
        diagonal, filled(semiring.one, shape, like), filled(semiring.zero, shape, like)
    )


def _lifted(here: Iterable[Tensor], fits: Tensor, semiring: Semiring) -> Tensor:
    """Elements (*components, ..., K, C, C) of edges (..., K, C, C), zero where none fits."""
    mask = fits[..., None, None]
    scores = [torch.where(mask, _wide(edge), semiring.forbidden) for edge in here]
    return semiring.lift(*scores)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)
