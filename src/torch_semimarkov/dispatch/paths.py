"""Calls that give several segmentations of each sequence: the k best, and samples."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from torch_semimarkov.dispatch import direct
from torch_semimarkov.dispatch.registry import CompiledBackend, CompositeBackend
from torch_semimarkov.dispatch.select import choose
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.segments import Segments


def kbest(
    p: Potentials, k: int, backend: str | None = None, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Segments]:
    """(k, B) of a dtype, best first, and the k best segmentations of canonical potentials."""
    chosen = choose("kbest", p, "max", backend)
    if chosen.COMPOSITE:
        scores, segments = cast(CompositeBackend, chosen).kbest(p, k)
        return scores.to(dtype), segments
    tensors = p.fields()
    if direct.unwatched(tensors):
        scores, table, counts = cast(CompiledBackend, chosen).kbest(p, k)
    else:
        from torch_semimarkov.dispatch.path_library import kbest_op

        scores, table, counts = kbest_op(*tensors, k, chosen.NAME)
    return scores.to(dtype), Segments(*table.unbind(0), counts)


def sample(
    p: Potentials,
    num_samples: int,
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> Segments:
    """(num_samples, B) segmentations of canonical potentials, drawn with their probabilities.

    A compiled backend takes one number from the generator, and makes all others from it.
    """
    chosen = choose("sample", p, "log", backend)
    if chosen.COMPOSITE:
        return cast(CompositeBackend, chosen).sample(p, num_samples, generator)
    device = p.device if generator is None else generator.device
    seed = torch.randint(2**63 - 1, (1,), generator=generator, device=device)
    tensors = p.fields()
    if direct.unwatched(tensors):
        compiled = cast(CompiledBackend, chosen)
        table, counts = compiled.sample(p, num_samples, int(seed))
    else:
        from torch_semimarkov.dispatch.path_library import sample_op

        table, counts = sample_op(*tensors, seed, num_samples, chosen.NAME)
    return Segments(*table.unbind(0), counts)
