"""Other libraries on the same inputs, each in its own convention.

flash-semicrf lets the first segment take a transition from any label, for nothing: our ``start`` is
``transition.logsumexp(0)``, in decoding ``transition.amax(0)``. Its transition is (source,
destination) and row d-1 of its duration bias is duration d, as here. It takes prefix sums.
pytorch-crf is the case K = 1: one row of the duration bias, which is added to its emissions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any

import torch
from torch import Tensor
from truth import CHAINED
from workload import Call, Found, Workload, with_gradients, without_gradients

from torch_semimarkov import Segments

# Peers compute in float32: sums of hundreds of positions carry that much rounding.
TOLERANCE = (1e-5, 1e-2)


@dataclass(frozen=True)
class Peer:
    """A library to measure against.

    Args:
        name: how rows call it.
        package: its name in package indexes.
        module: what to import.
        calls: from the module, a workload and a phase to what can be measured: run, found, and
            what the time covers.
        only_k1: it knows no durations beyond 1.
    """

    name: str
    package: str
    module: str
    calls: Callable[[Any, Workload, str], list[tuple[str, Any, Any]]]
    only_k1: bool = False

    def fits(self, workload: Workload) -> bool:
        """True if the peer has a model of this size."""
        return workload.size.K == 1 or not self.only_k1

    def missing(self) -> str:
        """Why the peer cannot be measured here; empty if it can."""
        try:
            import_module(self.module)
        except Exception as error:  # whatever another's package raises at import
            return f"{self.package} cannot be imported: {error}"
        return ""

    def version(self) -> str:
        """Of the installed package, or an empty text."""
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return ""

    def prepare(self, workload: Workload, phase: str) -> list[Call]:
        """What can be measured of one phase."""
        parts = self.calls(import_module(self.module), workload, phase)
        version = self.version()
        return [
            Call(self.name, phase, measured, version, run, found, TOLERANCE)
            for measured, run, found in parts
        ]


def _flash_semicrf(module: Any, workload: Workload, phase: str) -> list[tuple[str, Any, Any]]:
    forward = module.streaming.semi_crf_streaming_forward
    K = workload.size.K
    leaves = [workload.cum_scores, workload.transition, workload.duration_bias]

    def value(*terms: Tensor) -> Tensor:
        # On a GPU that is its Triton kernel, from K = 3 on; on the CPU it falls back to torch.
        return forward(*terms, workload.lengths, K, use_triton=True)

    if phase == "forward":
        run = without_gradients(lambda: value(*leaves))
        return [("log partition", run, lambda found: Found(found, {}))]
    if phase == "forward+backward":
        return [("and gradients of 3 inputs", with_gradients(value, leaves), flash_gradients)]
    score = without_gradients(lambda: forward(*leaves, workload.lengths, K, semiring="max"))
    return [
        ("score and path", _flash_decode(module, workload), _flash_path),
        ("score only", score, lambda found: Found(found, {})),
    ]


def flash_gradients(result: tuple[Tensor, tuple[Tensor, ...]]) -> Found:
    """Its value and gradients in our terms."""
    value, (cum_scores, transition, duration_bias) = result
    # A position's score is in every later prefix sum.
    scores = cum_scores[:, 1:].flip(1).cumsum(1).flip(1)
    gradients = {"scores": scores, CHAINED: transition, "duration_bias": duration_bias}
    return Found(value, gradients)


def _flash_decode(module: Any, workload: Workload) -> Any:
    """Its head's own decoding, which computes in float64 and walks back in Python."""
    head = module.SemiMarkovCRFHead(workload.size.C, workload.size.K).to(workload.scores.device)
    with torch.no_grad():
        head.transition.copy_(workload.transition)
        head.duration_dist.duration_bias.copy_(workload.duration_bias)
    return without_gradients(lambda: head.decode_with_traceback(workload.scores, workload.lengths))


def _flash_path(result: Any) -> Found:
    # Its segments include their last position.
    paths = [[(s.start, s.end + 1, s.label) for s in path] for path in result.segments]
    return Found(result.scores, {}, Segments.from_list(paths))


def _pytorch_crf(module: Any, workload: Workload, phase: str) -> list[tuple[str, Any, Any]]:
    crf = module.CRF(workload.size.C).to(workload.scores)
    with torch.no_grad():
        crf.transitions.copy_(workload.transition)
        crf.start_transitions.copy_(workload.start(phase))
        crf.end_transitions.zero_()
    emissions = (workload.scores + workload.duration_bias[0]).transpose(0, 1).contiguous()
    mask = torch.ones(emissions.shape[:2], dtype=torch.bool, device=emissions.device)
    if phase == "viterbi":
        return [("path", without_gradients(lambda: crf.decode(emissions, mask)), _labels_path)]
    if phase == "forward":
        run = without_gradients(lambda: crf._compute_normalizer(emissions, mask))
        return [("log partition", run, lambda found: Found(found, {}))]
    inputs = [emissions.requires_grad_(), crf.transitions, crf.start_transitions]

    def both() -> tuple[Tensor, tuple[Tensor, ...]]:
        value = crf._compute_normalizer(emissions, mask)
        return value.detach(), torch.autograd.grad(value.sum(), inputs)

    def found(result: tuple[Tensor, tuple[Tensor, ...]]) -> Found:
        value, (scores, transition, start) = result
        gradients = {"scores": scores.transpose(0, 1), "transition": transition, "start": start}
        return Found(value, gradients)

    return [("and gradients of 3 inputs", both, found)]


def _labels_path(result: list[list[int]]) -> Found:
    labels = torch.tensor(result)
    return Found(None, {}, Segments.from_labels(labels, max_duration=1, long_runs="split"))


PEERS = (
    Peer("flash_semicrf", "flash-semicrf", "flash_semicrf", _flash_semicrf),
    Peer("pytorch_crf", "pytorch-crf", "torchcrf", _pytorch_crf, only_k1=True),
)
