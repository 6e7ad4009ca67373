"""Inputs and naive answers for the tests of the scans."""

import math

import torch

OPS = ("add", "mul", "max", "min", "logaddexp")
# Shape and dimension: rows, columns, blocks of eight and their remainders, lone rows, odd ranks.
SHAPES = [
    ((7,), 0),
    ((1,), 0),
    ((3, 1, 5), 1),
    ((2, 9, 4), 1),
    ((2, 9, 33), 1),
    ((9, 3, 4), 0),
    ((3, 5, 17), 2),
    ((2, 2, 3, 2, 3), -3),
    ((2, 200), -1),
]


def make(shape, dtype=torch.float64, op="add", seed=0):
    """A tensor of a shape; of magnitude near 1 where products must not run away."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if not (dtype.is_floating_point or dtype.is_complex):
        return (3 * x).round().to(dtype)
    if op == "mul":
        x = x.sign() * (0.9 + 0.2 * torch.rand(shape, generator=generator, dtype=torch.float64))
    if dtype.is_complex:
        x = torch.polar(x.abs(), torch.randn(shape, generator=generator, dtype=torch.float64))
    return x.to(dtype)


def edge_of(shape, dim, dtype=torch.float64, seed=1):
    """An initial value for a tensor of a shape."""
    sizes = list(shape)
    del sizes[dim]
    return make(sizes, dtype, seed=seed)


def step(op, a, b):
    """Two numbers as one."""
    if op == "logaddexp":
        top = max(a, b)
        return top if math.isinf(top) else top + math.log(math.exp(a - top) + math.exp(b - top))
    return {"add": a + b, "mul": a * b, "max": max(a, b), "min": min(a, b)}[op]


def naive(x, dim, reverse=False, *, op="add", exclusive=False, initial=None, lengths=None):
    """Scan and final value in float64 by a loop over numbers; knows no tensor operation."""
    moved = x.movedim(dim, -1)
    rows = moved.reshape(-1, moved.shape[-1]).tolist()
    neutral = {"add": 0.0, "mul": 1.0, "max": -math.inf, "min": math.inf, "logaddexp": -math.inf}
    states = [neutral[op]] * len(rows) if initial is None else initial.reshape(-1).tolist()
    counts = [len(row) for row in rows]
    if lengths is not None:
        outer = lengths.numel()
        counts = [n for n in lengths.reshape(-1).tolist() for _ in range(len(rows) // outer)]
    found = []
    for r, row in enumerate(rows):
        result, order = [0.0] * len(row), list(range(counts[r]))
        for t in reversed(order) if reverse else order:
            before, states[r] = states[r], step(op, states[r], row[t])
            result[t] = before if exclusive else states[r]
        found.append(result)
    y = torch.tensor(found, dtype=torch.float64).reshape(moved.shape).movedim(-1, dim)
    return y, torch.tensor(states, dtype=torch.float64).reshape(moved.shape[:-1])


def naive_linear(gates, inputs, dim, reverse=False, initial=None):
    """The states of a linear recurrence, one position at a time."""
    g, u = gates.movedim(dim, 0), inputs.movedim(dim, 0)
    state = torch.zeros_like(u[0]) if initial is None else initial
    found = [None] * len(u)
    for t in reversed(range(len(u))) if reverse else range(len(u)):
        state = g[t] * state + u[t]
        found[t] = state
    return torch.stack(found).movedim(0, dim), state


def bits(x):
    """The bits of a tensor, so that NaN equals NaN."""
    return x.contiguous().view(torch.uint8)
