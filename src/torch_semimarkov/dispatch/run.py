"""One call in, one backend out: composite backends directly, compiled ones through their op.

Where nothing has to see the op, its kernel is called without the op's wrappers; see ``direct``.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from torch_semimarkov.dispatch import direct
from torch_semimarkov.dispatch.registry import CompiledBackend, CompositeBackend
from torch_semimarkov.dispatch.select import choose
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.segments import Segments


def log_partition(
    p: Potentials,
    semiring: str = "log",
    backend: str | None = None,
    checkpoint_interval: int | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """(B,) float64, or of ``dtype``. The semiring total of canonical potentials."""
    chosen = choose("log_partition", p, semiring, backend)
    if chosen.COMPOSITE:
        value = cast(CompositeBackend, chosen).log_partition(p, semiring, checkpoint_interval)
        return value if dtype is None else value.to(dtype)
    keep = torch.is_grad_enabled() and any(x.requires_grad for _, x in p.terms())
    tensors = direct.flatten(p)
    if not direct.unwatched(tensors):
        from torch_semimarkov.dispatch.library import log_partition_op

        value, _ = log_partition_op(*tensors, semiring, chosen.NAME, keep, checkpoint_interval)
    elif keep:
        options = chosen, semiring, checkpoint_interval, dtype or torch.float64
        return direct.LogPartition.apply(*tensors, *options)
    else:
        compiled = cast(CompiledBackend, chosen)
        value, _ = compiled.forward(p, semiring, False, checkpoint_interval)
    return value if dtype is None else value.to(dtype)


def viterbi(p: Potentials, backend: str | None = None) -> tuple[Tensor, Segments]:
    """(B,) float64 and the best segmentations of canonical potentials."""
    chosen = choose("viterbi", p, "max", backend)
    if chosen.COMPOSITE:
        return cast(CompositeBackend, chosen).viterbi(p)
    tensors = direct.flatten(p)
    if direct.unwatched(tensors):
        score, table, counts = cast(CompiledBackend, chosen).viterbi(p)
    else:
        from torch_semimarkov.dispatch.library import viterbi_op

        score, table, counts = viterbi_op(*tensors, chosen.NAME)
    if not torch.compiler.is_compiling():
        table = table[..., : max(1, int(counts.max()))]
    return score, Segments(*table.unbind(0), counts)
