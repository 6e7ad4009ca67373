"""The established class on explicit edge potentials, as in pytorch-struct."""

from __future__ import annotations

from torch import Tensor

from torch_semimarkov.functional.edge_parts import edge_score, from_parts, hsmm_edges, to_parts
from torch_semimarkov.functional.edge_totals import Edges, edge_marginals, edge_total
from torch_semimarkov.functional.exact import EDGE_MEMORY
from torch_semimarkov.semirings import Semiring, as_semiring


class SemiMarkov:
    """Sums over all segmentations of explicit edge potentials, in a semiring.

    An edge is ``edge[b, start, d-1, destination, source]``: the score of a segment of d positions
    from ``start`` on, labelled ``destination``, after one labelled ``source``. The first segment
    may come after any source. Lengths count positions plus one. Unlike in pytorch-struct, a
    duration of d positions has row d-1 and not row d, so K rows are K durations; no length needs
    to reach N; and no edge tensor is changed in place.

    Args:
        semiring: a name ("log", "max", "std", "entropy", "cross_entropy", "kl_divergence",
            "sampled"), a class, or an object such as ``KMaxSemiring(3)``.
        scan: "linear" walks along the sequence, O(T K C^2) work in T steps; "tree" multiplies
            operators pair by pair, O(T (K C)^3) work in log2 T steps. Equal in value and gradient.
        backend: a name from ``available_backends()``; default the first that can run a call.
        memory_limit: bytes from which on a tree, or a tensor over edges to be made, is refused.
        validate_args: check the range of lengths, NaN and +inf; default on CPU only.

    Raises:
        UnsupportedError: there is no such semiring.

    Source: Rush, Torch-Struct: deep structured prediction library, ACL 2020.

    Two positions, one label, durations 1 and 2, all edges 0: two segmentations, so log 2.

    >>> import torch
    >>> SemiMarkov("log").sum(torch.zeros(1, 2, 2, 1, 1))
    tensor([0.6931])
    """

    def __init__(
        self,
        semiring: str | type | Semiring = "log",
        *,
        scan: str = "linear",
        backend: str | None = None,
        memory_limit: float = EDGE_MEMORY,
        validate_args: bool | None = None,
    ):
        self.semiring = as_semiring(semiring)
        self._options = {
            "scan": scan,
            "backend": backend,
            "memory_limit": memory_limit,
            "validate_args": validate_args,
        }

    def logpartition(self, edge: Edges, lengths: Tensor | None = None) -> tuple[Tensor, Edges]:
        """The semiring total, and the edges it was taken over.

        Args:
            edge: (B, N-1, K, C, C) float; -inf forbids. A pair of them for cross-entropy and KL
                divergence; weights >= 0, of which 0 forbids, for the standard semiring.
            lengths: (B,) int, 1 <= lengths <= N: positions plus one; default N.

        Returns:
            (B,) in the type of the edges (half types: float32), (k, B) for KMax; and ``edge``.

        Raises:
            ShapeError, UnsupportedError: see ``functional.edge_totals.edge_total``.

        >>> import torch
        >>> value, _ = SemiMarkov("max").logpartition(torch.zeros(1, 2, 2, 1, 1))
        >>> value
        tensor([0.])
        """
        return self.sum(edge, lengths), edge

    def sum(self, edge: Edges, lengths: Tensor | None = None) -> Tensor:
        """The semiring total alone; as :meth:`logpartition`.

        >>> import torch
        >>> SemiMarkov("std").sum(torch.ones(1, 3, 3, 1, 1))
        tensor([4.])
        """
        return edge_total(edge, lengths, semiring=self.semiring, **self._options)  # type: ignore[arg-type]

    def marginals(self, edge: Edges, lengths: Tensor | None = None) -> Edges:
        """The gradient of the total: edge marginals, best segmentations, or a sample.

        Args:
            edge, lengths: as in :meth:`logpartition`.

        Returns:
            (B, N-1, K, C, C), (k, B, N-1, K, C, C) for KMax, a pair for a pair of edges.

        Raises:
            ShapeError, UnsupportedError: as :meth:`logpartition`.

        >>> import torch
        >>> SemiMarkov("log").marginals(torch.zeros(1, 2, 2, 1, 1))[0, 0, :, 0, 0]
        tensor([0.5000, 0.5000])
        """
        return edge_marginals(edge, lengths, semiring=self.semiring, **self._options)  # type: ignore[arg-type]

    def score(self, potentials: Tensor, parts: Tensor) -> Tensor:
        """(B,). Score of segmentations given as ``parts``; see ``functional.edge_parts``.

        >>> import torch
        >>> parts = SemiMarkov.to_parts(torch.tensor([[0, 0, 0]]), (1, 2))
        >>> SemiMarkov("log").score(torch.full((1, 2, 2, 1, 1), 3.0), parts)
        tensor([6.])
        """
        return edge_score(potentials, parts, self.semiring)

    to_parts = staticmethod(to_parts)
    from_parts = staticmethod(from_parts)
    hsmm = staticmethod(hsmm_edges)
