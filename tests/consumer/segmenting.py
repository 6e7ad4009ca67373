"""A small project of a user's own: the type checker, not Python, reads it (tests/test_types.py)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import torch_semimarkov as ts
from torch_semimarkov import (
    Marginals,
    Segment,
    Segments,
    SemiMarkovCRF,
    SemiMarkovCRFHead,
    UncertaintySemiMarkovCRFHead,
    ViterbiResult,
    functional,
)
from torch_semimarkov.durations import DurationDistribution
from torch_semimarkov.scan import linear_scan


class Tagger(nn.Module):
    """An encoder with a head, as in the README."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(features, 16)
        self.head = SemiMarkovCRFHead(classes, max_duration=5, hidden_dim=16, tail="geometric")

    def loss(self, x: Tensor, labels: Tensor, lengths: Tensor | None = None) -> Tensor:
        loss = self.head.compute_loss(self.encoder(x), lengths, labels)
        return assert_type(loss, Tensor)

    def decode(self, x: Tensor) -> list[list[Segment]]:
        result = self.head.decode(self.encoder(x))
        assert_type(result, ViterbiResult)
        assert_type(result.scores, Tensor)
        return result.segments.to_list()


def potentials() -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros(1, 4, 2), torch.zeros(2, 2), torch.zeros(3, 2)


def functions() -> None:
    scores, transition, duration_bias = potentials()
    assert_type(ts.log_partition(scores, transition, duration_bias, start=None), Tensor)
    assert_type(ts.entropy(scores, transition, duration_bias), Tensor)
    assert_type(ts.marginals(scores, transition, duration_bias), Marginals)
    assert_type(ts.marginals(scores, transition, duration_bias).labels, Tensor)
    best = ts.viterbi(scores, transition, duration_bias, backend="reference")
    assert_type(best.segments, Segments)
    assert_type(Segment(0, 2, 1).duration, int)
    assert_type(ts.segment_log_prob(best.segments, scores, transition, duration_bias), Tensor)
    assert_type(ts.segment_score(best.segments, scores, transition, duration_bias), Tensor)
    assert_type(ts.segment_marginals(best.segments, scores, transition, duration_bias), Tensor)
    assert_type(ts.sample(scores, transition, duration_bias, num_samples=3), Segments)
    assert_type(ts.kbest(scores, transition, duration_bias, k=2).segments, Segments)
    decoded = ts.posterior_decode(scores, transition, duration_bias, objective="boundary_f1")
    assert_type(decoded.segments, Segments)
    model = ts.Potentials(scores, transition, duration_bias)
    assert_type(ts.kl_divergence(model, model), Tensor)
    assert_type(ts.bio_transitions(["O", "B-x", "I-x"]).allowed_transitions, Tensor)
    assert_type(ts.constrain(scores, transition, duration_bias), ts.Constrained)
    assert_type(ts.semi_crf_streaming_forward(scores, transition, duration_bias, scores, 3), Tensor)


def objects() -> None:
    scores, transition, duration_bias = potentials()
    model = SemiMarkovCRF(scores, transition, duration_bias)
    assert_type(model.mode, Segments)
    assert_type(model.log_prob(model.mode), Tensor)
    assert_type(model.marginals, Marginals)
    assert_type(ts.SemiMarkov("log").logpartition(torch.zeros(1, 4, 2, 2, 2))[0], Tensor)
    head = UncertaintySemiMarkovCRFHead(2, max_duration=3)
    assert_type(head.compute_entropy(scores), Tensor)
    assert_type(head.marginals(scores).boundaries, Tensor)
    durations = ts.create_duration_distribution("poisson", 3, 2)
    assert_type(durations, DurationDistribution)
    with ts.SemiMarkovStream(transition, duration_bias, decode=True) as stream:
        assert_type(stream.finish(), ViterbiResult)
    assert_type(ts.available_backends(), tuple[str, ...])
    with ts.use_backend("reference"):
        assert_type(ts.__version__, str)


def scans(x: Tensor) -> None:
    assert_type(ts.fused_associative_scan(x, dim=1, op="logaddexp"), Tensor)
    assert_type(ts.fused_associative_scan(x, return_final=True), tuple[Tensor, Tensor])
    assert_type(linear_scan(x, x, reverse=True), Tensor)
    layer = ts.AdaptiveRankSemiseparableLayer(16)
    assert_type(layer.forward(x)[0], Tensor)


def rooms() -> None:
    scores, transition, duration_bias = potentials()
    assert_type(functional.entropy(scores, transition, duration_bias), Tensor)
    assert_type(functional.sample(scores, transition, duration_bias), Segments)
    assert_type(functional.kbest(scores, transition, duration_bias, k=2).scores, Tensor)
