"""One call in, one backend out: composite backends directly, compiled ones through their op."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from torch_semimarkov.dispatch.registry import CompositeBackend
from torch_semimarkov.dispatch.select import choose
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.segments import Segments


def log_partition(
    p: Potentials,
    semiring: str = "log",
    backend: str | None = None,
    checkpoint_interval: int | None = None,
) -> Tensor:
    """(B,) float64. The semiring total of canonical potentials."""
    chosen = choose("log_partition", p, semiring, backend)
    if chosen.COMPOSITE:
        return cast(CompositeBackend, chosen).log_partition(p, semiring, checkpoint_interval)
    from torch_semimarkov.dispatch.library import flatten, log_partition_op

    keep = torch.is_grad_enabled() and any(x.requires_grad for _, x in p.terms())
    value, _ = log_partition_op(*flatten(p), semiring, chosen.NAME, keep, checkpoint_interval)
    return value


def viterbi(p: Potentials, backend: str | None = None) -> tuple[Tensor, Segments]:
    """(B,) float64 and the best segmentations of canonical potentials."""
    chosen = choose("viterbi", p, "max", backend)
    if chosen.COMPOSITE:
        return cast(CompositeBackend, chosen).viterbi(p)
    from torch_semimarkov.dispatch.library import flatten, viterbi_op

    score, table, counts = viterbi_op(*flatten(p), chosen.NAME)
    if not torch.compiler.is_compiling():
        table = table[..., : max(1, int(counts.max()))]
    return score, Segments(*table.unbind(0), counts)
