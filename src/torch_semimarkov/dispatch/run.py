"""One call in, one backend out: composite backends directly, compiled ones through their op.

Where nothing has to see the op, its kernel is called without the op's wrappers; see ``direct``.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from torch_semimarkov.dispatch import direct
from torch_semimarkov.dispatch.registry import (
    CompiledBackend,
    CompositeBackend,
    Stepper,
    is_imported,
    loaded,
)
from torch_semimarkov.dispatch.select import choose
from torch_semimarkov.dispatch.tangent import TANGENT_OP, compiled_tangent
from torch_semimarkov.potentials import PER_POSITION, Potentials
from torch_semimarkov.segments import Segments
from torch_semimarkov.semirings import Semiring


def looks_clean(p: Potentials) -> bool:
    """True if compiled code finds nothing wrong with the values of canonical potentials.

    False in doubt, and before the first call of the cpu backend: ``p.check_values`` tells more.
    """
    if p.device.type != "cpu" or not is_imported("cpu") or not direct.unwatched(p.fields()):
        return False
    look = getattr(loaded("cpu"), "looks_clean", None)
    return look is not None and look(p)


def holding_nan(p: Potentials) -> Tensor | None:
    """(B,) bool: which sequences hold NaN among canonical potentials on a CPU; None if none does.

    None, too, where a call is watched, which must not depend on a value.
    """
    if p.device.type != "cpu" or not direct.unwatched(p.fields()) or looks_clean(p):
        return None
    found = torch.zeros(p.B, dtype=torch.bool)
    for name, x in p.terms():
        unknown = x.detach().isnan()
        if name in PER_POSITION:
            found |= (unknown.any(-1) & p.inside()).any(-1)
        else:
            found |= unknown.any()
    return found if bool(found.any()) else None


def log_partition(
    p: Potentials,
    semiring: str | Semiring = "log",
    backend: str | None = None,
    checkpoint_interval: int | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """(B,) float64, or of ``dtype``. The semiring total of canonical potentials.

    A composite backend gives what the semiring is made for, as (k, B) of KMax.
    """
    name = semiring if isinstance(semiring, str) else semiring.name
    chosen = choose("log_partition", p, name, backend)
    if chosen.COMPOSITE:
        value = cast(CompositeBackend, chosen).log_partition(p, semiring, checkpoint_interval)
        return value if dtype is None else value.to(dtype)
    keep = torch.is_grad_enabled() and p.requires_grad
    tensors = p.fields()
    if not direct.unwatched(tensors):
        from torch_semimarkov.dispatch.library import log_partition_op

        value, _ = log_partition_op(*tensors, name, chosen.NAME, keep, checkpoint_interval)
        return value if dtype is None else value.to(dtype)
    dtype = dtype or torch.float64
    if keep:
        options = p, chosen, name, checkpoint_interval, dtype
        return direct.LogPartition.apply(*tensors, options)
    compiled = cast(CompiledBackend, chosen)
    return direct.cast_to(dtype, compiled.forward(p, name, False, checkpoint_interval)[0])


def tangent(
    p: Potentials,
    direction: Potentials,
    backend: str | None = None,
    checkpoint_interval: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(B,) float64 twice: log partition, and its derivative in a direction of all terms.

    Both are canonical and float64; the direction is finite and has the terms of the potentials.
    """
    chosen = choose(TANGENT_OP, p, "log", backend)
    if chosen.COMPOSITE:
        return cast(CompositeBackend, chosen).tangent(p, direction, checkpoint_interval)
    compiled = cast(CompiledBackend, chosen)
    return compiled_tangent(p, direction, compiled, checkpoint_interval)


def viterbi(
    p: Potentials, backend: str | None = None, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Segments]:
    """(B,) of a dtype and the best segmentations of canonical potentials."""
    chosen = choose("viterbi", p, "max", backend)
    if chosen.COMPOSITE:
        score, segments = cast(CompositeBackend, chosen).viterbi(p)
        return score.to(dtype), segments
    tensors = p.fields()
    if direct.unwatched(tensors):
        score, table, counts = cast(CompiledBackend, chosen).viterbi(p)
        score = direct.cast_to(dtype, score)
    else:
        from torch_semimarkov.dispatch.library import viterbi_op

        score, table, counts = viterbi_op(*tensors, chosen.NAME)
        score = score.to(dtype)
    if torch.compiler.is_compiling():
        return score, Segments(*table.unbind(0), counts)
    width = max(1, *counts.tolist())
    return score, Segments.unchecked(table.narrow(-1, 0, width), counts)


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


def stepper(p: Potentials, semiring: str, backend: str | None = None) -> Stepper:
    """What takes the positions of sequences in, chunk by chunk, with the shared terms of ``p``."""
    return choose("stream", p, semiring, backend).stepper(p, semiring)  # type: ignore[attr-defined]


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
