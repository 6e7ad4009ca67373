"""Hard constraints, written into the potentials as -inf: whatever runs on those obeys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from torch_semimarkov import dispatch
from torch_semimarkov.errors import NumericsError, ShapeError
from torch_semimarkov.functional.inputs import gather, wants_validation
from torch_semimarkov.functional.known import checked_allowed, checked_boundaries
from torch_semimarkov.functional.masks import PerLabel, duration_mask, label_mask, transition_mask
from torch_semimarkov.functional.posterior import Marginals
from torch_semimarkov.potentials import PER_POSITION
from torch_semimarkov.segments import Segments

_Result = TypeVar("_Result")


@dataclass(frozen=True, eq=False)
class Constrained:
    """Potentials that obey constraints, and the way back from their results.

    Args:
        terms: keyword arguments for every function on potentials.
        num_classes: labels C of the model without copies.
        copies: (B, T) int64, 0 or 1: which copy of the labels position t may have; None if there is
            one copy only, because no boundary is forced.
    """

    terms: dict[str, Any]
    num_classes: int
    copies: Tensor | None = None

    def fold(self, result: _Result) -> _Result:
        """A result on ``terms`` in the C labels of the model: copies are one label again.

        Args:
            result: Segments, :class:`Marginals`, or a named tuple that holds ``segments``, as
                :func:`viterbi` and :func:`kbest` give. Numbers of each sequence need no folding.

        Raises:
            ShapeError: something else.
        """
        if self.copies is None:
            return result
        C = self.num_classes
        if isinstance(result, Segments):
            labels = torch.where(result.labels >= 0, result.labels % C, result.labels)
            return Segments(result.starts, result.ends, labels, result.counts)  # type: ignore[return-value]
        if isinstance(result, Marginals):
            return _folded_marginals(result, C)  # type: ignore[return-value]
        if hasattr(result, "_replace") and hasattr(result, "segments"):
            return result._replace(segments=self.fold(result.segments))
        raise ShapeError(
            "fold takes Segments, Marginals or a named tuple with segments, got "
            f"{type(result).__name__}"
        )

    def lift(self, segments: Segments) -> Segments:
        """Segmentations in C labels as ``terms`` spell them, for :func:`segment_log_prob`."""
        if self.copies is None:
            return segments
        row = torch.arange(segments.batch_size, device=segments.starts.device)[:, None]
        copy = self.copies[row, segments.starts.clamp(min=0)]
        labels = torch.where(segments.mask, segments.labels + self.num_classes * copy, -1)
        return Segments(segments.starts, segments.ends, labels, segments.counts)


def constrain(
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    lengths: Tensor | None = None,
    *,
    start: Tensor | None = None,
    end: Tensor | None = None,
    start_scores: Tensor | None = None,
    end_scores: Tensor | None = None,
    tail: Tensor | None = None,
    allowed_transitions: Tensor | Sequence[Sequence[bool]] | None = None,
    allowed_first: Tensor | Sequence[bool] | None = None,
    allowed_last: Tensor | Sequence[bool] | None = None,
    min_duration: PerLabel | None = None,
    max_duration: PerLabel | None = None,
    allowed: Tensor | None = None,
    boundaries: Tensor | None = None,
    validate_args: bool | None = None,
) -> Constrained:
    """The same model, restricted to the segmentations that obey every constraint.

    Constraints become -inf in the potentials, so the partition, gradients, Viterbi, k-best and
    samples of every backend obey them. A boundary that is forced takes more: the labels get two
    copies, and positions on its two sides have different ones, so no segment lies across it. Then
    calls work on 2 C labels, which costs twice the time and memory (four times of what is C^2), and
    more where boundaries are dense: docs/constraints.md has numbers.

    Args:
        scores, transition, duration_bias, lengths, start, end, start_scores, end_scores: as in
            :func:`log_partition`.
        tail: (C,) float. Of durations without a ceiling; default none. A ``max_duration`` ends it.
        allowed_transitions: (C, C) bool, [source, destination]; default all.
        allowed_first, allowed_last: (C,) bool. Labels of the first and the last segment.
        min_duration, max_duration: 1..K, one for all labels or one a label.
        allowed: (B, T, C) bool. Labels that each position may have.
        boundaries: (B, T) int. 1: a segment must start at this position; 0: none may; -1: either.
            Position 0 always starts one.
        validate_args: check the values, and that a segmentation is left for every sequence, which
            takes a forward pass; default on CPU only.

    Returns:
        :class:`Constrained`. Call functions with its ``terms`` and ``fold`` their results.

    Raises:
        ShapeError: arguments that do not fit together.
        ConfigError: constraints on labels that no model can have.
        SegmentError: ``allowed`` without a label at a position, or a forbidden position 0.
        NumericsError: no segmentation of a sequence is left; names the sequence and the constraint.

    Two positions, one label, durations 1 and 2, all scores 0: a boundary between them leaves one
    of the two segmentations.

    >>> from torch_semimarkov import viterbi
    >>> call = torch.zeros(1, 2, 1), torch.zeros(1, 1), torch.tensor([[0.0], [9.0]])
    >>> found = constrain(*call, boundaries=torch.tensor([[1, 1]]))
    >>> found.fold(viterbi(**found.terms)).segments.to_list()
    [[Segment(start=0, end=1, label=0), Segment(start=1, end=2, label=0)]]
    """
    named = {
        "scores": scores, "transition": transition, "duration_bias": duration_bias,
        "start": start, "end": end, "start_scores": start_scores, "end_scores": end_scores,
        "tail": tail,
    }  # fmt: skip
    terms: dict[str, Any] = {name: x for name, x in named.items() if x is not None}
    p = gather(**terms, lengths=lengths, validate_args=validate_args)
    checked = wants_validation(validate_args, p.device)
    inside, K, C = p.inside(), p.K, p.C
    rules: dict[str, Any] = {}
    if allowed_transitions is not None:
        rules["allowed_transitions"] = transition_mask(allowed_transitions, C)
    for name, labels in (("allowed_first", allowed_first), ("allowed_last", allowed_last)):
        if labels is not None:
            rules[name] = label_mask(name, labels, C)
    if min_duration is not None or max_duration is not None:
        limits = duration_mask(min_duration, max_duration, K, C, "max_duration")
        rules["min_duration and max_duration"] = limits
        if tail is not None and max_duration is not None:
            terms["tail"] = torch.full_like(tail, -torch.inf)
    if allowed is not None:
        rules["allowed"] = checked_allowed(allowed, inside, C, checked)
    if boundaries is not None:
        rules["boundaries"] = checked_boundaries(boundaries, inside, checked)
    common = {"lengths": lengths, "validate_args": False if checked else validate_args}
    found = restrict({**terms, **common}, rules)
    if checked:
        _require_possible(found, {**terms, **common}, rules)
    return found


def restrict(terms: dict[str, Any], rules: dict[str, Any]) -> Constrained:
    """Potentials under checked constraints, without a look at whether a segmentation is left.

    Args:
        terms: keyword arguments for functions on potentials.
        rules: masks by the name of the argument of :func:`constrain`.
    """
    terms = dict(terms)
    C, device = terms["scores"].shape[2], terms["scores"].device
    of = {
        "allowed_transitions": "transition",
        "allowed_first": "start",
        "allowed_last": "end",
        "min_duration and max_duration": "duration_bias",
        "allowed": "scores",
    }
    for name, mask in rules.items():
        if name in of:
            term = terms.get(of[name])
            term = terms["scores"].new_zeros(C) if term is None else term
            terms[of[name]] = term.masked_fill(~mask.to(device), -torch.inf)
    if "boundaries" not in rules:
        return Constrained(terms, C)
    boundaries = rules["boundaries"].to(device)
    if bool((boundaries == 0).any()):
        starts = terms.get("start_scores")
        starts = torch.zeros_like(terms["scores"]) if starts is None else starts
        terms["start_scores"] = starts.masked_fill((boundaries == 0)[..., None], -torch.inf)
    copies = (boundaries == 1).cumsum(1) % 2
    if not bool((boundaries[:, 1:] == 1).any()):
        return Constrained(terms, C)
    terms["duration_bias"] = terms["duration_bias"].masked_fill(
        ~_fitting(boundaries == 1, terms)[:, None], -torch.inf
    )
    return Constrained(_with_copies(terms, copies), C, copies)


def _fitting(forced: Tensor, terms: dict[str, Any]) -> Tensor:
    """(K,) bool. Durations for which there is room between two forced boundaries of a sequence."""
    T = forced.shape[1]
    position = torch.arange(T, device=forced.device)
    age = position - torch.where(forced, position, 0).cummax(1).values
    lengths = terms.get("lengths")
    if lengths is not None:
        age = torch.where(position < lengths.to(forced.device)[:, None], age, 0)
    K = terms["duration_bias"].shape[0]
    return torch.arange(K, device=forced.device) <= age.max()


def _with_copies(terms: dict[str, Any], copies: Tensor) -> dict[str, Any]:
    """Two copies of every label; segments of copy ``copies[:, t]`` alone may start at t.

    Where the copies change, the old one has -inf, so no segment lies across. One position is
    enough, and kernels are fast where scores are finite.
    """
    doubled = dict(terms)
    if terms.get("start_scores") is None:
        doubled["start_scores"] = torch.zeros_like(terms["scores"])
    for name in ("transition", "duration_bias", "start", "end", "tail", *PER_POSITION):
        x = doubled.get(name)
        if x is not None:
            doubled[name] = torch.cat((x, x), -1)
    doubled["transition"] = torch.cat((doubled["transition"], doubled["transition"]), -2)
    C = terms["scores"].shape[-1]
    other = torch.stack((copies == 1, copies == 0), -1).repeat_interleave(C, -1)
    changes = torch.zeros_like(copies, dtype=torch.bool)
    changes[:, 1:] = copies[:, 1:] != copies[:, :-1]
    doubled["start_scores"] = doubled["start_scores"].masked_fill(other, -torch.inf)
    doubled["scores"] = doubled["scores"].masked_fill(other & changes[..., None], -torch.inf)
    return doubled


def _require_possible(found: Constrained, terms: dict[str, Any], rules: dict[str, Any]) -> None:
    """Refuse constraints that leave a sequence without any segmentation, and say which one did."""
    impossible = _without_segmentation(found)
    if not bool(impossible.any()):
        return
    b = int(impossible.nonzero()[0])
    before: list[str] = []
    blame = "the potentials alone exclude them all"
    for name in ("", *rules):
        before += [name] if name else []
        if bool(_without_segmentation(restrict(terms, {key: rules[key] for key in before}))[b]):
            kept = f" together with {', '.join(before[:-1])}" if before[1:] else ""
            blame = f"none obeys {name}{kept}" if name else blame
            break
    others = [int(i) for i in impossible.nonzero()[1:, 0]]
    more = f" (nor of sequences {', '.join(map(str, others[:8]))})" if others else ""
    raise NumericsError(
        f"no segmentation of sequence {b} is possible{more}: {blame}; relax it, or correct what "
        "is known of the sequence"
    )


@torch.no_grad()
def _without_segmentation(found: Constrained) -> Tensor:
    return dispatch.log_partition(gather(**found.terms), "log") == -torch.inf


def _folded_marginals(found: Marginals, C: int) -> Marginals:
    def both(x: Tensor) -> Tensor:
        return x[..., :C] + x[..., C:]

    table = both(found.transitions)
    return found._replace(
        labels=both(found.labels),
        starts=both(found.starts),
        ends=both(found.ends),
        transitions=table[..., :C, :] + table[..., C:, :],
        durations=both(found.durations),
        beyond=both(found.beyond),
    )
