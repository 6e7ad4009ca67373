"""Work in torch's own threads, and the kernels of scans that only some shapes reach."""

import itertools
import os

import numpy as np
import pytest
import torch
from scan_cases import bits, make
from tolerances import assert_close

pytest.importorskip("numba")

from torch_semimarkov.backends.cpu import pages, scans, team
from torch_semimarkov.backends.cpu.compile import compiled, part
from torch_semimarkov.scan import fused_associative_scan, linear_scan

# Shapes (outer, T, inner) of lone rows, of rest rows, of narrow columns and of panels for threads.
SHAPES = ((1, 1003, 1), (9, 67, 1), (3, 301, 2), (2, 130, 7), (1, 65, 8), (1, 40, 700), (2, 9, 13))


@part
def _twice(x, y, low, high):
    for i in range(low, high):
        y[i] += 2 * x[i]


@compiled
def twice(x, y, span):
    """Add twice ``x`` to ``y``."""
    team.in_team(_twice, (x, y), span)


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr(team, "WORTH", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 1000])
def test_threads_visit_every_item_once(two_threads, count):
    x, y = np.arange(1000.0), np.zeros(1000)
    spans = []

    def task(span):
        spans.append(span)
        twice(x, y, span)

    team.split(task, count, count)
    assert (y[:count] == 2 * x[:count]).all() and not y[count:].any()
    assert sum(span.high - span.low for span in spans) == count


def test_the_threads_are_those_of_torch_where_it_has_openmp(two_threads, monkeypatch):
    spans = []
    team.split(spans.append, 100, 100)
    if not team._team():
        pytest.skip("this torch is linked to no OpenMP runtime that can be found")
    assert spans == [team.Span(0, 100, 2, team._team())]
    # Without it, threads of our own take parts.
    monkeypatch.setattr(team, "_team", lambda: 0)
    spans.clear()
    team.split(spans.append, 100, 100)
    assert {span.threads for span in spans} == {1}
    assert sorted(i for span in spans for i in range(span.low, span.high)) == list(range(100))


# Python 3.12 warns of every fork of a process with threads, which is what is tried here.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_leaves_the_threads_of_its_parent_alone(two_threads):
    team.split(lambda span: None, 4, 4)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        spans = []
        team.split(spans.append, 100, 100)
        whole = sum(span.high - span.low for span in spans) == 100
        os.write(write, bytes([whole and all(span.team == 0 for span in spans)]))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"\x01"
    os.close(read), os.close(write)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("op", scans.BY_BLOCKS)
def test_kernels_on_lanes_are_the_plain_scan_with_any_flag_and_in_threads(two_threads, op, shape):
    for dtype, reverse, exclusive in itertools.product(
        (torch.float32, torch.float64), (False, True), (False, True)
    ):
        x = make(shape, dtype, op)
        options = {"op": op, "exclusive": exclusive, "return_final": True}
        options["initial"] = make((shape[0], shape[2]), dtype, op, seed=3)
        options["lengths"] = torch.arange(shape[1], shape[1] - shape[0], -1)
        found = fused_associative_scan(x, 1, reverse, **options, backend="cpu")
        again = fused_associative_scan(x, 1, reverse, **options, backend="cpu")
        truth = fused_associative_scan(x.double(), 1, reverse, **options, backend="reference")
        for value, same, wanted in zip(found, again, truth, strict=True):
            assert torch.equal(bits(value), bits(same))
            assert_close("scan", dtype, value, wanted)


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_kernels_are_the_plain_recurrence_in_both_ways_and_in_threads(two_threads, shape):
    for dtype, reverse in itertools.product((torch.float32, torch.float64), (False, True)):
        gates, inputs = make(shape, dtype, seed=4).sigmoid(), make(shape, dtype)
        gates.requires_grad_()
        found, truth = (
            linear_scan(gates.to(kind), inputs.to(kind), 1, reverse, backend=backend)
            for kind, backend in ((dtype, "cpu"), (torch.float64, "reference"))
        )
        assert_close("scan", dtype, found, truth)
        slopes = [torch.autograd.grad(y.square().sum(), gates)[0] for y in (found, truth)]
        assert_close("gradient", dtype, *slopes)


@pytest.mark.parametrize("values", [0, 10, 2**20, 2**21 + 5])
def test_large_pages_change_neither_type_nor_shape_nor_values(values):
    x = pages.empty(torch.Size((values,)), torch.float32)
    assert x.shape == (values,) and x.dtype == torch.float32 and x.is_contiguous()
    x.fill_(3.0)
    assert values == 0 or (x.min() == 3.0 and x.max() == 3.0)


def test_torch_gets_what_it_does_faster_on_as_many_threads(two_threads):
    few, many = torch.empty(2000, 100, 1), torch.empty(2000, 200, 1)
    assert scans.slower("add", few, False) and not scans.slower("add", many, False)
    torch.set_num_threads(1)
    assert not scans.slower("add", few, False)
