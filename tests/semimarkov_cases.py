"""What enumeration says of edges in every semiring, with gradients by autograd over the paths."""

from math import inf

import pytest
import torch
from edge_cases import EdgeOracle
from torch import Tensor

from torch_semimarkov.semirings import (
    SEMIRINGS,
    CrossEntropySemiring,
    KLDivergenceSemiring,
    KMaxSemiring,
    Semiring,
    as_semiring,
)

K_BEST = 4
PAIRS = {"cross_entropy": CrossEntropySemiring, "kl_divergence": KLDivergenceSemiring}
SINGLE = tuple(name for name in SEMIRINGS if name not in PAIRS)
# Those whose gradient is no matter of chance.
CERTAIN = tuple(name for name in SEMIRINGS if name != "sampled")

for_each_semiring = pytest.mark.parametrize("name", CERTAIN)
for_each_single_semiring = pytest.mark.parametrize("name", [x for x in SINGLE if x != "sampled"])
for_each_pair_semiring = pytest.mark.parametrize("name", PAIRS)
for_each_scan = pytest.mark.parametrize("scan", ["linear", "tree"])


def semiring_called(name: str) -> Semiring:
    """The semiring of a name, KMax with a k of its own."""
    return KMaxSemiring(K_BEST) if name == "kmax" else as_semiring(name)


def plain_weights(name: str, edge: Tensor) -> Tensor:
    """Edges as a semiring takes them: weights for the standard one, else scores in nats."""
    return edge.exp() if name == "std" else edge


def path_scores(edge: Tensor, length: int, name: str) -> Tensor:
    """Score of every path of one sequence, differentiable in ``edge`` (N-1, K, C, C).

    A path with an edge of -inf has a constant score, so it has no gradient.
    """
    scores = []
    for path in EdgeOracle(edge.detach(), length).paths:
        edges = [edge[entry] for entry in path]
        if name == "std":
            scores.append(torch.stack([edge.new_ones(()), *edges]).prod())
        elif any(float(x.detach()) == -inf for x in edges):
            scores.append(edge.new_full((), -inf))
        else:
            scores.append(torch.stack([edge.new_zeros(()), *edges]).sum())
    return torch.stack(scores)


def truth(name: str, edges: tuple[Tensor, ...], length: int) -> Tensor:
    """The total of one sequence from its paths, by the definition of each semiring."""
    scores = [path_scores(edge, length, name) for edge in edges]
    return from_paths(name, *scores)


def from_paths(name: str, p: Tensor, q: Tensor | None = None) -> Tensor:
    """What a semiring says of paths with these scores, () or (k,)."""
    if name == "std":
        return p.sum()
    possible = p.detach() > -inf
    if name == "kmax":
        best = p[possible].sort(descending=True).values[:K_BEST]
        return torch.cat((best, p.new_full((K_BEST - len(best),), -inf)))
    if not bool(possible.any()):
        return p.new_full((), -inf if q is None and name != "entropy" else 0.0)
    live = p[possible]
    if name == "log":
        return live.logsumexp(0)
    if name == "max":
        return live.max()
    log_p = live - live.logsumexp(0)
    if q is None:
        return -(log_p.exp() * log_p).sum()
    if bool((q.detach()[possible] == -inf).any()):
        return p.new_full((), inf)
    log_q = q[possible] - q[q.detach() > -inf].logsumexp(0)
    cost = -log_q if name == "cross_entropy" else log_p - log_q
    return (log_p.exp() * cost).sum()
