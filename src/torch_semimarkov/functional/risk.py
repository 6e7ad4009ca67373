"""Decoding for the score that counts: the segmentation whose expected score is highest."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov import dispatch
from torch_semimarkov.errors import ConfigError
from torch_semimarkov.functional.decode import refuse_impossible
from torch_semimarkov.functional.inputs import gather, result_dtype
from torch_semimarkov.functional.posterior import Marginals, marginals
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.segments import Segments, as_count

OBJECTIVES = ("position_accuracy", "boundary_f1")
# Of equally good segmentations that with the fewest segments: what each costs, in positions.
_FEWER = 2.0**-40
# Quadrature of powers of u up to 2 T is exact from T nodes on, and 1e-6 off with 2 sqrt(2 T).
_NODES = 64


class PosteriorDecoding(NamedTuple):
    """Segmentations that are best on average over the posterior.

    expected: (B,), 0..1. The expected accuracy or F1 of each.
    segments: the B segmentations.
    """

    expected: Tensor
    segments: Segments


def posterior_decode(
    scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    lengths: Tensor | None = None,
    *,
    objective: str = "position_accuracy",
    nodes: int | None = None,
    backend: str | None = None,
    validate_args: bool | None = None,
    **terms: Any,
) -> PosteriorDecoding:
    """The segmentation with the highest expected score under the posterior (minimum Bayes risk).

    "position_accuracy": of all segmentations that the model can produce, the one with the highest
    expected fraction of positions with the right label; of equally good ones, that with the fewest
    segments.

    "boundary_f1": of all sets of segment starts (position 0 among them), the one with the highest
    expected F1: twice the starts that are right, by the starts here and those of the truth. Labels
    do not count for it; each segment gets the label with the most expected positions. The set may
    leave the support of the model: segments longer than K, or neighbours it would not allow.

    Args:
        scores, transition, duration_bias, lengths, backend, validate_args: as in
            :func:`log_partition`.
        objective: "position_accuracy" or "boundary_f1".
        nodes: for "boundary_f1", marginals that are computed, by which a sum over the number of
            segments is found (Gauss-Legendre); T of them are exact. Default: T up to 64, beyond
            as many as keep the error of F1 below 1e-6, at most 64 or 2 sqrt(2 T).
        **terms: start, end, start_scores, end_scores, tail, as there.

    Returns:
        :class:`PosteriorDecoding`; no gradient. "boundary_f1" takes O(T nodes) memory, and
        about sqrt(T) times as much time.

    Raises:
        ConfigError: an unknown objective, or nodes below 1.
        ShapeError, UnsupportedError: as :func:`log_partition`.
        NumericsError: no segmentation of a sequence is possible; names the sequences.

    Source: Dembczynski et al., An exact algorithm for F-measure maximization, NIPS 2011.

    Three positions, of which the posterior gives each a label of its own:

    >>> scores = torch.tensor([[[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]]])
    >>> found = posterior_decode(scores, torch.zeros(2, 2), torch.zeros(3, 2))
    >>> found.segments.to_labels(3)
    tensor([[0, 0, 1]])
    """
    if objective not in OBJECTIVES:
        raise ConfigError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
    nodes = None if nodes is None else as_count("nodes", nodes, ConfigError)
    with torch.no_grad():
        p = gather(
            scores, transition, duration_bias, lengths, validate_args=validate_args, **terms
        ).map_terms(lambda x: x.detach().to(_wide(x)))
        found = _marginals(p, backend)
        refuse_impossible(found.log_partition == -torch.inf)
        if objective == "position_accuracy":
            segments = _most_positions(p, found, backend)
            right = _accuracy(p, found, segments)
        else:
            enough = min(p.T, max(_NODES, math.ceil(2 * math.sqrt(2 * p.T))))
            segments, right = _best_starts(p, found, nodes or enough, backend)
        return PosteriorDecoding(right.to(result_dtype(scores)), segments)


def _wide(x: Tensor) -> torch.dtype:
    """float64: the F1 takes differences of log partitions, which are of the size of T."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def _marginals(p: Potentials, backend: str | None) -> Marginals:
    terms: dict[str, Any] = {**dict(p.terms()), "lengths": p.lengths}
    return marginals(**terms, backend=backend, validate_args=False)


def _most_positions(p: Potentials, found: Marginals, backend: str | None) -> Segments:
    """Viterbi on the probabilities of the labels, where the model has only its -inf left."""

    def support(x: Tensor) -> Tensor:
        return torch.where(x == -torch.inf, x, 0.0)

    allowed = p.map_terms(support)
    expected = replace(
        allowed,
        scores=allowed.scores + found.labels,
        duration_bias=allowed.duration_bias - _FEWER,
    )
    return dispatch.viterbi(expected.canonical(), backend)[1]


def _accuracy(p: Potentials, found: Marginals, segments: Segments) -> Tensor:
    """(B,). Expected fraction of positions with the right label."""
    labels = segments.paint(p.T)
    right = found.labels.double().gather(2, labels.clamp(min=0)[..., None])[..., 0]
    return torch.where(labels >= 0, right, 0.0).sum(1) / p.lengths  # type: ignore[operator]


def _best_starts(
    p: Potentials, found: Marginals, nodes: int, backend: str | None
) -> tuple[Segments, Tensor]:
    """For each number of starts the best ones, then the best number; and its expected F1.

    With n starts, the expected F1 is the sum over them of the expectation of 2 b / (n + G), for b
    the indicator of a start there and G how many there are. 1 / (n + G) is the integral of
    u^(n + G - 1) over u from 0 to 1, and the expectation of b u^G a marginal of the model in which
    each segment weighs u.
    """
    points, weights = np.polynomial.legendre.leggauss(nodes)
    points, weights = (points + 1) / 2, weights / 2
    tilted = []
    for weight in points.tolist():
        q = replace(p, duration_bias=p.duration_bias + float(np.log(weight)))
        here = _marginals(q, backend)
        ratio = (here.log_partition.double() - found.log_partition.double()).exp()
        tilted.append(here.boundaries.double() * ratio[:, None])
    table = torch.stack(tilted, -1)  # (B, T, nodes)
    u = torch.from_numpy(points).to(table.device)
    share = 2 * torch.from_numpy(weights).to(table.device)
    chosen, expected = torch.zeros_like(p.inside()), []
    for b, L in enumerate(p.lengths.tolist()):  # type: ignore[union-attr]

        def gains(n: int, rows: Tensor = table[b, :L]) -> Tensor:
            return rows @ (share * u ** (n - 1))

        def value(n: int, gains: Callable[[int], Tensor] = gains) -> float:
            return float(_largest(gains(n), n)[0].sum())

        n, best = _best_number(value, L)
        chosen[b, _largest(gains(n), n)[1]] = True
        expected.append(best)
    return _labelled(p, found, chosen), table.new_tensor(expected).clamp(0, 1)


def _best_number(value: Callable[[int], float], most: int) -> tuple[int, float]:
    """The number of starts n in 1..most with the highest expected F1, and that; of few values.

    Without their worst, n + 1 starts keep n / (n + 1) of their F1 or more, so F1(m) <= F1(n) m / n
    for m > n. A start more than n may be wrong, but changes 2 / (n + G) to no less than
    2 / (n + 1 + G), so F1(n) <= F1(m) (m + 1) / (n + 1). What the two exclude is not looked at: of
    about n numbers near the best, some sqrt(n) are left.
    """
    known = {n: value(n) for n in (1, most)}
    n = max(known, key=lambda n: known[n])
    spans: list[tuple[float, int, int, int]] = []

    def open_span(a: int, b: int) -> None:
        if b - a > 1:
            product = a * (b + 1) * known[b] / known[a]
            middle = min(max((math.sqrt(1 + 4 * product) - 1) / 2, a + 1), b - 1)
            bound = min(known[a] * middle / a, known[b] * (b + 1) / (middle + 1))
            heapq.heappush(spans, (-bound, round(middle), a, b))

    open_span(1, most)
    while spans and -spans[0][0] > known[n]:
        _, m, a, b = heapq.heappop(spans)
        known[m] = value(m)
        n = m if known[m] > known[n] else n
        open_span(a, m)
        open_span(m, b)
    return n, known[n]


def _largest(gain: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n largest gains and their positions, position 0 among them."""
    order = _first_then_largest(gain[None])[0, :n]
    return gain[order], order


def _first_then_largest(gain: Tensor) -> Tensor:
    """Positions by falling gain, position 0 before all others: every segmentation starts there."""
    lifted = gain.clone()
    lifted[:, 0] = torch.inf
    return lifted.argsort(dim=1, descending=True, stable=True)


def _labelled(p: Potentials, found: Marginals, starts: Tensor) -> Segments:
    """Segments from where they start (B, T), each with its most probable label."""
    index = starts.long().cumsum(1) - 1
    mass = torch.zeros_like(found.labels, dtype=torch.float64)
    mass.scatter_add_(1, index[..., None].expand_as(found.labels), found.labels.double())
    labels = mass.argmax(-1).gather(1, index)
    return Segments._from_change(starts, labels, p.lengths)  # type: ignore[arg-type]
