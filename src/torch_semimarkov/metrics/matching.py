"""One-to-one matching of ordered things: as many pairs as possible, then the closest ones.

Boundaries on a line, and segments that do not overlap, keep their order: two crossing pairs can
always be uncrossed without losing a pair or adding distance. The best matching is therefore found
by dynamic programming over pairs in order, in time linear in the number of candidate pairs.
General matchers are the judges in the tests: ``mir_eval`` finds as many pairs, but not the closest
ones, and ``scipy`` finds both, in quadratic time.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.errors import ShapeError
from torch_semimarkov.given import as_integers
from torch_semimarkov.metrics._tracks import Track

SKIP_ROW, SKIP_COLUMN, PAIR = 0, 1, 2
IOU_STEPS = 1_000_000_000
Pairs = tuple[np.ndarray, np.ndarray]


def candidate_pairs(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every pair in the windows ``[first, last)``, row by row.

    >>> candidate_pairs(np.array([0, 1]), np.array([2, 2]))
    (array([0, 0, 1]), array([0, 1, 1]))
    """
    width = np.maximum(last - first, 0)
    rows = np.repeat(np.arange(len(width)), width)
    before = np.cumsum(width) - width
    return rows, np.arange(len(rows)) - np.repeat(before - first, width)


def match_in_order(
    first: np.ndarray, last: np.ndarray, cost: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The most pairs without crossings, and among those the ones of least total cost.

    Args:
        first: (N,) int, not decreasing. First candidate column of each row.
        last: (N,) int, not decreasing. One past the last candidate column; empty if <= first.
        cost: (P,) int. Cost of every candidate pair, row by row; negative: not a candidate.

    Returns:
        rows, columns: the matched pairs, both (M,) int64 and increasing.

    Raises:
        ShapeError: windows that go back or begin below 0, or not one cost a candidate.

    >>> rows, columns = match_in_order(np.array([0, 0]), np.array([1, 2]), np.array([2, 0, 3]))
    >>> list(zip(rows.tolist(), columns.tolist()))
    [(0, 0), (1, 1)]
    """
    named = (("first", first), ("last", last), ("cost", cost))
    first, last, cost = (as_integers(name, values) for name, values in named)
    if len(first) != len(last) or any((np.diff(each) < 0).any() for each in (first, last)):
        raise ShapeError("first and last must be (N,) and not decrease")
    width = np.maximum(last - first, 0)
    keep = np.flatnonzero(width > 0)
    if (first[keep] < 0).any() or len(cost) != width.sum():
        raise ShapeError(
            f"first must be >= 0, and cost ({width.sum()},), one a candidate, got {cost.shape}"
        )
    lows, highs = first[keep].tolist(), last[keep].tolist()
    # One more pair outweighs every difference in cost; Python integers do not overflow.
    pair_gain = (int(cost.max(initial=0)) + 1) * (len(keep) + 1)
    choices = _choices(lows, highs, cost.tolist(), pair_gain)
    pairs = _trace_back(lows, highs, choices)
    matched = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)[::-1]
    return keep[matched[:, 0]].astype(np.int64), matched[:, 1]


def _choices(lows: list[int], highs: list[int], cost: list[int], pair_gain: int) -> list[bytearray]:
    """For each row and column of its window: skip the row, skip the column, or pair them."""
    best = [0] * (highs[-1] + 1 if highs else 1)  # best[j]: rows so far, columns before j
    top, index, choices = 0, 0, []
    for low, high in zip(lows, highs, strict=True):
        for j in range(top + 1, high + 1):
            best[j] = best[top]
        top = max(top, high)
        diagonal, row = best[low], bytearray(high - low)
        for j in range(low, high):
            above = best[j + 1]
            value, choice = above, SKIP_ROW
            if best[j] > value:
                value, choice = best[j], SKIP_COLUMN
            price = cost[index]
            if price >= 0 and diagonal + pair_gain - price > value:
                value, choice = diagonal + pair_gain - price, PAIR
            best[j + 1], row[j - low], diagonal = value, choice, above
            index += 1
        choices.append(row)
    return choices


def _trace_back(
    lows: list[int], highs: list[int], choices: list[bytearray]
) -> list[tuple[int, int]]:
    pairs = []
    i, j = len(lows) - 1, highs[-1] if highs else 0
    while i >= 0:
        j = min(j, highs[i])
        choice = choices[i][j - 1 - lows[i]] if j > lows[i] else SKIP_ROW
        if choice == PAIR:
            pairs.append((i, j - 1))
        i -= choice != SKIP_COLUMN
        j -= choice != SKIP_ROW
    return pairs


def match_positions(
    true: np.ndarray, predicted: np.ndarray, tolerance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Match sorted positions that are at most ``tolerance`` apart, the closest ones first.

    Args:
        true: (N,) int64, increasing.
        predicted: (M,) int64, increasing.
        tolerance: (N,) int64 >= 0. Such that ``true -+ tolerance`` does not decrease.

    >>> match_positions(np.array([10, 20]), np.array([12, 13, 50]), np.array([5, 5]))
    (array([0]), array([0]))
    """
    first = np.searchsorted(predicted, true - tolerance, side="left")
    last = np.searchsorted(predicted, true + tolerance, side="right")
    rows, columns = candidate_pairs(first, last)
    return match_in_order(first, last, np.abs(true[rows] - predicted[columns]))


class GroupKeys:
    """Positions as keys that keep labels and sequences too far apart to be matched.

    Args:
        labels: (L,) int64. All labels, in order.
        count: number of sequences.
        reach: the largest position plus the largest tolerance.
    """

    def __init__(self, labels: np.ndarray, count: int, reach: int):
        self.labels, self.count = labels, max(count, 1)
        self.stride = 2 * reach + 2

    def of(self, track: Track, position: np.ndarray) -> np.ndarray:
        """(N,) int64. Keys of the positions, ordered by label, sequence and position."""
        rank = np.searchsorted(self.labels, track.label)
        return (rank * self.count + track.sequence) * self.stride + position

    @staticmethod
    def ordered(track: Track) -> Track:
        """The track ordered by label, sequence and start."""
        return track.take(np.lexsort((track.start, track.sequence, track.label)))


def grouped(true: Track, predicted: Track, slack: int = 0) -> GroupKeys:
    """Keys for a pair of tracks and a largest tolerance of ``slack`` positions."""
    longest = max(true.end.max(initial=0), predicted.end.max(initial=0))
    labels = np.unique(np.concatenate((true.label, predicted.label)))
    return GroupKeys(labels, true.count, int(longest) + slack)


def match_within(true: Track, predicted: Track, tolerance: np.ndarray, groups: GroupKeys) -> Pairs:
    """Match segments of one label whose two boundaries are each within ``tolerance`` (N,)."""
    start, end = groups.of(true, true.start), groups.of(true, true.end)
    starts, ends = groups.of(predicted, predicted.start), groups.of(predicted, predicted.end)
    first = np.searchsorted(starts, start - tolerance, side="left")
    last = np.searchsorted(starts, start + tolerance, side="right")
    rows, columns = candidate_pairs(first, last)
    late = np.abs(ends[columns] - end[rows])
    cost = np.abs(starts[columns] - start[rows]) + late
    return match_in_order(first, last, np.where(late <= tolerance[rows], cost, -1))


def match_overlap(true: Track, predicted: Track, iou: float, groups: GroupKeys) -> Pairs:
    """Match segments of one label whose intersection over union is at least ``iou``."""
    start, end = groups.of(true, true.start), groups.of(true, true.end)
    starts, ends = groups.of(predicted, predicted.start), groups.of(predicted, predicted.end)
    first = np.searchsorted(ends, start, side="right")
    last = np.searchsorted(starts, end, side="left")
    rows, columns = candidate_pairs(first, last)
    inside = np.minimum(end[rows], ends[columns]) - np.maximum(start[rows], starts[columns])
    union = np.maximum(end[rows], ends[columns]) - np.minimum(start[rows], starts[columns])
    ratio = inside / union
    cost = np.rint((1 - ratio) * IOU_STEPS).astype(np.int64)
    return match_in_order(first, last, np.where(ratio >= iou, cost, -1))
