"""How much memory a call of a layer takes, before it is made."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch_semimarkov.errors import ConfigError, raise_all

FLOAT32_BYTES = 4


class MemoryEstimate(NamedTuple):
    """Bytes that a training step of one layer holds at its fullest.

    parameters: the weights.
    gradients: those of the weights.
    activations: what the forward keeps for the backward, the input included.
    recomputed: what the backward makes again with gradient checkpointing; 0 without.
    total: all of them.
    """

    parameters: int
    gradients: int
    activations: int
    recomputed: int
    total: int


def estimate(layer: Any, batch_size: int, length: int, bidirectional: bool) -> MemoryEstimate:
    """The estimate of :meth:`AdaptiveRankSemiseparableLayer.memory_estimate`.

    Args:
        layer: its weights give the size of a number, its current rank the size of the ranks.
        batch_size, length: B and L.
        bidirectional: two scans instead of one.

    Raises:
        ConfigError: a size below 1.
    """
    sizes = {"batch_size": batch_size, "length": length}
    problems = [
        f"{name} must be an integer >= 1, got {value!r}"
        for name, value in sizes.items()
        if type(value) is not int or value < 1
    ]
    raise_all(ConfigError, "no such batch", problems)
    weights = sum(p.numel() * p.element_size() for p in layer.parameters())
    narrow = layer.conv.weight.element_size()
    wide = max(narrow, FLOAT32_BYTES)
    D, H, r, scans = layer.d_model, layer.gate_hidden_dim, layer.current_rank, 1 + bidirectional
    positions = batch_size * length
    # x, x padded for the convolution, hidden units; then the gates, Wu x, Wv x, v.
    kept = positions * narrow * (2 * D + H + 4 * r)
    # Of each scan: its sum, and its product with v. A decay also keeps u for its rate's gradient.
    kept += positions * scans * r * (wide + narrow)
    if layer.normaliser == "decay":
        kept += positions * r * wide
    recomputed = 0
    if layer.gradient_checkpointing:
        kept, recomputed = positions * narrow * D, kept - positions * narrow * D
    return MemoryEstimate(weights, weights, kept, recomputed, 2 * weights + kept + recomputed)
