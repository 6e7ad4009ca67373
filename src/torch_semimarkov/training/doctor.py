"""A batch that failed, kept in a file, and replayed on every backend until something differs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torch_semimarkov import functional
from torch_semimarkov.data import atomic_write
from torch_semimarkov.dispatch import available_backends
from torch_semimarkov.errors import FileFormatError, NumericsError
from torch_semimarkov.nn.checks import place_of
from torch_semimarkov.nn.head import SemiMarkovCRFHead
from torch_semimarkov.nn.segmenter import SegmentationModel
from torch_semimarkov.potentials import TERMS
from torch_semimarkov.training.examples import ExampleBatch

FAILED = "failed_batch.safetensors"
FORMAT = "torch_semimarkov batch"
# Transitions and durations in nats beyond which the posterior is all or nothing.
DRIFT = 20.0
# How far two backends may be apart, relative and absolute, by the type they compute from.
AGREEMENT = {torch.float32: (1e-4, 1e-3), torch.float64: (1e-8, 1e-8)}
_log = logging.getLogger("torch_semimarkov")
_CAUSES = {
    "nan": "the encoder, the projection or a parameter made it: check the input, the step before",
    "inf": "a score overflowed: lower the learning rate, clip gradients, or use --crf-reg",
    "impossible": "-inf entries exclude every segmentation: allow more labels or durations",
    "float32": "float32 has too few digits here: train with smaller scores (--crf-reg), or float64",
    "kernel": "the kernels of this backend are wrong: leave it out, and report this file",
}


def watch_drift(head: nn.Module, epoch: int) -> None:
    """Log the largest transition and duration of a CRF; warn when one is beyond 20 nats."""
    if not isinstance(head, SemiMarkovCRFHead):
        return
    # the parameters of a duration model, since rare durations of a normalised one lie far below 0
    weights = {"transition": [head.transition], "duration": [*head.durations.parameters()]}
    largest = {
        name: max((float(x.detach().abs().max()) for x in some), default=0.0)
        for name, some in weights.items()
    }
    shown = ", ".join(f"{name} {value:.2f}" for name, value in largest.items())
    _log.debug("epoch %d: largest %s", epoch, shown)
    if max(largest.values()) > DRIFT:
        _log.warning(
            "epoch %d: parameters of the CRF drift beyond %g nats (%s); raise --crf-reg",
            epoch, DRIFT, shown,
        )  # fmt: skip


# Keeping a batch


@contextmanager
def kept_if_it_fails(model: nn.Module, batch: ExampleBatch, folder: Path | None) -> Iterator[None]:
    """Write the potentials of a batch to the folder if the block finds NaN or Inf.

    Raises:
        NumericsError: what the block raised, with the file's name and how to replay it.
    """
    try:
        yield
    except NumericsError as error:
        head = getattr(model, "head", None)
        if folder is None or not isinstance(head, SemiMarkovCRFHead):
            raise
        path = save_batch(folder / FAILED, potentials_of(model, batch))
        raise NumericsError(
            f"{error}\n  torch-semimarkov doctor {path} replays the batch"
        ) from error


@torch.no_grad()
def potentials_of(model: SegmentationModel, batch: ExampleBatch) -> dict[str, Tensor]:
    """Every term of the score of a batch, whatever it holds."""
    head = model.head
    before, head.validate_args = head.validate_args, False
    try:
        terms = head.potentials(model.hidden(batch.features, batch.lengths), batch.lengths)
    finally:
        head.validate_args = before
    return {name: x for name, x in terms.items() if isinstance(x, Tensor)}


def save_batch(path: str | os.PathLike[str], terms: Mapping[str, Tensor]) -> Path:
    """Write the terms of ``log_partition``'s arguments, by name, whole or not at all.

    Args:
        path: a file ending in .safetensors.
        terms: ``scores``, ``transition``, ``duration_bias``, and any other argument that is there.
    """
    from safetensors.torch import save

    there = {name: x.detach().cpu().contiguous() for name, x in terms.items()}
    with atomic_write(path, "wb") as file:
        file.write(save(there, metadata={"format": FORMAT}))
    return Path(path)


def load_batch(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read what :func:`save_batch` wrote; no code in it is executed.

    Raises:
        FileFormatError: no such file, or not such a file.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileFormatError(path, "no such file")
    try:
        with safe_open(path, framework="pt") as file:
            kind = (file.metadata() or {}).get("format")
            terms = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise FileFormatError(path, f"damaged or not safetensors ({error})") from error
    needed = {"scores", "transition", "duration_bias"}
    if kind != FORMAT or not needed <= terms.keys() <= {*TERMS, "lengths"}:
        raise FileFormatError(path, f"not a batch that training wrote: holds {sorted(terms)}")
    return terms


# Replaying it


@dataclass(frozen=True)
class Finding:
    """What one backend makes of the batch in one type.

    Args:
        backend: its name, or "input".
        dtype: the type it computed from.
        problem: the first tensor that differs, and where; empty if none does.
        cause: what the likely cause is.
        skipped: why the backend cannot run here; empty if it ran.
    """

    backend: str
    dtype: str
    problem: str = ""
    cause: str = ""
    skipped: str = ""


def examine(terms: Mapping[str, Tensor]) -> list[Finding]:
    """The faults of the input, or else what each backend makes of it in float32 and float64.

    The truth is the reference in float64. Tensors are compared in the order in which they are
    computed: log partition, then the gradient of each term, then the score of the best path.

    Raises:
        ShapeError: terms that do not fit together.
    """
    found = [_fault(name, x) for name, x in terms.items() if name != "lengths"]
    found = [finding for finding in found if finding]
    if found:
        return found
    truth = _results(terms, "reference", torch.float64)
    impossible = (truth["partition"] == -torch.inf).nonzero().flatten().tolist()
    if impossible:
        where = f"sequence {impossible[0]} has no possible segmentation"
        return [Finding("input", "float64", where, _CAUSES["impossible"])]
    return [
        _compare(terms, name, dtype, truth)
        for dtype in (torch.float64, torch.float32)
        for name in available_backends()
    ]


def _fault(name: str, x: Tensor) -> Finding | None:
    bad = x.isnan() | (x == torch.inf)
    if not bool(bad.any()):
        return None
    index = bad.nonzero()[0].tolist()
    value = float(x[tuple(index)])
    cause = _CAUSES["nan" if value != value else "inf"]
    text = f"{name} holds {int(bad.sum())} values that are no scores, the first {value} at "
    return Finding("input", str(x.dtype)[6:], text + place_of(name, index), cause)


def _results(terms: Mapping[str, Tensor], backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Log partition, gradients, and best score of each sequence, by name."""
    leaves = {
        name: x if name == "lengths" else x.detach().to(dtype).requires_grad_()
        for name, x in terms.items()
    }
    arguments: dict[str, Any] = {**leaves, "backend": backend, "validate_args": False}
    with torch.enable_grad():
        partition = functional.log_partition(**arguments)
        weighed = [x for name, x in leaves.items() if name != "lengths"]
        grads = torch.autograd.grad(partition.sum(), weighed)
    found = {"partition": partition.detach()}
    names = [name for name in leaves if name != "lengths"]
    found |= {f"the gradient of {n}": g for n, g in zip(names, grads, strict=True)}
    if bool((partition > -torch.inf).all()):
        with torch.no_grad():
            found["the best score"] = functional.viterbi(**arguments).scores
    return found


def _compare(
    terms: Mapping[str, Tensor], backend: str, dtype: torch.dtype, truth: Mapping[str, Tensor]
) -> Finding:
    kind = str(dtype)[6:]
    plain = {name: x if name == "lengths" else x.to(dtype) for name, x in terms.items()}
    reasons = functional.explain(**plain).reasons[backend]
    if reasons:
        return Finding(backend, kind, skipped="; ".join(reasons))
    found = _results(terms, backend, dtype)
    for name, expected in truth.items():
        problem = _difference(name, found.get(name), expected, AGREEMENT[dtype])
        if problem:
            cause = "kernel" if dtype == torch.float64 else "float32"
            return Finding(backend, kind, problem, _CAUSES[cause])
    return Finding(backend, kind)


def _difference(
    name: str, value: Tensor | None, truth: Tensor, agreement: tuple[float, float]
) -> str:
    """The first entry that is not the truth, in words; empty if all are."""
    if value is None:
        return f"{name} could not be computed"
    relative, absolute = agreement
    value = value.to(torch.float64)
    apart = ~((value - truth).abs() <= absolute + relative * truth.abs()) & (value != truth)
    if not bool(apart.any()):
        return ""
    index = apart.nonzero()[0].tolist()
    got, wanted = float(value[tuple(index)]), float(truth[tuple(index)])
    return (
        f"{name} differs in {int(apart.sum())} of {apart.numel()} entries, the first at "
        f"{place_of(name, index)}: {got:.9g}, expected {wanted:.9g}"
    )
