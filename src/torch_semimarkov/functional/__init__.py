"""Every public operation on potentials, each with the same arguments."""

from __future__ import annotations

from torch_semimarkov.functional.constraints import Constrained, constrain
from torch_semimarkov.functional.decode import ViterbiResult, viterbi
from torch_semimarkov.functional.entropy import cross_entropy, entropy, kl_divergence
from torch_semimarkov.functional.explanation import explain
from torch_semimarkov.functional.kbest import KBestResult, kbest
from torch_semimarkov.functional.known import allowed_from_labels
from torch_semimarkov.functional.partial import partial_log_prob
from torch_semimarkov.functional.partition import log_partition
from torch_semimarkov.functional.posterior import Marginals, marginals
from torch_semimarkov.functional.queries import (
    MaxMarginals,
    duration_posterior,
    expected_segments,
    max_marginals,
    run_marginals,
    segment_marginals,
    window_marginals,
)
from torch_semimarkov.functional.risk import PosteriorDecoding, posterior_decode
from torch_semimarkov.functional.sample import sample
from torch_semimarkov.functional.schemes import (
    Grammar,
    bio_transitions,
    bioes_transitions,
    transitions_from_names,
)
from torch_semimarkov.functional.segment import segment_log_prob, segment_score
from torch_semimarkov.functional.stream import SemiMarkovStream

__all__ = [
    "Constrained",
    "Grammar",
    "KBestResult",
    "Marginals",
    "MaxMarginals",
    "PosteriorDecoding",
    "SemiMarkovStream",
    "ViterbiResult",
    "allowed_from_labels",
    "bio_transitions",
    "bioes_transitions",
    "constrain",
    "cross_entropy",
    "duration_posterior",
    "entropy",
    "expected_segments",
    "explain",
    "kbest",
    "kl_divergence",
    "log_partition",
    "marginals",
    "max_marginals",
    "partial_log_prob",
    "posterior_decode",
    "run_marginals",
    "sample",
    "segment_log_prob",
    "segment_marginals",
    "segment_score",
    "transitions_from_names",
    "viterbi",
    "window_marginals",
]
