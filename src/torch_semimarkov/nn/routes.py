"""Which path the head's calls take: streaming, or exact by way of the edge tensor."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from torch_semimarkov import functional
from torch_semimarkov.dispatch import leave_out
from torch_semimarkov.errors import UnsupportedError
from torch_semimarkov.functional.exact import Route, exact_log_partition, exact_log_prob, route
from torch_semimarkov.functional.inputs import gather, result_dtype
from torch_semimarkov.segments import Segments
from torch_semimarkov.semirings import Semiring, as_semiring


def route_of(
    terms: dict[str, Any], semiring: str | Semiring, backend: str, threshold: float
) -> Route:
    """The path of a forward, with the bytes of the edge tensor and the choice of a backend."""
    return route(gather(**terms), semiring, backend, threshold)


def total_of(
    terms: dict[str, Any], semiring: str | Semiring, backend: str, threshold: float
) -> Tensor:
    """The semiring total in the type of the scores, by the path that ``backend`` asks for."""
    p = gather(**terms)
    found = route(p, semiring, backend, threshold)
    if found.path == "streaming":
        algebra = as_semiring(semiring)
        if algebra.neutral == 1.0:  # where the product is not + but *, terms are exponentials
            p = p.map_terms(torch.exp)
            terms = {**terms, **dict(p.terms())}
        return functional.log_partition(
            **terms, semiring=algebra, backend=streaming_backend(backend)
        )
    return exact_log_partition(p, semiring, threshold, result_dtype(terms["scores"]))


def log_prob_of(
    segments: Segments, terms: dict[str, Any], backend: str, threshold: float, checked: bool
) -> Tensor:
    """Log-probability of segmentations, by the path that ``backend`` asks for."""
    if backend != "exact":
        return functional.segment_log_prob(
            segments, **terms, backend=streaming_backend(backend), validate_segments=checked
        )
    dtype = result_dtype(terms["scores"])
    return exact_log_prob(gather(**terms), segments, threshold, checked).to(dtype)


def streaming_backend(name: str, call: str = "log_partition") -> str | None:
    """The backend for the streaming path; None for the automatic choice.

    Raises:
        UnsupportedError: the exact path was asked for, which ``call`` does not have.
    """
    if name == "exact":
        raise UnsupportedError(f'{call} has no backend="exact"; use "streaming" or "auto"')
    return None if name in ("auto", "streaming") else name


def triton_or_not(use_triton: bool) -> AbstractContextManager[None]:
    """A block in which Triton's kernels are considered, or left out of the automatic choice."""
    return nullcontext() if use_triton else leave_out("triton", "use_triton=False")


def at_least_float32(x: Tensor) -> Tensor:
    """Half types as float32, others as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def widest(x: Tensor) -> torch.dtype:
    """The widest float type of the device of ``x``."""
    return torch.float32 if x.device.type == "mps" else torch.float64
