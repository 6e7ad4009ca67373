"""What is measured: the inputs of one size, and our own calls on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import torch_semimarkov
from torch_semimarkov import Segments, log_partition, viterbi
from torch_semimarkov.cli.timing import Size

PHASES = ("forward", "forward+backward", "viterbi")
OURS = "cpu"
# Largest relative error of our values and gradients: the cpu backend computes in float64, the
# kernels of a GPU in the type of the inputs.
TOLERANCES = {OURS: (1e-6, 1e-5), "triton": (1e-6, 1e-4)}


@dataclass(frozen=True)
class Workload:
    """The potentials of one size.

    Args:
        scores: (B, T, C), with mean 0 over T for every sequence and label: a peer subtracts that
            mean before it decodes, which then changes nothing.
        transition: (C, C), from source to destination.
        duration_bias: (K, C).
        lengths: (B,), all T.
    """

    scores: Tensor
    transition: Tensor
    duration_bias: Tensor
    lengths: Tensor

    @property
    def size(self) -> Size:
        B, T, C = self.scores.shape
        return Size(B, T, self.duration_bias.shape[0], C)

    @cached_property
    def cum_scores(self) -> Tensor:
        """(B, T+1, C). Prefix sums, summed in float64 and rounded once."""
        wide = torch.nn.functional.pad(self.scores.double(), (0, 0, 1, 0)).cumsum(1)
        return wide.to(self.scores.dtype)

    def to(self, device: torch.device | str) -> Workload:
        """The same potentials on a device."""
        tensors = (self.scores, self.transition, self.duration_bias, self.lengths)
        return Workload(*(tensor.to(device) for tensor in tensors))

    def start(self, phase: str) -> Tensor:
        """(C,). The start scores that are the peer's free transition into the first segment."""
        if phase == "viterbi":
            return self.transition.amax(0)
        return self.transition.logsumexp(0)

    def terms(self, phase: str) -> dict[str, Tensor]:
        """The float terms of our model that is the peer's."""
        return {
            "scores": self.scores,
            "transition": self.transition,
            "duration_bias": self.duration_bias,
            "start": self.start(phase),
        }


def draw(size: Size, dtype: torch.dtype = torch.float32, seed: int = 0) -> Workload:
    """Random potentials of one size."""
    B, T, K, C = size
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, generator=generator, dtype=torch.float64)

    scores = normal(B, T, C)
    scores -= scores.mean(1, keepdim=True)
    return Workload(
        scores.to(dtype),
        normal(C, C, scale=0.5).to(dtype),
        normal(K, C, scale=0.5).to(dtype),
        torch.full((B,), T),
    )


@dataclass(frozen=True)
class Found:
    """What a call found, in our terms.

    Args:
        value: (B,). Log partition, or score of the best segmentation; None if the call gives none.
        gradients: of the summed value, by term; "transition and start" is the gradient in the
            transition where the start scores are a function of it.
        segments: the best segmentations, or None.
    """

    value: Tensor | None
    gradients: dict[str, Tensor]
    segments: Segments | None = None

    def to(self, device: torch.device | str) -> Found:
        """The same on a device."""
        value = None if self.value is None else self.value.to(device)
        gradients = {name: x.to(device) for name, x in self.gradients.items()}
        return Found(value, gradients, self.segments and self.segments.to(device))


@dataclass(frozen=True)
class Call:
    """Something to measure.

    Args:
        backend: who computes.
        phase: one of PHASES.
        measured: what the time covers, in words.
        version: of the package that computes.
        run: the measured function.
        found: from its result to what can be compared; not measured.
        tolerance: largest error of a value, relative, and of a gradient, relative to the largest
            entry of its term or to 1.
        repeats_bits: the same call must give the same bits twice.
    """

    backend: str
    phase: str
    measured: str
    version: str
    run: Callable[[], Any]
    found: Callable[[Any], Found]
    tolerance: tuple[float, float]
    repeats_bits: bool = False


def our_call(
    workload: Workload,
    phase: str,
    validate_args: bool | None = None,
    backend: str = OURS,
    checkpoint_interval: int | None = None,
) -> Call:
    """Our public function on one workload."""
    terms = workload.terms(phase)
    options: dict[str, Any] = {
        "lengths": workload.lengths, "backend": backend, "validate_args": validate_args,
    }  # fmt: skip
    if checkpoint_interval is not None and phase != "viterbi":
        options["checkpoint_interval"] = checkpoint_interval
    if phase == "viterbi":
        run, found = _decode(terms, options), _found_path
    elif phase == "forward":
        run, found = _forward(terms, options), lambda value: Found(value, {})
    else:
        run = _both(terms, options)

        def found(result: tuple[Tensor, tuple[Tensor, ...]]) -> Found:
            return Found(result[0], dict(zip(terms, result[1], strict=True)))

    measured = "score and path" if phase == "viterbi" else "log partition"
    if phase == "forward+backward":
        measured = "and gradients of 4 inputs"
    if checkpoint_interval is not None:
        measured += f", checkpoint_interval={checkpoint_interval}"
    version, tolerance = torch_semimarkov.__version__, TOLERANCES.get(backend, TOLERANCES[OURS])
    return Call(backend, phase, measured, version, run, found, tolerance, True)


def with_gradients(function: Callable[..., Tensor], leaves: list[Tensor]) -> Any:
    """``function(*leaves)`` and the gradients of its sum, as one call to measure."""
    ready = [leaf.detach().clone().requires_grad_() for leaf in leaves]

    def run() -> tuple[Tensor, tuple[Tensor, ...]]:
        value = function(*ready)
        return value.detach(), torch.autograd.grad(value.sum(), ready)

    return run


def without_gradients(function: Callable[[], Any]) -> Any:
    """``function()`` where autograd records nothing."""

    def run() -> Any:
        with torch.no_grad():
            return function()

    return run


def _forward(terms: dict[str, Tensor], options: dict[str, Any]) -> Any:
    return without_gradients(lambda: log_partition(**terms, **options))


def _both(terms: dict[str, Tensor], options: dict[str, Any]) -> Any:
    names = list(terms)

    def value(*leaves: Tensor) -> Tensor:
        return log_partition(**dict(zip(names, leaves, strict=True)), **options)

    return with_gradients(value, list(terms.values()))


def _decode(terms: dict[str, Tensor], options: dict[str, Any]) -> Any:
    return without_gradients(lambda: viterbi(**terms, **options))


def _found_path(result: Any) -> Found:
    return Found(result.scores, {}, result.segments)
