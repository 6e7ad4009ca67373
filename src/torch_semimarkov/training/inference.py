"""A saved model on records: segments and posteriors, one group of records at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from torch_semimarkov.data import NamedSegment, Record, collate
from torch_semimarkov.errors import ConfigError, ShapeError
from torch_semimarkov.segments import Segments
from torch_semimarkov.training.folder import SavedModel

DECODINGS = ("viterbi", "posterior")


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of one record.

    Args:
        record: the record.
        segments: ``(start, end, label name)`` that tile it.
        labels: (T, C) posterior of each label, or None.
        boundaries: (T,) posterior of a segment's start, or None.
    """

    record: Record
    segments: tuple[NamedSegment, ...]
    labels: np.ndarray | None = None
    boundaries: np.ndarray | None = None

    def scores(self, names: Sequence[str]) -> tuple[float, ...] | None:
        """Mean posterior of each segment's label over its positions; None without posteriors."""
        if self.labels is None:
            return None
        index = {name: i for i, name in enumerate(names)}
        return tuple(
            float(self.labels[s.start : s.end, index[s.label]].mean()) for s in self.segments
        )


class Predictor:
    """Decodes records with a saved model.

    Args:
        saved: the model.
        device: where it runs; "auto" takes a GPU if there is one.
        batch_size: records at a time.
        posteriors: also compute posteriors.
        decoding: "viterbi", the most likely segmentation; "posterior", the most likely label of
            each position, neighbours with the same label joined. A wave that is likely but whose
            boundaries are uncertain spreads over many segmentations, so Viterbi tends to leave it
            out; "posterior" errs on fewer positions.

    Raises:
        ConfigError: an unknown ``decoding``.
    """

    def __init__(
        self,
        saved: SavedModel,
        device: str = "auto",
        batch_size: int = 8,
        posteriors: bool = False,
        decoding: str = "viterbi",
    ):
        if decoding not in DECODINGS:
            raise ConfigError(f"decoding must be one of {DECODINGS}, got {decoding!r}")
        self.decoding = decoding
        self.saved, self.batch_size, self.posteriors = saved, batch_size, posteriors
        self.device = pick_device(device)
        self.model = saved.model.to(self.device).eval()

    def __call__(self, records: Iterable[Record]) -> Iterator[Prediction]:
        """Predictions in the order of the records, of which few are in memory at a time.

        Raises:
            ShapeError: a record does not have the features that the model was trained on.
        """
        group: list[Record] = []
        for record in records:
            self._check(record)
            group.append(record)
            if len(group) == self.batch_size:
                yield from self._decode(group)
                group = []
        if group:
            yield from self._decode(group)

    def _check(self, record: Record) -> None:
        D, rate = self.model.architecture.num_features, self.saved.sample_rate
        if record.num_features != D:
            channels = f" ({', '.join(self.saved.channels)})" if self.saved.channels else ""
            raise ShapeError(
                f"record {record.name!r} has {record.num_features} features; the model was "
                f"trained on {D}{channels}"
            )
        if None not in (rate, record.sample_rate) and abs(rate / record.sample_rate - 1) > 1e-6:
            raise ShapeError(
                f"record {record.name!r} has {record.sample_rate:g} positions a second; the model "
                f"was trained on {rate:g}: resample the record"
            )

    @torch.no_grad()
    def _decode(self, records: Sequence[Record]) -> Iterator[Prediction]:
        batch = collate(records)
        features, lengths = batch.features.to(self.device), batch.lengths.to(self.device)
        by_posterior = self.decoding == "posterior"
        found = None
        if self.posteriors or by_posterior:
            found = self.model.marginals(features, lengths)
        if by_posterior:
            segments = Segments.from_labels(found.labels.argmax(-1), lengths)
        else:
            segments = self.model.decode(features, lengths, merge=self.saved.merge)
        shown = found if self.posteriors else None
        for i, (record, found_here) in enumerate(zip(records, segments.to_list(), strict=True)):
            T = record.length
            yield Prediction(
                record,
                tuple(self.saved.vocabulary.decode_segments(found_here)),
                None if shown is None else shown.labels[i, :T].cpu().numpy(),
                None if shown is None else shown.boundaries[i, :T].cpu().numpy(),
            )


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" takes a GPU if there is one.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"device {name!r} is not available: {_first_line(error)}; use auto or cpu"
        ) from error
    return device


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
