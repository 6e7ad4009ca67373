"""What one can ask of a head's posterior, beside its loss and its best segmentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torch_semimarkov import functional
from torch_semimarkov.distributions import SemiMarkovCRF
from torch_semimarkov.functional import KBestResult, Marginals
from torch_semimarkov.functional.constraints import Constrained
from torch_semimarkov.nn.checks import require_partition
from torch_semimarkov.nn.routes import streaming_backend, triton_or_not
from torch_semimarkov.segments import Segments


class PosteriorQueries:
    """The queries of a head, which says how it scores by ``potentials`` and ``_constrained``."""

    _constrained: Callable[[Tensor, Tensor | None, Tensor | None], Constrained]
    potentials: Callable[[Tensor, Tensor | None], dict[str, Any]]
    _validates: Callable[[Tensor], bool]

    def marginals(
        self,
        hidden: Tensor,
        lengths: Tensor | None = None,
        *,
        boundaries: Tensor | None = None,
        backend: str = "auto",
        use_triton: bool = True,
    ) -> Marginals:
        """Posterior marginals; see :func:`torch_semimarkov.marginals`.

        Args:
            hidden, lengths: as in :meth:`potentials`.
            boundaries: as in :meth:`decode`.
            backend, use_triton: as in :meth:`forward`.

        Raises:
            ShapeError, NumericsError, UnsupportedError: as :meth:`forward`.
        """
        with triton_or_not(use_triton):
            asked = self._constrained(hidden, lengths, boundaries)
            on = streaming_backend(backend, "marginals")
            found = asked.fold(functional.marginals(**asked.terms, backend=on))
        if self._validates(hidden):
            require_partition(found.log_partition)
        return found

    def sample(
        self,
        hidden: Tensor,
        lengths: Tensor | None = None,
        *,
        num_samples: int = 1,
        generator: torch.Generator | None = None,
        boundaries: Tensor | None = None,
        backend: str = "auto",
        use_triton: bool = True,
    ) -> Segments:
        """Segmentations drawn with their posterior probabilities; no gradient.

        Args:
            hidden, lengths: as in :meth:`potentials`.
            num_samples, generator: as in :func:`torch_semimarkov.sample`.
            boundaries: as in :meth:`decode`.
            backend, use_triton: as in :meth:`forward`.

        Returns:
            Segments (num_samples, B).

        Raises:
            ShapeError, NumericsError, UnsupportedError: as :meth:`forward`.
        """
        with torch.no_grad(), triton_or_not(use_triton):
            asked = self._constrained(hidden, lengths, boundaries)
            on = streaming_backend(backend, "sample")
            drawn = functional.sample(
                **asked.terms, num_samples=num_samples, generator=generator, backend=on
            )
            return asked.fold(drawn)

    def kbest(
        self,
        hidden: Tensor,
        lengths: Tensor | None = None,
        *,
        k: int,
        boundaries: Tensor | None = None,
        backend: str = "auto",
        use_triton: bool = True,
    ) -> KBestResult:
        """The k best segmentations of every sequence, and their scores; no gradient.

        Args:
            hidden, lengths: as in :meth:`potentials`.
            k: how many; see :func:`torch_semimarkov.kbest`.
            boundaries: as in :meth:`decode`.
            backend, use_triton: as in :meth:`forward`.

        Raises:
            ShapeError, NumericsError, UnsupportedError: as :meth:`forward`.
        """
        with torch.no_grad(), triton_or_not(use_triton):
            asked = self._constrained(hidden, lengths, boundaries)
            on = streaming_backend(backend, "kbest")
            return asked.fold(functional.kbest(**asked.terms, k=k, backend=on))

    def entropy(
        self,
        hidden: Tensor,
        lengths: Tensor | None = None,
        *,
        boundaries: Tensor | None = None,
        backend: str = "auto",
        use_triton: bool = True,
    ) -> Tensor:
        """Entropy of the segmentations of every sequence, (B,) in nats; differentiable.

        Args:
            hidden, lengths: as in :meth:`potentials`.
            boundaries: as in :meth:`decode`: the entropy of what is left by them.
            backend, use_triton: as in :meth:`forward`.

        Raises:
            ShapeError, NumericsError, UnsupportedError: as :meth:`forward`.
        """
        with triton_or_not(use_triton):
            asked = self._constrained(hidden, lengths, boundaries)
            return functional.entropy(**asked.terms, backend=streaming_backend(backend, "entropy"))

    def distribution(
        self,
        hidden: Tensor,
        lengths: Tensor | None = None,
        *,
        backend: str = "auto",
    ) -> SemiMarkovCRF:
        """The posterior as a distribution of ``torch.distributions``; differentiable.

        Args:
            hidden, lengths: as in :meth:`potentials`.
            backend: as in :meth:`forward`, of all calls of the distribution.

        Raises:
            ShapeError, NumericsError: as :meth:`forward`.
        """
        terms = self.potentials(hidden, lengths)
        return SemiMarkovCRF(**terms, backend=streaming_backend(backend, "distribution"))
