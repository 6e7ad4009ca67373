"""Left-to-right messages in nats, from the rows that the sweep of a sample keeps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov.backends.cpu.arguments import arguments_of, cells_of
from torch_semimarkov.backends.cpu.plan import TILE
from torch_semimarkov.backends.cpu.sample import filter_forward
from torch_semimarkov.backends.cpu.threads import run
from torch_semimarkov.potentials import Potentials


def messages(p: Potentials) -> tuple[Tensor, Tensor]:
    """``alpha`` and ``entering``, (B, T, C) float64; -inf past the lengths. (C, C) transitions."""
    alpha, entering = np.full((2, p.B, p.T, p.C), -np.inf)
    arguments = arguments_of(p)
    lengths = arguments[3].tolist()

    def task(b: int) -> None:
        L = lengths[b]
        rows, info = np.empty((2, L * p.C)), np.empty((-(-L // TILE), 3))
        if filter_forward(*arguments, b, rows, info) == -np.inf:
            return
        scale, growth, exact = np.repeat(info, TILE, axis=0)[:L].T[:, :, None]
        offset = (np.arange(L) % TILE)[:, None]
        for target, row, after in ((alpha, rows[0], 1), (entering, rows[1], 0)):
            values = row.reshape(L, p.C)
            with np.errstate(divide="ignore", invalid="ignore"):
                linear = np.log(values) + (offset + after) * growth
            target[b, :L] = np.where(exact > 0, values, linear) + scale

    run(task, p.B, cells_of(p))
    return torch.from_numpy(alpha), torch.from_numpy(entering)
