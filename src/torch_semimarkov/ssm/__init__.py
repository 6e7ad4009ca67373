"""Adaptive-rank semiseparable layers: linear-time context for long sequences."""

from __future__ import annotations

from torch_semimarkov.ssm.gates import GATE_MODES
from torch_semimarkov.ssm.layer import AdaptiveRankSemiseparableLayer
from torch_semimarkov.ssm.memory import MemoryEstimate
from torch_semimarkov.ssm.streaming import StreamState
from torch_semimarkov.ssm.sums import NORMALISERS

__all__ = [
    "GATE_MODES",
    "NORMALISERS",
    "AdaptiveRankSemiseparableLayer",
    "MemoryEstimate",
    "StreamState",
]
