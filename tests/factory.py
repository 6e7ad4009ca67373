"""The one factory of inputs, the one list of sizes, and the backends that keep the contract."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import oracle
import pytest
import torch
from torch import Tensor

from torch_semimarkov import dispatch
from torch_semimarkov.dispatch import queries, run
from torch_semimarkov.errors import UnsupportedError
from torch_semimarkov.segments import Segments


@dataclass(frozen=True)
class Size:
    """B sequences of these lengths, padded to T positions; K durations, C labels."""

    lengths: tuple[int, ...]
    K: int
    C: int
    padding: int = 0

    @property
    def B(self) -> int:
        return len(self.lengths)

    @property
    def T(self) -> int:
        return max(self.lengths) + self.padding

    def __str__(self) -> str:
        lengths = ",".join(map(str, self.lengths))
        return f"L{lengths}-T{self.T}-K{self.K}-C{self.C}"


# Small enough to enumerate: at most about a thousand segmentations of a sequence.
SIZES = (
    Size((1,), K=1, C=1),
    Size((1, 1), K=3, C=3),
    Size((5, 3, 1), K=1, C=3),
    Size((2, 6, 5), K=2, C=2),
    Size((5, 1, 4), K=3, C=3),
    Size((4, 3), K=6, C=2, padding=2),
    Size((7, 2, 6), K=3, C=1),
    Size((3, 4), K=2, C=5, padding=1),
)
# Beyond enumeration: here the reference in float64 judges the other backends.
LARGER_SIZES = (
    Size((97, 64, 1, 33), K=16, C=8),
    Size((130, 129), K=33, C=5, padding=7),
    Size((40, 21), K=64, C=17),
)
# One size with every difficulty, for tests that need only one.
SIZE = SIZES[4]

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

# "boundary": start_scores and end_scores; "forbidden": -inf in every term that is present;
# "impossible": the first sequence has no segmentation of a finite score.
FLAGS = {
    "plain": frozenset(),
    "start-end": frozenset({"start-end"}),
    "boundary": frozenset({"boundary"}),
    "per-duration": frozenset({"per-duration"}),
    "forbidden": frozenset({"forbidden", "start-end"}),
    "all": frozenset({"forbidden", "start-end", "boundary", "per-duration"}),
    "tail": frozenset({"tail", "boundary"}),
    "all-tail": frozenset({"tail", "forbidden", "start-end", "boundary", "per-duration"}),
    "impossible": frozenset({"impossible", "boundary", "start-end"}),
    "impossible-per-duration": frozenset({"impossible", "per-duration", "forbidden"}),
}
TERMS = (
    "scores", "transition", "duration_bias", "start", "end", "start_scores", "end_scores", "tail",
)  # fmt: skip
PER_POSITION = ("scores", "start_scores", "end_scores")
# Flags under which every sequence has a segmentation.
POSSIBLE = [name for name, chosen in FLAGS.items() if "impossible" not in chosen]


def needs_cuda(backend: str) -> bool:
    """True for the Triton backend, unless Triton's interpreter stands in for the device."""
    return backend == "triton" and not os.environ.get("TRITON_INTERPRET")


def device_of(backend: str) -> str:
    """Where the inputs for a backend must lie."""
    return "cuda" if needs_cuda(backend) else "cpu"


# Every backend that is known joins every contract test.
BACKENDS = tuple(
    pytest.param(name, marks=pytest.mark.gpu if needs_cuda(name) else ())
    for name in dispatch.available_backends()
)

for_each_backend = pytest.mark.parametrize("backend", BACKENDS)
for_each_other_backend = pytest.mark.parametrize(
    "backend", [each for each in BACKENDS if each.values != ("reference",)]
)
for_each_size = pytest.mark.parametrize("size", SIZES, ids=str)
for_each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
for_each_flags = pytest.mark.parametrize("flags", FLAGS)
for_each_possible = pytest.mark.parametrize("flags", POSSIBLE)


@contextmanager
def runs_on(backend: str) -> Iterator[None]:
    """Pin a backend, and assert afterwards that it, and no other, ran.

    A backend that says it cannot run a call skips the test; the reference must run every call.
    """
    ran = []
    choose = run.choose

    def spy(*args, **kwargs):
        chosen = choose(*args, **kwargs)
        ran.append(chosen.NAME)
        return chosen

    with (
        mock.patch.object(run, "choose", spy),
        mock.patch.object(queries, "choose", spy),
        dispatch.use_backend(backend),
    ):
        try:
            yield
        except UnsupportedError as error:
            if backend == "reference":
                raise
            pytest.skip(str(error))
    assert set(ran) == {backend}, f"{backend} was pinned, these ran: {ran}"


def by_threads(counts: Iterable[int], compute: Callable[[], Any]) -> list[Any]:
    """What ``compute()`` gives on the cpu backend, once for each number of torch's threads."""
    before, results = torch.get_num_threads(), []
    try:
        for count in counts:
            torch.set_num_threads(count)
            with runs_on("cpu"):
                results.append(compute())
    finally:
        torch.set_num_threads(before)
    return results


def make_inputs(
    size: Size = SIZE,
    dtype: torch.dtype = torch.float64,
    flags: str = "plain",
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """Keyword arguments for every public function: float terms of ``dtype`` and lengths."""
    chosen = FLAGS[flags]
    draw = np.random.default_rng(seed)
    B, T, K, C = size.B, size.T, size.K, size.C
    shapes = {
        "scores": (B, T, C),
        "transition": (K, C, C) if "per-duration" in chosen else (C, C),
        "duration_bias": (K, C),
    }
    if "start-end" in chosen:
        shapes.update(start=(C,), end=(C,))
    if "boundary" in chosen:
        shapes.update(start_scores=(B, T, C), end_scores=(B, T, C))
    if "tail" in chosen:
        shapes["tail"] = (C,)
    terms = {name: draw.normal(size=shape) for name, shape in shapes.items()}
    if "forbidden" in chosen:
        _forbid(terms, draw)
    if "impossible" in chosen:
        terms["scores"][0, size.lengths[0] - 1] = -np.inf
    inputs = {name: torch.tensor(x, device=device).to(dtype) for name, x in terms.items()}
    return {**inputs, "lengths": torch.tensor(size.lengths, device=device)}


def _forbid(terms: dict[str, np.ndarray], draw: np.random.Generator) -> None:
    """Put -inf into every term, and leave the last label possible everywhere in steps of 1."""
    for name, term in terms.items():
        forbidden = draw.random(term.shape) < 0.25
        forbidden[..., -1] = False
        if name == "transition":
            forbidden[..., 0, -1] = term.shape[-1] > 1
        if name == "duration_bias":
            forbidden[1:, -1] = draw.random(len(term) - 1) < 0.25
            forbidden[-1, 0] = forbidden.size > 1
        term[forbidden] = -np.inf


def tensors(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The float terms among the inputs."""
    return {name: inputs[name] for name in TERMS if name in inputs}


def with_grad(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the inputs that all require a gradient."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in tensors(inputs).items()}
    return {**leaves, "lengths": inputs["lengths"]}


def outside_of(inputs: dict[str, Tensor]) -> Tensor:
    """(B, T) bool. The padding: positions past their sequence's length."""
    T = inputs["scores"].shape[1]
    return torch.arange(T, device=inputs["lengths"].device) >= inputs["lengths"][:, None]


def with_padding(inputs: dict[str, Tensor], junk: float) -> dict[str, Tensor]:
    """The inputs with ``junk`` in the padding of every term that has one."""
    outside = outside_of(inputs)[..., None]
    return {n: x.masked_fill(outside, junk) if n in PER_POSITION else x for n, x in inputs.items()}


def function_of_finite_terms(
    inputs: dict[str, Tensor], call: Callable[..., Tensor], **options: Any
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """A function of every term, and its arguments: what ``gradcheck`` takes.

    Entries of -inf are put back inside, unmoved, and a value of -inf becomes a constant.
    """
    leaves = tensors(inputs)
    forbidden = {name: x == -torch.inf for name, x in leaves.items()}
    arguments = [x.masked_fill(forbidden[n], 0.0).requires_grad_() for n, x in leaves.items()]

    def function(*values: Tensor) -> Tensor:
        named = {
            name: torch.where(forbidden[name], -torch.inf, x)
            for name, x in zip(leaves, values, strict=True)
        }
        value = call(**named, lengths=inputs["lengths"], **options)
        return torch.where(value == -torch.inf, 0.0, value)

    return function, tuple(arguments)


def one_sequence(inputs: dict[str, Tensor], b: int) -> dict[str, Tensor]:
    """The inputs of sequence b alone, cut to its length."""
    L = int(inputs["lengths"][b])
    alone = {
        name: x[b : b + 1, :L] if name in PER_POSITION else x for name, x in tensors(inputs).items()
    }
    return {**alone, "lengths": inputs["lengths"][b : b + 1]}


def upstream(B: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    """(B,). A different weight for each sequence, one of them negative."""
    return torch.linspace(1.5, -0.75, B, dtype=dtype, device=device)


def gradients_of(value: Tensor, inputs: dict[str, Tensor], weight: Tensor) -> dict[str, Tensor]:
    """Gradient of ``(weight * value).sum()`` in every term, by name."""
    leaves = tensors(inputs)
    return dict(zip(leaves, torch.autograd.grad(value, list(leaves.values()), weight), strict=True))


# What enumeration says


def to_sequence(inputs: dict[str, Tensor], b: int) -> oracle.Sequence:
    """Sequence b in the oracle's form; terms that are left out are zeros."""
    alone = one_sequence(inputs, b)
    C = alone["scores"].shape[-1]
    arrays = {}
    for name in TERMS:
        if name in alone:
            array = alone[name].detach().cpu().double().numpy()
            arrays[name] = array[0] if name in PER_POSITION else array
        else:
            shape = alone["scores"].shape[1:] if name in PER_POSITION else (C,)
            arrays[name] = np.full(shape, -np.inf if name == "tail" else 0.0)
    return oracle.Sequence(**arrays)


@cache
def oracles(
    size: Size = SIZE, dtype: torch.dtype = torch.float64, flags: str = "plain", seed: int = 0
) -> tuple[oracle.Oracle, ...]:
    """One oracle for each sequence of ``make_inputs(size, dtype, flags, seed)``."""
    inputs = make_inputs(size, dtype, flags, seed)
    return tuple(oracle.Oracle(to_sequence(inputs, b)) for b in range(size.B))


def stacked(inputs: dict[str, Tensor], name: str, parts: list[np.ndarray]) -> Tensor:
    """One term of the whole batch from its part in each sequence.

    Per position: padded with zeros and stacked. Shared by the sequences: summed.
    """
    if name not in PER_POSITION:
        return torch.from_numpy(np.sum(parts, axis=0))
    whole = torch.zeros(inputs["scores"].shape, dtype=torch.float64)
    for b, part in enumerate(parts):
        whole[b, : len(part)] = torch.from_numpy(part)
    return whole


def all_segmentations(found: oracle.Oracle) -> Segments:
    """(N, 1) ``Segments``: a leading row for each of the N segmentations of one sequence."""
    flat = Segments.from_list(found.segmentations)
    return Segments(flat.starts[:, None], flat.ends[:, None], flat.labels[:, None],
                    flat.counts[:, None])  # fmt: skip
