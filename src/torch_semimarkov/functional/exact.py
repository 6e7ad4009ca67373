"""The exact path: the same potentials as an explicit edge tensor, for every semiring."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from torch_semimarkov import dispatch
from torch_semimarkov.errors import UnsupportedError
from torch_semimarkov.functional.edges import edge_potentials
from torch_semimarkov.functional.segment import checked_score, relative_to
from torch_semimarkov.potentials import EdgePotentials, Potentials
from torch_semimarkov.segments import Segments
from torch_semimarkov.semirings import Semiring, as_semiring

# What the streaming path has kernels for.
STREAMING = ("log", "max")
# Bytes of an edge tensor from which on the exact path refuses, unless it is told another number.
EDGE_MEMORY = 8 * 10**9


@dataclass(frozen=True)
class Route:
    """Which of the two paths a call takes, and what the other would need.

    Args:
        path: "streaming" or "exact"; None if the edge tensor would be too large.
        semiring: its name.
        edge_shape: (B, T, K, C, C); with a tail the larger of K and T stands for K.
        edge_bytes: size of the edge tensor.
        threshold: bytes from which on the exact path refuses.
        backends: the choice of a backend on the path, with the reasons.
    """

    path: str | None
    semiring: str
    edge_shape: tuple[int, ...]
    edge_bytes: int
    threshold: float
    backends: dispatch.Explanation

    def __str__(self) -> str:
        fits = "fits" if self.edge_bytes <= self.threshold else "does not fit"
        streaming = "runs" if self.path == "streaming" else "not taken"
        if self.semiring not in STREAMING:
            streaming = f"{streaming}: it has kernels for {' and '.join(STREAMING)} only"
        return "\n".join(
            [
                f"semiring={self.semiring!r}: {self.path or 'no'} path",
                f"  streaming  {streaming}",
                f"  exact      edge tensor {self.edge_shape} of {self.edge_bytes:,} bytes {fits} "
                f"under edge_memory_threshold = {self.threshold:,.0f} bytes",
                str(self.backends),
            ]
        )


def route(
    p: Potentials,
    semiring: str | Semiring = "log",
    backend: str | None = None,
    threshold: float = EDGE_MEMORY,
) -> Route:
    """The path of a call: streaming for log and max, else exact while the edge tensor fits.

    Args:
        p: canonical potentials.
        semiring: a name or a semiring.
        backend: "exact" or "streaming" asks for a path; a backend's name runs on the streaming one.
        threshold: bytes from which on the exact path refuses.
    """
    name = as_semiring(semiring).name
    asked = {"auto": None, None: None, "exact": "exact"}.get(backend, "streaming")
    path = asked or ("streaming" if name in STREAMING else "exact")
    shape = (p.B, p.T, p.longest, p.C, p.C)
    size = math.prod(shape) * p.compute_dtype.itemsize
    if path == "exact":
        blank = p.scores.new_empty(1).expand(shape)
        found = dispatch.explain_op(dispatch.EDGE_OP, EdgePotentials(blank), name)
    else:
        on = None if backend == "streaming" else backend
        found = dispatch.explain_op("log_partition", p, name, on)
    fits = path == "streaming" or size <= threshold
    return Route(path if fits else None, name, shape, size, threshold, found)


def exact_log_partition(
    p: Potentials,
    semiring: str | Semiring = "log",
    threshold: float = EDGE_MEMORY,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The semiring total of canonical potentials, by way of their edge tensor.

    Args:
        p: canonical potentials.
        semiring: a name or a semiring that takes one set of potentials.
        threshold: bytes from which on the edge tensor is not made.
        dtype: of the result; default float64.

    Raises:
        UnsupportedError: the edge tensor would be too large, or the semiring takes two models.
    """
    algebra = as_semiring(semiring)
    if algebra.arguments != 1:
        raise UnsupportedError(
            f"semiring {algebra.name!r} compares {algebra.arguments} models, and there are the "
            "potentials of one; use SemiMarkov on their edge potentials"
        )
    found = route(p, algebra, "exact", threshold)
    if found.path is None:
        raise UnsupportedError(_too_large(found))
    edge = edge_potentials(p)
    # where the product is not + but *, potentials are exponentials of scores
    edge = edge.exp() if algebra.neutral == 1.0 else edge
    edges = EdgePotentials(edge, cast(Tensor, p.lengths) + 1).canonical()
    return dispatch.edge_log_partition(edges, algebra, None, dtype)


def exact_log_prob(
    p: Potentials,
    segments: Segments,
    threshold: float = EDGE_MEMORY,
    validate_segments: bool | None = None,
) -> Tensor:
    """(..., B) float64. Log-probability of segmentations, by way of the edge tensor.

    Raises:
        SegmentError, UnsupportedError: as ``segment_log_prob`` and :func:`exact_log_partition`.
    """
    score = checked_score(p, segments, validate_segments)
    return relative_to(exact_log_partition(p, "log", threshold), score)


def _too_large(found: Route) -> str:
    remedy = 'use backend="streaming", which needs no edge tensor'
    if found.semiring not in STREAMING:
        remedy = f"{remedy} and runs {found.semiring!r} on the slow reference backend"
    return (
        f"the exact path for semiring={found.semiring!r} needs an edge tensor (B, T, K, C, C) = "
        f"{found.edge_shape} of {found.edge_bytes:,} bytes, more than edge_memory_threshold = "
        f"{found.threshold:,.0f} bytes; {remedy}, shorten the sequences, lower K, or raise the "
        "threshold"
    )
