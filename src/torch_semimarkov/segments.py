"""Segmentations as tensors: containers, conversions and checks (no dynamic programming)."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_semimarkov.errors import SegmentError, ShapeError, raise_all

PAD = -1


class Segment(NamedTuple):
    """One labelled half-open stretch of positions ``[start, end)``.

    >>> Segment(2, 5, 0).duration
    3
    """

    start: int
    end: int
    label: int

    @property
    def duration(self) -> int:
        """Number of positions, ``end - start``."""
        return self.end - self.start


@dataclass(frozen=True, eq=False)
class Segments:
    """A batch of segmentations, padded to the largest number of segments N.

    Args:
        starts: (..., B, N) int64. First position of each segment; -1 past ``counts``.
        ends: (..., B, N) int64. One past the last position; -1 past ``counts``.
        labels: (..., B, N) int64. Label of each segment; -1 past ``counts``.
        counts: (..., B) int64, 0 <= counts <= N. Number of segments of each sequence.

    Raises:
        ShapeError: the four tensors do not fit together or are not int64.

    >>> segments = Segments.from_list([[Segment(0, 2, 1), Segment(2, 5, 0)]])
    >>> segments.to_labels(5)
    tensor([[1, 1, 0, 0, 0]])
    """

    starts: Tensor
    ends: Tensor
    labels: Tensor
    counts: Tensor

    def __post_init__(self) -> None:
        problems = []
        shape = self.starts.shape
        wanted = {"starts": shape, "ends": shape, "labels": shape, "counts": shape[:-1]}
        for name, expected in wanted.items():
            tensor = getattr(self, name)
            if tensor.dtype != torch.int64:
                problems.append(f"{name} must be int64, got {str(tensor.dtype)[6:]}")
            if tensor.shape != expected:
                problems.append(f"{name} must be {tuple(expected)}, got {tuple(tensor.shape)}")
        if len(shape) < 2:
            problems.append(f"starts must be (..., B, N), got {tuple(shape)}")
        raise_all(ShapeError, "segments do not fit together", problems)

    @classmethod
    def unchecked(cls, table: Tensor, counts: Tensor) -> Segments:
        """Segments from a kernel's (3, ..., B, N) table of starts, ends and labels.

        The checks would take several microseconds of each decode.
        """
        made = object.__new__(cls)
        starts, ends, labels = table.unbind(0)
        made.__dict__.update(starts=starts, ends=ends, labels=labels, counts=counts)
        return made

    @property
    def mask(self) -> Tensor:
        """(..., B, N) bool. True where a segment is, False in the padding."""
        index = torch.arange(self.starts.shape[-1], device=self.starts.device)
        return index < self.counts[..., None]

    @property
    def durations(self) -> Tensor:
        """(..., B, N) int64. Positions per segment, 0 in the padding."""
        return self.ends - self.starts

    @property
    def batch_size(self) -> int:
        """Number of sequences B."""
        return self.starts.shape[-2]

    def to(self, device: torch.device | str) -> Segments:
        """The same segmentations on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def __getitem__(self, index: object) -> Segments:
        """Select along the leading dimensions (or the batch dimension, if there are none).

        Selecting one sequence keeps a batch of one, so the result is again a ``Segments``.
        """
        starts = self.starts[index]  # type: ignore[index]
        if starts.dim() >= 2:
            return self._map(lambda tensor: tensor[index])  # type: ignore[index]
        return self._map(lambda tensor: tensor[index].unsqueeze(0))  # type: ignore[index]

    def __eq__(self, other: object) -> bool:
        """Equal if every sequence holds the same segments; the padding does not count."""
        if not isinstance(other, Segments):
            return NotImplemented
        return bool(self.counts.shape == other.counts.shape) and self.to_list() == other.to_list()

    __hash__ = None  # type: ignore[assignment]

    def _map(self, change) -> Segments:
        return Segments(*(change(t) for t in (self.starts, self.ends, self.labels, self.counts)))

    def to_list(self) -> list[Any]:
        """Nested lists of :class:`Segment`: one list a sequence, inside the leading dimensions."""
        table = torch.stack((self.starts, self.ends, self.labels), dim=-1).tolist()
        return _nested(table, self.counts.tolist())

    def to_labels(self, T: int | None = None) -> Tensor:
        """Label of every position.

        Args:
            T: number of positions of the result; default the largest end.

        Returns:
            (..., B, T) int64; -1 at positions that no segment covers.

        Raises:
            SegmentError: a segment ends after T.
        """
        longest = int(self.ends.max()) if self.ends.numel() else 0
        T = longest if T is None else T
        if longest > T:
            raise SegmentError(f"T must be >= the largest end = {longest}, got {T}")
        return self.paint(T)

    def paint(self, T: int) -> Tensor:
        """:meth:`to_labels` without a look at the values, which would synchronise a GPU."""
        steps = self.starts.new_zeros((*self.starts.shape[:-1], T + 1))
        edge = torch.where(self.mask, self.labels + 1, 0)
        steps.scatter_add_(-1, torch.where(self.mask, self.starts, T), edge)
        steps.scatter_add_(-1, torch.where(self.mask, self.ends, T), -edge)
        return steps[..., :T].cumsum(-1) - 1

    @classmethod
    def from_list(
        cls, sequences: Sequence[Sequence[tuple[int, int, int]]], device: torch.device | None = None
    ) -> Segments:
        """Segments from one list of ``(start, end, label)`` per sequence.

        Raises:
            SegmentError: an entry is not three integers with ``0 <= start < end``, ``label >= 0``.

        >>> Segments.from_list([[(0, 2, 1)], [(0, 1, 0), (1, 3, 2)]]).counts
        tensor([1, 2])
        """
        raise_all(SegmentError, "not a segmentation", _list_problems(sequences))
        counts = [len(sequence) for sequence in sequences]
        width = max([1, *counts])
        table = torch.full((len(sequences), width, 3), PAD, dtype=torch.int64)
        for row, sequence in enumerate(sequences):
            if sequence:
                table[row, : len(sequence)] = torch.tensor([tuple(s) for s in sequence])
        table = table.to(device)
        return cls(*table.unbind(-1), torch.tensor(counts, dtype=torch.int64, device=device))

    @classmethod
    def from_labels(
        cls,
        labels: Tensor,
        lengths: Tensor | None = None,
        max_duration: int | Tensor | None = None,
        long_runs: str = "error",
    ) -> Segments:
        """Segments as the maximal runs of equal labels.

        Args:
            labels: (B, T) int, >= 0. Values past a sequence's length have no effect.
            lengths: (B,) int, 1 <= lengths <= T; default T.
            max_duration: longest duration K >= 1, or (C,) int with one of each label; default no
                limit.
            long_runs: "error" raises on a run longer than K, "split" cuts it into pieces of K
                positions and a remainder.

        Raises:
            ShapeError: shapes or dtypes are wrong.
            SegmentError: a negative label, or a run longer than K with ``long_runs="error"``.

        >>> Segments.from_labels(torch.tensor([[1, 1, 0, 0, 0]])).to_list()
        [[Segment(start=0, end=2, label=1), Segment(start=2, end=5, label=0)]]
        """
        labels, lengths = _checked_labels(labels, lengths, max_duration, long_runs)
        B, T = labels.shape
        position = torch.arange(T, device=labels.device).expand(B, T)
        inside = position < lengths[:, None]
        change = torch.ones_like(inside)
        change[:, 1:] = labels[:, 1:] != labels[:, :-1]
        if max_duration is not None:
            longest = _longest(labels, max_duration)
            run_start = torch.where(change, position, 0).cummax(dim=1).values
            too_long = inside & (position - run_start >= longest)
            if long_runs == "error":
                _refuse_long_runs(too_long, labels, run_start, longest)
            change = change | (too_long & ((position - run_start) % longest == 0))
        return cls._from_change(change & inside, labels, lengths)

    @classmethod
    def _from_change(cls, change: Tensor, labels: Tensor, lengths: Tensor) -> Segments:
        counts = change.sum(dim=1)
        width = max(1, int(counts.max())) if counts.numel() else 1
        row, start = change.nonzero(as_tuple=True)
        column = change.cumsum(dim=1)[row, start] - 1
        starts = labels.new_full((labels.shape[0], width), PAD)
        starts[row, column] = start
        names, ends = starts.clone(), starts.clone()
        names[row, column] = labels[row, start]
        ends[:, :-1] = starts[:, 1:]
        ends[torch.arange(len(counts), device=counts.device), counts - 1] = lengths
        return cls(starts, ends, names, counts)


def _nested(table: list, counts: list) -> list:
    if counts and isinstance(counts[0], list):
        return [_nested(inner, count) for inner, count in zip(table, counts, strict=True)]
    return [[Segment(*row) for row in rows[:n]] for rows, n in zip(table, counts, strict=True)]


def _list_problems(sequences: Sequence[Sequence[tuple[int, int, int]]]) -> list[str]:
    problems = []
    for b, sequence in enumerate(sequences):
        for i, entry in enumerate(sequence):
            whole = len(entry) == 3 and all(_is_whole(value) for value in entry)
            if not whole or not (0 <= entry[0] < entry[1] and entry[2] >= 0):
                problems.append(
                    f"sequence {b}, segment {i}: expected integers (start, end, label) with "
                    f"0 <= start < end and label >= 0, got {tuple(entry)}"
                )
    return problems[:10]


def _is_whole(value: object) -> bool:
    try:
        return bool(int(value) == value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return False


def _checked_labels(
    labels: Tensor, lengths: Tensor | None, max_duration: int | Tensor | None, long_runs: str
) -> tuple[Tensor, Tensor]:
    problems = []
    if labels.dim() != 2 or labels.is_floating_point() or labels.is_complex() or 0 in labels.shape:
        kind = str(labels.dtype)[6:]
        problems.append(f"labels must be (B, T) int with T >= 1, got {tuple(labels.shape)} {kind}")
    if max_duration is not None and bool((torch.as_tensor(max_duration) < 1).any()):
        problems.append(f"max_duration must be >= 1, got {max_duration}")
    if long_runs not in ("error", "split"):
        problems.append(f'long_runs must be "error" or "split", got {long_runs!r}')
    raise_all(ShapeError, "labels cannot become segments", problems)
    lengths = check_lengths(lengths, labels.shape[0], labels.shape[1], labels.device)
    inside = torch.arange(labels.shape[1], device=labels.device) < lengths[:, None]
    negative = (labels < 0) & inside
    if bool(negative.any()):
        b, t = (int(i) for i in negative.nonzero()[0])
        raise SegmentError(
            f"labels must be >= 0, got {int(labels[b, t])} at sequence {b}, position {t}; "
            "shorten lengths to leave positions out"
        )
    return torch.where(inside, labels, PAD).to(torch.int64), lengths


def check_lengths(lengths: Tensor | None, B: int, T: int, device: torch.device) -> Tensor:
    """``lengths`` as a checked (B,) int64 tensor; all T if None.

    Raises:
        ShapeError: not (B,), not integers, or a value outside 1..T.
    """
    if lengths is None:
        return torch.full((B,), T, dtype=torch.int64, device=device)
    problem = lengths_problem(lengths, B, T)
    problem = problem or range_problem(lengths, T)
    if problem is not None:
        raise ShapeError(problem)
    return lengths.to(device=device, dtype=torch.int64)


def count_of(value: Any) -> int | None:
    """An integer of at least 1, of whatever type, as an int; None for all else, True among it.

    >>> count_of(torch.tensor(3)), count_of(0), count_of(2.0)
    (3, None, None)
    """
    if isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool):
        return None
    try:
        number = operator.index(value)
    except TypeError:
        return None
    return number if number >= 1 else None


def as_count(name: str, value: Any, error: type[Exception] = ShapeError) -> int:
    """An argument that says how many, as an int.

    Raises:
        error: it is no integer, or below 1.
    """
    count = count_of(value)
    if count is None:
        raise error(f"{name} must be an integer >= 1, got {value!r}")
    return count


def require_tensors(**arguments: object) -> None:
    """Refuse an argument that is no tensor.

    Raises:
        ShapeError: names the argument, and what it is.
    """
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            raise ShapeError(f"{name} must be a tensor, got {type(value).__name__}")


def lengths_problem(lengths: Tensor, B: int, T: int) -> str | None:
    """What is wrong with the shape or the dtype of ``lengths``, or None."""
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        return f"lengths must be integers in 1..T = 1..{T}, got dtype {str(lengths.dtype)[6:]}"
    if lengths.shape != (B,):
        return f"lengths must be (B,) = ({B},), got {tuple(lengths.shape)}"
    return None


def range_problem(lengths: Tensor, T: int) -> str | None:
    """What is wrong with the values of ``lengths``, or None; synchronises a GPU."""
    values = lengths.tolist()
    if values and not 1 <= min(values) <= max(values) <= T:
        return f"lengths must be in 1..T = 1..{T}, got {values}"
    return None


def _longest(labels: Tensor, max_duration: int | Tensor) -> Tensor:
    """(B, T). The longest duration of the label at each position."""
    limits = torch.as_tensor(max_duration, device=labels.device)
    if limits.dim() == 0:
        return limits.expand(labels.shape)
    return limits[labels.clamp(min=0, max=len(limits) - 1)]


def _refuse_long_runs(too_long: Tensor, labels: Tensor, run_start: Tensor, longest: Tensor) -> None:
    if not bool(too_long.any()):
        return
    b, t = (int(i) for i in too_long.nonzero()[0])
    start = int(run_start[b, t])
    run = labels[b, start:] == labels[b, start]
    stop = start + int(run.long().cumprod(0).sum())
    raise SegmentError(
        f"sequence {b}: the run [{start}, {stop}) of label {int(labels[b, start])} is longer than "
        f"max_duration = {int(longest[b, start])}; raise max_duration, or pass "
        'long_runs="split" to cut long runs'
    )
