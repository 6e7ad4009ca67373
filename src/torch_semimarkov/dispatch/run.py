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
    tensors = p.fields()
    if not direct.unwatched(tensors):
        from torch_semimarkov.dispatch.library import log_partition_op

        value, _ = log_partition_op(*tensors, semiring, chosen.NAME, keep, checkpoint_interval)
    elif keep:
        options = p, chosen, semiring, checkpoint_interval, dtype or torch.float64
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
    tensors = p.fields()
    if direct.unwatched(tensors):
        score, table, counts = cast(CompiledBackend, chosen).viterbi(p)
    else:
        from torch_semimarkov.dispatch.library import viterbi_op

        score, table, counts = viterbi_op(*tensors, chosen.NAME)
    if not torch.compiler.is_compiling():
        table = table.narrow(-1, 0, max(1, int(counts.max())))
    return score, Segments(*table.unbind(0), counts)


def expectations(
    p: Potentials, backend: str | None = None, checkpoint_interval: int | None = None
) -> tuple[Tensor, dict[str, Tensor]] | None:
    """The log partition (B,) float64 and its gradients by term, straight from the kernels.

    None where they are for autograd to find: on a composite backend, or where the op is watched.
    """
    chosen = choose("log_partition", p, "log", backend)
    if chosen.COMPOSITE or not direct.unwatched(p.fields()):
        return None
    compiled = cast(CompiledBackend, chosen)
    with torch.no_grad():
        value, kept = compiled.forward(p, "log", True, checkpoint_interval)
        return value, compiled.backward(p, value, kept, torch.ones_like(value))
