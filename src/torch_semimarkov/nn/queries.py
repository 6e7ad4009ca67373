"""What one can ask of a head's posterior, beside its loss and its best segmentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torch_semimarkov import functional
from torch_semimarkov.functional import Marginals
from torch_semimarkov.nn.checks import require_partition
from torch_semimarkov.nn.routes import streaming_backend, triton_or_not
from torch_semimarkov.segments import Segments


class PosteriorQueries:
    """The queries of a head; it offers ``_checked`` and ``_validates``, which say how it scores."""

    _checked: Callable[[Tensor, Tensor | None], dict[str, Any]]
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
