"""A head that says how sure it is, and can learn more from what it is unsure of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torch_semimarkov.errors import ConfigError
from torch_semimarkov.nn.head import SemiMarkovCRFHead
from torch_semimarkov.nn.inside import inside_lengths

FOCUS_MODES = ("high_uncertainty", "boundary_regions")


class UncertaintySemiMarkovCRFHead(SemiMarkovCRFHead):
    """:class:`SemiMarkovCRFHead` with its uncertainty under short names, and a weighted loss.

    Args: those of :class:`SemiMarkovCRFHead`.

    >>> head = UncertaintySemiMarkovCRFHead(num_classes=2, max_duration=4, hidden_dim=8)
    >>> hidden = torch.randn(1, 6, 8)
    >>> head.compute_boundary_marginals(hidden).shape
    torch.Size([1, 6])
    >>> bool(head.compute_entropy(hidden) > 0)
    True
    """

    def compute_boundary_marginals(
        self, hidden: Tensor, lengths: Tensor | None = None, **options: Any
    ) -> Tensor:
        """Probability that a segment starts at each position; not rescaled.

        Args:
            hidden, lengths: as in :meth:`potentials`.
            options: as in :meth:`marginals`.

        Returns:
            (B, T), in 0..1: 1 at position 0, 0 past the lengths.

        Raises:
            ShapeError, NumericsError, UnsupportedError: as :meth:`forward`.
        """
        return self.marginals(hidden, lengths, **options).boundaries

    def compute_position_marginals(
        self, hidden: Tensor, lengths: Tensor | None = None, **options: Any
    ) -> Tensor:
        """Probability of each label at each position; not rescaled.

        Args:
            hidden, lengths: as in :meth:`potentials`.
            options: as in :meth:`marginals`.

        Returns:
            (B, T, C), in 0..1, of sum 1 at each position; 0 past the lengths.

        Raises:
            ShapeError, NumericsError, UnsupportedError: as :meth:`forward`.
        """
        return self.marginals(hidden, lengths, **options).labels

    def compute_entropy(
        self, hidden: Tensor, lengths: Tensor | None = None, **options: Any
    ) -> Tensor:
        """Entropy of the segmentations, (B,) in nats; :meth:`entropy` under another name.

        Args:
            hidden, lengths: as in :meth:`potentials`.
            options: as in :meth:`entropy`.

        Raises:
            ShapeError, NumericsError, UnsupportedError: as :meth:`forward`.
        """
        return self.entropy(hidden, lengths, **options)

    def uncertainty_weights(
        self,
        hidden: Tensor,
        lengths: Tensor | None = None,
        *,
        uncertainty_weight: float = 1.0,
        focus_mode: str = "high_uncertainty",
    ) -> Tensor:
        """Weights of the sequences in :meth:`compute_loss_uncertainty_weighted`.

        With u the uncertainty of a sequence and m its mean over the batch, the weight is
        ``(1 + w * u / m) / (1 + w)``: 1 on average, and 1 for all if all are equally uncertain.
        For "high_uncertainty", u is the entropy of the segmentations over the length. For
        "boundary_regions" it is the mean over the positions of ``-p log p - (1 - p) log(1 - p)``
        of the boundary probability p: only where boundaries are counts, not the labels.

        Args:
            hidden, lengths: as in :meth:`potentials`.
            uncertainty_weight: w >= 0; 0 weighs all the same.
            focus_mode: "high_uncertainty" or "boundary_regions".

        Returns:
            (B,), no gradient.

        Raises:
            ConfigError: a setting out of its range.
            ShapeError, NumericsError, UnsupportedError: as :meth:`forward`.
        """
        w = uncertainty_weight
        if focus_mode not in FOCUS_MODES:
            raise ConfigError(f"focus_mode must be one of {FOCUS_MODES}, got {focus_mode!r}")
        if not 0 <= w < torch.inf:
            raise ConfigError(f"uncertainty_weight must be >= 0 and finite, got {w}")
        hidden = hidden.detach()
        if focus_mode == "high_uncertainty":
            with torch.no_grad():
                total = self.compute_entropy(hidden, lengths)
        else:
            p = self.compute_boundary_marginals(hidden, lengths).detach().clamp(0, 1)
            total = (torch.special.entr(p) + torch.special.entr(1 - p)).sum(1)
        inside = inside_lengths(lengths, hidden.shape, hidden.device, checked=False)
        # Rounding may leave the entropy of a certain sequence slightly below 0.
        mean_of = total.clamp(min=0) / inside.sum(1)
        batch = mean_of.mean()
        relative = torch.where(batch > 0, mean_of / batch, 1.0)
        return (1 + w * relative) / (1 + w)

    def compute_loss_uncertainty_weighted(
        self,
        hidden: Tensor,
        lengths: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        uncertainty_weight: float = 1.0,
        focus_mode: str = "high_uncertainty",
        reduction: str = "mean",
        **options: Any,
    ) -> Tensor:
        """:meth:`compute_loss` in which uncertain sequences of the batch weigh more.

        The gradient goes through the loss and not through the weights, which
        :meth:`uncertainty_weights` gives. They are 1 on average over the batch, so a batch of one
        sequence has the plain loss.

        Args:
            hidden, lengths, labels: as in :meth:`compute_loss`.
            uncertainty_weight, focus_mode: as in :meth:`uncertainty_weights`.
            reduction: "mean" over the sequences, "sum", or "none" for (B,).
            options: the other arguments of :meth:`compute_loss`, such as ``segments``.

        Raises:
            ConfigError: a setting out of its range.
            ShapeError, NumericsError, SegmentError: as :meth:`compute_loss`.

        >>> head = UncertaintySemiMarkovCRFHead(num_classes=2, max_duration=2)
        >>> labels = torch.tensor([[0, 1, 1], [1, 0, 0]])
        >>> same = torch.zeros(2, 3, 2)
        >>> weighted = head.compute_loss_uncertainty_weighted(same, labels=labels)
        >>> torch.allclose(weighted, head.compute_loss(same, labels=labels))
        True
        """
        if reduction not in ("mean", "sum", "none"):
            raise ConfigError(f'reduction must be "mean", "sum" or "none", got {reduction!r}')
        weights = self.uncertainty_weights(
            hidden, lengths, uncertainty_weight=uncertainty_weight, focus_mode=focus_mode
        )
        loss = weights * self.compute_loss(hidden, lengths, labels, reduction="none", **options)
        return loss if reduction == "none" else getattr(loss, reduction)()
