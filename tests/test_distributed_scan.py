"""A scan of a sequence that is sharded over processes, against the scan of the whole."""

import os
import re
import subprocess
import sys
from pathlib import Path

import distributed_cases as cases
import pytest
import torch
from tolerances import assert_close

from torch_semimarkov.errors import UnsupportedError
from torch_semimarkov.scan import distributed_scan, fused_associative_scan

ROOT = Path(__file__).parents[1]
OPTIONS = [
    {"op": op, "reverse": reverse, "exclusive": exclusive}
    for op in ("add", "mul", "max", "min", "logaddexp")
    for reverse in (False, True)
    for exclusive in (False, True)
    if op in ("add", "mul") or not exclusive
]
CALLS = [(dtype, options) for dtype in (torch.float64, torch.float32) for options in OPTIONS]
# What comes before the whole sequence.
INITIAL = torch.tensor(2.0, dtype=torch.float64)
CALLS.append((torch.float64, {"op": "add", "initial": INITIAL, "reverse": True, "exclusive": True}))
pytestmark = pytest.mark.slow


def expected(ranks, dtype, options):
    x, weights = cases.whole(ranks, dtype)
    x.requires_grad_()
    y = fused_associative_scan(x, 1, **options)
    (first,) = torch.autograd.grad(cases.loss_of(y, weights), x, create_graph=True)
    if options["op"] in ("max", "min", "add"):
        return [y, first]
    (second,) = torch.autograd.grad((first * weights).abs().square().sum(), x)
    return [y, first, second]


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_sharded_scan_and_its_derivatives_are_those_of_the_whole(ranks):
    found = cases.run_on_ranks(ranks, cases.many_calls, ranks, CALLS)
    for number, (dtype, options) in enumerate(CALLS):
        pieces = zip(*(results[number] for results in found), strict=True)
        for joined, truth in zip(pieces, expected(ranks, dtype, options), strict=True):
            assert_close("scan", dtype, torch.cat(joined, 1), truth)


def test_integers_complex_numbers_and_half_types_are_sharded_too():
    dtypes = torch.int64, torch.complex64, torch.bfloat16
    found = cases.run_on_ranks(2, cases.many_calls, 2, [(dtype, {"op": "add"}) for dtype in dtypes])
    for number, dtype in enumerate(dtypes):
        truth = fused_associative_scan(cases.whole(2, dtype)[0], 1)
        joined = torch.cat([results[number][0] for results in found], 1)
        assert joined.dtype == truth.dtype
        torch.testing.assert_close(joined, truth)


X = torch.zeros(3)
SQUARE = torch.zeros(3, 3)
# What two ranks give at odds with each other.
BAD = {
    "sizes": ({"x": torch.zeros(2, 3, 4), "dim": 1}, {"x": torch.zeros(2, 3, 5), "dim": 1}),
    "number of dimensions": ({"x": SQUARE, "dim": 1}, {"x": torch.zeros(3, 3, 4), "dim": 1}),
    "types": ({"x": X}, {"x": X.double()}),
    "dimensions": ({"x": SQUARE, "dim": 0}, {"x": SQUARE, "dim": 1}),
    "ops": ({"x": X, "op": "add"}, {"x": X, "op": "mul"}),
    "directions": ({"x": X, "reverse": True}, {"x": X}),
    "a dimension that one rank lacks": ({"x": X, "dim": 0}, {"x": X, "dim": 1}),
}


def test_ranks_that_disagree_all_raise_and_none_hangs():
    """One start of the processes for all: they also agree again after every error."""
    found = cases.run_on_ranks(2, cases.errors_of, [*BAD.values(), ({"x": X}, {"x": X})])
    for messages in found:
        for name, message in zip(BAD, messages, strict=False):
            assert message.startswith("ShapeError"), (name, message)
        assert messages[-1] == ""


FAULTY = {
    "a list": ("x", [1.0], "ShapeError: x must be a tensor, got list"),
    "an unknown op": ("op", "mean", "UnsupportedError: op must be one of"),
    "both ways": ("reverse", "both", "ShapeError: reverse must be True or False"),
    "an unknown backend": ("backend", "fast", "UnsupportedError: backend must be one of"),
    "a backend that is not there": ("backend", "triton", "UnsupportedError: backend='triton'"),
    "a number": ("initial", 1.0, "initial must be a tensor, got float"),
    "no type": ("dtype", "float32", "dtype must be a torch.dtype"),
}


def test_the_fault_of_one_rank_is_an_error_on_all_and_none_hangs():
    calls = [({"x": X}, {"x": X, name: value}) for name, value, _ in FAULTY.values()]
    other, own = cases.run_on_ranks(2, cases.errors_of, calls)
    for (_, _, wanted), seen, found in zip(FAULTY.values(), other, own, strict=True):
        assert seen.startswith("ShapeError") and "ranks [1] do not fit" in seen
        assert wanted in found


def test_without_a_process_group_the_error_says_what_to_do():
    with pytest.raises(UnsupportedError, match="torchrun"):
        distributed_scan(torch.zeros(3))


def test_the_example_runs_under_torchrun():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", "examples/distributed_scan.py", "--length", "1000"]
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 ranks, pieces of [500, 500] positions, op=add\n")
    differences = re.findall(r"(?:scan|gradient) (\d\S+e-\d+)", done.stdout)
    assert len(differences) == 2 and all(float(each) < 1e-5 for each in differences)
