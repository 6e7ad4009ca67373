"""How well a model segments the test records, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from phone_data import Manifest
from phone_frames import Span, join_equal
from phone_models import OnBackend, PeerCRF
from phone_sets import SILENCE

from torch_semimarkov import metrics
from torch_semimarkov.data import LabelVocabulary, Record, collate
from torch_semimarkov.segments import Segment

TOLERANCE_MS = 20.0
IOU = 0.5


@dataclass(frozen=True)
class Decoded:
    """What a model found in the test records.

    Args:
        records: the records.
        true, found: the phones of each, under the names that are scored, equal neighbours joined.
        seconds: wall-clock time of encoder and decoding for all of them, the best of some passes.
        cpu_seconds: CPU time of the same pass.
    """

    records: list[Record]
    true: list[list[Span]]
    found: list[list[Span]]
    seconds: float
    cpu_seconds: float


def decode(
    model: OnBackend | PeerCRF, records: list[Record], manifest: Manifest, passes: int = 3
) -> Decoded:
    """Segment all records, some times, the shortest time counts."""
    vocabulary = LabelVocabulary(manifest.phones)
    model.eval()
    batches = [collate(records[i : i + 16]) for i in range(0, len(records), 16)]
    device = next(model.parameters()).device
    best = (float("inf"), float("inf"))
    for _ in range(passes):
        wall, busy = time.perf_counter(), time.process_time()
        found = [model.decode(b.features.to(device), b.lengths.to(device)) for b in batches]
        best = min(best, (time.perf_counter() - wall, time.process_time() - busy))
    named = [vocabulary.decode_segments(one) for batch in found for one in batch]
    return Decoded(
        records,
        [folded(record.segments or (), manifest.scored) for record in records],
        [folded(one, manifest.scored) for one in named],
        *best,
    )


def folded(spans: Sequence[tuple[int, int, str]], scored: Mapping[str, str]) -> list[Span]:
    """Segments under the names that are scored, equal neighbours joined."""
    return join_equal((start, end, scored[phone]) for start, end, phone in spans)


def coded(spans: Sequence[Span], phones: LabelVocabulary, silence: bool = True) -> list[Segment]:
    """Segments with numbers for names, with or without silence."""
    kept = [span for span in spans if silence or span[2] != SILENCE]
    return [Segment(start, end, phones.encode(phone)) for start, end, phone in kept]


def scored_phones(manifest: Manifest) -> LabelVocabulary:
    """The names that are scored."""
    return LabelVocabulary(tuple(sorted(set(manifest.scored.values()))))


def score(decoded: Decoded, manifest: Manifest) -> dict[str, Any]:
    """Every number of the table; rates and F1 in 0..1, durations in ms."""
    phones, rate = scored_phones(manifest), manifest.frame_rate
    true, found = ([coded(s, phones) for s in side] for side in (decoded.true, decoded.found))
    spoken = [
        [coded(s, phones, silence=False) for s in side] for side in (decoded.true, decoded.found)
    ]
    near = metrics.boundary_scores(true, found, TOLERANCE_MS, sample_rate=rate, unit="ms").micro
    durations = metrics.duration_calibration(true, found, sample_rate=rate, unit="ms")
    audio = sum(record.length for record in decoded.records) / rate
    return {
        "phone_error_rate": metrics.label_edit_rate(true, found),
        "phone_error_rate_without_silence": metrics.label_edit_rate(*spoken),
        "boundary_f1": near.f1,
        "boundary_precision": near.precision,
        "boundary_recall": near.recall,
        "boundary_r_value": near.r_value,
        "boundary_error_ms": near.error_absolute,
        "segment_f1": metrics.segment_scores(true, found, iou=IOU).micro.f1,
        "segment_f1_without_silence": metrics.segment_scores(*spoken, iou=IOU).micro.f1,
        "position_accuracy": metrics.position_accuracy(true, found),
        "duration_ks": _weighted(durations, "ks"),
        "duration_shift_ms": _weighted(durations, "wasserstein"),
        "inference_seconds": decoded.seconds,
        "inference_cpu_seconds": decoded.cpu_seconds,
        "audio_seconds": audio,
        "phones": sum(map(len, true)),
        "phones_found": sum(map(len, found)),
    }


def _weighted(durations: Mapping[str, Any], name: str) -> float | None:
    """Mean over the phones that are both true and found, each as often as it is true."""
    rows = [row for row in durations["per_label"].values() if row[name] is not None]
    total = sum(row["true"]["count"] for row in rows)
    if not total:
        return None
    return sum(row[name] * row["true"]["count"] for row in rows) / total


@torch.no_grad()
def expected_durations(
    model: OnBackend, records: Sequence[Record], manifest: Manifest
) -> dict[str, list[float]]:
    """Posterior expected number of segments of each duration, per scored phone.

    Args:
        model: a semi-CRF.
        records: what it is given.
        manifest: names of the labels.

    Returns:
        For each scored phone K numbers, that of d positions in place d - 1.
    """
    head, total = model.head, None
    device = next(model.parameters()).device
    for record in records:
        batch = collate([record]).to(device)
        found = head.marginals(model.hidden(batch.features, batch.lengths), batch.lengths)
        total = found.durations if total is None else total + found.durations
    if total is None:
        return {}
    columns: dict[str, torch.Tensor] = {}
    for label, phone in enumerate(manifest.phones):
        name = manifest.scored[phone]
        columns[name] = columns.get(name, 0.0) + total[:, label].double()
    return {name: column.tolist() for name, column in columns.items()}


def duration_report(
    decoded: Mapping[str, Decoded],
    expected: Mapping[str, Mapping[str, list[float]]],
    manifest: Manifest,
) -> dict[str, Any]:
    """Durations in ms of each phone: true, decoded by each model, expected by each semi-CRF.

    Args:
        decoded: of one seed, by model.
        expected: what :func:`expected_durations` gives, by model.
        manifest: names and rate.
    """
    phones, rate = scored_phones(manifest), manifest.frame_rate
    names = list(phones)
    found: dict[str, Any] = {"unit": "ms", "frame_ms": 1000 / rate, "models": {}}
    for name, one in decoded.items():
        true, guess = ([coded(s, phones) for s in side] for side in (one.true, one.found))
        tables = {"decoded": metrics.duration_calibration(true, guess, sample_rate=rate, unit="ms")}
        if name in expected:
            model = {phones.encode(phone): row for phone, row in expected[name].items()}
            tables["expected"] = metrics.duration_calibration(
                true, model=model, sample_rate=rate, unit="ms"
            )
        found["models"][name] = {
            kind: {names[label]: row for label, row in table["per_label"].items()}
            for kind, table in tables.items()
        }
    return found
