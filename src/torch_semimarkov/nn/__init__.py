"""Layers: the head, encoders to put it on, and both in one."""

from __future__ import annotations

from torch_semimarkov.nn.encoders import ENCODERS, BiLSTMEncoder, ConvEncoder, create_encoder
from torch_semimarkov.nn.head import SemiMarkovCRFHead
from torch_semimarkov.nn.ssm_encoder import ARSSMEncoder
from torch_semimarkov.nn.uncertainty import UncertaintySemiMarkovCRFHead
from torch_semimarkov.nn.unet import UNetEncoder

__all__ = [
    "ENCODERS",
    "ARSSMEncoder",
    "BiLSTMEncoder",
    "ConvEncoder",
    "SemiMarkovCRFHead",
    "UNetEncoder",
    "UncertaintySemiMarkovCRFHead",
    "create_encoder",
]
