"""Exact segmentation of long sequences in PyTorch: semi-Markov CRFs.

The names below load on first use, so importing the package costs little more than importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "AdaptiveRankSemiseparableLayer": "ssm",
    "Marginals": "functional",
    "Potentials": "potentials",
    "Segment": "segments",
    "Segments": "segments",
    "SemiMarkov": "semimarkov",
    "SemiMarkovCRFHead": "nn",
    "ViterbiResult": "functional",
    "available_backends": "dispatch",
    "create_duration_distribution": "durations",
    "cross_entropy": "functional",
    "entropy": "functional",
    "explain": "functional",
    "fused_associative_scan": "scan",
    "kl_divergence": "functional",
    "log_partition": "functional",
    "marginals": "functional",
    "sample": "functional",
    "segment_log_prob": "functional",
    "segment_score": "functional",
    "semi_crf_streaming_forward": "streaming",
    "use_backend": "dispatch",
    "viterbi": "functional",
}

if TYPE_CHECKING:
    from torch_semimarkov.dispatch import available_backends, use_backend
    from torch_semimarkov.durations import create_duration_distribution
    from torch_semimarkov.functional import (
        Marginals,
        ViterbiResult,
        cross_entropy,
        entropy,
        explain,
        kl_divergence,
        log_partition,
        marginals,
        sample,
        segment_log_prob,
        segment_score,
        viterbi,
    )
    from torch_semimarkov.nn import SemiMarkovCRFHead
    from torch_semimarkov.potentials import Potentials
    from torch_semimarkov.scan import fused_associative_scan
    from torch_semimarkov.segments import Segment, Segments
    from torch_semimarkov.semimarkov import SemiMarkov
    from torch_semimarkov.ssm import AdaptiveRankSemiseparableLayer
    from torch_semimarkov.streaming import semi_crf_streaming_forward

__all__ = [
    "AdaptiveRankSemiseparableLayer",
    "Marginals",
    "Potentials",
    "Segment",
    "Segments",
    "SemiMarkov",
    "SemiMarkovCRFHead",
    "ViterbiResult",
    "__version__",
    "available_backends",
    "create_duration_distribution",
    "cross_entropy",
    "entropy",
    "explain",
    "fused_associative_scan",
    "kl_divergence",
    "log_partition",
    "marginals",
    "sample",
    "segment_log_prob",
    "segment_score",
    "semi_crf_streaming_forward",
    "use_backend",
    "viterbi",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    globals()[name] = getattr(home, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
