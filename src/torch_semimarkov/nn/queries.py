"""What one can ask of a head's posterior, beside its loss and its best segmentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torch_semimarkov import functional
from torch_semimarkov.distributions import SemiMarkovCRF
from torch_semimarkov.functional import KBestResult, Marginals
from torch_semimarkov.nn.checks import require_partition
from torch_semimarkov.nn.routes import streaming_backend, triton_or_not
from torch_semimarkov.segments import Segments


class PosteriorQueries:
    """The queries of a head; it offers ``potentials`` and ``_checked``, which say how it scores."""

    _checked: Callable[[Tensor, Tensor | None], dict[str, Any]]
    potentials: Callable[[Tensor, Tensor | None], dict[str, Any]]
    _validates: Callable[[Tensor], bool]

    def marginals(
        self,
        hidden: Tensor,
        lengths: Tensor | None = None,
        *,
        backend: str = "auto",
        use_triton: bool = True,
    ) -> Marginals:
        """Posterior marginals; see :func:`torch_semimarkov.marginals`.

        Args:
            hidden, lengths: as in :meth:`potentials`.
            backend, use_triton: as in :meth:`forward`.

        Raises:
            ShapeError, NumericsError, UnsupportedError: as :meth:`forward`.
        """
        with triton_or_not(use_triton):
            terms = self._checked(hidden, lengths)
            on = streaming_backend(backend, "marginals")
            found = functional.marginals(**terms, backend=on)
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
        backend: str = "auto",
        use_triton: bool = True,
    ) -> Segments:
        """Segmentations drawn with their posterior probabilities; no gradient.

        Args:
            hidden, lengths: as in :meth:`potentials`.
            num_samples, generator: as in :func:`torch_semimarkov.sample`.
            backend, use_triton: as in :meth:`forward`.

        Returns:
            Segments (num_samples, B).

        Raises:
            ShapeError, NumericsError, UnsupportedError: as :meth:`forward`.
        """
        with torch.no_grad(), triton_or_not(use_triton):
            terms = self._checked(hidden, lengths)
            on = streaming_backend(backend, "sample")
            return functional.sample(
                **terms, num_samples=num_samples, generator=generator, backend=on
            )

    def kbest(
        self,
        hidden: Tensor,
        lengths: Tensor | None = None,
        *,
        k: int,
        backend: str = "auto",
        use_triton: bool = True,
    ) -> KBestResult:
        """The k best segmentations of every sequence, and their scores; no gradient.

        Args:
            hidden, lengths: as in :meth:`potentials`.
            k: how many; see :func:`torch_semimarkov.kbest`.
            backend, use_triton: as in :meth:`forward`.

        Raises:
            ShapeError, NumericsError, UnsupportedError: as :meth:`forward`.
        """
        with torch.no_grad(), triton_or_not(use_triton):
            terms = self._checked(hidden, lengths)
            return functional.kbest(**terms, k=k, backend=streaming_backend(backend, "kbest"))

    def entropy(
        self,
        hidden: Tensor,
        lengths: Tensor | None = None,
        *,
        backend: str = "auto",
        use_triton: bool = True,
    ) -> Tensor:
        """Entropy of the segmentations of every sequence, (B,) in nats; differentiable.

        Args:
            hidden, lengths: as in :meth:`potentials`.
            backend, use_triton: as in :meth:`forward`.

        Raises:
            ShapeError, NumericsError, UnsupportedError: as :meth:`forward`.
        """
        with triton_or_not(use_triton):
            terms = self._checked(hidden, lengths)
            return functional.entropy(**terms, backend=streaming_backend(backend, "entropy"))

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
