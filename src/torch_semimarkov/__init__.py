"""Exact segmentation of long sequences in PyTorch: semi-Markov CRFs.

The names below load on first use, so importing the package costs little more than importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "AdaptiveRankSemiseparableLayer": "ssm",
    "Constrained": "functional",
    "Grammar": "functional",
    "KBestResult": "functional",
    "Marginals": "functional",
    "MaxMarginals": "functional",
    "PosteriorDecoding": "functional",
    "Potentials": "potentials",
    "Segment": "segments",
    "Segments": "segments",
    "SemiMarkov": "semimarkov",
    "SemiMarkovCRF": "distributions",
    "SemiMarkovCRFHead": "nn",
    "SemiMarkovStream": "functional",
    "UncertaintySemiMarkovCRFHead": "nn",
    "ViterbiResult": "functional",
    "allowed_from_labels": "functional",
    "available_backends": "dispatch",
    "bio_transitions": "functional",
    "bioes_transitions": "functional",
    "constrain": "functional",
    "create_duration_distribution": "durations",
    "cross_entropy": "functional",
    "duration_posterior": "functional",
    "entropy": "functional",
    "expected_segments": "functional",
    "explain": "functional",
    "fused_associative_scan": "scan",
    "kbest": "functional",
    "kl_divergence": "functional",
    "log_partition": "functional",
    "marginals": "functional",
    "max_marginals": "functional",
    "partial_log_prob": "functional",
    "posterior_decode": "functional",
    "run_marginals": "functional",
    "sample": "functional",
    "segment_log_prob": "functional",
    "segment_marginals": "functional",
    "segment_score": "functional",
    "semi_crf_streaming_forward": "streaming",
    "transitions_from_names": "functional",
    "use_backend": "dispatch",
    "viterbi": "functional",
    "window_marginals": "functional",
}

if TYPE_CHECKING:
    from torch_semimarkov.dispatch import available_backends, use_backend
    from torch_semimarkov.distributions import SemiMarkovCRF
    from torch_semimarkov.durations import create_duration_distribution
    from torch_semimarkov.functional import (
        Constrained,
        Grammar,
        Marginals,
        MaxMarginals,
        PosteriorDecoding,
        SemiMarkovStream,
        ViterbiResult,
        allowed_from_labels,
        bio_transitions,
        bioes_transitions,
        constrain,
        duration_posterior,
        expected_segments,
        explain,
        log_partition,
        marginals,
        max_marginals,
        partial_log_prob,
        posterior_decode,
        run_marginals,
        segment_log_prob,
        segment_marginals,
        segment_score,
        transitions_from_names,
        viterbi,
        window_marginals,
    )

    # In a circle of imports mypy takes three names of the package for modules of that name.
    from torch_semimarkov.functional.entropy import cross_entropy, entropy, kl_divergence
    from torch_semimarkov.functional.kbest import KBestResult, kbest
    from torch_semimarkov.functional.sample import sample
    from torch_semimarkov.nn import SemiMarkovCRFHead, UncertaintySemiMarkovCRFHead
    from torch_semimarkov.potentials import Potentials
    from torch_semimarkov.scan import fused_associative_scan
    from torch_semimarkov.segments import Segment, Segments
    from torch_semimarkov.semimarkov import SemiMarkov
    from torch_semimarkov.ssm import AdaptiveRankSemiseparableLayer
    from torch_semimarkov.streaming import semi_crf_streaming_forward

__all__ = [
    "AdaptiveRankSemiseparableLayer",
    "Constrained",
    "Grammar",
    "KBestResult",
    "Marginals",
    "MaxMarginals",
    "PosteriorDecoding",
    "Potentials",
    "Segment",
    "Segments",
    "SemiMarkov",
    "SemiMarkovCRF",
    "SemiMarkovCRFHead",
    "SemiMarkovStream",
    "UncertaintySemiMarkovCRFHead",
    "ViterbiResult",
    "__version__",
    "allowed_from_labels",
    "available_backends",
    "bio_transitions",
    "bioes_transitions",
    "constrain",
    "create_duration_distribution",
    "cross_entropy",
    "duration_posterior",
    "entropy",
    "expected_segments",
    "explain",
    "fused_associative_scan",
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
    "semi_crf_streaming_forward",
    "transitions_from_names",
    "use_backend",
    "viterbi",
    "window_marginals",
]


if not TYPE_CHECKING:  # a type checker would take any name for one that this function gives

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
        globals()[name] = getattr(home, name)
        return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
