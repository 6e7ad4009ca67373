"""Layers and inputs that the tests of AR-SSM share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torch_semimarkov.ssm import NORMALISERS, AdaptiveRankSemiseparableLayer

B, L, D, R = 3, 11, 6, 5
LENGTHS = torch.tensor([11, 6, 1])
INSIDE = (torch.arange(L) < LENGTHS[:, None])[..., None]
EACH_NORMALISER = (None, *NORMALISERS)


def layer_of(**options: Any) -> AdaptiveRankSemiseparableLayer:
    """A small layer in float64, so that only a mistake can make a difference."""
    options = {"max_rank": R, "min_rank": 2, "dtype": torch.float64, **options}
    return AdaptiveRankSemiseparableLayer(D, **options)


def inputs(requires_grad: bool = False) -> Tensor:
    return torch.randn(B, L, D, dtype=torch.float64, requires_grad=requires_grad)


def gradients(y: Tensor, layer: torch.nn.Module, *more: Tensor) -> list[Tensor]:
    """Of the parameters and more, with unequal weights upstream, the same in each call."""
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(y.shape, dtype=y.dtype, generator=generator)
    return list(torch.autograd.grad((y * weights).sum(), [*layer.parameters(), *more]))


def by_hand(layer: AdaptiveRankSemiseparableLayer, x: Tensor, both: bool = False) -> Tensor:
    """y (L, D) of one sequence (L, D) by loops over the formulas, for soft gates."""
    r = layer.current_rank
    p = {name: value.detach() for name, value in layer.named_parameters()}
    half = layer.kernel_size // 2
    shift = 2 * half if layer.causal else half
    rows, us, vs = [], [], []
    for t in range(len(x)):
        local = p["conv.bias"].clone()
        for k in range(layer.kernel_size):
            if 0 <= t + k - shift < len(x):
                local += p["conv.weight"][:, 0, k] * x[t + k - shift]
        hidden = (p["gate_hidden.weight"] @ x[t] + p["gate_hidden.bias"]).clamp(min=0)
        logits = (p["gate_logits.weight"] @ hidden + p["gate_logits.bias"])[:r]
        gate = 1 / (1 + (-logits).exp())
        us.append((p["project_u.weight"] @ x[t])[:r] * gate)
        vs.append((p["project_v.weight"] @ x[t])[:r] * gate)
        rows.append(local + p["project_out.bias"])
    out = p["project_out.weight"][:, :r]
    passes = [(range(len(x)), out)]
    if both:
        back = p.get("project_reverse.weight", p["project_out.weight"])[:, :r]
        passes.append((reversed(range(len(x))), back))
    for order, weight in passes:
        s = torch.zeros(r, dtype=x.dtype)
        for n, t in enumerate(order):
            if layer.normaliser == "decay":
                a = (-(-p["log_horizon"][:r]).exp()).exp()
                s = a * s + (1 - a) * us[t]
            else:
                s = s + us[t]
            rows[t] = rows[t] + weight @ (
                (s / (n + 1) if layer.normaliser == "mean" else s) * vs[t]
            )
    return torch.stack(rows)
