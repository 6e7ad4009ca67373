"""The registered ops of calls that give several segmentations of each sequence.

How many segments the longest of them has depends on the values, so that an op pads its table to T.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torch_semimarkov.dispatch.direct import assemble
from torch_semimarkov.dispatch.registry import compiled
from torch_semimarkov.potentials import TERMS, Potentials
from torch_semimarkov.segments import PAD

_TENSORS = len(TERMS) + 1


@torch.library.custom_op("torch_semimarkov::kbest", mutates_args=())
def kbest_op(
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    start: Tensor | None,
    end: Tensor | None,
    start_scores: Tensor | None,
    end_scores: Tensor | None,
    tail: Tensor | None,
    lengths: Tensor,
    k: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (k, B) float64, a table (3, k, B, T) of starts, ends and labels, counts (k, B)."""
    tensors = (
        scores, transition, duration_bias, start, end, start_scores, end_scores, tail, lengths,
    )  # fmt: skip
    p = assemble(tensors)
    best, table, counts = compiled(backend).kbest(p, k)
    return best, _padded(table, p), counts


@kbest_op.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    p, k = assemble(arguments[:_TENSORS]), arguments[_TENSORS]
    scores = torch.empty(k, p.B, dtype=torch.float64, device=p.device)
    return scores, *_blank(p, k)


@torch.library.custom_op("torch_semimarkov::sample", mutates_args=())
def sample_op(
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    start: Tensor | None,
    end: Tensor | None,
    start_scores: Tensor | None,
    end_scores: Tensor | None,
    tail: Tensor | None,
    lengths: Tensor,
    seed: Tensor,
    num_samples: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """A table (3, num_samples, B, T) of starts, ends and labels, and counts (num_samples, B).

    ``seed`` is (1,) int64, a tensor so that a compiled graph draws anew at each call.
    """
    tensors = (
        scores, transition, duration_bias, start, end, start_scores, end_scores, tail, lengths,
    )  # fmt: skip
    p = assemble(tensors)
    table, counts = compiled(backend).sample(p, num_samples, int(seed))
    return _padded(table, p), counts


@sample_op.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    p, num_samples = assemble(arguments[:_TENSORS]), arguments[_TENSORS + 1]
    return _blank(p, num_samples)


def _padded(table: Tensor, p: Potentials) -> Tensor:
    return torch.nn.functional.pad(table, (0, p.T - table.shape[-1]), value=PAD)


def _blank(p: Potentials, n: int) -> tuple[Tensor, Tensor]:
    table = torch.empty(3, n, p.B, p.T, dtype=torch.int64, device=p.device)
    return table, torch.empty(n, p.B, dtype=torch.int64, device=p.device)
