"""A U-Net over positions: convolutions at halved rates and back, blind to the padding."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from torch_semimarkov.nn.inside import check_kernel_size, features_inside


class UNetEncoder(nn.Module):
    """Convolutions at falling and again rising rates; sees far at little cost.

    Level i works on every 2**i-th position with (i + 1) * hidden_dim channels. Going up, each level
    joins what it saw on the way down.

    Args:
        input_dim: features D.
        hidden_dim: channels H of level 0, and of the output.
        num_layers: levels >= 1; 1 never halves the rate.
        kernel_size: odd width of the convolutions.
        dropout: 0..1.

    Source: Ronneberger et al., arXiv 1505.04597; for ECG Moskalenko et al., arXiv 2001.04689.

    >>> UNetEncoder(3, 8)(torch.randn(2, 10, 3)).shape
    torch.Size([2, 10, 8])
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        num_layers: int = 4,
        kernel_size: int = 5,
        dropout: float = 0.1,
    ):
        super().__init__()
        check_kernel_size(kernel_size)
        self.input_dim, self.output_dim = input_dim, hidden_dim
        sizes = [hidden_dim * (i + 1) for i in range(num_layers)]
        above = [input_dim, *sizes[:-1]]
        self.down = nn.ModuleList(
            _Level(source, size, kernel_size, dropout)
            for source, size in zip(above, sizes, strict=True)
        )
        self.up = nn.ModuleList(
            _Level(size + below, size, kernel_size, dropout) for size, below in pairwise(sizes)
        )

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T, H) hidden states of (B, T, D) features; 0 past the lengths."""
        inside = features_inside(features, lengths, self.input_dim)
        x = torch.where(inside, features, 0.0)
        seen = []
        for i, level in enumerate(self.down):
            if i:
                x, inside = _halve(x), _halve(inside)
            x = level(x, inside)
            seen.append((x, inside))
        for level, (skip, inside) in zip(reversed(self.up), reversed(seen[:-1]), strict=True):
            wider = x.repeat_interleave(2, dim=1)[:, : skip.shape[1]]
            x = level(torch.cat((torch.where(inside, wider, 0.0), skip), dim=2), inside)
        return x


class _Level(nn.Module):
    """Two convolutions, each followed by batch normalisation over the positions inside."""

    def __init__(self, source: int, dim: int, kernel_size: int, dropout: float):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(d, dim, (1, kernel_size), padding=(0, kernel_size // 2), bias=False).to(
                memory_format=torch.channels_last
            )
            for d in (source, dim)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(dim) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        chosen = inside.flatten().nonzero()[:, 0]
        for conv, norm in zip(self.convolutions, self.norms, strict=True):
            # (B, T, D) lies in memory as channels-last wants it.
            around = conv(x.transpose(1, 2).unsqueeze(2)).squeeze(2).transpose(1, 2)
            rows = around.flatten(0, 1)
            values = nn.functional.leaky_relu(_normalise(norm, rows.index_select(0, chosen)))
            x = torch.zeros_like(rows, dtype=values.dtype).index_copy(0, chosen, values)
            x = x.view(around.shape)
        return self.dropout(x)


def _normalise(norm: nn.BatchNorm1d, rows: Tensor) -> Tensor:
    """Batch normalisation; a single position has no variance and takes the running one."""
    if norm.training and len(rows) > 1:
        return norm(rows)
    return nn.functional.batch_norm(
        rows, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    )


def _halve(x: Tensor) -> Tensor:
    """The larger of each two neighbours; (B, T, D) becomes (B, ceil(T / 2), D)."""
    B, T, D = x.shape
    return nn.functional.pad(x, (0, 0, 0, T % 2)).view(B, -1, 2, D).amax(2)
