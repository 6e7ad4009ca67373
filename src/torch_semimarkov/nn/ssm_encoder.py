"""Residual AR-SSM blocks as an encoder: the whole sequence in linear time, blind to the padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from torch_semimarkov.errors import ConfigError
from torch_semimarkov.nn.inside import features_inside
from torch_semimarkov.ssm import AdaptiveRankSemiseparableLayer, StreamState


class ARSSMEncoder(nn.Module):
    """A stack of residual adaptive-rank semiseparable layers; a position sees the whole sequence.

    Each block normalises, runs the layer in both directions (from left to right alone if causal),
    and adds a linear map of the result.

    Args:
        input_dim: features D.
        hidden_dim: channels H.
        num_layers: blocks >= 1.
        kernel_size: odd width of the layers' depthwise convolutions.
        dropout: 0..1.
        max_rank: ranks of each layer, >= 1.
        min_rank: ranks at the start of a schedule, 1..max_rank.
        gate_mode: "soft", "ste" or "gumbel".
        gate_temperature: > 0, of "gumbel".
        gate_l1: weight >= 0 of the penalty on open gates.
        normaliser: "decay", "mean" or "none"; see
            :class:`torch_semimarkov.AdaptiveRankSemiseparableLayer`.
        causal: a position sees those before it only, and :meth:`stream` works.
        gradient_checkpointing: keep only the blocks' inputs; the backward computes the rest again.

    Raises:
        ConfigError: a value out of its range.

    >>> ARSSMEncoder(3, 8)(torch.randn(2, 10, 3)).shape
    torch.Size([2, 10, 8])
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        num_layers: int = 4,
        kernel_size: int = 5,
        dropout: float = 0.1,
        *,
        max_rank: int = 32,
        min_rank: int = 4,
        gate_mode: str = "soft",
        gate_temperature: float = 1.0,
        gate_l1: float = 1e-3,
        normaliser: str = "decay",
        causal: bool = False,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        self.input_dim, self.output_dim, self.causal = input_dim, hidden_dim, causal
        if normaliser is None:
            raise ConfigError("normaliser must be one of decay, mean, none, got None")
        self.gradient_checkpointing = gradient_checkpointing
        self.enter = nn.Linear(input_dim, hidden_dim)
        self.blocks = nn.ModuleList(
            _Block(
                AdaptiveRankSemiseparableLayer(
                    hidden_dim, max_rank, min_rank, l1_regularization=gate_l1, causal=causal,
                    kernel_size=kernel_size, own_reverse=causal is False,
                    normaliser=None if normaliser == "none" else normaliser,
                ),
                dropout,
            )
            for _ in range(num_layers)
        )  # fmt: skip
        self.norm = nn.LayerNorm(hidden_dim)
        self.set_gate_mode(gate_mode, gate_temperature)

    def set_gate_mode(self, mode: str, temperature: float = 1.0) -> None:
        """Choose how the gates of every layer open; see the layer's method."""
        for block in self.blocks:
            block.layer.set_gate_mode(mode, temperature)

    def update_rank_schedule(self, step: int, warmup_steps: int) -> int:
        """Set the rank of every layer by its schedule, and return it; see the layer's method."""
        return [block.layer.update_rank_schedule(step, warmup_steps) for block in self.blocks][-1]

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T, H) hidden states of (B, T, D) features; 0 past the lengths."""
        return self.forward_with_penalty(features, lengths)[0]

    def forward_with_penalty(
        self, features: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Hidden states, and what to add to a loss per position to keep gates shut.

        Args:
            features: (B, T, D).
            lengths: (B,) int, 1..T; default T.

        Returns:
            (B, T, H), 0 past the lengths; and () >= 0, the sum of the layers' ``gate_l1_loss``.
        """
        inside = features_inside(features, lengths, self.input_dim)
        x = self.enter(torch.where(inside, features, 0.0))
        again = self.gradient_checkpointing and torch.is_grad_enabled()
        penalties = []
        for block in self.blocks:
            if again:
                x, penalty = checkpoint(block, x, lengths, use_reentrant=False)
            else:
                x, penalty = block(x, lengths)
            penalties.append(penalty)
        return torch.where(inside, self.norm(x), 0.0), torch.stack(penalties).sum()

    def stream(
        self, features: Tensor, states: tuple[StreamState, ...] | None = None
    ) -> tuple[Tensor, tuple[StreamState, ...]]:
        """Hidden states of the next chunk of sequences that come in pieces.

        Args:
            features: (B, T, D). The chunk.
            states: what the last call returned; None before the first chunk.

        Returns:
            (B, T, H) hidden states, those that the whole sequence gives; and the next states.

        Raises:
            ConfigError: the encoder is not causal.
            ShapeError: features or states do not fit.
        """
        features_inside(features, None, self.input_dim)
        x, after = self.enter(features), []
        for i, block in enumerate(self.blocks):
            x, state = block.stream(x, None if states is None else states[i])
            after.append(state)
        return self.norm(x), tuple(after)


class _Block(nn.Module):
    def __init__(self, layer: AdaptiveRankSemiseparableLayer, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(layer.d_model)
        self.layer = layer
        self.mix = nn.Linear(layer.d_model, layer.d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        both = not self.layer.causal
        around, penalty = self.layer.forward_with_penalty(self.norm(x), lengths, bidirectional=both)
        return self._add(x, around), penalty

    def stream(self, x: Tensor, state: StreamState | None) -> tuple[Tensor, StreamState]:
        before, state = self.layer.stream(self.norm(x), state)
        return self._add(x, before), state

    def _add(self, x: Tensor, around: Tensor) -> Tensor:
        return x + self.dropout(self.mix(nn.functional.gelu(around)))
