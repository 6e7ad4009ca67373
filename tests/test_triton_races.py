"""No kernel of the triton backend has a race: each runs in other orders, on poisoned scratch."""

import ast
import os
from pathlib import Path
from unittest import mock

import pytest
import torch

if not os.environ.get("TRITON_INTERPRET"):
    pytest.skip("needs TRITON_INTERPRET=1: make test-triton", allow_module_level=True)
pytest.importorskip("triton")

import edge_cases
import race_checker
from factory import Size, make_inputs, upstream

from torch_semimarkov.backends import triton as backend
from torch_semimarkov.backends.triton import edges, launch_walk, scans, tangent_calls, variants
from torch_semimarkov.potentials import EdgePotentials, Potentials

FOLDER = Path(backend.__file__).parent
OPERATIONS = ("forward", "max", "viterbi", "train", "checkpointed")
SMALL = Size((6, 1, 4), K=3, C=3)
CASES = [
    (operation, size, dtype, flags)
    for size, dtype, flags in (
        (SMALL, torch.float32, "boundary"),
        (SMALL, torch.float32, "per-duration"),
        (Size((3, 4), K=6, C=2, padding=1), torch.float64, "impossible"),
    )
    for operation in OPERATIONS
]
# More than one stretch between checkpoints, and prefix sums with a second base.
CASES.append(("checkpointed", Size((35, 2), K=2, C=2), torch.float32, "plain"))
CASES += [(operation, SMALL, torch.float32, "tail") for operation in ("train", "checkpointed")]


def call(operation, size, dtype, flags):
    """A function that runs one operation on inputs of its own, and returns its results."""
    p = Potentials(**make_inputs(size, dtype, flags)).canonical()

    def run():
        if operation == "viterbi":
            scores, table, counts = backend.viterbi(p)
            inside = torch.arange(table.shape[-1]) < counts[:, None]
            return scores, table.where(inside, -1), counts
        semiring = "max" if operation == "max" else "log"
        if operation in ("forward", "max"):
            return backend.forward(p, semiring, False, None)[0]
        interval = 8 if operation == "checkpointed" else None
        value, kept = backend.forward(p, "log", True, interval)
        return value, backend.backward(p, value, kept, upstream(size.B))

    return run


@pytest.mark.parametrize(
    ("operation", "size", "dtype", "flags"),
    CASES,
    ids=[f"{operation}-{size}-{flags}" for operation, size, _, flags in CASES],
)
def test_another_order_of_execution_changes_nothing(operation, size, dtype, flags):
    assert race_checker.findings(call(operation, size, dtype, flags), orders=(0, 1)) == []


def call_edges(semiring):
    """The same for explicit edges."""
    edge, lengths = edge_cases.make_edges(edge_cases.SIZES["none reaches N"], torch.float32)
    p = EdgePotentials(edge, lengths).canonical()

    def run():
        value, kept = edges.forward(p, semiring, True)
        return value, edges.backward(p, semiring, kept, upstream(len(edge)))

    return run


def call_scan(op, reverse):
    """The same for a scan of several blocks."""
    x = torch.rand(2, 2500, 3, generator=torch.Generator().manual_seed(0))
    if op == "linear":
        return lambda: scans.linear_scan(x, x + 1.0, reverse, False, None, None)
    return lambda: scans.associative_scan(x, op, reverse, False, None, None)


def call_tangent(keep):
    """The same for the tangent and its gradients, over several blocks of positions."""
    p = Potentials(**make_inputs(Size((5, 2), K=4, C=2), flags="boundary")).canonical()

    def run():
        with mock.patch.object(tangent_calls, "block_of", lambda p: 2):
            value, slope, kept = backend.tangent(p, p, keep)
            return value, slope, backend.tangent_backward(p, p, kept, upstream(2), upstream(2))

    return run


def call_split(operation):
    """The same with the history of a tile of 8 positions split over programs, in several tiles."""
    inner = call(operation, Size((20, 9), K=17, C=2), torch.float32, "boundary")

    def run():
        with mock.patch.object(variants, "TABLE", ((1 << 20, 1, 4, 4, 8),)):
            return inner()

    return run


def call_posterior(operation, flags):
    """The same for samples of two turns of durations, messages and max-marginals."""
    p = Potentials(**make_inputs(Size((4, 1), K=3, C=2), torch.float32, flags)).canonical()

    def run():
        with mock.patch.multiple(launch_walk, LANES=2, PAIR_LANES=2, ENTRIES=2, PAIR_ENTRIES=4):
            return getattr(backend, operation)(p, *((2, 1) if operation == "sample" else ()))

    return run


OTHERS = [
    *[(f"sample-{flags}", call_posterior, ("sample", flags)) for flags in ("boundary", "all")],
    *[(f"messages-{flags}", call_posterior, ("messages", flags)) for flags in ("forbidden", "all")],
    ("max-marginals", call_posterior, ("max_marginals", "forbidden")),
    *[(f"split-{operation}", call_split, (operation,)) for operation in OPERATIONS[:4]],
    *[(f"tangent-{keep}", call_tangent, (keep,)) for keep in (False, True)],
    *[(f"edges-{semiring}", call_edges, (semiring,)) for semiring in ("log", "max")],
    *[
        (f"scan-{op}-{reverse}", call_scan, (op, reverse))
        for op in ("add", "logaddexp", "linear")
        for reverse in (False, True)
    ],
]


@pytest.mark.parametrize(("make", "arguments"), [x[1:] for x in OTHERS], ids=[x[0] for x in OTHERS])
def test_another_order_changes_nothing_of_the_other_calls(make, arguments):
    assert race_checker.findings(make(*arguments), orders=(0, 1)) == []


def kernels():
    """Names of the functions that are compiled, less those that another of them calls."""
    compiled, called = set(), set()
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            marks = getattr(node, "decorator_list", [])
            if any("jit" in ast.unparse(mark) for mark in marks):
                if any(each.arg.startswith("p_") for each in node.args.args):
                    compiled.add(node.name)
                inner = [part.func for part in ast.walk(node) if isinstance(part, ast.Call)]
                called |= {name.id for name in inner if isinstance(name, ast.Name)}
    return compiled - called


def test_the_cases_launch_every_kernel():
    launched = set()
    for case in CASES:
        launched |= race_checker.launched_by(call(*case))
    for _, make, arguments in OTHERS:
        launched |= race_checker.launched_by(make(*arguments))
    assert kernels() - launched == set()
