"""Precision, recall and F1 from counts, with undefined values as None."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """How many true and predicted things there are, and how many of them were matched.

    Args:
        true: number of true ones.
        predicted: number of predicted ones.
        matched: number of one-to-one matches.

    >>> Score(true=4, predicted=2, matched=1).precision
    0.5
    >>> Score(true=0, predicted=0, matched=0).f1 is None
    True
    """

    true: int
    predicted: int
    matched: int

    @property
    def precision(self) -> float | None:
        """``matched / predicted``; None if nothing was predicted."""
        return self.matched / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        """``matched / true``; None if nothing is true."""
        return self.matched / self.true if self.true else None

    @property
    def f1(self) -> float | None:
        """``2 matched / (true + predicted)``; None if there is nothing at all."""
        total = self.true + self.predicted
        return 2 * self.matched / total if total else None

    def to_dict(self) -> dict[str, float | int | None]:
        """The counts and the three ratios, ready for JSON."""
        return {
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "true": self.true,
            "predicted": self.predicted,
            "matched": self.matched,
        }


def mean_or_none(values: Iterable[float | None]) -> float | None:
    """Mean of the defined values; None if there is none.

    >>> mean_or_none([1.0, None, 0.0])
    0.5
    """
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def macro(scores: Iterable[Score]) -> dict[str, float | None]:
    """Precision, recall and F1, each averaged over the labels where it is defined."""
    table = list(scores)
    return {
        name: mean_or_none(getattr(score, name) for score in table)
        for name in ("precision", "recall", "f1")
    }
