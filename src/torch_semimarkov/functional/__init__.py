"""Every public operation on potentials, each with the same arguments."""

from __future__ import annotations

from torch_semimarkov.functional.decode import ViterbiResult, viterbi
from torch_semimarkov.functional.entropy import cross_entropy, entropy, kl_divergence
from torch_semimarkov.functional.explanation import explain
from torch_semimarkov.functional.partition import log_partition
from torch_semimarkov.functional.posterior import Marginals, marginals
from torch_semimarkov.functional.sample import sample
from torch_semimarkov.functional.segment import segment_log_prob, segment_score

__all__ = [
    "Marginals",
    "ViterbiResult",
    "cross_entropy",
    "entropy",
    "explain",
    "kl_divergence",
    "log_partition",
    "marginals",
    "sample",
    "segment_log_prob",
    "segment_score",
    "viterbi",
]
