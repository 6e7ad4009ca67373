"""A scan of a sequence that is sharded over processes, against the scan of the whole."""

import os
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
CASES = [
    {"op": op, "reverse": reverse, "exclusive": exclusive}
    for op in ("add", "mul", "max", "min", "logaddexp")
    for reverse in (False, True)
    for exclusive in (False, True)
    if op in ("add", "mul") or not exclusive
]
DTYPES = (torch.float64, torch.float32)
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
    found = cases.run_on_ranks(ranks, cases.many_calls, ranks, DTYPES, CASES)
    calls = [(dtype, case) for dtype in DTYPES for case in CASES]
    for number, (dtype, case) in enumerate(calls):
        pieces = zip(*(results[number] for results in found), strict=True)
        for joined, truth in zip(pieces, expected(ranks, dtype, case), strict=True):
            assert_close("scan", dtype, torch.cat(joined, 1), truth)


def test_integers_complex_numbers_and_half_types_are_sharded_too():
    for dtype in (torch.int64, torch.complex64, torch.bfloat16):
        case = {"op": "add"}
        found = cases.run_on_ranks(2, cases.many_calls, 2, (dtype,), [case])
        truth = fused_associative_scan(cases.whole(2, dtype)[0], 1)
        joined = torch.cat([results[0][0] for results in found], 1)
        assert joined.dtype == truth.dtype
        torch.testing.assert_close(joined, truth)


def test_an_initial_value_comes_before_the_whole_sequence():
    case = {"initial": torch.tensor(2.0, dtype=torch.float64), "reverse": True, "exclusive": True}
    found = cases.run_on_ranks(2, cases.many_calls, 2, (torch.float64,), [case])
    truth = fused_associative_scan(cases.whole(2)[0], 1, **case)
    joined = torch.cat([results[0][0] for results in found], 1)
    assert_close("scan", torch.float64, joined, truth)


BAD = {
    "sizes": ([(2, 3, 4), (2, 3, 5)], [{"dim": 1}, {"dim": 1}]),
    "number of dimensions": ([(2, 3), (2, 3, 4)], [{"dim": 1}, {"dim": 1}]),
    "types": ([(2, 3), (2, 3)], [{"type": torch.float32}, {"type": torch.float64}]),
    "dimensions": ([(3, 3), (3, 3)], [{"dim": 0}, {"dim": 1}]),
    "ops": ([(3,), (3,)], [{"op": "add"}, {"op": "mul"}]),
    "directions": ([(3,), (3,)], [{"reverse": True}, {}]),
    "a dimension that one rank lacks": ([(3,), (3,)], [{"dim": 0}, {"dim": 1}]),
}


@pytest.mark.parametrize(("shapes", "options"), BAD.values(), ids=BAD)
def test_ranks_that_disagree_all_raise_and_none_hangs(shapes, options):
    messages = cases.run_on_ranks(2, cases.message_of_error, shapes, options)
    assert all(message.startswith("ShapeError") for message in messages), messages


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
    faults = [fault[:2] for fault in FAULTY.values()]
    other, own = cases.run_on_ranks(2, cases.messages_of_faults, faults)
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
    assert "2 ranks" in done.stdout and "largest difference" in done.stdout
