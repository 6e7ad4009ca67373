"""A whole model: normalised features, an encoder, and a head over segmentations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torch_semimarkov.durations import DURATION_DISTRIBUTIONS
from torch_semimarkov.errors import ConfigError, ShapeError, raise_all
from torch_semimarkov.nn.encoders import ENCODERS, create_encoder
from torch_semimarkov.nn.head import SemiMarkovCRFHead
from torch_semimarkov.nn.positions import PositionHead, chain_changes
from torch_semimarkov.nn.ssm_encoder import ARSSMEncoder
from torch_semimarkov.segments import Segments

HEADS = ("semi-crf", "linear-crf", "argmax")
_WITH_MEAN = ("geometric", "negative_binomial", "poisson")


@dataclass(frozen=True)
class Architecture:
    """What it takes to build a :class:`SegmentationModel`; plain values, ready for JSON.

    Args:
        num_features: features D >= 1.
        num_classes: labels C >= 1.
        max_duration: longest duration K >= 1, in positions; "semi-crf" only.
        head: "semi-crf"; "linear-crf", in which each position is a segment (K = 1); "argmax", the
            best label of each position on its own, trained by cross-entropy.
        encoder: "conv", "bilstm", "unet" or "ar-ssm".
        hidden_dim: size H >= 1 of the hidden states.
        num_layers: layers of the encoder, >= 1.
        kernel_size: odd width of the convolutions; all but "bilstm".
        dropout: 0 <= dropout < 1.
        duration_distribution: a name; see :func:`torch_semimarkov.create_duration_distribution`.
        boundary_scores: also score where segments start and end; CRFs only.
        encoder_options: further arguments of the encoder by name, such as the ranks of "ar-ssm".
        tail: "geometric" lets segments be longer than K; "semi-crf" only.

    Raises:
        ConfigError: a value out of its range; every one is named.
    """

    num_features: int
    num_classes: int
    max_duration: int = 1
    head: str = "semi-crf"
    encoder: str = "conv"
    hidden_dim: int = 64
    num_layers: int = 4
    kernel_size: int = 5
    dropout: float = 0.1
    duration_distribution: str = "learned"
    boundary_scores: bool = False
    encoder_options: dict[str, Any] = field(default_factory=dict)
    tail: str | None = None

    def __post_init__(self) -> None:
        problems = []
        for name in ("num_features", "num_classes", "max_duration", "hidden_dim", "num_layers"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                problems.append(f"{name} must be an integer >= 1, got {value!r}")
        choices = {
            "head": HEADS,
            "encoder": tuple(ENCODERS),
            "duration_distribution": DURATION_DISTRIBUTIONS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                problems.append(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        if type(self.kernel_size) is not int or self.kernel_size < 1 or self.kernel_size % 2 == 0:
            problems.append(f"kernel_size must be an odd integer >= 1, got {self.kernel_size!r}")
        if type(self.dropout) not in (int, float) or not 0 <= self.dropout < 1:
            problems.append(f"dropout must be in [0, 1), got {self.dropout!r}")
        if type(self.boundary_scores) is not bool:
            problems.append(f"boundary_scores must be true or false, got {self.boundary_scores!r}")
        options = self.encoder_options
        if type(options) is not dict or not all(type(name) is str for name in options):
            problems.append(f"encoder_options must be a dict by name, got {options!r}")
        if self.tail not in (None, "geometric"):
            problems.append(f'tail must be "geometric" or None, got {self.tail!r}')
        elif self.tail and self.head != "semi-crf":
            problems.append(f'tail is for the head "semi-crf" only, got head {self.head!r}')
        raise_all(ConfigError, "no such model", problems)


class Posteriors(NamedTuple):
    """What a model believes of every position.

    labels: (B, T, C), 0..1. Probability of each label; sums to 1 over c.
    boundaries: (B, T), 0..1. Probability that a segment starts at t. Of a linear CRF and of
        argmax: that the label differs from the one before; 1 at the first position.
    """

    labels: Tensor
    boundaries: Tensor


class SegmentationModel(nn.Module):
    """Features in, segments out.

    Args:
        architecture: sizes and names.
        duration_mean: initial mean duration of each label in positions, >= 1, for the duration
            models that have one; default (K + 1) / 2.

    ``forward`` gives the loss, so the model works as it is under DistributedDataParallel.

    >>> model = SegmentationModel(Architecture(num_features=2, num_classes=3, max_duration=4))
    >>> segments = Segments.from_list([[(0, 3, 1), (3, 7, 0)]])
    >>> bool(model(torch.randn(1, 7, 2), torch.tensor([7]), segments) >= 0)
    True
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, architecture: Architecture, duration_mean: list[float] | None = None):
        super().__init__()
        a = self.architecture = architecture
        self.register_buffer("mean", torch.zeros(a.num_features))
        self.register_buffer("sd", torch.ones(a.num_features))
        options = {**a.encoder_options, "num_layers": a.num_layers, "dropout": float(a.dropout)}
        if a.encoder != "bilstm":
            options["kernel_size"] = a.kernel_size
        self.encoder = create_encoder(a.encoder, a.num_features, a.hidden_dim, **options)
        self.head: SemiMarkovCRFHead | PositionHead
        if a.head == "argmax":
            self.head = PositionHead(a.num_classes, a.hidden_dim)
        else:
            K = self.max_duration
            mean = None
            if duration_mean is not None and a.duration_distribution in _WITH_MEAN:
                mean = [min(max(1.0, value), float(K)) for value in duration_mean]
            self.head = SemiMarkovCRFHead(
                a.num_classes, K, a.hidden_dim, duration_distribution=a.duration_distribution,
                boundary_scores=a.boundary_scores, duration_mean=mean, tail=a.tail,
            )  # fmt: skip

    @property
    def max_duration(self) -> int:
        """Longest duration K of the head; 1 if each position is a segment."""
        return self.architecture.max_duration if self.architecture.head == "semi-crf" else 1

    @property
    def longest_segment(self) -> int | None:
        """Positions of the longest segment that it can learn from; None if there is no such."""
        return None if self.architecture.tail else self.max_duration

    def set_normaliser(self, mean: Tensor, sd: Tensor) -> None:
        """Remember mean and standard deviation (D,) of the training features; sd 0 becomes 1."""
        self.mean.copy_(mean)
        self.sd.copy_(torch.where(sd > 0, sd, 1.0))

    def hidden(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T, H) hidden states of (B, T, D) features."""
        return self.encoder(self._normal(features), lengths)

    def _normal(self, features: Tensor) -> Tensor:
        D = self.architecture.num_features
        if features.dim() != 3 or features.shape[2] != D:
            raise ShapeError(
                f"features must be (B, T, D) = (B, T, {D}), got {tuple(features.shape)}"
            )
        return (features - self.mean) / self.sd

    def forward(self, features: Tensor, lengths: Tensor, segments: Segments) -> Tensor:
        """Loss of each sequence; in training with the encoder's penalty for each of its positions.

        Args:
            features: (B, T, D) float.
            lengths: (B,) int, 1 <= lengths <= T.
            segments: B segmentations without a segment longer than ``longest_segment``.

        Returns:
            (B,) in nats: the negative log-likelihood; of "argmax", the summed cross-entropy.

        Raises:
            ShapeError, SegmentError, NumericsError: as ``SemiMarkovCRFHead.compute_loss``.
        """
        if not (self.training and isinstance(self.encoder, ARSSMEncoder)):
            hidden = self.hidden(features, lengths)
            return self.head.compute_loss(hidden, lengths, segments=segments, reduction="none")
        normal = self._normal(features)
        hidden, penalty = self.encoder.forward_with_penalty(normal, lengths)
        loss = self.head.compute_loss(hidden, lengths, segments=segments, reduction="none")
        return loss + penalty * lengths

    @torch.no_grad()
    def decode(
        self, features: Tensor, lengths: Tensor | None = None, merge: bool = False
    ) -> Segments:
        """The best segmentation of each sequence.

        Args:
            features: (B, T, D) float.
            lengths: (B,) int; default T.
            merge: join neighbours with the same label. "linear-crf" and "argmax" always do.
        """
        segments = self.head.decode(self.hidden(features, lengths), lengths).segments
        if merge or self.architecture.head != "semi-crf":
            segments = Segments.from_labels(segments.to_labels(features.shape[1]), lengths)
        return segments

    @torch.no_grad()
    def marginals(self, features: Tensor, lengths: Tensor | None = None) -> Posteriors:
        """Posteriors of labels and boundaries; 0 past the lengths."""
        hidden = self.hidden(features, lengths)
        if isinstance(self.head, PositionHead):
            return Posteriors(*self.head.marginals(hidden, lengths))
        found = self.head.marginals(hidden, lengths)
        if self.architecture.head == "linear-crf":
            changes = chain_changes(self.head.potentials(hidden, lengths))
            return Posteriors(found.labels, changes)
        return Posteriors(found.labels, found.boundaries)
