"""The score of given segmentations, and whether the model can produce them at all."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_semimarkov.errors import SegmentError, ShapeError, raise_all
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.segments import Segment, Segments

_REPORTED = 5


def score_of(p: Potentials, segments: Segments) -> Tensor:
    """(..., B) float64. Score of each segmentation under canonical potentials; differentiable.

    Segments must have passed :func:`check_segments`; a sequence without segments scores 0.
    """
    wide = torch.float32 if p.device.type == "mps" else torch.float64
    p = p.map_terms(lambda x: x.to(wide))
    return _content(p, segments) + _segment_terms(p, segments).sum(-1)


def check_segments(p: Potentials, segments: Segments) -> None:
    """Refuse segmentations that do not tile their sequence or have labels outside 0..C-1.

    Raises:
        ShapeError: another batch size or device than the potentials.
        SegmentError: naming the sequence, the segment and what was expected.
    """
    if segments.batch_size != p.B:
        raise ShapeError(
            f"segments must hold B = {p.B} sequences like scores, got {segments.batch_size}"
        )
    if segments.starts.device != p.device:
        raise ShapeError(
            f"segments must be on {p.device} like scores, got {segments.starts.device}"
        )
    expected = torch.cat((torch.zeros_like(segments.ends[..., :1]), segments.ends[..., :-1]), -1)
    last = segments.ends.gather(-1, (segments.counts - 1).clamp(min=0)[..., None])[..., 0]
    bad = (segments.starts != expected) | (segments.durations < 1)
    bad |= (segments.labels < 0) | (segments.labels >= p.C)
    short = (segments.counts < 1) | (last != p.lengths)
    if bool((bad & segments.mask).any()) or bool(short.any()):
        raise_all(SegmentError, "not segmentations of these sequences", _problems(p, segments))


def check_support(p: Potentials, segments: Segments, score: Tensor) -> None:
    """Refuse segmentations that the model gives probability 0.

    Raises:
        SegmentError: naming the sequence, the segment, what forbids it and the remedy.
    """
    long = (segments.durations > p.longest) & segments.mask
    if bool(long.any()):
        *_, b, i = (int(x) for x in long.nonzero()[0])
        at = tuple(int(x) for x in long.nonzero()[0])
        start, end = int(segments.starts[at]), int(segments.ends[at])
        raise SegmentError(
            f"sequence {b}, segment {i} [{start}, {end}) has {end - start} positions, more than "
            f"K = {p.K}; raise max_duration, give the model a tail, or split long runs"
        )
    if bool((score == -torch.inf).any()):
        index = tuple(int(x) for x in (score == -torch.inf).nonzero()[0])
        raise SegmentError(_why_forbidden(p, segments, index))


def _content(p: Potentials, segments: Segments) -> Tensor:
    """(..., B). Sum over positions of the score of the label there."""
    labels = segments.paint(p.T)
    row = torch.arange(p.B, device=p.device)[:, None]
    position = torch.arange(p.T, device=p.device)
    taken = p.scores[row, position, labels.clamp(min=0)]
    return torch.where(labels >= 0, taken, 0.0).sum(-1)


def _segment_terms(p: Potentials, segments: Segments) -> Tensor:
    """(..., B, N). Everything but the content, for each segment; 0 in the padding.

    A segment longer than K has -inf if there is no tail: without validation it must not pass for
    one of K positions.
    """
    mask = segments.mask
    row = torch.arange(p.B, device=p.device)[:, None]
    start, label = segments.starts.clamp(min=0), segments.labels.clamp(min=0)
    last = (segments.ends - 1).clamp(min=0)
    duration = (segments.durations - 1).clamp(min=0, max=p.K - 1)
    terms = p.duration_bias[duration, label]
    beyond = segments.durations - p.K
    if p.tail is not None:
        terms = terms + torch.where(beyond > 0, beyond * p.tail[label], 0.0)
    if p.start_scores is not None:
        terms = terms + p.start_scores[row, start, label]
    if p.end_scores is not None:
        terms = terms + p.end_scores[row, last, label]
    source, destination = label[..., :-1], label[..., 1:]
    if p.per_duration:
        into = p.transition[duration[..., 1:], source, destination]
    else:
        into = p.transition[source, destination]
    first = label.new_zeros(()) if p.start is None else p.start[label[..., :1]]
    entering = torch.cat((first.to(into).expand_as(label[..., :1]), into), dim=-1)
    terms = torch.where(mask, terms + entering, 0.0)
    if p.tail is None:
        terms = torch.where(mask & (beyond > 0), -torch.inf, terms)
    if p.end is None:
        return terms
    index = torch.arange(label.shape[-1], device=p.device)
    return terms + torch.where(index == segments.counts[..., None] - 1, p.end[label], 0.0)


def _problems(p: Potentials, segments: Segments) -> list[str]:
    """One line for each faulty sequence, the first few."""
    flat = Segments(
        segments.starts.flatten(0, -2),
        segments.ends.flatten(0, -2),
        segments.labels.flatten(0, -2),
        segments.counts.flatten(),
    )
    lengths = p.lengths.tolist()  # type: ignore[union-attr]
    problems = []
    for index, sequence in enumerate(flat.to_list()):
        problem = _sequence_problem(sequence, lengths[index % p.B], p.C)
        if problem:
            problems.append(f"sequence {index % p.B}, {problem}")
    return problems[:_REPORTED]


def _sequence_problem(sequence: list[Segment], length: int, C: int) -> str | None:
    position = 0
    for i, (start, end, label) in enumerate(sequence):
        name = f"segment {i} [{start}, {end})"
        if start != position:
            return f"{name} must start at {position}, where the one before it ends"
        if end <= start:
            return f"{name} must have at least one position"
        if not 0 <= label < C:
            return f"{name} must have a label in 0..{C - 1}, got {label}"
        position = end
    if position != length:
        return f"the segments must end at its length {length}, got {position}"
    return None


def _why_forbidden(p: Potentials, segments: Segments, index: tuple[int, ...]) -> str:
    """Name the first -inf along a segmentation that scores -inf."""
    b = index[-1]
    one = Segments(
        segments.starts[index][None], segments.ends[index][None],
        segments.labels[index][None], segments.counts[index][None],
    )  # fmt: skip
    alone = _one_sequence(p, b).map_terms(Tensor.detach)
    labels = one.to_labels(p.T)[0]
    for i, (start, end, label) in enumerate(one.to_list()[0]):
        name = f"sequence {b}, segment {i} [{start}, {end}) with label {label}"
        remedy = "allow it in the model, or correct the segments"
        if bool((alone.scores[0, start:end, label] == -torch.inf).any()):
            return f"{name}: -inf in scores forbids its label at one of its positions; {remedy}"
        if _duration_is_forbidden(alone, end - start, label):
            return f"{name}: a duration of {end - start} is forbidden for its label; {remedy}"
        if float(_segment_terms(alone, one)[0, i]) == -torch.inf:
            before = "the start" if i == 0 else f"label {int(labels[start - 1])}"
            return f"{name}: entering it from {before}, or ending there, is forbidden; {remedy}"
    return f"sequence {b}: the segmentation has score -inf"


def _duration_is_forbidden(p: Potentials, duration: int, label: int) -> bool:
    if float(p.duration_bias[min(duration, p.K) - 1, label]) == -torch.inf:
        return True
    return duration > p.K and (p.tail is None or float(p.tail[label]) == -torch.inf)


def _one_sequence(p: Potentials, b: int) -> Potentials:
    def pick(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[b : b + 1]

    return Potentials(
        p.scores[b : b + 1], p.transition, p.duration_bias, pick(p.lengths), p.start, p.end,
        pick(p.start_scores), pick(p.end_scores), p.tail,
    )  # fmt: skip
