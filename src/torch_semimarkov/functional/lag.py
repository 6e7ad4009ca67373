"""Fixed-lag decoding: what is final some positions after it was read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from torch_semimarkov.dispatch import Stepper
from torch_semimarkov.segments import Segment

Terms = tuple[np.ndarray, ...]


class FixedLag:
    """One sequence: its positions since the last final segment, and what is final so far.

    After each chunk the best segmentation that agrees with what is final is followed back; of its
    segments, those that ended ``lag`` positions ago or earlier become final. Where the best one no
    longer agrees, the positions since the last final segment are taken in anew from its label on.

    Args:
        stepper: the recurrence in the max semiring.
        lag: positions.
        score: the score of a segment, from its terms and the label before it, None at the start.
    """

    def __init__(self, stepper: Stepper, lag: int, score: Callable[..., float]) -> None:
        self._stepper, self._lag, self._score_of = stepper, lag, score
        self._state = stepper.begin()
        self._terms: Terms = ()
        self._codes = np.empty(0, np.uint8)
        self._origin = 0
        self._label: int | None = None
        # Of the path followed last: the label before its first segment, and whether that segment
        # begins where the codes do.
        self._before, self._reached = -1, False
        self.score = 0.0

    def push(self, terms: Terms) -> list[Segment]:
        """Take (n, C) scores, start_scores and end_scores in; the segments that are now final."""
        codes = self._stepper.advance([self._state], tuple(x[None] if x.size else x for x in terms))
        if self._terms and len(self._terms[0]):
            codes = np.concatenate((self._codes, codes))
            terms = tuple(np.concatenate(pair) for pair in zip(self._terms, terms, strict=True))
        self._terms, self._codes = terms, codes
        final = self._origin + len(terms[0]) - self._lag
        return self._accept([s for s in self._best(False) if s.end <= final])

    def finish(self) -> list[Segment]:
        """The segments that were not final yet; empty if none are possible."""
        rest = self._best(True)
        return self._accept(rest)

    def _best(self, last: bool) -> list[Segment]:
        """The best segments from the last final one on; empty if there are none."""
        found = self._follow(last)
        if found and not self._agrees(found[0]):
            self._state = self._stepper.begin(self._label)
            whole = tuple(x[None] if x.size else x for x in self._terms)
            self._codes = self._stepper.advance([self._state], whole)
            found = self._follow(last)
        return [Segment(s.start + self._origin, s.end + self._origin, s.label) for s in found]

    def _follow(self, last: bool) -> list[Segment]:
        values, _ = self._stepper.ends(self._state, last)
        n = len(self._terms[0])
        if n == 0 or values.max() == -np.inf:
            return []
        walk = np.array([0, n - 1, n, int(values.argmax()), 0])
        table = self._stepper.follow(self._codes, 0, 0, walk)
        self._before = int(walk[3])
        self._reached = int(walk[0]) == 0 and int(walk[1]) == -1
        found = [Segment(*(int(x) for x in row)) for row in table.T[::-1]]
        return found or [Segment(-1, n, 0)]  # there is one, but it began before the codes do

    def _agrees(self, first: Segment) -> bool:
        """True if the path has a boundary where the last final segment ended, with its label."""
        if not self._reached or first.start != 0:
            return False
        return self._label is None or self._before == self._label

    def _accept(self, segments: list[Segment]) -> list[Segment]:
        for segment in segments:
            at = slice(segment.start - self._origin, segment.end - self._origin)
            here = tuple(x[at, segment.label] if x.size else x for x in self._terms)
            self.score += self._score_of(segment, here, self._label)
            self._label = segment.label
        if segments:
            done = segments[-1].end - self._origin
            self._terms = tuple(x[done:] if x.size else x for x in self._terms)
            self._codes = self._codes[done:]
            self._origin += done
        return segments
