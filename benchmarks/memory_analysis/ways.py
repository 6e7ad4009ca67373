"""How each backend computes: a function of leaves, from which every phase is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from typing import Any

import torch
from peers import PEERS
from torch import Tensor
from workload import Call, Found, Workload

import torch_semimarkov
from memory_analysis.plan import Config
from torch_semimarkov import log_partition
from torch_semimarkov.functional import explain
from torch_semimarkov.functional.edges import edge_potentials
from torch_semimarkov.functional.exact import exact_log_partition
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.triton_scan import semi_crf_triton_forward

# Our names of the backends, and what each of them runs.
STREAMING = {
    "linear_scan_streaming": "reference",
    "cpu": "cpu",
    "triton": "triton",
    "triton_checkpointing": "triton",
}
EDGES = ("exact", "triton_pytorch")
OURS = (*STREAMING, *EDGES)
STRUCT = "torch_struct"
PEER_NAMES = ("flash_semicrf", STRUCT, "pytorch_crf")
BACKENDS = (*OURS, *PEER_NAMES)
# Relative error of a value and of a gradient: kernels of a GPU and peers compute in float32.
EXACTLY, ON_GPU, OF_PEERS = (1e-6, 1e-5), (1e-6, 1e-4), (1e-5, 1e-2)
PHASE_OF = {"Max": "viterbi"}  # what workload.terms calls a semiring


@dataclass(frozen=True)
class Way:
    """One backend on one configuration.

    Args:
        backend: its name.
        value: from the leaves to (B,).
        leaves: inputs that gradients are taken in.
        gradients: from gradients in the leaves to those in our terms.
        measured: what the time covers.
        version: of the package.
        tolerance: relative error of a value, and of a gradient.
        differentiable: False where there is no gradient, with ``measured`` saying why.
        edge_bytes: of the largest tensor that must be made, which can be said before.
        training: what phases with a gradient call, if that is another function.
    """

    backend: str
    value: Callable[..., Tensor]
    leaves: dict[str, Tensor]
    gradients: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    measured: str
    version: str
    tolerance: tuple[float, float]
    differentiable: bool = True
    edge_bytes: int = 0
    training: Callable[..., Tensor] | None = None


class Staged:
    """A call in two stages, of which only the second is measured."""

    def __init__(self, prepare: Callable[[], Any], run: Callable[[Any], Any]) -> None:
        self.prepare, self.run = prepare, run

    def __call__(self) -> Any:
        return self.run(self.prepare())


def staged(way: Way, phase: str) -> Staged:
    """One phase; no input is copied.

    A forward gives (B,). The others give the value and the gradients in the leaves, of which
    ``backward`` measures the second half.
    """
    if phase == "forward":

        def forward(_: Any) -> Tensor:
            with torch.no_grad():
                return way.value(*way.leaves.values())

        return Staged(lambda: None, forward)
    ready = [leaf.detach().requires_grad_() for leaf in way.leaves.values()]
    value = way.training or way.value

    def backward(total: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return total.detach(), torch.autograd.grad(total.sum(), ready)

    if phase == "backward":
        return Staged(lambda: value(*ready), backward)
    return Staged(lambda: None, lambda _: backward(value(*ready)))


def call_of(way: Way, phase: str) -> Call:
    """Something to check and to measure."""

    def found(result: Any) -> Found:
        if phase == "forward":
            return Found(result, {})
        gradients = dict(zip(way.leaves, result[1], strict=True))
        return Found(result[0], way.gradients(gradients))

    own = way.backend in OURS
    run = staged(way, phase)
    return Call(
        way.backend, phase, way.measured, way.version, run, found, way.tolerance, repeats_bits=own
    )


def same(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of leaves that are our terms."""
    return gradients


# Ours


def reason_against(name: str, workload: Workload, semiring: str, phase: str) -> str:
    """Why a backend cannot run a configuration here; empty if it can."""
    if name in PEER_NAMES:
        return _reason_of_peer(name, workload, semiring, phase)
    if name in EDGES:
        odd = name == "triton_pytorch" and semiring == "Entropy"
        return "semi_crf_triton_forward knows the semirings log and max" if odd else ""
    asked = STREAMING[name]
    terms = workload.terms("forward")
    found = explain(**terms, semiring=semiring.lower(), backend=asked)
    return "; ".join(found.reasons[asked])


def way_of(name: str, workload: Workload, config: Config, use_compile: bool = True) -> Way:
    """A backend on a workload.

    Args:
        name: one of BACKENDS, which can run it.
        workload: on its device.
        config: semiring and size.
        use_compile: ``triton`` trains through ``torch.compile``; else with checkpoints.
    """
    if name in PEER_NAMES:
        return _PEER_WAYS[name](workload, config.semiring)
    terms = workload.terms(PHASE_OF.get(config.semiring, "forward"))
    if name in EDGES:
        return _edge_way(name, workload, config, terms)
    interval = _checkpoints(config) if name.startswith("triton") else None
    value = partial(_streaming, tuple(terms), workload.lengths, config.semiring, STREAMING[name])
    training, measured = None, "log_partition"
    if name == "triton_checkpointing" or (name == "triton" and not use_compile):
        training = partial(value, checkpoint_interval=interval)
        measured += f", checkpoint_interval={interval} in training"
    elif name == "triton":
        training = torch.compile(value, dynamic=True)
        measured += ", torch.compile in training"
    tolerance = ON_GPU if name.startswith("triton") else EXACTLY
    version = torch_semimarkov.__version__
    return Way(name, value, terms, same, measured, version, tolerance, training=training)


def _checkpoints(config: Config) -> int:
    """Positions between checkpoints: as many states as there are positions between two of them."""
    return max(config.size.K, math.isqrt(config.size.T))


def _streaming(
    names: tuple[str, ...],
    lengths: Tensor,
    semiring: str,
    backend: str,
    *leaves: Tensor,
    checkpoint_interval: int | None = None,
) -> Tensor:
    terms = dict(zip(names, leaves, strict=True))
    return log_partition(
        **terms, lengths=lengths, semiring=semiring.lower(), backend=backend,
        checkpoint_interval=checkpoint_interval,
    )  # fmt: skip


def _edge_way(name: str, workload: Workload, config: Config, terms: Mapping[str, Tensor]) -> Way:
    semiring = config.semiring.lower()

    def value(*leaves: Tensor) -> Tensor:
        p = _potentials(dict(zip(terms, leaves, strict=True)), workload.lengths)
        if name == "exact":
            return exact_log_partition(p, semiring, float("inf"), p.scores.dtype)
        edge = edge_potentials(p)
        return semi_crf_triton_forward(
            edge, workload.lengths + 1, use_triton=False, semiring=semiring, use_compile=False
        )

    what = "edges made, then " + ("their kernel" if name == "exact" else "plain torch")
    version, leaves = torch_semimarkov.__version__, dict(terms)
    B, T, K, C = config.size
    size = B * T * K * C * C * workload.scores.itemsize
    return Way(name, value, leaves, same, what, version, EXACTLY, edge_bytes=size)


def _potentials(terms: dict[str, Tensor], lengths: Tensor) -> Potentials:
    return Potentials(lengths=lengths, **terms).canonical()


# Peers


def _reason_of_peer(name: str, workload: Workload, semiring: str, phase: str) -> str:
    if name == STRUCT:
        return _missing_struct()
    peer = next(peer for peer in PEERS if peer.name == name)
    if not peer.fits(workload):
        return f"{peer.package} knows no durations beyond K = 1"
    if semiring == "Entropy":
        return f"{peer.package} has no entropy semiring"
    if semiring == "Max" and phase != "forward":
        return f"{peer.package} has no gradient of the best score"
    return peer.missing()


def _missing_struct() -> str:
    try:
        import_module("torch_struct")
    except Exception as error:  # whatever another's package raises at import
        return f"torch-struct cannot be imported: {error}"
    return ""


def _flash(workload: Workload, semiring: str) -> Way:
    import flash_semicrf
    from peers import flash_gradients

    forward, K = flash_semicrf.streaming.semi_crf_streaming_forward, workload.size.K
    leaves = {
        "cum_scores": workload.cum_scores,
        "transition": workload.transition,
        "duration_bias": workload.duration_bias,
    }

    def value(*terms: Tensor) -> Tensor:
        return forward(*terms, workload.lengths, K, semiring=semiring.lower(), use_triton=True)

    def gradients(found: dict[str, Tensor]) -> dict[str, Tensor]:
        return flash_gradients((found["transition"], tuple(found.values()))).gradients

    version = PEERS[0].version()
    what = "semi_crf_streaming_forward on prefix sums"
    return Way("flash_semicrf", value, leaves, gradients, what, version, OF_PEERS)


def _torch_crf(workload: Workload, semiring: str) -> Way:
    import torchcrf

    crf = torchcrf.CRF(workload.size.C).to(workload.scores)
    emissions = (workload.scores + workload.duration_bias[0]).transpose(0, 1).contiguous()
    mask = torch.ones(emissions.shape[:2], dtype=torch.bool, device=emissions.device)
    start = workload.start(PHASE_OF.get(semiring, "forward"))
    names = ("scores", "transition", "start")
    leaves = dict(zip(names, (emissions, workload.transition, start), strict=True))
    del crf.transitions, crf.start_transitions, crf.end_transitions
    crf.end_transitions = torch.zeros_like(start)

    def value(emissions: Tensor, transition: Tensor, start: Tensor) -> Tensor:
        crf.transitions, crf.start_transitions = transition, start
        if semiring == "Log":
            return crf._compute_normalizer(emissions, mask)
        paths = torch.tensor(crf.decode(emissions, mask), device=mask.device).T
        return crf._compute_score(emissions, paths, mask)

    def gradients(found: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**found, "scores": found["scores"].transpose(0, 1)}

    version = PEERS[1].version()
    what = "normaliser" if semiring == "Log" else "decode, and the score of its labels"
    return Way("pytorch_crf", value, leaves, gradients, what, version, OF_PEERS)


def _struct(workload: Workload, semiring: str) -> Way:
    import torch_struct

    algebra = getattr(torch_struct.semirings, f"{semiring}Semiring")
    terms = workload.terms(PHASE_OF.get(semiring, "forward"))

    def value(*leaves: Tensor) -> Tensor:
        edge = edge_potentials(_potentials(dict(zip(terms, leaves, strict=True)), workload.lengths))
        # its own stand-in for -inf is finite, and infinite edges give it NaN
        edge = edge.masked_fill(edge == -torch.inf, -1e5)
        # it keeps row d for a duration of d, and row 0 unused
        edge = torch.nn.functional.pad(edge, (0, 0, 0, 0, 1, 0))
        return algebra.unconvert(torch_struct.SemiMarkov(algebra).logpartition(edge)[0])

    B, T, K, C = workload.size
    size = B * T * (K * C) ** 2 * workload.scores.itemsize
    version = metadata.version("torch-struct")
    what = "edges made, then its scan"
    return Way(STRUCT, value, terms, same, what, version, OF_PEERS, edge_bytes=size)


_PEER_WAYS = {"flash_semicrf": _flash, STRUCT: _struct, "pytorch_crf": _torch_crf}
