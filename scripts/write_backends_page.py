"""Write docs/backends.md from the registry: which backend runs which call, and what it costs.

    python scripts/write_backends_page.py            # write the page
    python scripts/write_backends_page.py --check    # exit 1 if it is out of date

The calls on a GPU are asked about with tensors that have a device and no memory, and what a backend
finds out of its machine is left out, so the page is the same on a machine without a GPU or Triton.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from torch_semimarkov import dispatch
from torch_semimarkov.dispatch.registry import load
from torch_semimarkov.functional.exact import EDGE_MEMORY
from torch_semimarkov.potentials import EdgePotentials, Potentials
from torch_semimarkov.semirings import SEMIRINGS

PAGE = Path(__file__).parents[1] / "docs" / "backends.md"
DURATIONS = {1: "1", 2: "2", 5: ">= 3"}
DEVICES = ("cpu", "cuda")
B, T, C = 2, 7, 3
# Calls beside log_partition, with the semiring in which they are asked about.
QUERY_OPS = {
    "tangent": "log", "viterbi": "max", "kbest": "max", "sample": "log", "messages": "log",
    "max_marginals": "max", "stream": "log",
}  # fmt: skip
MODELS = {
    "(C, C) transitions": (),
    "(K, C, C) transitions": ("transition",),
    "geometric tail": ("tail",),
    "both": ("transition", "tail"),
}
# What the functions and the flag of a backend are called that look at the machine.
PROBES = {"triton_problem": lambda *_: "", "memory_problem": lambda *_: "", "INTERPRETED": False}

HEAD = """# Backends

This page is written by `scripts/write_backends_page.py` from the registry of backends; a test says
when it is out of date, and another runs every row of the first table and compares the result with
enumeration.

Sizes: `B` sequences, `T` positions, `K` longest duration, `C` labels.

A call without `backend=` runs on the first backend that has no reason against it, in the order
{order}. A backend asked for by name runs, or raises with its reasons; it never makes way for
another. `explain(...)` shows the reasons for a call, `SemiMarkovCRFHead.explain(...)` the path that
it takes, and `torch-semimarkov info` those of this machine.
"""
DISPATCH = """
## Which backend runs `log_partition`

K = 1, K = 2 and boundary scores have no path of their own: one recurrence serves them all, and the
choice depends on the device. A gradient is the second half of the same path: the backward kernel of
a compiled backend, the combining pass of the reference.
"""
SEMIRING = """
## Which backend runs which semiring

`log_partition` takes the potentials of a model, `edge_log_partition` explicit edges of shape
`(B, N-1, K, C, C)`. What compares two models, `cross_entropy` and `kl_divergence`, runs in
`SemiMarkov(semiring)` on the edges of both. The error of a call that cannot run has the reason.
"""
QUERIES = """
## Which backend runs the other calls

The first is what `auto` runs. `tangent` stands behind entropies, divergences and second
derivatives, `messages` behind the probabilities of segments and windows, `max_marginals` behind the
function of that name. Where `cpu` runs a call of CUDA tensors, it copies the terms to memory and
the results back.
"""
COST = """
## Time and memory

For one sequence; a batch multiplies both. Memory is what comes on top of the inputs, of the result
and of the gradients, which are as large as their inputs.
"""
PATHS = """
## The two paths of the head

`SemiMarkovCRFHead.forward(hidden, lengths, backend=..., semiring=...)` has two paths to the same
number.

| path | time | memory | takes |
|---|---|---|---|
| `streaming` | of `log_partition` | of `log_partition` | `log`, `max`; others on reference |
| `exact` | of `edge_log_partition` | edges, B T K C^2, and their gradient | every semiring |

`backend="auto"` takes `streaming` for `log` and `max`, and `exact` for the other semirings while
the edge tensor has at most `edge_memory_threshold` bytes ({threshold:,} by default). Above that
there is one error, with the bytes it would take. At T = 1000, K = 100, C = 24 in float32 the edge
tensor of one sequence has {example:,} bytes.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write docs/backends.md from the registry.")
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    text = page()
    if not parser.parse_args(arguments).check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{PAGE.name} is out of date; run python scripts/write_backends_page.py")
    return 1


def page() -> str:
    """The whole page."""
    names = dispatch.available_backends()
    example = 1000 * 100 * 24 * 24 * 4
    with full_machine(names):
        makers = dispatch_rows, semiring_rows, query_rows, cost_rows
        rows = [list(make(names)) for make in makers]
    parts = [
        HEAD.format(order=", ".join(f"`{name}`" for name in names)),
        DISPATCH,
        table(
            ["K", "device", "gradient", "boundary scores", "`auto` runs", *by_name(names)],
            rows[0],
        ),
        SEMIRING,
        table(["semiring", "device", *columns(names)], rows[1]),
        QUERIES,
        table(["op", "device", *MODELS], rows[2]),
        COST,
        table(["backend", "op", "time", "memory", "memory with a gradient"], rows[3]),
        PATHS.format(threshold=EDGE_MEMORY, example=example),
    ]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


@contextmanager
def full_machine(names: Sequence[str]) -> Iterator[None]:
    """A block in which every backend believes that its machine has all that it needs."""
    with ExitStack() as stack:
        for backend in map(load, names):
            for name, answer in PROBES.items():
                if hasattr(backend, name):
                    stack.enter_context(mock.patch.object(backend, name, answer))
        yield


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def by_name(names: Sequence[str]) -> list[str]:
    return [f'`backend="{name}"`' for name in names]


def columns(names: Sequence[str]) -> list[str]:
    return [f"`{op}` on {name}" for op in ("log_partition", dispatch.EDGE_OP) for name in names]


def dispatch_rows(names: Sequence[str]) -> Iterator[list[str]]:
    """K x device x gradient x boundary scores: who runs by itself, and who when asked for."""
    for K, device, gradient, boundary in product(DURATIONS, DEVICES, (False, True), (False, True)):
        p = potentials(K, device, gradient, boundary)
        chosen = dispatch.explain_op("log_partition", p).chosen
        asked = [verdict("log_partition", p, "log", name) for name in names]
        flags = ["yes" if flag else "no" for flag in (gradient, boundary)]
        yield [DURATIONS[K], device, *flags, f"`{chosen}`", *asked]


def semiring_rows(names: Sequence[str]) -> Iterator[list[str]]:
    """Semiring x device: who can run it, on potentials and on edges."""
    for semiring, device in product(SEMIRINGS, DEVICES):
        p, edges = potentials(5, device, False, False), edge_potentials(5, device)
        found = [verdict("log_partition", p, semiring, name) for name in names]
        found += [verdict(dispatch.EDGE_OP, edges, semiring, name) for name in names]
        yield [f"`{semiring}`", device, *("runs" if x == "runs" else "no" for x in found)]


def query_rows(names: Sequence[str]) -> Iterator[list[str]]:
    """Op x device: who runs it with each kind of model, the first of them by itself."""
    for (op, semiring), device in product(QUERY_OPS.items(), DEVICES):
        models = [with_parts(potentials(5, device, False, False), more) for more in MODELS.values()]
        found = [dispatch.explain_op(op, p, semiring).reasons for p in models]
        able = [[f"`{name}`" for name in names if not reasons[name]] for reasons in found]
        yield [f"`{op}`", device, *map(", ".join, able)]


def cost_rows(names: Sequence[str]) -> Iterator[list[str]]:
    """What each backend says of itself."""
    for name in names:
        for op, costs in load(name).COSTS.items():
            yield [name, op, *costs]


def verdict(op: str, p: Potentials | EdgePotentials, semiring: str, name: str) -> str:
    """Whether a backend can run a call, with its reasons if not."""
    reasons = dispatch.explain_op(op, p, semiring, name).reasons[name]
    return "; ".join(reasons) or "runs"


def potentials(K: int, device: str, gradient: bool, boundary: bool) -> Potentials:
    """Potentials that have shapes and a device; those on a GPU have no memory."""

    def blank(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, device=device, requires_grad=gradient)

    with _memory(device):
        extra = {name: blank(B, T, C) for name in ("start_scores", "end_scores") if boundary}
        lengths = torch.full((B,), T, device=device)
        return Potentials(blank(B, T, C), blank(C, C), blank(K, C), lengths, **extra)


def with_parts(p: Potentials, parts: Sequence[str]) -> Potentials:
    """The same with (K, C, C) transitions, with a tail, or with both."""
    with _memory(p.device.type):
        shapes = {"transition": (p.K, C, C), "tail": (C,)}
        more = {name: torch.zeros(shapes[name], device=p.device.type) for name in parts}
    return replace(p, **more)


def edge_potentials(K: int, device: str) -> EdgePotentials:
    """The same as edges."""
    with _memory(device):
        lengths = torch.full((B,), T + 1, device=device)
        return EdgePotentials(torch.zeros(B, T, K, C, C, device=device), lengths)


def _memory(device: str) -> FakeTensorMode | torch.autograd.grad_mode.set_grad_enabled:
    return FakeTensorMode() if device == "cuda" else torch.enable_grad()


if __name__ == "__main__":
    sys.exit(main())
