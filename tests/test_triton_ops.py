"""The triton backend behind its registered ops: opcheck, torch.compile in one graph."""

from itertools import product

import pytest
import torch
from factory import (
    BACKENDS,
    SIZES,
    Size,
    device_of,
    gradients_of,
    make_inputs,
    runs_on,
    upstream,
    with_grad,
)
from tolerances import assert_close

from torch_semimarkov.dispatch import library, tangent_library
from torch_semimarkov.functional import entropy, log_partition, viterbi
from torch_semimarkov.potentials import Potentials

BACKEND = "triton"
DEVICE = device_of(BACKEND)
marks = [mark for each in BACKENDS if each.values == (BACKEND,) for mark in each.marks]
# What torch itself warns about where it traces.
pytestmark = [*marks, pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")]
for_each_flags = pytest.mark.parametrize("flags", ["boundary", "all", "impossible"])


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def canonical(flags, dtype=torch.float64, grad=False):
    inputs = make_inputs(SIZES[4], dtype, flags, device=DEVICE)
    return Potentials(**(with_grad(inputs) if grad else inputs)).canonical()


@for_each_flags
@pytest.mark.parametrize(("grad", "interval"), [(False, None), (True, None), (True, 2)])
def test_the_log_partition_op_passes_opcheck(flags, grad, interval):
    arguments = (*canonical(flags, grad=grad).fields(), "log", BACKEND, grad, interval)
    torch.library.opcheck(library.log_partition_op, arguments)


@pytest.mark.parametrize(
    ("flags", "dtype", "interval"),
    [
        *product(["boundary", "all", "impossible"], [torch.float64, torch.float32], [None, 2]),
        ("tail", torch.float32, 2),
    ],
)
def test_the_backward_op_passes_opcheck(flags, dtype, interval):
    flat = canonical(flags, dtype).fields()
    value, kept = library.log_partition_op(*flat, "log", BACKEND, True, interval)
    weight = upstream(3, device=DEVICE)
    torch.library.opcheck(library.log_partition_backward_op, (*flat, value, kept, weight, BACKEND))


@for_each_flags
def test_the_viterbi_op_passes_opcheck(flags):
    torch.library.opcheck(library.viterbi_op, (*canonical(flags).fields(), BACKEND))


def tangent_arguments():
    inputs = make_inputs(Size((3, 2), K=2, C=2), flags="boundary", device=DEVICE)
    p = Potentials(**with_grad(inputs)).canonical()
    shift = p.map_terms(lambda x: x.detach().cos())
    return [*p.fields(), *shift.fields()[:-1]]


def test_the_tangent_ops_pass_opcheck():
    flat = tangent_arguments()
    torch.library.opcheck(tangent_library.tangent_op, (*flat, BACKEND, True))
    flat = [None if x is None else x.detach() for x in flat]
    _, _, kept = tangent_library.tangent_op(*flat, BACKEND, True)
    weights = torch.stack((upstream(2, device=DEVICE), upstream(2, device=DEVICE).flip(0)))
    torch.library.opcheck(tangent_library.tangent_backward_op, (*flat, kept, weights, BACKEND))


def test_the_entropy_compiles_in_one_graph_forward_and_backward(fresh_compiler):
    inputs = with_grad(make_inputs(Size((3, 2), K=2, C=2), device=DEVICE))
    with runs_on(BACKEND):
        truth = entropy(**inputs)
        expected = gradients_of(truth, inputs, torch.ones_like(truth))
        value = compiled(lambda **terms: entropy(**terms))(**inputs)
        gradients = gradients_of(value, inputs, torch.ones_like(value))
    assert_close("entropy", torch.float64, value, truth)
    for name in expected:
        assert_close("gradient", torch.float64, gradients[name], expected[name])


def compiled(function):
    return torch.compile(function, fullgraph=True, backend="aot_eager")


@for_each_flags
def test_log_partition_compiles_in_one_graph_forward_and_backward(fresh_compiler, flags):
    inputs = with_grad(make_inputs(SIZES[4], flags=flags, device=DEVICE))

    def loss(**terms):
        return log_partition(**terms) * upstream(3, device=DEVICE)

    with runs_on(BACKEND):
        truth = loss(**inputs)
        expected = gradients_of(truth, inputs, torch.ones_like(truth))
        value = compiled(lambda **terms: loss(**terms))(**inputs)
        gradients = gradients_of(value, inputs, torch.ones_like(value))
    assert torch.equal(value, truth)
    for name in expected:
        assert torch.equal(gradients[name], expected[name]), name


@pytest.mark.parametrize("flags", ["boundary", "all"])
def test_viterbi_compiles_in_one_graph(fresh_compiler, flags):
    inputs = make_inputs(SIZES[4], flags=flags, device=DEVICE)

    def decode(**terms):
        scores, segments = viterbi(**terms, backend=BACKEND)
        return scores, segments.starts, segments.ends, segments.labels, segments.counts

    scores, *tables = compiled(decode)(**inputs)
    truth = viterbi(**inputs, backend=BACKEND)
    assert_close("score", torch.float64, scores, truth.scores)
    width = truth.segments.starts.shape[-1]
    for table, name in zip(tables, ("starts", "ends", "labels"), strict=False):
        assert torch.equal(table[:, :width], getattr(truth.segments, name))
        assert (table[:, width:] == -1).all()
    assert torch.equal(tables[3], truth.segments.counts)
