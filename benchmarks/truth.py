"""Correct before fast: what a backend says in float64, and how far a call is off."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from workload import Call, Found, Workload

from torch_semimarkov import log_partition, segment_score, viterbi
from torch_semimarkov.errors import SegmentError

# Beyond this many positions the reference takes minutes; identities are checked in its place.
REFERENCE_POSITIONS = 10_000
CHAINED = "transition and start"


class Verdict(NamedTuple):
    """What a comparison came to.

    Args:
        problem: what is wrong; empty if nothing is.
        value_error: largest relative error of a value, or None.
        gradient_error: largest error of a gradient, relative to its term's largest, or None.
        checked: what the call was compared with.
    """

    problem: str = ""
    value_error: float | None = None
    gradient_error: float | None = None
    checked: str = "reference float64"


class Truth:
    """The right answers for one workload, each computed when it is first asked for."""

    def __init__(self, workload: Workload, backend: str = "reference") -> None:
        self.workload, self.backend = workload, backend
        self.options = {"lengths": workload.lengths, "backend": backend}

    @property
    def affordable(self) -> bool:
        """True if the backend can be waited for."""
        return self.backend != "reference" or self.workload.size.T <= REFERENCE_POSITIONS

    def terms(self, phase: str) -> dict[str, Tensor]:
        """The terms that a call gets, rounded as it gets them, in float64."""
        return {name: x.double() for name, x in self.workload.terms(phase).items()}

    @cached_property
    def partition(self) -> Found:
        """Log partition and its gradients."""
        terms = {name: x.requires_grad_() for name, x in self.terms("forward").items()}
        value = log_partition(**terms, **self.options)
        found = torch.autograd.grad(value.sum(), list(terms.values()))
        gradients = dict(zip(terms, found, strict=True))
        weights = self.workload.transition.double().softmax(0)
        gradients[CHAINED] = gradients["transition"] + weights * gradients["start"]
        return Found(value.detach(), gradients)

    @cached_property
    def best(self) -> Found:
        """Score of the best segmentation."""
        return Found(viterbi(**self.terms("viterbi"), **self.options).scores, {})

    def of(self, phase: str) -> Found:
        """What a call of this phase must find."""
        return self.best if phase == "viterbi" else self.partition

    def score(self, found: Found) -> Tensor:
        """(B,). Score of the path that was found, computed anew in float64."""
        terms = {**self.terms("viterbi"), "lengths": self.workload.lengths}
        return segment_score(found.segments, **terms)


def verdict_of(call: Call, result: Any, truth: Truth) -> Verdict:
    """Compare the result of a call with the truth."""
    found = call.found(result).to("cpu")
    if not truth.affordable:
        return _by_identities(call, found, truth)
    right, (value_limit, gradient_limit) = truth.of(call.phase), call.tolerance
    problems, errors = [], []
    for name, value in _values(found, truth, problems):
        error = _relative(value, right.value)
        errors.append(error)
        if not error <= value_limit:
            problems.append(f"{name} is off by {error:.1e}, allowed {value_limit:.0e}")
    gradient_errors = []
    for name, gradient in found.gradients.items():
        error = _scaled(gradient, right.gradients[name])
        gradient_errors.append(error)
        if not error <= gradient_limit:
            problems.append(
                f"gradient of {name} is off by {error:.1e}, allowed {gradient_limit:.0e}"
            )
    largest = max(gradient_errors, default=None)
    checked = f"{truth.backend} float64"
    return Verdict("; ".join(problems), max(errors, default=None), largest, checked)


def differs(first: Found, second: Found) -> bool:
    """True if two results are not the same to the last bit."""
    pairs = [(first.gradients[name], second.gradients[name]) for name in first.gradients]
    if first.value is not None:
        pairs.append((first.value, second.value))
    if first.segments is not None and first.segments != second.segments:
        return True
    return not all(torch.equal(a, b) for a, b in pairs)


def _values(found: Found, truth: Truth, problems: list[str]) -> list[tuple[str, Tensor]]:
    """The values to compare: the one that was reported, and the score of the path."""
    values = [] if found.value is None else [("value", found.value)]
    if found.segments is not None:
        try:
            values.append(("score of the path", truth.score(found)))
        except SegmentError as error:
            problems.append(" ".join(str(error).split()))
    return values


def _relative(value: Tensor, right: Tensor) -> float:
    return float(((value.double() - right) / right).abs().max())


def _scaled(gradient: Tensor, right: Tensor) -> float:
    return float((gradient.double() - right).abs().max() / right.abs().max().clamp(min=1))


def _by_identities(call: Call, found: Found, truth: Truth) -> Verdict:
    """What must hold whatever the right answer is: for sizes the reference cannot reach."""
    value_limit, gradient_limit = call.tolerance
    problems = [] if bool(found.value.isfinite().all()) else ["value is not finite"]
    error = gradient_error = None
    for _, score in _values(Found(None, {}, found.segments), truth, problems):
        error = _relative(found.value, score)
        if not error <= value_limit:
            problems.append(f"value and score of the path differ by {error:.1e}")
    if found.gradients:
        gradients = {name: x.double() for name, x in found.gradients.items()}
        segments = gradients["duration_bias"].sum()
        entered = gradients["transition"].sum() + gradients["start"].sum()
        gaps = (gradients["scores"].sum(-1) - 1).abs().max(), (entered / segments - 1).abs()
        gradient_error = float(max(gaps))
        if not gradient_error <= gradient_limit:
            problems.append(f"marginals do not sum to 1 or segments to starts: {gaps}")
    return Verdict("; ".join(problems), error, gradient_error, "identities")
