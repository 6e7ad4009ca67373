"""The dispatch table, row by row: which backend ran, and that its result is the oracle's."""

import importlib.util
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from unittest import mock

import pytest
import torch
from factory import (
    Size,
    device_of,
    gradients_of,
    make_inputs,
    oracles,
    stacked,
    tensors,
    upstream,
    with_grad,
)
from tolerances import FLOAT64, assert_close

from torch_semimarkov import dispatch, explain
from torch_semimarkov.dispatch import edges, run
from torch_semimarkov.errors import UnsupportedError
from torch_semimarkov.functional import exact, log_partition
from torch_semimarkov.potentials import Potentials

ROOT = Path(__file__).parents[1]
DURATIONS = (1, 2, 4)
# Where both lists say the same, automatic choice takes the first.
FIRST = {"cpu": "cpu", "cuda": "triton"}


def load_script():
    path = ROOT / "scripts" / "write_backends_page.py"
    spec = importlib.util.spec_from_file_location("write_backends_page", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.gpu),
]
for_each_device = pytest.mark.parametrize("device", DEVICES)
for_each_backend = pytest.mark.parametrize("asked", ["auto", *dispatch.available_backends()])
for_each_longest = pytest.mark.parametrize("K", DURATIONS)
for_each_boundary = pytest.mark.parametrize("boundary", [False, True], ids=["plain", "boundary"])
for_each_gradient = pytest.mark.parametrize("gradient", [False, True], ids=["value", "gradient"])


@contextmanager
def watched():
    """Names of the backends that ran in a block, whether on potentials or on edges."""
    ran = []

    def spy(choose):
        def spying(*arguments, **options):
            chosen = choose(*arguments, **options)
            ran.append(chosen.NAME)
            return chosen

        return spying

    with (
        mock.patch.object(run, "choose", spy(run.choose)),
        mock.patch.object(edges, "choose", spy(edges.choose)),
    ):
        yield ran


def inputs_for(K, device, boundary):
    size = Size((5, 3), K=K, C=2)
    return size, make_inputs(size, flags="boundary" if boundary else "plain", device=device)


def judge(size, boundary, value, gradients, inputs):
    """Compare a value, and gradients where there are some, with enumeration."""
    found = oracles(size, flags="boundary" if boundary else "plain")
    assert_close("log_partition", FLOAT64, value, [each.log_partition for each in found])
    weights = upstream(size.B).tolist()
    for name, gradient in gradients.items():
        parts = [w * each.gradient()[name] for w, each in zip(weights, found, strict=True)]
        assert_close("gradient", FLOAT64, gradient, stacked(inputs, name, parts))


def compute(inputs, gradient, call):
    """The value of a call, and its gradients by term if they are wanted."""
    if not gradient:
        return call(**inputs), {}
    leaves = with_grad(inputs)
    value = call(**leaves)
    weight = upstream(len(value), device=value.device.type)
    return value, gradients_of(value, leaves, weight)


def expected(asked, device):
    """Name of the backend that must run, or None if it must refuse."""
    known = dispatch.available_backends()
    if asked == "auto":
        return FIRST[device] if FIRST[device] in known else "reference"
    if asked == "reference" or device_of(asked) == device == "cpu":
        return asked
    return asked if FIRST[device] == asked else None


@for_each_longest
@for_each_device
@for_each_gradient
@for_each_boundary
@for_each_backend
def test_each_row_runs_on_its_backend_and_gives_the_oracles_result(
    K, device, gradient, boundary, asked
):
    size, inputs = inputs_for(K, device, boundary)
    must_run = expected(asked, device)
    with watched() as ran:
        if must_run is None:
            with pytest.raises(UnsupportedError, match=f"{asked}: "):
                log_partition(**inputs, backend=asked)
            return
        call = lambda **terms: log_partition(**terms, backend=asked)  # noqa: E731
        value, gradients = compute(inputs, gradient, call)
    assert ran == [must_run]
    assert set(gradients) == (set(tensors(inputs)) if gradient else set())
    judge(size, boundary, value, gradients, inputs)


@for_each_longest
@for_each_device
@for_each_gradient
@for_each_boundary
def test_each_row_of_the_exact_path_gives_the_oracles_result(K, device, gradient, boundary):
    size, inputs = inputs_for(K, device, boundary)

    def call(**terms):
        return exact.exact_log_partition(Potentials(**terms).canonical())

    with watched() as ran:
        value, gradients = compute(inputs, gradient, call)
    chosen = dispatch.explain_op(dispatch.EDGE_OP, script_edges(K, device)).chosen
    assert ran == [chosen]
    judge(size, boundary, value, gradients, inputs)


def script_edges(K, device):
    return load_script().edge_potentials(K, device)


# The page


def test_the_page_is_up_to_date():
    script = load_script()
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), (
        "run python scripts/write_backends_page.py"
    )
    assert script.main(["--check"]) == 0


def test_a_page_that_is_out_of_date_is_noticed(tmp_path, monkeypatch, capsys):
    script = load_script()
    monkeypatch.setattr(script, "PAGE", tmp_path / "backends.md")
    assert script.main(["--check"]) == 1
    assert "is out of date" in capsys.readouterr().out
    assert script.main([]) == 0
    assert script.main(["--check"]) == 0
    script.PAGE.write_text(script.PAGE.read_text().replace("| yes |", "| no |", 1))
    assert script.main(["--check"]) == 1


def test_the_page_has_a_row_for_every_call_and_names_who_runs_it():
    script = load_script()
    names = dispatch.available_backends()
    with script.full_machine(names):
        rows = list(script.dispatch_rows(names))
    keys = [tuple(row[:4]) for row in rows]
    flags = ("no", "yes")
    assert keys == list(product(("1", "2", ">= 3"), ("cpu", "cuda"), flags, flags))
    for row in rows:
        assert row[4] == f"`{expected('auto', row[1])}`"
        for name, verdict in zip(names, row[5:], strict=True):
            assert (verdict == "runs") == (name in ("reference", FIRST[row[1]]))


def test_every_backend_says_what_it_costs():
    for name in dispatch.available_backends():
        backend = dispatch.registry.load(name)
        assert {op.split(",")[0] for op in backend.COSTS} <= set(backend.OPS)
        assert all(len(costs) == 3 for costs in backend.COSTS.values())


def test_an_explanation_agrees_with_the_table():
    for K, boundary in product(DURATIONS, (False, True)):
        _, inputs = inputs_for(K, "cpu", boundary)
        assert explain(**inputs).chosen == expected("auto", "cpu")


def test_fake_tensors_do_not_need_their_device():
    p = load_script().potentials(2, "cuda", True, True)
    assert p.device.type == "cuda"
    assert torch.cuda.is_available() or p.requires_grad
