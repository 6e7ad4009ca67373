"""The judge of results in float64: two recurrences over log scores in numpy's long double.

For plain and for (K, C, C) transitions, one sequence at a time, every term of the score.
"""

import numpy as np
from factory import TERMS, one_sequence, tensors

LONG = np.longdouble


def log_sum(x, axis):
    """Log of the sum of exponentials along one axis, in the type of ``x``."""
    top = x.max(axis, keepdims=True)
    base = np.where(np.isinf(top), 0, top)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x - base).sum(axis)) + np.squeeze(base, axis)


def terms_of(inputs, b):
    """Every term of sequence b in long double; a term that is left out is zeros."""
    alone = tensors(one_sequence(inputs, b))
    L, C = alone["scores"].shape[1:]
    zeros = {"start": (C,), "end": (C,), "start_scores": (1, L, C), "end_scores": (1, L, C)}
    x = {name: np.zeros(shape, LONG) for name, shape in zeros.items()}
    x |= {name: term.detach().numpy().astype(LONG) for name, term in alone.items()}
    assert set(x) == set(TERMS) - {"tail"}  # these recurrences know none
    return x


class LongDouble:
    """Log partition and posteriors of sequence b of some inputs.

    value: the log partition. starts, ends, labels: (L, C). pairs: as the transition, its expected
    counts. durations: (K, C) expected counts.
    """

    def __init__(self, inputs, b=0):
        x = terms_of(inputs, b)
        self.scores, self.opens, self.closes = (
            x[name][0] for name in ("scores", "start_scores", "end_scores")
        )
        # the best score of each position is taken out and given back as a whole: no digit lost
        top = self.scores.max(1)
        top = np.where(np.isinf(top), 0, top)
        self.scores = self.scores - top[:, None]
        self.transition, self.bias = x["transition"], x["duration_bias"]
        self._from_left(x["start"], x["end"])
        self._from_right(x["start"], x["end"])
        self.value += top.sum()
        self.labels = np.cumsum(self.starts - np.roll(self.ends, 1, 0), 0, dtype=LONG)
        # the ends of the last position leave by no later one
        self.labels += self.ends[-1]

    def _entered(self, t, count):
        """Row d-1: all ways to enter a segment of d positions that ends before t."""
        if self.transition.ndim == 2:
            return self.entry[t - count : t][::-1]
        rows = [
            self.entry[0] if d == t else log_sum(self.alpha[t - d][:, None] + matrix, 0)
            for d, matrix in enumerate(self.transition[:count], 1)
        ]
        return np.stack(rows)

    def _from_left(self, start, end):
        (L, C), K = self.scores.shape, len(self.bias)
        self.alpha = np.full((L + 1, C), -np.inf, dtype=LONG)
        self.entry = np.full((L, C), -np.inf, dtype=LONG)
        self.entry[0] = start
        for t in range(1, L + 1):
            count = min(K, t)
            content = self.scores[t - count : t][::-1].cumsum(0)
            ways = content + self.bias[:count] + self.opens[t - count : t][::-1]
            ways = ways + self._entered(t, count) + self.closes[t - 1]
            self.alpha[t] = log_sum(ways, 0)
            if t < L and self.transition.ndim == 2:
                self.entry[t] = log_sum(self.alpha[t][:, None] + self.transition, 0)
        self.value = log_sum(self.alpha[L] + end, 0)

    def _from_right(self, start, end):
        (L, C), K = self.scores.shape, len(self.bias)
        beta = np.full((L + 1, C), -np.inf, dtype=LONG)
        beta[L] = end
        self.starts = np.zeros((L, C), LONG)
        self.pairs, self.durations = np.zeros_like(self.transition), np.zeros_like(self.bias)
        for s in range(L - 1, -1, -1):
            count = min(K, L - s)
            rest = self.scores[s : s + count].cumsum(0) + self.bias[:count] + self.opens[s]
            rest += self.closes[s : s + count] + beta[s + 1 : s + 1 + count]
            if s == 0:
                shares = np.exp(start + rest - self.value)
            elif self.transition.ndim == 2:
                rest_sum = log_sum(rest, 0)
                beta[s] = log_sum(self.transition + rest_sum, 1)
                pairs = self.alpha[s][:, None] + self.transition + rest_sum
                self.pairs += np.exp(pairs - self.value)
                shares = np.exp(self.entry[s] + rest - self.value)
            else:
                ways = self.transition[:count] + rest[:, None]
                beta[s] = log_sum(log_sum(ways, 2), 0)
                pairs = np.exp(self.alpha[s][:, None] + ways - self.value)
                self.pairs[:count] += pairs
                shares = pairs.sum(1)
            self.starts[s] = shares.sum(0)
            self.durations[:count] += shares
        self.ends = np.exp(self.alpha[1:] + beta[1:] - self.value)
