"""Every segmentation of one short sequence, one by one. Knows nothing of the library it judges."""

from dataclasses import dataclass
from itertools import pairwise, product
from math import inf

import numpy as np

Segmentation = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, eq=False)
class Sequence:
    """Potentials of one sequence of L positions, without padding; float64 arrays.

    scores, start_scores, end_scores: (L, C). transition: (C, C) or (K, C, C).
    duration_bias: (K, C). start, end: (C,). tail: (C,), -inf or left out for none.
    """

    scores: np.ndarray
    transition: np.ndarray
    duration_bias: np.ndarray
    start: np.ndarray
    end: np.ndarray
    start_scores: np.ndarray
    end_scores: np.ndarray
    tail: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.tail is None:
            object.__setattr__(self, "tail", np.full_like(self.start, -inf))

    @property
    def longest(self) -> int:
        """Positions of the longest segment that there can be."""
        K = len(self.duration_bias)
        return K if (self.tail == -inf).all() else max(K, len(self.scores))

    def row(self, duration: int) -> int:
        """The row of a duration among the duration biases."""
        return min(duration, len(self.duration_bias)) - 1

    def beyond(self, duration: int) -> int:
        """How many positions of a segment lie beyond the first K."""
        return max(0, duration - len(self.duration_bias))


def durations_of(L: int, K: int) -> list[tuple[int, ...]]:
    """All ways to write L as an ordered sum of 1..K.

    >>> durations_of(3, 2)
    [(1, 1, 1), (1, 2), (2, 1)]
    """
    if L == 0:
        return [()]
    return [(d, *rest) for d in range(1, min(K, L) + 1) for rest in durations_of(L - d, K)]


def segmentations_of(L: int, K: int, C: int) -> list[Segmentation]:
    """All segmentations of L positions: tuples of (start, end, label)."""
    found = []
    for durations in durations_of(L, K):
        ends = np.cumsum(durations).tolist()
        starts = [0, *ends[:-1]]
        for labels in product(range(C), repeat=len(durations)):
            found.append(tuple(zip(starts, ends, labels, strict=True)))
    return found


def score_of(sequence: Sequence, segmentation: Segmentation) -> float:
    """The definition of the score, term by term."""
    total = sequence.start[segmentation[0][2]] + sequence.end[segmentation[-1][2]]
    for start, end, label in segmentation:
        total += sum(sequence.scores[t, label] for t in range(start, end))
        total += sequence.duration_bias[sequence.row(end - start), label]
        if sequence.beyond(end - start):
            total += sequence.beyond(end - start) * sequence.tail[label]
        total += sequence.start_scores[start, label] + sequence.end_scores[end - 1, label]
    for before, after in pairwise(segmentation):
        total += sequence.transition[transition_index(sequence, before, after)]
    return float(total)


def transition_index(sequence: Sequence, before: tuple, after: tuple) -> tuple[int, ...]:
    """Entry of the transition between two segments: (source, destination), behind the duration."""
    entry = (before[2], after[2])
    return entry if sequence.transition.ndim == 2 else (sequence.row(after[1] - after[0]), *entry)


def counts_of(sequence: Sequence, segmentation: Segmentation) -> dict[str, np.ndarray]:
    """How often each entry of each term is in the score of a segmentation: its gradient."""
    counts = {name: np.zeros_like(value) for name, value in vars(sequence).items()}
    counts["start"][segmentation[0][2]] += 1
    counts["end"][segmentation[-1][2]] += 1
    for start, end, label in segmentation:
        counts["scores"][start:end, label] += 1
        counts["duration_bias"][sequence.row(end - start), label] += 1
        counts["tail"][label] += sequence.beyond(end - start)
        counts["start_scores"][start, label] += 1
        counts["end_scores"][end - 1, label] += 1
    for before, after in pairwise(segmentation):
        counts["transition"][transition_index(sequence, before, after)] += 1
    return counts


def log_sum_exp(values: np.ndarray) -> float:
    """Log of the sum of exponentials; -inf if all are -inf."""
    largest = values.max()
    return -inf if largest == -inf else float(largest + np.log(np.exp(values - largest).sum()))


class Oracle:
    """All segmentations of a sequence with their scores, and what follows from them."""

    def __init__(self, sequence: Sequence):
        L, C = sequence.scores.shape
        self.sequence = sequence
        self.segmentations = segmentations_of(L, sequence.longest, C)
        self.scores = np.array([score_of(sequence, y) for y in self.segmentations])
        self.log_partition = log_sum_exp(self.scores)
        self.best_score = float(self.scores.max())

    def probabilities(self) -> np.ndarray:
        """Probability of each segmentation; zeros if none is possible."""
        if self.log_partition == -inf:
            return np.zeros_like(self.scores)
        return np.exp(self.scores - self.log_partition)

    def entropy(self) -> float:
        """Sum of -p log p over the segmentations that are possible."""
        p = self.probabilities()
        return float(-(p[p > 0] * np.log(p[p > 0])).sum())

    def all_best(self) -> list[Segmentation]:
        """Every segmentation that reaches the best score; empty if none is possible."""
        if self.best_score == -inf:
            return []
        near = self.scores >= self.best_score - 1e-12 * (1 + abs(self.best_score))
        return [y for y, best in zip(self.segmentations, near, strict=True) if best]

    def best(self) -> Segmentation:
        """The one of the best that the tie rule takes.

        From the end: the lowest label, then the shortest segment, then the lowest label before it.
        """

        def from_its_end(segmentation: Segmentation) -> list[tuple[int, int]]:
            return [(label, end - start) for start, end, label in reversed(segmentation)]

        return min(self.all_best(), key=from_its_end)

    def best_counts(self) -> dict[str, np.ndarray]:
        """Gradient of the best score: the indicator of the best segmentation, or zeros."""
        if self.best_score == -inf:
            return {name: np.zeros_like(value) for name, value in vars(self.sequence).items()}
        return counts_of(self.sequence, self.best())

    def gradient(self) -> dict[str, np.ndarray]:
        """Gradient of the log partition in every term: the expected counts."""
        total = {name: np.zeros_like(value) for name, value in vars(self.sequence).items()}
        for y, probability in zip(self.segmentations, self.probabilities(), strict=True):
            if probability > 0:
                for name, count in counts_of(self.sequence, y).items():
                    total[name] += probability * count
        return total

    def marginals(self) -> dict[str, np.ndarray]:
        """Posterior probabilities and expected counts, each summed straight from its definition."""
        L, C = self.sequence.scores.shape
        found = {name: np.zeros((L, C)) for name in ("labels", "starts", "ends")}
        found["durations"] = np.zeros_like(self.sequence.duration_bias)
        found["beyond"] = np.zeros(C)
        found["transitions"] = np.zeros_like(self.sequence.transition)
        for y, probability in zip(self.segmentations, self.probabilities(), strict=True):
            for start, end, label in y:
                found["labels"][start:end, label] += probability
                found["starts"][start, label] += probability
                found["ends"][end - 1, label] += probability
                found["durations"][self.sequence.row(end - start), label] += probability
                found["beyond"][label] += self.sequence.beyond(end - start) * probability
            for before, after in pairwise(y):
                found["transitions"][transition_index(self.sequence, before, after)] += probability
        return {**found, "boundaries": found["starts"].sum(-1)}
