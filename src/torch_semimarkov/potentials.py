"""What crosses the floor to a backend: every term of the score in one frozen dataclass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torch_semimarkov.errors import ShapeError, raise_all
from torch_semimarkov.segments import lengths_problem, range_problem

TERMS = (
    "scores", "transition", "duration_bias", "start", "end", "start_scores", "end_scores", "tail",
)  # fmt: skip
# Those with a number for each position.
PER_POSITION = ("scores", "start_scores", "end_scores")
# The shape of each term in words.
_SYMBOLS = {
    "scores": ("(B, T, C)",),
    "transition": ("(C, C)", "(K, C, C)"),
    "duration_bias": ("(K, C)",),
    "start": ("(C,)",),
    "end": ("(C,)",),
    "start_scores": ("(B, T, C)",),
    "end_scores": ("(B, T, C)",),
    "tail": ("(C,)",),
}
_WIDE = (torch.float32, torch.float64)
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Potentials:
    """Every term of the score of a segmentation.

    Args:
        scores: (B, T, C) float. One score per position and label, in nats; -inf forbids.
        transition: (C, C) float, ``transition[source, destination]``; or (K, C, C), where row d-1
            is used on entering a segment of d positions.
        duration_bias: (K, C) float. Row d-1 is added to a segment of d positions, 1 <= d <= K.
        lengths: (B,) int, 1 <= lengths <= T; default T. Positions past a length have no effect.
        start: (C,) float. Added for the first label; default zeros.
        end: (C,) float. Added for the last label; default zeros.
        start_scores: (B, T, C) float. Added where a segment starts; default zeros.
        end_scores: (B, T, C) float. Added at the last position of a segment; default zeros.
        tail: (C,) float. Added for each position of a segment beyond the first K, so that it has
            no longest duration: its other terms are those of K positions. Default: none is longer.

    Sizes: B sequences, T positions, K longest duration, C labels.
    """

    scores: Tensor
    transition: Tensor
    duration_bias: Tensor
    lengths: Tensor | None = None
    start: Tensor | None = None
    end: Tensor | None = None
    start_scores: Tensor | None = None
    end_scores: Tensor | None = None
    tail: Tensor | None = None

    @property
    def B(self) -> int:
        """Sequences in the batch."""
        return self.scores.shape[0]

    @property
    def T(self) -> int:
        """Positions, padding included."""
        return self.scores.shape[1]

    @property
    def C(self) -> int:
        """Labels."""
        return self.scores.shape[2]

    @property
    def K(self) -> int:
        """Longest duration; of a model with a tail, rows of the duration bias."""
        return self.duration_bias.shape[0]

    @property
    def longest(self) -> int:
        """Positions of the longest segment that there can be."""
        return self.K if self.tail is None else max(self.K, self.T)

    @property
    def device(self) -> torch.device:
        """Where the scores live."""
        return self.scores.device

    @property
    def per_duration(self) -> bool:
        """True if the transition is (K, C, C)."""
        return self.transition.dim() == 3

    @property
    def compute_dtype(self) -> torch.dtype:
        """The widest type among the terms, at least float32."""
        wide = any(tensor.dtype == torch.float64 for _, tensor in self.terms())
        return torch.float64 if wide else torch.float32

    @property
    def requires_grad(self) -> bool:
        """True if a term requires a gradient."""
        return any([x is not None and x.requires_grad for x in self.fields()])

    def terms(self) -> list[tuple[str, Tensor]]:
        """The float terms that are present, with their names, in a fixed order."""
        named = zip(TERMS, self.fields()[:-1], strict=True)
        return [(name, tensor) for name, tensor in named if tensor is not None]

    def fields(self) -> tuple[Tensor | None, ...]:
        """Every term in the order of ``TERMS``, None where it is absent, and then the lengths."""
        return (
            self.scores, self.transition, self.duration_bias, self.start, self.end,
            self.start_scores, self.end_scores, self.tail, self.lengths,
        )  # fmt: skip

    def map_terms(self, change: Callable[[Tensor], Tensor]) -> Potentials:
        """The same potentials with ``change`` applied to every float term that is present."""
        changed = {name: change(tensor) for name, tensor in self.terms()}
        return Potentials(lengths=self.lengths, **changed)  # type: ignore[arg-type]

    def without_tail(self) -> Potentials:
        """The same model with a row of the duration bias for each duration up to T, and no tail."""
        more = self.T - self.K
        if self.tail is None:
            return self
        if more < 1:  # a sum of nothing, so that the gradient of the tail is 0 and not missing
            bias = self.duration_bias + self.tail[:0].sum()
            return replace(self, duration_bias=bias, tail=None)
        beyond = torch.arange(1, more + 1, device=self.device)[:, None] * self.tail
        bias = torch.cat((self.duration_bias, self.duration_bias[-1] + beyond))
        transition = self.transition
        if self.per_duration:
            transition = torch.cat((transition, transition[-1:].expand(more, -1, -1)))
        return replace(self, transition=transition, duration_bias=bias, tail=None)

    def inside(self) -> Tensor:
        """(B, T) bool. True at positions before a sequence's length."""
        position = torch.arange(self.T, device=self.device)
        if self.lengths is None:
            return torch.ones(self.B, self.T, dtype=torch.bool, device=self.device)
        return position < self.lengths.to(self.device)[:, None]

    def is_canonical(self) -> bool:
        """True if :meth:`check` has nothing to report and :meth:`canonical` nothing to change."""
        *terms, lengths = self.fields()
        scores, bias = self.scores, self.duration_bias
        if scores.dim() != 3 or bias.dim() != 2 or 0 in scores.shape or 0 in bias.shape:
            return False
        dtype, device = scores.dtype, scores.device
        if dtype not in _WIDE or lengths is None or lengths.shape != scores.shape[:1]:
            return False
        for x, shapes in zip(terms, self._shapes(), strict=True):
            if x is not None and not (x.shape in shapes and _is_plain(x, dtype, device)):
                return False
        return _is_plain(lengths, torch.int64, device)

    def check(self) -> Potentials:
        """Check shapes, dtypes and devices; report every misfit at once.

        Raises:
            ShapeError: with one line for each term that does not fit.
        """
        problems = self._kind_problems() or self._shape_problems()
        raise_all(ShapeError, "semi-CRF potentials do not fit together", problems)
        return self

    def check_values(self) -> Potentials:
        """Check the range of ``lengths`` and look for NaN and +inf; synchronises a GPU.

        Raises:
            ShapeError: lengths outside 1..T, or a NaN or +inf before a sequence's length.
        """
        problem = None if self.lengths is None else range_problem(self.lengths, self.T)
        problems = [problem] if problem else []
        if not problems:
            for name, tensor in self.terms():
                problems.extend(self._value_problems(name, tensor))
        raise_all(ShapeError, "semi-CRF potentials hold values they must not", problems)
        return self

    def canonical(self) -> Potentials:
        """Contiguous terms of one float type, int64 lengths; so kernels need no strides."""
        dtype, device, lengths = self.compute_dtype, self.device, self.lengths
        if lengths is None:
            lengths = torch.full((self.B,), self.T, device=device)
        lengths = lengths.to(device=device, dtype=torch.int64).contiguous()
        terms = {name: x.to(dtype).contiguous() for name, x in self.terms()}
        return Potentials(lengths=lengths, **terms)  # type: ignore[arg-type]

    def _kind_problems(self) -> list[str]:
        problems = []
        device = self.device
        for name, tensor in self.terms():
            if tensor.dtype not in _DTYPES:
                kind = str(tensor.dtype)[6:]
                problems.append(f"{name} must be float16, bfloat16, float32 or float64, got {kind}")
            if tensor.device != device:
                problems.append(f"{name} must be on {device} like scores, got {tensor.device}")
        if self.scores.dim() != 3 or 0 in self.scores.shape:
            shape = tuple(self.scores.shape)
            problems.append(f"scores must be (B, T, C), every size at least 1, got {shape}")
        if self.duration_bias.dim() != 2 or 0 in self.duration_bias.shape:
            shape = tuple(self.duration_bias.shape)
            problems.append(f"duration_bias must be (K, C), every size at least 1, got {shape}")
        return problems

    def _shapes(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """What each term may have as its shape, in the order of ``TERMS``."""
        B, T, C = self.scores.shape
        K = self.duration_bias.shape[0]
        label, position = ((C,),), ((B, T, C),)
        return position, ((C, C), (K, C, C)), ((K, C),), label, label, position, position, label

    def _shape_problems(self) -> list[str]:
        problems = []
        for name, tensor, wanted in zip(TERMS, self.fields(), self._shapes(), strict=False):
            if tensor is not None and tensor.shape not in wanted:
                choices = zip(_SYMBOLS[name], wanted, strict=True)
                expected = " or ".join(f"{symbols} = {shape}" for symbols, shape in choices)
                problems.append(f"{name} must be {expected}, got {tuple(tensor.shape)}")
        if self.lengths is not None:
            problem = lengths_problem(self.lengths, self.B, self.T)
            problems.extend([problem] if problem else [])
        return problems

    def _value_problems(self, name: str, tensor: Tensor) -> list[str]:
        values = tensor.detach() if tensor.requires_grad else tensor
        per_position = values.dim() == 3 and name != "transition"
        # NaN if any is; one pass, and -inf passes.
        if _largest(values) < torch.inf:
            return []
        bad = values.isnan() | (values == torch.inf)
        if per_position:
            bad &= self.inside()[..., None]
        count = int(bad.sum())
        if count == 0:
            return []
        where = [int(i) for i in bad.nonzero()[0]]
        axes = ("sequence", "position", "label") if per_position else ("row",) * values.dim()
        place = ", ".join(f"{axis} {i}" for axis, i in zip(axes, where, strict=True))
        return [
            f"{name} must hold numbers or -inf, got {float(values[tuple(where)])} at {place} "
            f"({count} such values)"
        ]


@dataclass(frozen=True, eq=False)
class EdgePotentials:
    """The score of every possible segment and of the label before it, one number for each.

    Args:
        edge: (B, N-1, K, C, C) float, ``edge[b, start, d-1, destination, source]``: what a segment
            of d positions from ``start`` on, labelled ``destination``, adds after one labelled
            ``source``, in nats; -inf forbids. The first segment may come after any source.
        lengths: (B,) int, 1 <= lengths <= N: positions plus one, as pytorch-struct counts; default
            N. Edges past a length have no effect.

    Sizes: B sequences, N-1 = T positions, K longest duration, C labels.
    """

    edge: Tensor
    lengths: Tensor | None = None

    @property
    def B(self) -> int:
        """Sequences in the batch."""
        return self.edge.shape[0]

    @property
    def T(self) -> int:
        """Positions, padding included."""
        return self.edge.shape[1]

    @property
    def K(self) -> int:
        """Longest duration."""
        return self.edge.shape[2]

    @property
    def C(self) -> int:
        """Labels."""
        return self.edge.shape[3]

    @property
    def device(self) -> torch.device:
        """Where the edges live."""
        return self.edge.device

    @property
    def compute_dtype(self) -> torch.dtype:
        """The type of the edges, at least float32."""
        return torch.promote_types(self.edge.dtype, torch.float32)

    def check(self) -> EdgePotentials:
        """Check shapes and dtypes; report every misfit at once.

        Raises:
            ShapeError: with one line for each argument that does not fit.
        """
        edge, problems = self.edge, []
        if edge.dtype not in _DTYPES:
            kind = str(edge.dtype)[6:]
            problems.append(f"edge must be float16, bfloat16, float32 or float64, got {kind}")
        if edge.dim() != 5 or 0 in edge.shape or edge.shape[3] != edge.shape[4]:
            wanted = "(B, N-1, K, C, C), destination before source, every size at least 1"
            problems.append(f"edge must be {wanted}, got {tuple(edge.shape)}")
        elif self.lengths is not None and (
            problem := lengths_problem(self.lengths, self.B, self.T + 1)
        ):
            problems.append(problem)
        raise_all(ShapeError, "edge potentials do not fit together", problems)
        return self

    def check_lengths(self) -> EdgePotentials:
        """Check the range of ``lengths``; synchronises a GPU.

        Raises:
            ShapeError: lengths outside 1..N.
        """
        N, lengths = self.T + 1, [] if self.lengths is None else self.lengths.tolist()
        if lengths and not 1 <= min(lengths) <= max(lengths) <= N:
            raise ShapeError(
                f"lengths must be in 1..N = 1..{N}, the positions of each sequence plus one (edge "
                f"has N-1 = {self.T}), got {lengths}"
            )
        return self

    def check_values(self) -> EdgePotentials:
        """Look for NaN and +inf among the edges of every sequence; synchronises a GPU.

        Raises:
            ShapeError: naming the first such edge that lies inside its sequence.
        """
        edge, lengths = self.edge.detach(), self.canonical_lengths().tolist()
        for b, length in enumerate(lengths):
            for start in range(length - 1):
                here = edge[b, start, : length - 1 - start]
                bad = (here.isnan() | (here == torch.inf)).nonzero()
                if len(bad):
                    d, destination, source = bad[0].tolist()
                    raise ShapeError(
                        f"edge must hold numbers or -inf, got {float(here[d, destination, source])}"
                        f" at sequence {b}, start {start}, duration {d + 1}, destination "
                        f"{destination}, source {source}"
                    )
        return self

    def canonical_lengths(self) -> Tensor:
        """(B,) int64 on the device of the edges."""
        if self.lengths is None:
            return torch.full((self.B,), self.T + 1, device=self.device)
        return self.lengths.to(device=self.device, dtype=torch.int64).contiguous()

    def canonical(self) -> EdgePotentials:
        """Contiguous float32 or float64 edges, themselves if they are that, and int64 lengths."""
        edge = self.edge.to(self.compute_dtype).contiguous()
        return EdgePotentials(edge, self.canonical_lengths())


def _is_plain(x: Tensor, dtype: torch.dtype, device: torch.device) -> bool:
    return x.dtype == dtype and x.device == device and x.is_contiguous()


def _largest(values: Tensor) -> float:
    """The largest value, NaN if there is one.

    On a CPU by numpy: torch would wake its threads, which then hold their cores for a while.
    """
    if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
        return float(values.numpy().max())
    return float(values.max().item())
