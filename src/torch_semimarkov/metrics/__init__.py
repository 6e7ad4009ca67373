"""How well predicted segmentations match the true ones.

Every metric takes ``true`` and ``predicted``: one list of ``Segment(start, end, label)`` per
sequence (or a ``Segments``), sorted, without overlap; gaps are allowed. A number that is undefined,
such as the recall of a label that never occurs, is ``None``.
"""

from torch_semimarkov.metrics._tracks import merge_neighbours
from torch_semimarkov.metrics.boundaries import BoundaryScore, BoundaryScores, boundary_scores
from torch_semimarkov.metrics.calibration import (
    Reliability,
    SelectiveCurve,
    apply_temperature,
    boundary_intervals,
    brier_score,
    fit_temperature,
    interval_coverage,
    reliability,
    selective_curve,
)
from torch_semimarkov.metrics.durations import duration_calibration
from torch_semimarkov.metrics.matching import match_in_order
from torch_semimarkov.metrics.positions import label_f1, position_accuracy
from torch_semimarkov.metrics.scores import Score
from torch_semimarkov.metrics.segmental import SegmentScores, label_edit_rate, segment_scores
from torch_semimarkov.metrics.summary import (
    boundary_rows,
    evaluate_segmentations,
    format_table,
    segment_rows,
)

__all__ = [
    "BoundaryScore",
    "BoundaryScores",
    "Reliability",
    "Score",
    "SegmentScores",
    "SelectiveCurve",
    "apply_temperature",
    "boundary_intervals",
    "boundary_rows",
    "boundary_scores",
    "brier_score",
    "duration_calibration",
    "evaluate_segmentations",
    "fit_temperature",
    "format_table",
    "interval_coverage",
    "label_edit_rate",
    "label_f1",
    "match_in_order",
    "merge_neighbours",
    "position_accuracy",
    "reliability",
    "segment_rows",
    "segment_scores",
    "selective_curve",
]
