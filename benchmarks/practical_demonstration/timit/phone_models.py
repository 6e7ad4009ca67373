"""The three models on one encoder: a semi-CRF, a linear CRF, and pytorch-crf's linear CRF."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torch_semimarkov.errors import ConfigError, UnsupportedError
from torch_semimarkov.nn.checks import require_finite
from torch_semimarkov.nn.inside import inside_lengths
from torch_semimarkov.nn.segmenter import SegmentationModel
from torch_semimarkov.segments import Segments

SEMI_CRF, LINEAR, PEER = MODELS = ("semicrf", "linear", "pytorch-crf")
HEADS = {SEMI_CRF: "semi-crf", LINEAR: "linear-crf", PEER: "linear-crf"}
BACKENDS = ("auto", "streaming", "exact", "triton", "cpu", "reference")


class Wrapped(nn.Module):
    """A model whose weights are those of a :class:`SegmentationModel`, which is what is saved.

    Args:
        model: gives encoder, projection, transitions, start and end scores.
    """

    def __init__(self, model: SegmentationModel):
        super().__init__()
        self.model = model

    @property
    def encoder(self) -> nn.Module:
        """What the trainer asks for."""
        return self.model.encoder

    @property
    def head(self) -> nn.Module:
        """What the trainer asks for."""
        return self.model.head

    def hidden(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T, H) hidden states of (B, T, D) features."""
        return self.model.hidden(features, lengths)


class OnBackend(Wrapped):
    """Our head on a backend of the user's choice.

    Args:
        model: the model.
        backend: "auto", "streaming", "exact" (training only: decoding then streams), or the name
            of a backend.
    """

    def __init__(self, model: SegmentationModel, backend: str = "auto"):
        super().__init__(model)
        self.backend = backend

    def forward(self, features: Tensor, lengths: Tensor, segments: Segments) -> Tensor:
        """(B,) negative log-likelihoods in nats."""
        return self.head.compute_loss(
            self.hidden(features, lengths),
            lengths,
            segments=segments,
            reduction="none",
            backend=self.backend,
        )

    @torch.no_grad()
    def decode(self, features: Tensor, lengths: Tensor) -> list[list[tuple[int, int, int]]]:
        """The best segments of each sequence, neighbours of the same label joined."""
        on = "auto" if self.backend == "exact" else self.backend
        found = self.head.decode(self.hidden(features, lengths), lengths, backend=on).segments
        return Segments.from_labels(found.to_labels(features.shape[1]), lengths).to_list()


class PeerCRF(Wrapped):
    """pytorch-crf's ``CRF`` on the encoder and the projection of one of our linear CRFs.

    Its transitions, start and end scores are the very parameters of our head, so both describe the
    same distribution, and what is trained by either can be saved and decoded by both.

    Raises:
        UnsupportedError: pytorch-crf is not installed.
        ConfigError: not a model of a linear CRF.
    """

    def __init__(self, model: SegmentationModel):
        super().__init__(model)
        if model.architecture.head != "linear-crf":
            raise ConfigError(f"pytorch-crf is a linear CRF, got {model.architecture.head}")
        head = model.head
        self.crf = peer_library().CRF(head.num_classes, batch_first=True)
        self.crf.transitions = head.transition
        self.crf.start_transitions, self.crf.end_transitions = head.start, head.end
        # Durations of one position shift every score alike; it has none.
        for weight in head.durations.parameters():
            weight.requires_grad_(False).zero_()

    def forward(self, features: Tensor, lengths: Tensor, segments: Segments) -> Tensor:
        """(B,) negative log-likelihoods in nats."""
        T = features.shape[1]
        inside = inside_lengths(lengths, features.shape, features.device, checked=True)
        scores = self.head.projection(self.hidden(features, lengths))
        labels = torch.where(inside, segments.to_labels(T), 0)
        loss = -self.crf(scores, labels, mask=inside, reduction="none")
        require_finite("the loss", loss, "lower the learning rate, or use --crf-reg")
        return loss

    @torch.no_grad()
    def decode(self, features: Tensor, lengths: Tensor) -> list[list[tuple[int, int, int]]]:
        """The best segments of each sequence: maximal runs of equal labels."""
        inside = inside_lengths(lengths, features.shape, features.device, checked=True)
        paths = self.crf.decode(self.head.projection(self.hidden(features, lengths)), mask=inside)
        rows = [torch.tensor(path) for path in paths]
        labels = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return Segments.from_labels(labels, lengths.cpu()).to_list()


def peer_library() -> Any:
    """The module of pytorch-crf.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        return importlib.import_module("torchcrf")
    except ImportError as error:
        raise UnsupportedError(
            "--model pytorch-crf needs pytorch-crf: pip install torch_semimarkov[bench], or "
            "pip install pytorch-crf"
        ) from error


def wrap(name: str, model: SegmentationModel, backend: str = "auto") -> OnBackend | PeerCRF:
    """A model by its name on the command line."""
    return PeerCRF(model) if name == PEER else OnBackend(model, backend)


def refuse_unused(models: Sequence[str], given: Sequence[str]) -> None:
    """Complain of flags that have no meaning for any of the models.

    Args:
        models: names of the models.
        given: the flags that were set.

    Raises:
        ConfigError: one of them would have no effect.
    """
    durations = ("--max-duration", "--duration-distribution")
    foreign = {PEER: (*durations, "--no-triton", "--backend"), LINEAR: durations}
    unused = [flag for flag in given if all(flag in foreign.get(name, ()) for name in models)]
    if unused:
        names = ", ".join(models)
        raise ConfigError(f"{', '.join(unused)} has no effect on {names}; leave it out")
