"""Exact segmentation of long sequences in PyTorch: semi-Markov CRFs and associative scans."""

__version__ = "0.1.0"
