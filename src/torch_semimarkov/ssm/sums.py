"""Running sums over the positions, plain or fading, in either direction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torch_semimarkov.dispatch import scans
from torch_semimarkov.scan import fused_associative_scan, linear_scan

NORMALISERS = ("mean", "decay")


def running(
    u: Tensor,
    keep: Tensor | None,
    way: bool | str,
    initial: Tensor | None = None,
    fused: bool = True,
) -> Any:
    """s[t] = keep * s[t-1] + u[t], or from the last position on.

    Args:
        u: (B, L, r) float.
        keep: (r,), 0..1. The share of the past that stays; None for all of it.
        way: False from the first position on, True from the last one; "both" gives a pair.
        initial: (B, r). The sum before the first position.
        fused: let the scan choose a compiled kernel.
    """
    backend = None if fused else "reference"
    if keep is None:
        return fused_associative_scan(u, 1, way, initial=initial, backend=backend)
    return linear_scan(keep.expand(u.shape), u, 1, way, initial=initial, backend=backend)


def runs_fused(u: Tensor, op: str, way: bool | str) -> bool | Tensor:
    """Whether :func:`running` takes a compiled kernel; in a trace, a tensor that says so later.

    Args:
        u: (B, L, r), in the type that is summed.
        op: "add", or "linear" with ``keep``.
        way: as in :func:`running`.
    """
    u = u.detach()
    if torch.compiler.is_compiling():
        return _runs_fused_op(u, op, way == "both")
    ways = (False, True) if way == "both" else (bool(way),)
    return all(scans.choose(op, u, one, scans.asked(None)).NAME != "reference" for one in ways)


@torch.library.custom_op("torch_semimarkov::scan_runs_fused", mutates_args=())
def _runs_fused_op(u: Tensor, op: str, both: bool) -> Tensor:
    """() bool. The choice depends on sizes that a trace does not know."""
    return torch.tensor(runs_fused(u, op, "both" if both else False), device=u.device)


@_runs_fused_op.register_fake
def _(u: Tensor, op: str, both: bool) -> Tensor:
    return torch.empty((), dtype=torch.bool, device=u.device)
