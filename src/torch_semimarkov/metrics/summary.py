"""All metrics of one evaluation as plain data, and plain-text tables of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch_semimarkov.errors import ConfigError
from torch_semimarkov.given import LabelNames, as_mapping, as_number, names_of, shown
from torch_semimarkov.metrics._tracks import SegmentLists, chosen_labels, track_pair, units
from torch_semimarkov.metrics.boundaries import KINDS, boundary_scores
from torch_semimarkov.metrics.durations import duration_calibration
from torch_semimarkov.metrics.positions import label_f1, position_accuracy
from torch_semimarkov.metrics.segmental import label_edit_rate, segment_scores

LABELLED = ("per_label",)


def evaluate_segmentations(
    true: SegmentLists,
    predicted: SegmentLists,
    label_names: LabelNames = None,
    *,
    sample_rate: float | Sequence[float] | None = None,
    unit: str | None = None,
    tolerance: float | Sequence[float] = 0,
    iou: float = 0.5,
    include_edges: bool = False,
) -> dict[str, Any]:
    """Every metric of this room in one dict that ``json.dump`` takes as it is.

    Args:
        true: one list of ``(start, end, label)`` per sequence.
        predicted: the same for the prediction.
        label_names: name of each label; default the number as text.
        sample_rate: positions per second, one number or one per sequence.
        unit: "ms", "s" or "positions"; default "ms" with a sample rate, else "positions".
        tolerance: one or several boundary tolerances >= 0, in ``unit``.
        iou: threshold of the segment scores by overlap, 0 < iou <= 1.
        include_edges: also judge the boundaries at the two ends of a sequence.

    Returns:
        "unit", "sequences", "label_edit_rate"; "segments": exact, at ``iou`` and per tolerance;
        "boundaries": per tolerance, for "onset", "offset" and "any"; "positions": accuracy and
        F1; "durations". Tolerances are keys as text, labels by their names.

    >>> result = evaluate_segmentations([[(0, 2, 0), (2, 5, 1)]], [[(0, 3, 0), (3, 5, 1)]],
    ...                                 ["rest", "beat"], tolerance=1)
    >>> result["segments"]["exact"]["micro"]["f1"], result["positions"]["accuracy"]
    (0.0, 0.8)
    >>> result["boundaries"]["1"]["onset"]["per_label"]["beat"]["error_mean"]
    1.0
    """
    truth, guess = track_pair(true, predicted)
    several = isinstance(tolerance, Sequence) and not isinstance(tolerance, str)
    tolerances = [as_number("tolerance", x) for x in (tolerance if several else [tolerance])]
    iou = as_number("iou", iou)
    names = _names(label_names, chosen_labels(None, truth, guess))
    time: dict[str, Any] = {"sample_rate": sample_rate, "unit": unit}
    segments = {
        "exact": segment_scores(true, predicted).to_dict(),
        f"iou {iou:g}": segment_scores(true, predicted, iou=iou).to_dict(),
    }
    boundaries: dict[str, Any] = {}
    for one in tolerances:
        within = segment_scores(true, predicted, tolerance=one, **time)
        segments[f"tolerance {one:g}"] = within.to_dict()
        boundaries[f"{one:g}"] = {
            kind: boundary_scores(
                true, predicted, one, kind=kind, include_edges=include_edges, **time
            ).to_dict()
            for kind in KINDS
        }
    result = {
        "unit": units(sample_rate, unit, truth.count).name,
        "sequences": truth.count,
        "label_edit_rate": label_edit_rate(true, predicted),
        "segments": segments,
        "boundaries": boundaries,
        "positions": {"accuracy": position_accuracy(true, predicted), **label_f1(true, predicted)},
        "durations": duration_calibration(true, predicted, **time),
    }
    return _named(result, names)


def _names(label_names: LabelNames, labels: list[int]) -> dict[str, str]:
    named = {str(label): name for label, name in names_of(labels, label_names).items()}
    if len(set(named.values())) < len(named):
        raise ConfigError(f"label_names must differ from each other, got {list(named.values())}")
    return named


def _named(tree: Any, names: dict[str, str]) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {
        key: {names[str(label)]: row for label, row in value.items()}
        if key in LABELLED
        else _named(value, names)
        for key, value in tree.items()
    }


def segment_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per label for :func:`format_table`: counts, segment F1 of each kind, position F1.

    Args:
        summary: what :func:`evaluate_segmentations` returns. The last row is all labels together.

    Raises:
        ConfigError: something else.
    """
    kinds = _evaluated(summary)["segments"]
    exact, positions = kinds["exact"], summary["positions"]
    rows = []
    for label, score in exact["per_label"].items():
        row = {"label": label, "true": score["true"], "predicted": score["predicted"]}
        row |= {f"F1 {kind}": kinds[kind]["per_label"][label]["f1"] for kind in kinds}
        rows.append(row | {"F1 positions": positions["per_label"][label]["f1"]})
    pooled = exact["micro"]
    total = {"label": "all", "true": pooled["true"], "predicted": pooled["predicted"]}
    total |= {f"F1 {kind}": kinds[kind]["micro"]["f1"] for kind in kinds}
    return [*rows, total | {"F1 positions": positions["weighted"]}]


def boundary_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per label and boundary for :func:`format_table`: F1 and signed errors.

    Args:
        summary: what :func:`evaluate_segmentations` returns. The last rows are all boundaries.

    Raises:
        ConfigError: something else.
    """
    summary, rows = _evaluated(summary), []
    for tolerance, kinds in summary["boundaries"].items():
        for label in kinds["onset"]["per_label"]:
            for kind in ("onset", "offset"):
                score = kinds[kind]["per_label"][label]
                rows.append(_boundary_row(label, kind, tolerance, score, summary["unit"]))
        rows.append(_boundary_row("all", "any", tolerance, kinds["any"]["micro"], summary["unit"]))
    return rows


def _evaluated(summary: Any) -> Mapping[str, Any]:
    expected = "what evaluate_segmentations returns"
    summary = as_mapping("summary", summary, expected)
    missing = [key for key in ("segments", "boundaries", "positions", "unit") if key not in summary]
    if missing:
        raise ConfigError(f"summary must be {expected}, it lacks {missing}")
    return summary


def _boundary_row(
    label: str, kind: str, tolerance: str, score: Mapping[str, Any], unit: str
) -> dict[str, Any]:
    return {
        "label": label,
        "boundary": kind,
        f"within ({unit})": tolerance,
        "precision": score["precision"],
        "recall": score["recall"],
        "F1": score["f1"],
        f"error mean ({unit})": score["error_mean"],
        f"error sd ({unit})": score["error_sd"],
    }


def format_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str] | Mapping[str, str] | None = None,
    *,
    digits: int = 3,
) -> str:
    """Rows as a plain-text table: text to the left, numbers to the right, undefined as "-".

    Args:
        rows: one mapping per row; a missing key is undefined.
        columns: keys to show, in order, or a mapping from key to heading; default the keys of
            all rows in the order of their appearance.
        digits: digits after the point of floats, >= 0.

    Raises:
        ConfigError: no list of mappings, or digits out of range.

    >>> print(format_table([{"label": "P", "F1": 0.5}, {"label": "QRS", "F1": None}]))
    label     F1
    -----  -----
    P      0.500
    QRS        -
    """
    if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
        raise ConfigError(f"rows must be a list of mappings, got {shown(rows)}")
    if not isinstance(digits, int) or digits < 0:
        raise ConfigError(f"digits must be an integer >= 0, got {shown(digits)}")
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
    headings = dict(columns) if isinstance(columns, Mapping) else {key: key for key in columns}
    table = []
    for key, heading in headings.items():
        values = [row.get(key) for row in rows]
        cells = [str(heading), *(_cell(value, digits) for value in values)]
        width = max(len(cell) for cell in cells)
        text = any(isinstance(value, str) for value in values)
        lined = [cell.ljust(width) if text else cell.rjust(width) for cell in cells]
        table.append([lined[0], "-" * width, *lined[1:]])
    return "\n".join("  ".join(line).rstrip() for line in zip(*table, strict=True))


def _cell(value: Any, digits: int) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "-"
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return str(value)
