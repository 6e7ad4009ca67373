"""The losses of a head: of whole segmentations, and of what is known of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torch_semimarkov.errors import ConfigError, ShapeError
from torch_semimarkov.functional.inputs import result_dtype
from torch_semimarkov.functional.partial import log_prob_known
from torch_semimarkov.nn.checks import require_finite
from torch_semimarkov.nn.routes import log_prob_of, streaming_backend, triton_or_not
from torch_semimarkov.segments import Segments, require_tensors

GRADIENT_REMEDY = "lower the learning rate, clip gradients, or add parameter_penalty() to the loss"


class LikelihoodLoss:
    """The loss of a head; it offers ``_checked`` and ``_validates``, which say how it scores."""

    _checked: Callable[[Tensor, Tensor | None], dict[str, Any]]
    _validates: Callable[[Tensor], bool]
    max_duration: int
    edge_memory_threshold: float
    allowed_durations: Tensor
    tail_logit: Tensor | None

    def compute_loss(
        self,
        hidden: Tensor,
        lengths: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        segments: Segments | None = None,
        allowed: Tensor | None = None,
        boundaries: Tensor | None = None,
        reduction: str = "mean",
        long_runs: str = "error",
        backend: str = "auto",
        use_triton: bool = True,
    ) -> Tensor:
        """Negative log-likelihood of the given segmentation, never below 0.

        With ``allowed`` or ``boundaries`` it is that of all segmentations which agree with them: 0
        where nothing is known, and the loss of the one segmentation where everything is.

        Args:
            hidden, lengths: as in :meth:`potentials`.
            labels: (B, T) int, 0..C-1; segments are the maximal runs of equal labels.
            segments: the segments themselves, instead of ``labels``.
            allowed: (B, T, C) bool. Labels that each position may have, instead of either; see
                :func:`torch_semimarkov.allowed_from_labels`.
            boundaries: (B, T) int. 1: a segment starts here; 0: none does; -1: unknown. With
                ``allowed`` or alone; as in :func:`torch_semimarkov.constrain`.
            reduction: "mean" over the sequences, "sum", or "none" for (B,).
            long_runs: "error" refuses a run of labels longer than its label may last, "split" cuts
                it into pieces of that length and a remainder.
            backend, use_triton: as in :meth:`forward`.

        Returns:
            A scalar, or (B,), in nats; float32 for half types.

        Raises:
            ShapeError, NumericsError: as :meth:`potentials`.
            SegmentError: a segmentation that the model cannot produce; names the sequence, the
                segment and the remedy. Or ``allowed`` without any label at a position.
            NumericsError: no segmentation of a sequence agrees with what is known.

        >>> from torch_semimarkov import SemiMarkovCRFHead
        >>> head = SemiMarkovCRFHead(num_classes=2, max_duration=2)
        >>> unknown = torch.ones(1, 4, 2, dtype=torch.bool)
        >>> head.compute_loss(torch.zeros(1, 4, 2), allowed=unknown).item()
        0.0
        """
        partial = allowed is not None or boundaries is not None
        if (labels is not None) + (segments is not None) + partial != 1:
            raise ShapeError(
                "compute_loss takes either labels or segments, and not both; or, for what is known "
                "in part, allowed and boundaries without them"
            )
        if reduction not in ("mean", "sum", "none"):
            raise ConfigError(f'reduction must be "mean", "sum" or "none", got {reduction!r}')
        if labels is not None:
            require_tensors(labels=labels)
        terms, checked = self._checked(hidden, lengths), self._validates(hidden)
        if labels is not None:
            segments = self._segments(labels, hidden, lengths, long_runs)
        with triton_or_not(use_triton):
            if segments is None:
                on = streaming_backend(backend, "compute_loss of what is known in part")
                loss = -log_prob_known(terms, allowed, boundaries, on, checked=checked)
                loss = loss.to(result_dtype(terms["scores"]))
            else:
                limit = self.edge_memory_threshold
                loss = -log_prob_of(segments, terms, backend, limit, checked)
        if checked:
            require_finite("the loss", loss, GRADIENT_REMEDY)
        return loss if reduction == "none" else getattr(loss, reduction)()

    def _segments(
        self, labels: Tensor, hidden: Tensor, lengths: Tensor | None, long_runs: str
    ) -> Segments:
        if labels.shape != hidden.shape[:2]:
            raise ShapeError(
                f"labels must be (B, T) = {tuple(hidden.shape[:2])} like hidden, "
                f"got {tuple(labels.shape)}"
            )
        row = torch.arange(1, self.max_duration + 1, device=labels.device)[:, None]
        longest = torch.where(self.allowed_durations.to(labels.device), row, 0).amax(0)
        if self.tail_logit is not None:
            longest[self.allowed_durations[-1].to(labels.device)] = max(labels.shape[1], len(row))
        return Segments.from_labels(labels, lengths, longest, long_runs)
