"""The oracle: the two recurrences of the model in numpy's float64, which shares no code with ours.

    U[s] = G[s] - S[s]               alpha[t] = S[t] + LSE_d (U[t-d] + duration_bias[d-1])
    W[t] = S[t] + beta[t]            V[s] = LSE_d (W[s+d] + duration_bias[d-1]) - S[s]

G[s] sums over the label before s, beta[t] over the label after t, S are prefix sums of the scores.
Gradients of the log partition are expectations, which need nothing else. Quick enough for 100,000
positions, where automatic differentiation of plain torch takes minutes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Terms(NamedTuple):
    """scores (B, T, C), transition (C, C), duration_bias (K, C), start (C,), all float64."""

    scores: Array
    transition: Array
    duration_bias: Array
    start: Array

    @property
    def prefix(self) -> Array:
        """(B, T+1, C). Prefix sums of the scores."""
        return np.concatenate((np.zeros_like(self.scores[:, :1]), self.scores.cumsum(1)), 1)


def _lse(x: Array, axis: int) -> Array:
    most = x.max(axis, keepdims=True)
    return np.log(np.exp(x - most).sum(axis)) + most.squeeze(axis)


def _max(x: Array, axis: int) -> Array:
    return x.max(axis)


def from_left(terms: Terms, best: bool = False) -> tuple[Array, Array]:
    """alpha and G, both (B, T+1, C); in the max semiring if ``best``."""
    total = _max if best else _lse
    (B, T, C), K, S = terms.scores.shape, len(terms.duration_bias), terms.prefix
    alpha, G = np.full((B, T + 1, C), -np.inf), np.empty((B, T + 1, C))
    U = np.full((B, K + T, C), -np.inf)
    backwards = terms.duration_bias[::-1]
    G[:, 0] = terms.start
    U[:, K] = terms.start
    for t in range(1, T + 1):
        first = max(0, K - t)
        alpha[:, t] = S[:, t] + total(U[:, t + first : t + K] + backwards[first:], 1)
        G[:, t] = total(alpha[:, t, :, None] + terms.transition, 1)
        if t < T:
            U[:, K + t] = G[:, t] - S[:, t]
    return alpha, G


def value(terms: Terms, best: bool = False) -> Array:
    """(B,). The log partition, or the score of the best segmentation."""
    alpha, _ = from_left(terms, best)
    return (_max if best else _lse)(alpha[:, -1], 1)


def partition(terms: Terms) -> tuple[Array, dict[str, Array]]:
    """(B,) and the gradients of its sum, by term."""
    (B, T, C), K, S = terms.scores.shape, len(terms.duration_bias), terms.prefix
    alpha, G = from_left(terms)
    total = _lse(alpha[:, -1], 1)
    W, V = np.zeros((B, T + 1, C)), np.empty((B, T, C))
    beta = np.zeros((B, T + 1, C))
    W[:, T] = S[:, T]
    starts, durations = np.empty((B, T, C)), np.zeros((K, C))
    for s in range(T - 1, -1, -1):
        many = min(K, T - s)
        x = W[:, s + 1 : s + 1 + many] + terms.duration_bias[:many]
        most = x.max(1, keepdims=True)
        weights = np.exp(x - most)
        sums = weights.sum(1)
        V[:, s] = np.log(sums) + most[:, 0] - S[:, s]
        starts[:, s] = np.exp(G[:, s] + V[:, s] - total[:, None])
        durations[:many] += (weights * (starts[:, s] / sums)[:, None]).sum(0)
        beta[:, s] = _lse(terms.transition + V[:, s, None, :], 2)
        W[:, s] = S[:, s] + beta[:, s]
    ends = np.exp(alpha[:, 1:] + beta[:, 1:] - total[:, None, None])
    inside = starts.cumsum(1)
    inside[:, 1:] -= ends[:, :-1].cumsum(1)
    base = alpha[:, 1:-1].max(2, keepdims=True)
    before = np.exp(alpha[:, 1:-1] - base)
    after = np.exp(V[:, 1:] + base - total[:, None, None])
    entered = np.exp(terms.transition) * (before.reshape(-1, C).T @ after.reshape(-1, C))
    gradients = {
        "scores": inside,
        "transition": entered,
        "duration_bias": durations,
        "start": starts[:, 0].sum(0),
    }
    return total, gradients
