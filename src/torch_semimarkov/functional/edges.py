"""Explicit edge potentials: built from the terms of the score, and summed over segmentations."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from torch_semimarkov import dispatch
from torch_semimarkov.functional.inputs import wants_validation
from torch_semimarkov.potentials import EdgePotentials, Potentials
from torch_semimarkov.segments import require_tensors
from torch_semimarkov.semirings import Semiring


def gather_edges(
    edge: Tensor, lengths: Tensor | None = None, validate_args: bool | None = None
) -> EdgePotentials:
    """Checked and canonical edge potentials from a call's arguments.

    Raises:
        ShapeError: arguments that do not fit together, or lengths out of range.
    """
    require_tensors(edge=edge, lengths=edge if lengths is None else lengths)
    p = EdgePotentials(edge, lengths).check()
    if wants_validation(validate_args, p.device):
        p.check_lengths()
    return p.canonical()


def edge_log_partition(
    edge: Tensor,
    lengths: Tensor | None = None,
    *,
    semiring: str | Semiring = "log",
    backend: str | None = None,
    validate_args: bool | None = None,
) -> Tensor:
    """Log of the sum, over all segmentations, of the exponential of their edges' sum.

    Args:
        edge: (B, N-1, K, C, C) float, ``edge[b, start, d-1, destination, source]``, in nats; -inf
            forbids. Float32 or float64 and contiguous, or it is copied. The first segment may come
            after any source.
        lengths: (B,) int, 1 <= lengths <= N: positions plus one; default N. Edges past a length
            have no effect.
        semiring: "log", "max" for the best segmentation, or any other of ``semirings``.
        backend: a name from ``available_backends()``; default the first that can run the call.
        validate_args: check the range of lengths, and look for NaN and +inf where the result is no
            number; default on CPU only.

    Returns:
        (B,) in the type of the edges (half types: float32); -inf if no segmentation is possible.
        Other semirings give what they are made for, as KMax a leading axis of k scores.

    Raises:
        ShapeError: arguments that do not fit together; every misfit is named.
        UnsupportedError: no backend, or not the one asked for, can run the call.

    Source: Sarawagi and Cohen, Semi-Markov conditional random fields, NIPS 2004.

    Two positions, one label, durations 1 and 2, all edges 0: two segmentations, so log 2.

    >>> edge_log_partition(torch.zeros(1, 2, 2, 1, 1))
    tensor([0.6931])
    """
    p = gather_edges(edge, lengths, validate_args)
    dtype = torch.promote_types(edge.dtype, torch.float32)
    value = dispatch.edge_log_partition(p, semiring, backend, dtype)
    # one bad edge spoils the sum, so the edges are looked at only where that has happened
    if wants_validation(validate_args, p.device) and not bool((value.detach() < torch.inf).all()):
        p.check_values()
    return value


def edge_potentials(p: Potentials) -> Tensor:
    """(B, T, K, C, C). The same score as explicit edges, in plain torch and differentiable.

    Args:
        p: canonical potentials, K durations at most of which those beyond T stay forbidden. With a
            tail there are T durations, if T > K.

    Returns:
        ``edge[b, start, d-1, destination, source]`` with every term of the score. Only source 0
        leads into the first segment, so that each segmentation is there once. -inf where a segment
        would end after its sequence.

    >>> scores = torch.tensor([[[1.0], [2.0]]])
    >>> p = Potentials(scores, torch.zeros(1, 1), torch.zeros(2, 1)).canonical()
    >>> edge_potentials(p)[0, :, :, 0, 0]
    tensor([[1., 3.],
            [2., -inf]])
    """
    p = p.without_tail()
    segments = segment_scores(p)
    T, C = p.T, p.C
    start = p.scores.new_zeros(C) if p.start is None else p.start
    forbidden = p.scores.new_full((C, C - 1), -torch.inf)
    first = torch.cat((start[:, None], forbidden), dim=1)
    entering = p.transition.transpose(-1, -2)
    entering = entering if p.per_duration else entering[None]
    first = first.expand(1, len(entering), C, C)
    later = entering.expand(T - 1, *entering.shape)
    return segments[..., None] + torch.cat((first, later))[None]


def segment_scores(p: Potentials) -> Tensor:
    """(B, T, K, C). Score of each segment by start, duration - 1 and label, without transitions.

    The end of the sequence is in it; -inf where the segment would end after that.
    """
    position = torch.arange(p.T, device=p.device)
    lengths = cast(Tensor, p.lengths)[:, None]
    inside = (position < lengths)[..., None]
    nothing = p.scores.new_zeros(p.C)
    end = nothing if p.end is None else p.end
    last = (position == lengths - 1)[..., None]

    def at_positions(x: Tensor | None) -> Tensor:
        return nothing.expand(p.B, p.T, p.C) if x is None else torch.where(inside, x, 0.0)

    scores, opening = at_positions(p.scores), at_positions(p.start_scores)
    closing = at_positions(p.end_scores) + torch.where(last, end, 0.0)
    rows = []
    for d in range(min(p.K, p.T)):
        opening = opening[:, : p.T - d] + scores[:, d:]
        row = opening + closing[:, d:] + p.duration_bias[d]
        row = torch.where(inside[:, d:], row, -torch.inf)
        rows.append(torch.nn.functional.pad(row, (0, 0, 0, d), value=-torch.inf))
    beyond = [torch.full_like(rows[0], -torch.inf)] * (p.K - len(rows))
    return torch.stack(rows + beyond, dim=2)
