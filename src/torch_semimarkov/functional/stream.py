"""Scores that arrive chunk by chunk: log partition and best segmentation without the whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov import dispatch
from torch_semimarkov.errors import ConfigError, NumericsError, ShapeError, UnsupportedError
from torch_semimarkov.functional.decode import ViterbiResult, refuse_impossible
from torch_semimarkov.functional.inputs import gather
from torch_semimarkov.functional.lag import FixedLag
from torch_semimarkov.functional.pointers import Pointers
from torch_semimarkov.potentials import PER_POSITION
from torch_semimarkov.segments import PAD, Segment, Segments, as_count, require_tensors


class SemiMarkovStream:
    """The log partition and the best segmentation of sequences whose scores arrive in chunks.

    What it says equals what :func:`torch_semimarkov.log_partition` and
    :func:`torch_semimarkov.viterbi` say of all chunks in one piece. Computes in float64 on a CPU,
    without gradients; what lies on a GPU is copied. The sequences of a batch have the same number
    of positions.

    Args:
        transition: (C, C) float, ``transition[source, destination]``, in nats; -inf forbids. Or
            (K, C, C), where row d-1 is used on entering a segment of d positions.
        duration_bias: (K, C) float. Row d-1 is added to a segment of d positions, 1 <= d <= K.
        start: (C,) float. Added for the first label; default zeros.
        end: (C,) float. Added for the last label; default zeros.
        tail: (C,) float. Added for each position of a segment beyond the first K; default: no
            segment is longer.
        partition: keep what :meth:`log_partition` needs: O(K C) a sequence, whatever its length.
        decode: keep what :meth:`finish` needs: one pointer a position and label, of as many bytes
            as K C numbers take, or 2 K C with a tail: 1 up to 256, 2 up to 65,536.
        lag: make segments final that ended so many positions ago, >= 1, and return them from
            :meth:`push`; memory then grows with ``lag``, the chunks and the longest open segment
            only. Longer lags than a few K rarely differ from the best segmentation of the whole.
            What was returned stands: later segments are the best that follow it.
        spill: path of a file for the pointers, instead of memory. They are written in order to
            ``<spill>.partial``, which :meth:`finish` and :meth:`close` remove; a run that was
            interrupted leaves it under that name, and the next one writes it anew.
        backend: "cpu" or "reference"; default the first that can run.

    Raises:
        ShapeError: terms that do not fit together, or hold NaN or +inf.
        ConfigError: ``lag`` or ``spill`` without ``decode``, both of them, or out of range.
        UnsupportedError: the backend asked for cannot stream such a model.

    Source: Sarawagi and Cohen, Semi-Markov conditional random fields, NIPS 2004.

    Two positions, one label, durations 1 and 2, all scores 0: two segmentations, so log 2.

    >>> stream = SemiMarkovStream(torch.zeros(1, 1), torch.zeros(2, 1), decode=True)
    >>> for chunk in torch.zeros(2, 1, 1):
    ...     stream.push(chunk)
    []
    []
    >>> stream.log_partition()
    tensor(0.6931, dtype=torch.float64)
    >>> stream.finish().segments.to_list()
    [[Segment(start=0, end=1, label=0), Segment(start=1, end=2, label=0)]]
    """

    def __init__(
        self,
        transition: Tensor,
        duration_bias: Tensor,
        *,
        start: Tensor | None = None,
        end: Tensor | None = None,
        tail: Tensor | None = None,
        partition: bool = True,
        decode: bool = False,
        lag: int | None = None,
        spill: str | Path | None = None,
        backend: str | None = None,
    ) -> None:
        _check_settings(decode, lag, spill)
        lag = None if lag is None else as_count("lag", lag, ConfigError)
        require_tensors(transition=transition, duration_bias=duration_bias)
        C = duration_bias.shape[-1] if duration_bias.dim() else 1
        blank = torch.zeros(1, 1, C, device=duration_bias.device)
        given = gather(blank, transition, duration_bias, start=start, end=end, tail=tail)
        self._p = replace(given.map_terms(lambda x: x.detach().to("cpu")), lengths=None).canonical()
        self._C, self._lag, self._decode = C, lag, decode
        self._sums = dispatch.stepper(self._p, "log", backend) if partition else None
        self._bests = dispatch.stepper(self._p, "max", backend) if decode else None
        self._pointers = Pointers(spill) if decode and lag is None else None
        self._batch: tuple[int, ...] | None = None
        self._present: tuple[bool, ...] = ()
        self._finished = False
        self.positions = 0

    def push(
        self,
        scores: Tensor,
        *,
        start_scores: Tensor | None = None,
        end_scores: Tensor | None = None,
    ) -> list[Any]:
        """Take the next positions in.

        Args:
            scores: (B, n, C) float, or (n, C) for one sequence; n >= 1 may differ between chunks.
            start_scores: like scores. Added where a segment starts; in all chunks or in none.
            end_scores: like scores. Added at the last position of a segment; likewise.

        Returns:
            The segments that became final, by their positions in the whole sequence: a list of
            ``Segment``, or for (B, n, C) a list of B such lists. Empty without ``lag``.

        Raises:
            ShapeError: another shape or type than the chunks before, no positions, NaN or +inf.
            UnsupportedError: the stream is finished.
        """
        if self._finished:
            raise UnsupportedError("push after finish() or close(): make another SemiMarkovStream")
        terms = self._checked((scores, start_scores, end_scores))
        if self._batch is None:
            self._begin(tuple(scores.shape[:-2]), len(terms[0]))
            self._present = tuple(x.size > 0 for x in terms)
        self.positions += terms[0].shape[1]
        if self._sums is not None:
            self._sums.advance(self._sum_states, terms)
        found: list[list[Segment]] = [[] for _ in terms[0]]
        if self._pointers is not None and self._bests is not None:
            self._pointers.append(self._bests.advance(self._best_states, terms))
        elif self._decode:
            rows = ([x[b] if x.size else x for x in terms] for b in range(len(found)))
            found = [one.push(tuple(row)) for one, row in zip(self._lagged, rows, strict=True)]
        return found if self._batch else found[0]

    def log_partition(self) -> Tensor:
        """The log partition of the positions so far, in float64; (B,), or () for one sequence.

        Raises:
            UnsupportedError: made with ``partition=False``, or there was no chunk yet.
        """
        if self._sums is None or self._batch is None:
            why = "there was no chunk yet" if self._sums else "the stream has partition=False"
            raise UnsupportedError(f"no log partition: {why}")
        values = []
        for state in self._sum_states:
            ends, norm = self._sums.ends(state, True)
            best = ends.max()
            rest = np.log(np.exp(ends - best).sum()) if best > -np.inf else 0.0
            values.append(norm + (best + rest))
        return torch.tensor(values, dtype=torch.float64).reshape(self._batch)

    def finish(self) -> ViterbiResult:
        """The best segmentation, and its score in float64; takes no more chunks.

        Returns:
            :class:`ViterbiResult` of B sequences (1 for chunks (n, C)). With ``lag`` the segments
            are those that :meth:`push` did not return yet; the score is that of all of them.

        Raises:
            UnsupportedError: made without ``decode``, no chunk yet, or finished already.
            NumericsError: no segmentation of a sequence is possible; names the sequences.
        """
        self._end("finish")
        if self._pointers is None:
            return self._finish_lagged()
        try:
            scores, last = self._best_ends()
            parts = list(self._backwards(self._pointers, last))[::-1]
        finally:
            self._pointers.close()
        tables = [np.concatenate(part, axis=1) for part in zip(*parts, strict=True)]
        return ViterbiResult(scores, _padded(tables))

    def finish_in_pieces(self) -> tuple[Tensor, Iterator[Segments]]:
        """:meth:`finish` for more segments than memory should hold; takes no more chunks.

        Returns:
            The scores, (B,) float64; and pieces of the segmentations, the last piece first: the
            segments that begin among some positions, in their order and by their positions in the
            whole sequence. A piece goes with 64 MB of the file of ``spill``, else with a chunk, and
            may be empty. The pointers and their file go after the last one, or with :meth:`close`.

        Raises:
            UnsupportedError, NumericsError: as :meth:`finish`; or with ``lag``, where :meth:`push`
                returns pieces.
        """
        if self._lag is not None:
            raise UnsupportedError("no finish_in_pieces(): with lag, push() returns the segments")
        self._end("finish_in_pieces")
        pointers: Any = self._pointers
        try:
            scores, last = self._best_ends()
        except NumericsError:
            pointers.close()
            raise

        def pieces() -> Iterator[Segments]:
            try:
                yield from map(_padded, self._backwards(pointers, last))
            finally:
                pointers.close()

        return scores, pieces()

    def _end(self, name: str) -> None:
        """Take no more chunks, if there is a segmentation to find."""
        if not self._decode or self._batch is None or self._finished:
            why = "it is finished" if self._finished else "there was no chunk yet"
            raise UnsupportedError(f"no {name}(): {why if self._decode else 'decode=False'}")
        self._finished = True

    def close(self) -> None:
        """Take no more chunks, and forget the pointers and their file."""
        self._finished = True
        if self._pointers is not None:
            self._pointers.close()

    def __enter__(self) -> SemiMarkovStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self, batch: tuple[int, ...], B: int) -> None:
        self._batch = batch
        if self._sums is not None:
            self._sum_states = [self._sums.begin() for _ in range(B)]
        if self._bests is not None:
            self._best_states = [self._bests.begin() for _ in range(B)]
            lag = self._lag or 1
            self._lagged = [FixedLag(self._bests, lag, self._segment_score) for _ in range(B)]

    def _checked(self, terms: tuple[Tensor | None, ...]) -> tuple[np.ndarray, ...]:
        """(B, n, C) float64 arrays of a chunk, empty where a term is absent."""
        require_tensors(**{n: x for n, x in zip(PER_POSITION, terms, strict=True) if x is not None})
        scores = terms[0]
        if scores is None or scores.dim() not in (2, 3) or scores.shape[-1] != self._C:
            got = None if scores is None else tuple(scores.shape)
            raise ShapeError(f"scores must be (B, n, C) or (n, C) with C = {self._C}, got {got}")
        if 0 in scores.shape:
            raise ShapeError(f"a chunk must have at least one position, got {tuple(scores.shape)}")
        if self._batch not in (None, tuple(scores.shape[:-2])):
            got = tuple(scores.shape)
            wanted = ", ".join(map(str, (*(self._batch or ()), "n", self._C)))
            raise ShapeError(f"scores must be ({wanted}) as in the chunks before, got {got}")
        if self._present and self._present != tuple(x is not None for x in terms):
            raise ShapeError("start_scores and end_scores must come with all chunks or with none")
        arrays = [self._array(n, x, scores) for n, x in zip(PER_POSITION, terms, strict=True)]
        return tuple(x if x.ndim == 3 else x[None] if x.ndim == 2 else x for x in arrays)

    def _array(self, name: str, x: Tensor | None, scores: Tensor) -> np.ndarray:
        if x is None:
            return np.empty(0)
        if x.shape != scores.shape or not x.is_floating_point() or x.is_meta:
            got = f"{tuple(x.shape)} {str(x.dtype)[6:]} on {x.device}"
            raise ShapeError(f"{name} must be {tuple(scores.shape)} float, got {got}")
        array = x.detach().to("cpu", torch.float64).contiguous().numpy()
        if not array.max() < np.inf:
            row = [int(i) for i in np.argwhere(~(array < np.inf))[0]]
            raise ShapeError(
                f"{name} must hold numbers or -inf, got {array[tuple(row)]} at position "
                f"{self.positions + row[-2]}, label {row[-1]}"
            )
        return array

    def _best_ends(self) -> tuple[Tensor, list[int]]:
        """Scores of the best segmentations, and their last labels."""
        bests: Any = self._bests
        ends = [bests.ends(state, True) for state in self._best_states]
        last = [int(values.argmax()) for values, _ in ends]
        best = [float(values.max()) + norm for values, norm in ends]
        scores = torch.tensor(best, dtype=torch.float64)
        refuse_impossible(scores == -torch.inf)
        return scores, last

    def _backwards(self, pointers: Pointers, last: list[int]) -> Iterator[list[np.ndarray]]:
        """A (3, N) table of each sequence for each stretch of the pointers, the last one first."""
        bests: Any = self._bests
        T = self.positions
        walks = [np.array([0, T - 1, T, label, 0]) for label in last]
        for first, codes in pointers.backwards():
            yield [
                bests.follow(codes, first, b, walk)[:, ::-1].copy() for b, walk in enumerate(walks)
            ]

    def _finish_lagged(self) -> ViterbiResult:
        rest = [one.finish() for one in self._lagged]
        impossible = [not found for found in rest]
        if any(impossible):
            refuse_impossible(torch.tensor(impossible))
            raise NumericsError("no segmentation is possible")
        end = np.zeros(self._C) if self._p.end is None else self._p.end.double().numpy()
        scores = [
            one.score + end[found[-1].label] for one, found in zip(self._lagged, rest, strict=True)
        ]
        return ViterbiResult(torch.tensor(scores, dtype=torch.float64), Segments.from_list(rest))

    def _segment_score(
        self, segment: Segment, terms: tuple[np.ndarray, ...], before: int | None
    ) -> float:
        """Score of a segment with the transition into it; ``terms`` are those of its positions."""
        p, label = self._p, segment.label
        beyond = max(0, segment.duration - p.K)
        score = float(terms[0].sum()) + float(p.duration_bias[segment.duration - beyond - 1, label])
        score += float(terms[1][0]) if terms[1].size else 0.0
        score += float(terms[2][-1]) if terms[2].size else 0.0
        if beyond and p.tail is not None:
            score += beyond * float(p.tail[label])
        if before is not None:
            row = segment.duration - beyond - 1
            move = p.transition[row] if p.per_duration else p.transition
            return score + float(move[before, label])
        return score if p.start is None else score + float(p.start[label])


def _padded(tables: list[np.ndarray]) -> Segments:
    """Segments from a (3, N) table for each sequence."""
    counts = torch.tensor([table.shape[1] for table in tables])
    whole = torch.full((3, len(tables), max(1, int(counts.max()))), PAD)
    for b, table in enumerate(tables):
        whole[:, b, : table.shape[1]] = torch.from_numpy(table)
    return Segments.unchecked(whole, counts)


def _check_settings(decode: bool, lag: int | None, spill: str | Path | None) -> None:
    if (lag is not None or spill is not None) and not decode:
        raise ConfigError("lag and spill are settings of decode=True")
    if lag is not None and spill is not None:
        raise ConfigError("spill holds all pointers until finish(), which lag needs not; leave one")
