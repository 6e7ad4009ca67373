"""Associative scans and linear recurrences: any dimension, both ways, differentiable."""

from __future__ import annotations

from torch_semimarkov.scan.associative import explain, fused_associative_scan
from torch_semimarkov.scan.distributed import distributed_scan
from torch_semimarkov.scan.linear import linear_scan

__all__ = ["distributed_scan", "explain", "fused_associative_scan", "linear_scan"]
