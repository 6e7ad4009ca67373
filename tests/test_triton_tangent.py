"""The triton backend's slope of log Z and its gradients; the reference in float64 is the judge."""

import os
from unittest import mock

import pytest
import torch

if not os.environ.get("TRITON_INTERPRET") and not torch.cuda.is_available():
    pytest.skip("needs TRITON_INTERPRET=1 or a CUDA device", allow_module_level=True)
pytest.importorskip("triton")

from factory import Size, make_inputs, tensors, upstream, with_grad, with_padding
from test_second_order import without_reference
from tolerances import FLOAT32, FLOAT64, assert_close

from torch_semimarkov import entropy, log_partition
from torch_semimarkov.backends import reference
from torch_semimarkov.backends import triton as backend
from torch_semimarkov.backends.triton import tangent_calls
from torch_semimarkov.potentials import Potentials

DEVICE = "cpu" if backend.INTERPRETED else "cuda"
# Segments that reach over several blocks of 4, the last one not full; blocks as they are.
SHORT = Size((9, 1), K=6, C=2, padding=1)
CASES = [
    (SHORT, "boundary", 4),
    (Size((7, 4), K=3, C=3), "forbidden", 2),
    (SHORT, "impossible", 4),
    (Size((5,), K=30, C=2), "boundary", 2),
    (Size((4,), K=3, C=1), "start-end", 2),
    (Size((3, 2), K=1, C=3), "plain", 2),
    (Size((3,), K=2, C=33), "forbidden", None),
    (Size((19,), K=4, C=2), "plain", None),
]
for_each_case = pytest.mark.parametrize(
    ("size", "flags", "block"), CASES, ids=["-".join(map(str, case)) for case in CASES]
)


def blocks_of(block):
    """A block of code in which the kernels take so many positions at a time; None: as always."""
    choose = tangent_calls.block_of
    return mock.patch.object(tangent_calls, "block_of", lambda p: block or choose(p))


def arguments_of(size, flags):
    """Potentials, a direction that is 0 where nothing is possible, and unequal weights."""
    p = Potentials(**make_inputs(size, flags=flags)).canonical()
    draw = torch.Generator().manual_seed(3)

    def direction(x):
        shift = torch.randn(x.shape, generator=draw, dtype=FLOAT64)
        return torch.where(x == -torch.inf, 0.0, shift)

    weight = upstream(size.B)
    return p, p.map_terms(direction), weight, weight.flip(0) + 0.3


def moved(p):
    terms = {name: x.to(DEVICE) for name, x in p.terms()}
    return Potentials(lengths=p.lengths.to(DEVICE), **terms)


def run(p, direction, weight, slope_weight, keep=True):
    """Value, slope, gradients of the terms, gradients of the direction, in the order of terms."""
    p, direction = moved(p), moved(direction)
    value, slope, kept = backend.tangent(p, direction, keep)
    assert kept.shape == backend.tangent_kept_shape(p, keep)
    weights = weight.to(DEVICE), slope_weight.to(DEVICE)
    grads = backend.tangent_backward(p, direction, kept, *weights)
    return value, slope, *(found[name] for found in grads for name, _ in p.terms())


def truth_of(p, direction, weight, slope_weight):
    """The same by autograd through the reference."""
    p, direction = (x.map_terms(lambda y: y.clone().requires_grad_()) for x in (p, direction))
    value, slope = reference.tangent(p, direction)
    leaves = [x for each in (p, direction) for _, x in each.terms()]
    weights = weight, slope_weight
    grads = torch.autograd.grad((value, slope), leaves, weights, materialize_grads=True)
    return value, slope, *grads


@for_each_case
def test_slope_and_both_gradients_are_the_references(size, flags, block):
    arguments = arguments_of(size, flags)
    with blocks_of(block):
        value, slope, *grads = run(*arguments)
    right_value, right_slope, *right = truth_of(*arguments)
    assert_close("log_partition", FLOAT64, value, right_value)
    assert_close("entropy", FLOAT64, slope, right_slope)
    for found, truth in zip(grads, right, strict=True):
        assert_close("second derivative", FLOAT64, found, truth)


def test_nothing_kept_changes_no_bit_and_neither_does_another_run():
    arguments = arguments_of(Size((5, 3), K=4, C=2), "forbidden")
    with blocks_of(2):
        kept, again, scanned = run(*arguments), run(*arguments), run(*arguments, keep=False)
    for one, two, three in zip(kept, again, scanned, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_padding_and_batch_mates_change_no_bit_of_a_sequence():
    size = Size((4, 3), K=3, C=2, padding=2)
    inputs = make_inputs(size, flags="boundary")
    results = []
    for spoilt in (inputs, with_padding(inputs, torch.nan)):
        p = Potentials(**spoilt).canonical()
        results.append(run(p, p.map_terms(torch.cos), upstream(2), upstream(2)))
    assert all(map(torch.equal, *results))
    alone = {n: x[1:] if n in ("scores", "start_scores", "end_scores", "lengths") else x
             for n, x in inputs.items()}  # fmt: skip
    p = Potentials(**alone).canonical()
    single = run(p, p.map_terms(torch.cos), upstream(2)[1:], upstream(2)[1:])
    per_position = [i for i, x in enumerate(single) if len(x) == 1]
    assert len(per_position) == 8
    assert all(torch.equal(single[i][0], results[0][i][1]) for i in per_position)


def test_the_second_derivative_passes_gradgradcheck_without_the_reference():
    inputs = make_inputs(Size((3,), K=2, C=2), flags="start-end")
    names, leaves = list(tensors(inputs)), list(with_grad(tensors(inputs) | inputs).values())[:-1]

    def gradient(*terms):
        named = dict(zip(names, terms, strict=True))
        lengths = inputs["lengths"].to(DEVICE)
        value = log_partition(**named, lengths=lengths, backend="triton")
        grads = torch.autograd.grad((value * value).sum(), terms, create_graph=True)
        return torch.cat([x.reshape(-1) for x in grads])

    arguments = [x.detach().to(DEVICE).requires_grad_() for x in leaves]
    with without_reference():
        assert torch.autograd.gradcheck(gradient, arguments, fast_mode=True)


@pytest.mark.parametrize("dtype", [FLOAT32, torch.bfloat16])
def test_an_entropy_of_narrow_scores_is_that_of_their_numbers_in_float64(dtype):
    inputs = make_inputs(Size((3, 2), K=2, C=2), dtype, "start-end")
    leaves = with_grad({name: x.to(DEVICE) for name, x in inputs.items()})
    with without_reference():
        found = entropy(**leaves, backend="triton")
        grads = torch.autograd.grad(found.sum(), list(tensors(leaves).values()))
    wide = with_grad({n: x.double() if x.is_floating_point() else x for n, x in inputs.items()})
    truth = entropy(**wide, backend="reference")
    assert_close("entropy", FLOAT32, found, truth)
    right = torch.autograd.grad(truth.sum(), list(tensors(wide).values()))
    for grad, expected in zip(grads, right, strict=True):
        assert grad.dtype == dtype
        assert_close("gradient", dtype, grad, expected)


def test_transitions_by_duration_are_refused_with_a_reason():
    p = moved(Potentials(**make_inputs(flags="per-duration")).canonical())
    assert backend.reasons_against("tangent", p) == ["has no tangent of (K, C, C) transitions"]
