"""The left-to-right messages of a tile, as the right-to-left sweep meets them: mirrored and scaled.

Row j of ``left_p`` belongs to the boundary before which j positions of the mirrored tile lie, row j
of ``left_q`` to the boundary after position j. In the linear domain they carry the scale and the
weight with which they enter the gradient; in the exact one they are logs that carry the scale.
"""

from __future__ import annotations

import math

from torch_semimarkov.backends.cpu.compile import part
from torch_semimarkov.backends.cpu.elementary import exp, log
from torch_semimarkov.backends.cpu.exact import sum_of_sources
from torch_semimarkov.backends.cpu.plan import TILE
from torch_semimarkov.backends.cpu.tile import LOG2, load_some, product
from torch_semimarkov.backends.cpu.vector import (
    load,
    spread,
    store,
    where,
)
from torch_semimarkov.backends.cpu.vector_types import LANES, LINEAR


@part
def load_linear(kept, rows, info, tile, n, growth, log_scale, weight, work, plan):
    """Rows of a tile whose right-to-left messages are linear."""
    own = info + 3 * tile
    gamma, scale = growth * LOG2 / n, math.exp(log_scale) * weight
    for j in range(n + (tile > 0)):
        i = n - j
        exact = kept[own + 2 if i else own - 1] > 0.0
        shift = kept[own - 2] - kept[own] if i == 0 else 0.0
        factor = 2.0**shift
        for v in range(0, plan.C, LANES):
            row = load_some(kept, rows + (tile * TILE + i - 1) * plan.labels + v, plan.labels - v)
            if exact:
                more = log_scale - i * gamma + shift * LOG2
                row = exp(row + spread(more)) * spread(weight)
                # padding has no log here, and what it has may be inf
                row = where(load(work, plan.real + v) > spread(0.0), row, spread(0.0))
            else:
                row = row * spread(factor) * spread(scale)
            store(work, plan.left_p + j * plan.C + v, row)
    for j in range(n):
        for v in range(plan.C // LANES):
            if tile == 0 and j == n - 1:
                row = load(work, plan.first + v * LANES)
                row = exp(row + spread(log_scale - kept[own] * LOG2)) * spread(weight)
            else:
                P = plan.left_p + (j + 1) * plan.C
                row = product(LINEAR, P, plan.X, v, work, plan)
            store(work, plan.left_q + j * plan.C + v * LANES, row)


@part
def load_exact(kept, rows, info, tile, n, log_scale, work, plan):
    """Rows of a tile whose right-to-left messages are logs."""
    own = info + 3 * tile
    gamma = (kept[own + 1] - kept[own]) * LOG2 / n
    for j in range(n + (tile > 0)):
        i = n - j
        exact = kept[own + 2 if i else own - 1] > 0.0
        shift = (kept[own - 2] - kept[own]) * LOG2 if i == 0 else i * gamma
        for v in range(0, plan.C, LANES):
            row = load_some(kept, rows + (tile * TILE + i - 1) * plan.labels + v, plan.labels - v)
            row = (row if exact else log(row)) + spread(shift + log_scale)
            store(work, plan.left_p + j * plan.C + v, row)
    for j in range(n):
        for v in range(plan.C // LANES):
            if tile == 0 and j == n - 1:
                row = load(work, plan.first + v * LANES)
                row = row + spread(log_scale - kept[own] * LOG2)
            else:
                P = plan.left_p + (j + 1) * plan.C
                row = sum_of_sources(P, plan.move, v, work, plan)
            store(work, plan.left_q + j * plan.C + v * LANES, row)
