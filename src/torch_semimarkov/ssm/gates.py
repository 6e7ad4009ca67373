"""How a layer opens its ranks: the modes of the gates, and how many ranks there are by now."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_semimarkov.errors import ConfigError, raise_all

GATE_MODES = ("soft", "ste", "gumbel")


@dataclass
class GateMode:
    """Mode and temperature of the gates; plain values that a layer may change at any time.

    Args:
        name: "soft", the probability; "ste", 0 or 1 with the gradient of the probability;
            "gumbel", in training a sample of the binary concrete distribution.
        temperature: > 0, of "gumbel".

    Raises:
        ConfigError: a value out of its range; every one is named.
    """

    name: str = "soft"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        problems = []
        if self.name not in GATE_MODES:
            problems.append(f"gate mode must be one of {', '.join(GATE_MODES)}, got {self.name!r}")
        number = type(self.temperature) in (int, float)
        if not number or not 0 < self.temperature < math.inf:
            problems.append(f"gate temperature must be a number > 0, got {self.temperature!r}")
        raise_all(ConfigError, "no such gates", problems)


def open_gates(logits: Tensor, mode: GateMode, training: bool) -> Tensor:
    """Gates in 0..1 from their log odds.

    Args:
        logits: any shape. Log odds that a gate is open.
        mode: how they open.
        training: "gumbel" draws a sample, from torch's generator of the device; otherwise it gives
            the median of the distribution, which is no random number.

    Source: Maddison et al., The Concrete Distribution, arXiv 1611.00712, appendix B.

    >>> open_gates(torch.tensor([-1.0, 3.0]), GateMode("ste"), training=True)
    tensor([0., 1.])
    """
    if mode.name == "gumbel":
        # Two Gumbel variables differ by a logistic one; half types have too few uniform values.
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if training:
            uniform = torch.rand_like(wide)
            wide = wide + uniform.log() - (-uniform).log1p()
        return torch.sigmoid(wide / mode.temperature).to(logits.dtype)
    soft = torch.sigmoid(logits)
    if mode.name == "soft":
        return soft
    return (soft > 0.5).to(soft.dtype) + (soft - soft.detach())


@dataclass
class RankSchedule:
    """How many ranks a layer computes: rising from ``min_rank`` to ``max_rank`` over a warm-up.

    Args:
        min_rank: ranks at step 0, 1 <= min_rank <= max_rank.
        max_rank: ranks after the warm-up, and before a schedule is set.
        step: the last step that was set, or -1.
        warmup_steps: length of the warm-up, or -1.

    >>> schedule = RankSchedule(4, 32)
    >>> [schedule.update(step, 100) for step in (0, 50, 100, 200)]
    [4, 18, 32, 32]
    """

    min_rank: int
    max_rank: int
    step: int = -1
    warmup_steps: int = -1

    def __post_init__(self) -> None:
        # A plain value: torch.compile can make a symbolic size of what is not computed.
        self.rank = self._rank()

    def update(self, step: int, warmup_steps: int) -> int:
        """The rank of a step, from now on.

        Args:
            step: >= 0.
            warmup_steps: >= 0; 0 gives ``max_rank`` at once.

        Raises:
            ConfigError: a value below 0, or no integer.
        """
        given = {"step": step, "warmup_steps": warmup_steps}
        problems = [
            f"{name} must be an integer >= 0, got {value!r}"
            for name, value in given.items()
            if type(value) is not int or value < 0
        ]
        raise_all(ConfigError, "no such rank schedule", problems)
        self.step, self.warmup_steps = step, warmup_steps
        self.rank = self._rank()
        return self.rank

    def _rank(self) -> int:
        if self.warmup_steps <= 0 or self.step >= self.warmup_steps:
            return self.max_rank
        span = self.max_rank - self.min_rank
        return int(self.min_rank + self.step / self.warmup_steps * span)
