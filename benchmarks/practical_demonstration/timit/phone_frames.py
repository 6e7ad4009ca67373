"""Phones in seconds as segments in positions that tile the utterance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import floor

from phone_sets import SILENCE

from torch_semimarkov.errors import SegmentError

Span = tuple[int, int, str]


def to_positions(rows: Sequence[tuple[float, float, str]], T: int, rate: float) -> list[Span]:
    """Segments that tile ``[0, T)``; each boundary is rounded to the nearest position.

    What no row covers is silence. A phone shorter than half a position keeps one, which its
    neighbours give.

    Args:
        rows: ``(start, end, phone)`` in seconds, sorted, without overlap.
        T: number of positions.
        rate: positions a second.

    Raises:
        SegmentError: more phones than positions.

    >>> to_positions([(0.01, 0.03, "a"), (0.03, 0.032, "b")], 5, 100.0)
    [(0, 1, 'sil'), (1, 3, 'a'), (3, 4, 'b'), (4, 5, 'sil')]
    """
    spans: list[list] = []
    cursor = 0
    for start, end, phone in rows:
        first, last = floor(start * rate + 0.5), floor(end * rate + 0.5)
        if first > cursor:
            spans.append([cursor, first, SILENCE])
            cursor = first
        spans.append([cursor, max(last, cursor + 1), phone])
        cursor = spans[-1][1]
    if cursor < T:
        spans.append([cursor, T, SILENCE])
    limit = T
    for span in reversed(spans):
        span[1] = limit
        span[0] = limit = min(span[0], limit - 1)
    if limit < 0:
        raise SegmentError(f"{len(spans)} phones do not fit into {T} positions")
    spans[0][0] = 0
    return [(start, end, phone) for start, end, phone in spans]


def join_equal(spans: Iterable[Span]) -> list[Span]:
    """Neighbours of the same phone as one segment.

    >>> join_equal([(0, 2, "sil"), (2, 3, "sil"), (3, 4, "a")])
    [(0, 3, 'sil'), (3, 4, 'a')]
    """
    joined: list[Span] = []
    for start, end, phone in spans:
        if joined and joined[-1][2] == phone:
            joined[-1] = (joined[-1][0], end, phone)
        else:
            joined.append((start, end, phone))
    return joined
