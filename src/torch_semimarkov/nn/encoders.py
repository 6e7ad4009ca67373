"""Encoders from (B, T, D) features to (B, T, H) hidden states, blind to the padding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from torch_semimarkov.errors import ConfigError
from torch_semimarkov.nn.inside import check_kernel_size, features_inside
from torch_semimarkov.nn.ssm_encoder import ARSSMEncoder
from torch_semimarkov.nn.unet import UNetEncoder


class ConvEncoder(nn.Module):
    """Residual dilated convolutions; the hidden state of a position sees some way around it.

    Args:
        input_dim: features D.
        hidden_dim: channels H.
        num_layers: residual blocks; block i dilates by 2**(i % dilation_cycle).
        kernel_size: odd width of the convolutions.
        dropout: 0..1.
        dilation_cycle: after so many blocks the dilation starts at 1 again.

    Source: van den Oord et al., WaveNet, arXiv 1609.03499 (without the causality).

    >>> ConvEncoder(3, 8)(torch.randn(2, 10, 3)).shape
    torch.Size([2, 10, 8])
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        num_layers: int = 6,
        kernel_size: int = 5,
        dropout: float = 0.1,
        dilation_cycle: int = 6,
    ):
        super().__init__()
        check_kernel_size(kernel_size)
        self.input_dim, self.output_dim = input_dim, hidden_dim
        self.enter = nn.Linear(input_dim, hidden_dim)
        self.blocks = nn.ModuleList(
            _ConvBlock(hidden_dim, kernel_size, 2 ** (i % dilation_cycle), dropout)
            for i in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_dim)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T, H) hidden states of (B, T, D) features; 0 past the lengths."""
        inside = features_inside(features, lengths, self.input_dim)
        x = self.enter(torch.where(inside, features, 0.0))
        for block in self.blocks:
            x = block(x, inside)
        return torch.where(inside, self.norm(x), 0.0)


class _ConvBlock(nn.Module):
    def __init__(self, dim: int, kernel_size: int, dilation: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        padding = dilation * (kernel_size // 2)
        self.conv = nn.Conv2d(
            dim, dim, (1, kernel_size), padding=(0, padding), dilation=(1, dilation)
        ).to(memory_format=torch.channels_last)
        self.mix = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        normed = torch.where(inside, self.norm(x), 0.0)
        around = self._convolve(normed)
        return x + self.dropout(self.mix(nn.functional.gelu(around)))

    def _convolve(self, x: Tensor) -> Tensor:
        """A 1-D convolution as a 2-D one in channels-last layout.

        (B, T, H) lies in memory as that layout wants it, and the backward of a dilated Conv1d is
        several times slower on a CPU.
        """
        return self.conv(x.transpose(1, 2).unsqueeze(2)).squeeze(2).transpose(1, 2)


class BiLSTMEncoder(nn.Module):
    """Bidirectional LSTM; the hidden state of a position sees the whole sequence.

    Args:
        input_dim: features D.
        hidden_dim: size H of the output, both directions together; even.
        num_layers: stacked layers.
        dropout: between layers, 0..1.

    >>> BiLSTMEncoder(3, 8)(torch.randn(2, 10, 3)).shape
    torch.Size([2, 10, 8])
    """

    def __init__(self, input_dim: int, hidden_dim: int, num_layers: int = 2, dropout: float = 0.1):
        super().__init__()
        if hidden_dim % 2:
            raise ConfigError(f"hidden_dim of a BiLSTM must be even, got {hidden_dim}")
        self.input_dim, self.output_dim = input_dim, hidden_dim
        between = dropout if num_layers > 1 else 0.0
        self.lstm = nn.LSTM(
            input_dim, hidden_dim // 2, num_layers, batch_first=True, dropout=between,
            bidirectional=True,
        )  # fmt: skip

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T, H) hidden states of (B, T, D) features; 0 past the lengths."""
        inside = features_inside(features, lengths, self.input_dim)
        x = torch.where(inside, features, 0.0)
        if lengths is None:
            return self.lstm(x)[0]
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        T = features.shape[1]
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=T)[0]


ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "conv": ConvEncoder,
    "bilstm": BiLSTMEncoder,
    "unet": UNetEncoder,
    "ar-ssm": ARSSMEncoder,
}


def create_encoder(name: str, input_dim: int, hidden_dim: int, **options: object) -> nn.Module:
    """An encoder by name.

    Args:
        name: "conv", "bilstm", "unet" or "ar-ssm".
        input_dim: features D.
        hidden_dim: size H of the hidden states.
        options: further arguments of the encoder.

    Raises:
        ConfigError: an unknown name or option.
    """
    if name not in ENCODERS:
        raise ConfigError(f"encoder must be one of {sorted(ENCODERS)}, got {name!r}")
    try:
        return ENCODERS[name](input_dim, hidden_dim, **options)
    except TypeError as error:
        raise ConfigError(f"encoder {name!r}: {error}") from error
