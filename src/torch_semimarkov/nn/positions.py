"""Each position on its own, and what a linear chain says of neighbours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torch_semimarkov.errors import SegmentError
from torch_semimarkov.functional import ViterbiResult
from torch_semimarkov.nn.checks import require_finite
from torch_semimarkov.nn.inside import inside_lengths
from torch_semimarkov.segments import Segments


class PositionHead(nn.Module):
    """The baseline without structure: a label distribution for each position, independent.

    It offers what ``SemiMarkovCRFHead`` offers, so the two can be compared on one encoder.

    Args:
        num_classes: labels C >= 1.
        hidden_dim: size of the encoder's output.

    >>> head = PositionHead(2, 4)
    >>> head.decode(torch.zeros(1, 3, 4)).segments.counts
    tensor([1])
    """

    def __init__(self, num_classes: int, hidden_dim: int):
        super().__init__()
        self.projection = nn.Linear(hidden_dim, num_classes)

    def compute_loss(
        self,
        hidden: Tensor,
        lengths: Tensor | None = None,
        *,
        segments: Segments,
        reduction: str = "none",
    ) -> Tensor:
        """Cross-entropy in nats, summed over the positions of a sequence.

        Args:
            hidden: (B, T, hidden_dim) float.
            lengths: (B,) int; default T.
            segments: B segmentations.
            reduction: "none" for (B,), or "mean" or "sum" over the sequences.
        """
        B, T, _ = hidden.shape
        labels = segments.to_labels(T)
        inside = inside_lengths(lengths, (B, T), hidden.device, checked=True)
        missing = (inside & (labels < 0)).nonzero()
        if len(missing):
            b, t = missing[0].tolist()
            raise SegmentError(f"sequence {b}: no segment covers position {t}")
        target = torch.where(inside, labels, -1)
        scores = self.projection(hidden).float()
        losses = nn.functional.cross_entropy(
            scores.transpose(1, 2), target, ignore_index=-1, reduction="none"
        ).sum(1)
        require_finite("the loss", losses, "lower the learning rate or clip gradients")
        return losses if reduction == "none" else getattr(losses, reduction)()

    @torch.no_grad()
    def decode(self, hidden: Tensor, lengths: Tensor | None = None) -> ViterbiResult:
        """The best label of each position; maximal runs are the segments."""
        best = self.projection(hidden).max(-1)
        inside = inside_lengths(lengths, hidden.shape, hidden.device, checked=True)
        total = torch.where(inside, best.values, 0.0).sum(1)
        return ViterbiResult(total, Segments.from_labels(best.indices, lengths))

    def marginals(self, hidden: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, C) label probabilities, and (B, T) the probability that the label changes."""
        labels = self.projection(hidden).float().softmax(-1)
        same = (labels[:, 1:] * labels[:, :-1]).sum(-1)
        changes = nn.functional.pad(1 - same, (1, 0), value=1.0)
        inside = inside_lengths(lengths, hidden.shape, hidden.device, checked=True)
        return torch.where(inside[..., None], labels, 0.0), torch.where(inside, changes, 0.0)


def chain_changes(terms: dict[str, Any]) -> Tensor:
    """Probability that neighbours differ, in a linear chain (K = 1).

    With K = 1 every position starts a segment, so the marginals of a head say nothing of runs. A
    weight on staying at position t has P(label t = label t-1) as its gradient.

    Args:
        terms: the potentials of a head with K = 1, as ``SemiMarkovCRFHead.potentials`` gives them.

    Returns:
        (B, T), 0..1; 1 at the first position, 0 past the lengths.
    """
    scores = terms["scores"].detach().double() + terms["duration_bias"][0].detach()
    for name in ("start_scores", "end_scores"):
        if name in terms:
            scores = scores + terms[name].detach()
    B, T, C = scores.shape
    inside = inside_lengths(terms["lengths"], (B, T), scores.device, checked=True)
    transition = terms["transition"].detach().double()
    diagonal = torch.eye(C, dtype=scores.dtype, device=scores.device)
    with torch.enable_grad():
        stay = torch.zeros(B, T, dtype=scores.dtype, device=scores.device, requires_grad=True)
        alpha = terms["start"].detach() + scores[:, 0]
        for t in range(1, T):
            step = transition + stay[:, t, None, None] * diagonal
            after = torch.logsumexp(alpha[:, :, None] + step, dim=1) + scores[:, t]
            alpha = torch.where(inside[:, t, None], after, alpha)
        total = torch.logsumexp(alpha + terms["end"].detach(), dim=1).sum()
        (same,) = torch.autograd.grad(total, stay, allow_unused=True, materialize_grads=True)
    return torch.where(inside, 1 - same, 0.0).clamp(0, 1).to(terms["scores"].dtype)
