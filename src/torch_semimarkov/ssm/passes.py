"""What an adaptive-rank semiseparable layer computes: a convolution, gates and running sums."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from torch_semimarkov.ssm.gates import GateMode, RankSchedule, open_gates
from torch_semimarkov.ssm.sums import running


class Parts(NamedTuple):
    """Everything that a pass computes; the last two only where the reverse scan ran."""

    y: Tensor
    t: Tensor
    gates: Tensor
    u: Tensor
    v: Tensor
    s: Tensor
    uv: Tensor
    s_reverse: Tensor | None = None
    uv_reverse: Tensor | None = None


class GatedSums(nn.Module):
    """The passes of a layer over its weights, without checks; the subclass makes the weights."""

    conv: nn.Conv1d
    gate_hidden: nn.Linear
    gate_logits: nn.Linear
    project_u: nn.Linear
    project_v: nn.Linear
    project_out: nn.Linear
    project_reverse: nn.Linear | None
    log_horizon: nn.Parameter | None
    kernel_size: int
    causal: bool
    use_fused_scan: bool
    normaliser: str | None
    _schedule: RankSchedule
    _gate_mode: GateMode

    def _compute(
        self, x: Tensor, lengths: Tensor | None, inside: Tensor | None, both: bool
    ) -> Parts:
        """Every part of a pass; past the lengths the parts hold anything finite."""
        x = masked(x, inside)
        around = self.kernel_size // 2
        before, after = (2 * around, 0) if self.causal else (around, around)
        t = self._convolve(pad(x, (0, 0, before, after)))
        gates, u, v = self._project(x)
        ones = torch.ones(1, dtype=torch.int64, device=x.device)
        sums = self._sum(u, "both") if both else (self._sum(u, False),)
        s = self._normalised(sums[0], ones, reverse=False)
        uv = self._mix(s, v, self.project_out)
        y = t + uv
        found = [y, t, gates, u, v, s, uv]
        if both:
            last = ones * x.shape[1] if lengths is None else lengths.to(x.device)
            s = self._normalised(sums[1], last, reverse=True)
            out = self.project_out if self.project_reverse is None else self.project_reverse
            uv = self._mix(s, v, out, with_bias=False)
            found = [y + uv, *found[1:], s, uv]
        return Parts(*found)

    def _convolve(self, padded: Tensor) -> Tensor:
        """(B, L, D) depthwise convolution of (B, L + kernel_size - 1, D).

        Term by term: no position outside the kernel is read, not even to be multiplied by 0, and
        (B, L, D) stays as it lies in memory.
        """
        length = padded.shape[1] - self.kernel_size + 1
        result = self.conv.bias
        for i in range(self.kernel_size):
            result = torch.addcmul(result, padded[:, i : i + length], self.conv.weight[:, 0, i])
        return result

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gates, u and v, each (B, L, r)."""
        r = self._schedule.rank
        hidden = torch.relu(self.gate_hidden(x))
        logits = linear(hidden, self.gate_logits.weight[:r], self.gate_logits.bias[:r])
        gates = open_gates(logits, self._gate_mode, self.training)
        u, v = (
            linear(x, projection.weight[:r]) * gates
            for projection in (self.project_u, self.project_v)
        )
        return gates, u, v

    def _sum(self, u: Tensor, way: bool | str, initial: Tensor | None = None) -> Any:
        """(B, L, r) running sum of u, or a pair for both ways, in float32 at least."""
        u = u.to(torch.promote_types(u.dtype, torch.float32))
        keep = None
        if self.log_horizon is not None:
            rate = torch.exp(-self.log_horizon[: u.shape[2]].to(u.dtype))
            u, keep = u * -torch.expm1(-rate), torch.exp(-rate)
        return running(u, keep, way, initial, self.use_fused_scan)

    def _normalised(self, totals: Tensor, first: Tensor, reverse: bool) -> Tensor:
        """Running sums over the number of positions in them.

        Args:
            totals: (B, L, r).
            first: (B,) or (1,) int. The number at position 0; falls by 1 a position if ``reverse``.
        """
        if self.normaliser != "mean":
            return totals
        steps = torch.arange(totals.shape[1], device=totals.device)
        count = first[:, None] + (-steps if reverse else steps)
        return totals / count.clamp(min=1)[..., None]

    def _mix(self, s: Tensor, v: Tensor, out: nn.Linear, with_bias: bool = True) -> Tensor:
        bias = out.bias if with_bias else None
        return linear((s * v).to(v.dtype), out.weight[:, : v.shape[2]], bias)


def masked(x: Tensor | None, inside: Tensor | None) -> Tensor | None:
    """0 past the lengths."""
    return x if inside is None or x is None else torch.where(inside, x, 0.0)


def effective_rank_of(gates: Tensor, inside: Tensor | None) -> Tensor:
    """(). The sum of a position's gates, its mean over the positions inside."""
    B, L, _ = gates.shape
    positions = max(B * L, 1) if inside is None else inside.sum()
    wide = torch.promote_types(gates.dtype, torch.float32)
    return masked(gates, inside).sum(dtype=wide) / positions
