"""Segmentations as indicators over edges, their scores, and edges from an HSMM."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov.errors import SegmentError, ShapeError, UnsupportedError, raise_all
from torch_semimarkov.functional.exact import EDGE_MEMORY
from torch_semimarkov.segments import lengths_problem, range_problem
from torch_semimarkov.semirings import Semiring, as_semiring


def to_parts(
    sequence: Tensor,
    extra: tuple[int, int],
    lengths: Tensor | None = None,
    memory_limit: float = EDGE_MEMORY,
) -> Tensor:
    """Indicator over edges of the segmentations that labels at boundaries describe.

    Args:
        sequence: (B, N) int. At boundary n the label of the segment that ends there, -1 inside a
            segment; at boundary 0 the label before the first segment.
        extra: (C, K), labels and longest duration.
        lengths: (B,) int, 1 <= lengths <= N: boundaries of each sequence; default N. What lies past
            a length has no effect.
        memory_limit: bytes from which on the indicator is not made.

    Returns:
        (B, N-1, K, C, C) int64, 1 at ``[b, start, d-1, destination, source]`` of each segment.

    Raises:
        ShapeError: arguments that do not fit together.
        SegmentError: labels out of range, no label at the first or the last boundary, or a segment
            longer than K; names the sequence.
        UnsupportedError: the indicator would not fit in memory.

    One segment of two positions, labelled 0 after label 1:

    >>> to_parts(torch.tensor([[1, -1, 0]]), (2, 2)).nonzero()
    tensor([[0, 0, 1, 0, 1]])
    """
    C, K = extra
    lengths = _checked_sequence(sequence, C, K, lengths)
    B, N = sequence.shape
    check_edge_size((B, N - 1, K, C, C), torch.int64, memory_limit)
    position = torch.arange(N, device=sequence.device)
    boundary = (sequence >= 0) & (position < lengths[:, None])
    last = torch.where(boundary, position, -1).cummax(1).values
    _refuse_malformed(sequence, boundary, last, lengths, extra)
    b, n = boundary[:, 1:].nonzero(as_tuple=True)
    start = last[b, n]
    parts = torch.zeros(B, N - 1, K, C, C, dtype=torch.int64, device=sequence.device)
    parts[b, start, n - start, sequence[b, n + 1], sequence[b, start]] = 1
    return parts


def from_parts(parts: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Labels at boundaries from the indicator of a segmentation over edges.

    Args:
        parts: (B, N-1, K, C, C), 1 at ``[b, start, d-1, destination, source]`` of each segment,
            else 0: as from :func:`to_parts`, or marginals in the max semiring.

    Returns:
        (B, N) int64 labels as :func:`to_parts` takes them, -1 inside a segment and past the last
        one; and (C, K).

    Raises:
        ShapeError: another number of axes, or values that are neither 0 nor 1.
        SegmentError: the segments of a sequence do not follow one another; names the sequence.

    >>> from_parts(to_parts(torch.tensor([[1, -1, 0]]), (2, 2)))
    (tensor([[ 1, -1,  0]]), (2, 2))
    """
    if not isinstance(parts, Tensor) or parts.dim() != 5 or parts.shape[3] != parts.shape[4]:
        got = tuple(parts.shape) if isinstance(parts, Tensor) else type(parts).__name__
        raise ShapeError(f"parts must be (B, N-1, K, C, C), got {got}")
    if bool(((parts != 0) & (parts != 1)).any()):
        raise ShapeError("parts must hold 0 and 1; marginals of many segmentations are none")
    B, T, K, C, _ = parts.shape
    on = parts.nonzero()
    b, start, row, destination, source = on.unbind(1)
    end = start + row + 1
    _refuse_scattered(on, T)
    sequence = torch.full((B, T + 1), -1, device=parts.device)
    first = start == 0
    sequence[b[first], 0] = source[first]
    sequence[b, end] = destination
    return sequence, (C, K)


def edge_score(
    potentials: Tensor, parts: Tensor, semiring: str | type | Semiring = "log"
) -> Tensor:
    """Score of segmentations: the sum of their edges, the product in the standard semiring.

    Args:
        potentials: (B, N-1, K, C, C) float edges; -inf forbids.
        parts: (B, N-1, K, C, C), or (S, B, N-1, K, C, C) of more segmentations: which edges count,
            and how often. Edges that do not count have no effect, whatever they hold.
        semiring: a name, a class or an object of ``semirings``.

    Returns:
        (B,) or (S, B) in the type of the edges (half types: float32).

    Raises:
        ShapeError: shapes that do not fit together.

    >>> edge_score(torch.full((1, 2, 2, 1, 1), 3.0), to_parts(torch.tensor([[0, 0, 0]]), (1, 2)))
    tensor([6.])
    """
    shapes = [tuple(getattr(x, "shape", ())) for x in (potentials, parts)]
    if len(shapes[0]) != 5 or len(shapes[1]) < 5 or shapes[1][-5:] != shapes[0]:
        wanted = "(B, N-1, K, C, C) and parts (..., B, N-1, K, C, C)"
        raise ShapeError(f"potentials must be {wanted}, got {shapes[0]} and {shapes[1]}")
    wide = potentials.to(torch.promote_types(potentials.dtype, torch.float32))
    if as_semiring(semiring).neutral == 1.0:
        return torch.where(parts != 0, wide**parts, 1.0).flatten(-4).prod(-1)
    return torch.where(parts != 0, wide * parts, 0.0).flatten(-4).sum(-1)


def hsmm_edges(
    init: Tensor,
    transition_z_to_z: Tensor,
    transition_z_to_l: Tensor,
    emission: Tensor,
    memory_limit: float = EDGE_MEMORY,
) -> Tensor:
    """Edge potentials of a hidden semi-Markov model, in log-probabilities.

    Args:
        init: (C,) or (B, C) float. Of the label before the first segment, an auxiliary state.
        transition_z_to_z: (C, C) float, ``[source, destination]``: of the next label.
        transition_z_to_l: (C, K) float. Of a duration d, in column d-1, given the label.
        emission: (B, N-1, K, C) float. Of the d positions from ``start`` on, given duration and
            label, ``emission[b, start, d-1, c]``.
        memory_limit: bytes from which on the edge tensor is not made.

    Returns:
        (B, N-1, K, C, C), ``edge[b, start, d-1, destination, source]``.

    Raises:
        ShapeError: arguments that do not fit together; every misfit is named.
        UnsupportedError: the edge tensor would not fit in memory.

    >>> half = torch.tensor([0.5, 0.5]).log()
    >>> edge = hsmm_edges(half, half.expand(2, 2), torch.zeros(2, 1), torch.zeros(1, 3, 1, 2))
    >>> edge.shape, float(edge[0, 1].exp().sum())
    (torch.Size([1, 3, 1, 2, 2]), 2.0)
    """
    _check_hsmm(init, transition_z_to_z, transition_z_to_l, emission)
    B, T, K, C = emission.shape
    check_edge_size((B, T, K, C, C), emission.dtype, memory_limit)
    segment = emission + transition_z_to_l.T
    edge = segment[..., None] + transition_z_to_z.T
    first = edge[:, :1] + init.expand(B, C)[:, None, None, None, :]
    return torch.cat((first, edge[:, 1:]), dim=1)


def check_edge_size(shape: tuple[int, ...], dtype: torch.dtype, limit: float) -> None:
    """Refuse to make a tensor over edges that is larger than a limit in bytes.

    Raises:
        UnsupportedError: with its size.
    """
    size = dtype.itemsize
    for axis in shape:
        size *= axis
    if size > limit:
        raise UnsupportedError(
            f"a tensor (B, N-1, K, C, C) = {shape} takes {size:,} bytes, more than memory_limit = "
            f"{limit:,.0f} bytes; use the functions on scores, which need no edge tensor, shorten "
            "the sequences, lower K, or raise the limit"
        )


def _checked_sequence(sequence: Tensor, C: int, K: int, lengths: Tensor | None) -> Tensor:
    """Lengths of a sequence of the right kind."""
    problems = []
    if not isinstance(sequence, Tensor) or sequence.dim() != 2 or sequence.shape[1] < 2:
        got = tuple(sequence.shape) if isinstance(sequence, Tensor) else type(sequence).__name__
        problems.append(f"sequence must be (B, N) with N >= 2, got {got}")
    elif sequence.is_floating_point() or sequence.dtype == torch.bool:
        problems.append(f"sequence must hold integers, got {str(sequence.dtype)[6:]}")
    if C < 1 or K < 1:
        problems.append(f"extra must be (C, K), both at least 1, got {(C, K)}")
    raise_all(ShapeError, "sequence does not describe segmentations", problems)
    B, N = sequence.shape
    if lengths is None:
        return torch.full((B,), N, device=sequence.device)
    problem = lengths_problem(lengths, B, N) or range_problem(lengths, N)
    if problem:
        raise ShapeError(problem)
    return lengths.to(sequence.device)


def _refuse_malformed(
    sequence: Tensor, boundary: Tensor, last: Tensor, lengths: Tensor, extra: tuple[int, int]
) -> None:
    """Say of the first faulty sequence of each kind what is wrong with it."""
    C, K = extra
    N = sequence.shape[1]
    position = torch.arange(N, device=sequence.device)
    inside = position < lengths[:, None]
    gap = position[1:] - last[:, :-1]
    checks = (
        (((sequence < -1) | (sequence >= C)) & inside, f"labels must be -1 or in 0..{C - 1}"),
        ((sequence < 0) & (position == 0), "boundary 0 must have the label before the first"),
        (
            (sequence < 0) & (position == lengths[:, None] - 1),
            "its last boundary must have a label",
        ),
        (
            torch.nn.functional.pad(boundary[:, 1:] & (gap > K), (1, 0)),
            f"no segment may have more than K = {K} positions",
        ),
    )
    problems = []
    for bad, rule in checks:
        if bool(bad.any()):
            b, n = bad.nonzero()[0].tolist()
            problems.append(f"sequence {b}, boundary {n} with {int(sequence[b, n])}: {rule}")
    raise_all(SegmentError, "sequence does not describe segmentations", problems)


def _refuse_scattered(on: Tensor, T: int) -> None:
    """Each segment must start where the one before it ends, with its label as source."""
    b, start, row, destination, source = on.unbind(1)
    end = start + row + 1
    follows = b[1:] == b[:-1]
    before_end = torch.where(follows, end[:-1], 0)
    wrong = torch.zeros_like(b, dtype=torch.bool)
    wrong[:1] = start[:1] != 0
    wrong[1:] = (start[1:] != before_end) | (follows & (source[1:] != destination[:-1]))
    wrong |= end > T
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        raise SegmentError(
            f"sequence {int(b[i])}: the segment [{int(start[i])}, {int(end[i])}) with label "
            f"{int(destination[i])} after {int(source[i])} does not follow the one before it, or "
            f"ends after N-1 = {T}; parts must be one segmentation of each sequence"
        )


def _check_hsmm(init: Tensor, to_z: Tensor, to_l: Tensor, emission: Tensor) -> None:
    named = {"init": init, "transition_z_to_z": to_z, "transition_z_to_l": to_l}
    named["emission"] = emission
    problems = [
        f"{name} must be a float tensor, got {getattr(x, 'dtype', type(x).__name__)}"
        for name, x in named.items()
        if not isinstance(x, Tensor) or not x.is_floating_point()
    ]
    if not problems and (emission.dim() != 4 or 0 in emission.shape):
        problems.append(f"emission must be (B, N-1, K, C), got {tuple(emission.shape)}")
    if not problems:
        B, _, K, C = emission.shape
        wanted = {
            "init": ((C,), (B, C)),
            "transition_z_to_z": ((C, C),),
            "transition_z_to_l": ((C, K),),
        }
        problems += [
            f"{name} must be {' or '.join(map(str, shapes))}, got {tuple(named[name].shape)}"
            for name, shapes in wanted.items()
            if tuple(named[name].shape) not in shapes
        ]
    raise_all(ShapeError, "the parts of an HSMM do not fit together", problems)
