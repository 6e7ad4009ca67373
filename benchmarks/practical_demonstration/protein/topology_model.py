"""One encoder with three heads, trained on labels of which some are unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from topology import HELIX, LABELS, UNKNOWN
from torch import Tensor, nn

from torch_semimarkov import SemiMarkovCRFHead, allowed_from_labels
from torch_semimarkov.data import LabelVocabulary, Record, split_long_segments
from torch_semimarkov.errors import SegmentError, raise_all
from torch_semimarkov.nn.encoders import create_encoder
from torch_semimarkov.nn.positions import PositionHead
from torch_semimarkov.segments import Segments
from torch_semimarkov.training import TrainConfig
from torch_semimarkov.training.config import config_from
from torch_semimarkov.training.examples import Example, make_examples
from torch_semimarkov.training.folder import read_folder, write_folder
from torch_semimarkov.training.statistics import start_from_counts

# Unknown comes last, so that the labels of the model are the numbers before it.
VOCABULARY = LabelVocabulary((*LABELS, UNKNOWN))
C = len(LABELS)
FORMAT = "topology model"


class TopologyModel(nn.Module):
    """Residues in, segments out.

    In the semi-CRF a helix is one segment, never two in a row; the other labels may last longer
    than K as several segments.

    Args:
        num_features: features of a residue.
        config: encoder, head, sizes and K.
    """

    def __init__(self, num_features: int, config: TrainConfig):
        super().__init__()
        self.num_features = num_features
        options: dict[str, Any] = {"num_layers": config.num_layers, "dropout": config.dropout}
        if config.encoder != "bilstm":
            options["kernel_size"] = config.kernel_size
        self.encoder = create_encoder(config.encoder, num_features, config.hidden_dim, **options)
        self.head: SemiMarkovCRFHead | PositionHead
        K = (config.max_duration or 1) if config.head == "semi-crf" else 1
        if config.head == "argmax":
            self.head = PositionHead(C, config.hidden_dim)
        else:
            follows = torch.ones(C, C, dtype=torch.bool)
            follows[LABELS.index(HELIX), LABELS.index(HELIX)] = K == 1
            self.head = SemiMarkovCRFHead(C, K, config.hidden_dim, allowed_transitions=follows)

    def forward(self, features: Tensor, lengths: Tensor, segments: Segments) -> Tensor:
        """(B,) losses in nats: of all segmentations that agree with the labels that are known."""
        labels = segments.to_labels(features.shape[1])
        labels = torch.where(labels == C, -1, labels)
        hidden = self.encoder(features, lengths)
        if isinstance(self.head, SemiMarkovCRFHead):
            allowed = allowed_from_labels(labels, C)
            return self.head.compute_loss(hidden, lengths, allowed=allowed, reduction="none")
        scores = self.head.projection(hidden).transpose(1, 2)
        return nn.functional.cross_entropy(scores, labels, ignore_index=-1, reduction="none").sum(1)

    @torch.no_grad()
    def decode(self, record: Record) -> list[tuple[int, int, str]]:
        """The best segments of a protein, neighbours of the same label joined."""
        features = torch.from_numpy(record.features)[None]
        found = self.head.decode(self.encoder(features)).segments
        (rows,) = Segments.from_labels(found.to_labels(record.length)).to_list()
        return [(start, end, LABELS[label]) for start, end, label in rows]

    @torch.no_grad()
    def helix_posterior(self, record: Record) -> Tensor:
        """(T,) P(helix), 0..1."""
        hidden = self.encoder(torch.from_numpy(record.features)[None])
        found = self.head.marginals(hidden)
        labels = found[0] if isinstance(found, tuple) else found.labels
        return labels[0, :, LABELS.index(HELIX)]


def examples_of(records: Sequence[Record]) -> list[Example]:
    """Whole proteins, their unknown stretches as a label of their own."""
    longest = max(segment.duration for record in records for segment in record.segments or ())
    return make_examples(records, VOCABULARY, longest)


def check_helices(records: Sequence[Record], K: int) -> None:
    """Refuse helices that the model cannot produce.

    Raises:
        SegmentError: a helix longer than K; every one is named.
    """
    problems = [
        f"{record.name!r}: helix [{start}, {end}) has {end - start} residues, max_duration is {K}"
        for record in records
        for start, end, label in record.segments or ()
        if label == HELIX and end - start > K
    ]
    raise_all(SegmentError, "helices longer than max_duration; raise it", problems)


def count_labels(head: SemiMarkovCRFHead, records: Sequence[Record]) -> None:
    """Start transitions and durations from the labels that are known."""
    pieces, K = [], head.max_duration
    for record in records:
        run: list[tuple[int, int, int]] = []
        for start, end, label in (*(record.segments or ()), (0, 0, UNKNOWN)):
            if label != UNKNOWN:
                cut = split_long_segments([(start, end, label)], K)
                run += [(s, e, VOCABULARY.encode(name)) for s, e, name in cut]
            elif run:
                pieces.append(Example(record.name, torch.empty(0, 1), torch.tensor(run)))
                run = []
    start_from_counts(head, pieces)


def start_from(model: TopologyModel, first: TopologyModel) -> None:
    """Take the encoder and the label scores of another model."""
    model.encoder.load_state_dict(first.encoder.state_dict())
    model.head.projection.load_state_dict(first.head.projection.state_dict())


def save_topology(
    folder: Path, model: TopologyModel, config: TrainConfig, metrics: Mapping[str, Any]
) -> None:
    """Write a model folder; it counts as one only once it is whole."""
    described = {"num_features": model.num_features, "training": config.to_dict()}
    write_folder(folder, model.state_dict(), FORMAT, described, metrics)


def load_topology(folder: Path) -> TopologyModel:
    """Read a folder of :func:`save_topology`.

    Raises:
        FileFormatError: a missing or damaged file.
    """

    def build(config: Mapping[str, Any]) -> TopologyModel:
        return TopologyModel(config["num_features"], config_from(config["training"]))

    model: TopologyModel = read_folder(folder, FORMAT, build, lambda made: made)
    return model
