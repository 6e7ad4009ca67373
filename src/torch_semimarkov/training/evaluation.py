"""A saved model judged on labelled records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch_semimarkov.data import LabelVocabulary, Record
from torch_semimarkov.errors import SegmentError
from torch_semimarkov.metrics import evaluate_segmentations
from torch_semimarkov.training.folder import SavedModel
from torch_semimarkov.training.inference import Prediction, Predictor


def evaluate_model(
    saved: SavedModel,
    records: Sequence[Record],
    device: str = "auto",
    *,
    posteriors: bool = False,
    decoding: str = "viterbi",
    **how: Any,
) -> tuple[list[Prediction], dict[str, Any]]:
    """Predictions for labelled records, and every metric of them.

    Args:
        saved: the model.
        records: labelled records; labels that the model does not know are judged too.
        device: where the model runs.
        posteriors: also compute posteriors.
        decoding: "viterbi" or "posterior"; see ``Predictor``.
        how: further arguments of ``evaluate_segmentations``: tolerance, unit, iou, include_edges.

    Raises:
        SegmentError: a record without labels.
        ShapeError: a record that does not fit the model.
    """
    predictor = Predictor(saved, device, posteriors=posteriors, decoding=decoding)
    predictions = list(predictor(records))
    names = known_labels(saved.vocabulary, records)
    true = [names.encode_record(record) for record in records]
    guess = [[(s, e, names.encode(label)) for s, e, label in p.segments] for p in predictions]
    rates = [record.sample_rate for record in records]
    rate = rates if all(r is not None for r in rates) else None
    summary = evaluate_segmentations(true, guess, list(names), sample_rate=rate, **how)
    return predictions, summary


def known_labels(vocabulary: LabelVocabulary, records: Sequence[Record]) -> LabelVocabulary:
    """The model's labels, and after them those that only the records have."""
    if any(record.segments is None for record in records):
        name = next(record.name for record in records if record.segments is None)
        raise SegmentError(f"record {name!r} is not labelled, so it cannot be evaluated")
    found = LabelVocabulary.from_records(records)
    return LabelVocabulary((*vocabulary, *(name for name in found if name not in set(vocabulary))))
