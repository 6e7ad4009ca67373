"""Explicit edge potentials: the one factory, and the enumeration that judges them."""

from itertools import product
from math import inf

import numpy as np
import oracle
import torch
from torch import Tensor

# B sequences of N - 1 positions, durations up to K, C labels; lengths count positions plus one.
SIZES = {
    "one of everything": (1, 1, 1, 1, (2,)),
    "linear chain": (2, 5, 1, 3, (6, 4)),
    "none reaches N": (3, 6, 2, 2, (6, 4, 1)),
    "longer than the sequences": (2, 4, 6, 2, (5, 3)),
    "one label": (2, 7, 3, 1, (8, 5)),
}
LARGER = {
    "nine labels": (3, 40, 12, 9, (41, 30, 2)),
    "whole vectors": (2, 33, 40, 8, (34, 20)),
    "seventeen labels": (2, 21, 5, 17, (22, 9)),
}


def make_edges(size, dtype=torch.float64, forbid=0.2, seed=0) -> tuple[Tensor, Tensor]:
    """(B, N-1, K, C, C) edges, some of them -inf, and lengths."""
    B, T, K, C, lengths = size
    draw = np.random.default_rng(seed)
    edge = draw.normal(size=(B, T, K, C, C))
    edge[draw.random(edge.shape) < forbid] = -inf
    edge[:, :, 0, -1, -1] = draw.normal(size=(B, T))
    return torch.tensor(edge).to(dtype), torch.tensor(lengths)


def spoil_padding(edge: Tensor, lengths: Tensor) -> Tensor:
    """A copy with NaN at every edge that ends after its sequence."""
    edge = edge.clone()
    for b, length in enumerate(lengths.tolist()):
        for s in range(edge.shape[1]):
            edge[b, s, max(0, length - 1 - s) :] = torch.nan
    return edge


class EdgeOracle:
    """Every segmentation of one sequence, with the free label before it, one by one."""

    def __init__(self, edge: Tensor, length: int) -> None:
        self.edge = edge.double().numpy()
        _, K, C, _ = edge.shape
        self.paths, scores = [], []
        for durations in oracle.durations_of(length - 1, K):
            starts = np.concatenate(([0], np.cumsum(durations)))[:-1].astype(int).tolist()
            for labels in product(range(C), repeat=len(durations) + 1):
                pairs = zip(starts, durations, labels[1:], labels[:-1], strict=True)
                path = [(s, d - 1, c, source) for s, d, c, source in pairs]
                self.paths.append(path)
                scores.append(sum(self.edge[entry] for entry in path))
        self.scores = np.array(scores)
        self.log_partition = oracle.log_sum_exp(self.scores)
        self.best = float(self.scores.max())

    def value(self, semiring: str) -> float:
        return self.log_partition if semiring == "log" else self.best

    def gradient(self, semiring: str) -> Tensor:
        """Edge marginals, or the indicator of the best segmentation."""
        found = np.zeros_like(self.edge)
        if self.best == -inf:
            return torch.from_numpy(found)
        weights = np.exp(self.scores - self.log_partition)
        if semiring == "max":
            weights = np.arange(len(self.scores)) == self.scores.argmax()
        for path, weight in zip(self.paths, weights, strict=True):
            for entry in path:
                found[entry] += weight
        return torch.from_numpy(found)
