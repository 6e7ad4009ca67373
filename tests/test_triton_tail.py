"""A geometric tail on the triton backend: float32 over long segments, forbidden terms, choices.

The contract tests ask what is asked of every backend; here stands what these kernels may get wrong.
They run in Triton's interpreter if TRITON_INTERPRET=1 is set, else on a CUDA device.
"""

import dataclasses
from unittest import mock

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl
from factory import Size, gradients_of, make_inputs, upstream, with_grad
from test_triton_kernels import (
    DEVICE,
    FLOAT32,
    FLOAT64,
    launch,
    moved,
    runs_kernels,
    same_bits,
    value_and_gradients,
)
from tolerances import assert_close

from torch_semimarkov.backends import triton as backend
from torch_semimarkov.backends.triton.tail import log_of_one_and
from torch_semimarkov.functional import explain, log_partition, marginals, viterbi
from torch_semimarkov.potentials import Potentials

# Labels that one program shares, one label, more durations than positions, one duration, and labels
# whose transitions are taken in parts.
SIZES = (
    Size((33, 20, 1), K=5, C=3, padding=2),
    Size((17,), K=4, C=1),
    Size((6, 4), K=9, C=2),
    Size((12, 7), K=1, C=5),
    Size((6,), K=2, C=70),
)


def wide(inputs):
    """The same numbers in float64."""
    return {n: x.double() if x.is_floating_point() else x for n, x in inputs.items()}


def long_ones(inputs):
    """New segments cost much, so that many are long; the first label has no tail."""
    inputs["transition"] -= 4
    inputs["start_scores"] -= 4
    inputs["duration_bias"][-1] += 3
    inputs["tail"] = inputs["tail"] / 8 - 0.3
    inputs["tail"][0] = -torch.inf
    return inputs


def forbid(inputs):
    """Closed labels, starts and ends at some positions, but the last label anywhere."""
    draw = torch.Generator().manual_seed(0)
    for name, rate in (("scores", 0.1), ("start_scores", 0.4), ("end_scores", 0.4)):
        forbidden = torch.rand(inputs[name].shape, generator=draw) < rate
        forbidden[..., -1] = False
        inputs[name][forbidden] = -torch.inf
    return inputs


@runs_kernels
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
def test_values_gradients_and_paths_are_those_of_the_reference(size, dtype):
    inputs = forbid(long_ones(make_inputs(size, dtype, "tail")))
    names = [name for name in inputs if name != "lengths"]
    value, *found = value_and_gradients(inputs)
    leaves = with_grad(wide(inputs))
    truth = log_partition(**leaves, backend="reference")
    exact = gradients_of(truth, leaves, upstream(size.B))
    assert_close("log_partition", dtype, value, truth)
    for name, grad in zip(names, found, strict=True):
        assert_close("gradient", dtype, grad, exact[name])
    best, right = viterbi(**moved(inputs), backend="triton"), viterbi(**leaves, backend="reference")
    assert_close("score", dtype, best.scores, right.scores)
    assert best.segments.to_list() == right.segments.to_list()


@runs_kernels
def test_float32_loses_nothing_over_a_long_segment():
    # a tail that float32 would round away at each step, and prefix sums that grow
    inputs = make_inputs(Size((100,), K=2, C=2), FLOAT32, "tail")
    inputs["scores"] = inputs["scores"] / 8 + 3.0
    inputs["start_scores"] = inputs["start_scores"] - 7.0
    inputs["duration_bias"] = torch.tensor([[-3.0, -2.0], [2.0, 2.0]])
    inputs["tail"] = torch.tensor([-1e-5, -1e-7])
    found = marginals(**moved(inputs), backend="triton")
    truth = marginals(**wide(inputs), backend="reference")
    assert truth.beyond.sum() > 50.0, "no segment is long"
    assert_close("log_partition", FLOAT32, found.log_partition, truth.log_partition)
    for name in ("labels", "starts", "ends", "beyond", "durations", "transitions"):
        torch.testing.assert_close(
            getattr(found, name).cpu().double(), getattr(truth, name), rtol=1e-5, atol=2e-6
        )


@triton.jit
def log_kernel(p_x, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    tl.store(p_y + o, log_of_one_and(tl.load(p_x + o)))


@runs_kernels
@pytest.mark.parametrize(("dtype", "relative"), [(FLOAT32, 5e-7), (FLOAT64, 1e-15)])
def test_the_log_of_one_and_a_small_number_keeps_its_digits(dtype, relative):
    x = torch.cat([torch.logspace(-30, 0, 63, dtype=FLOAT64), torch.zeros(1)]).to(DEVICE, dtype)
    y = torch.empty_like(x)
    log_kernel[(1,)](x, y, N=64)
    torch.testing.assert_close(y.double(), x.double().log1p(), rtol=relative, atol=0.0)


@runs_kernels
def test_of_equal_segmentations_the_documented_one_is_taken():
    zeros = {n: torch.zeros_like(x) for n, x in make_inputs(Size((9,), 3, 2), flags="tail").items()}
    zeros["lengths"] = torch.tensor([9])
    # one segment of K or more positions is as good as any other way to have few of them
    zeros["duration_bias"][:2] = -1.0
    zeros["transition"] = -torch.eye(2, dtype=FLOAT64)
    found = viterbi(**moved(zeros), backend="triton")
    assert found.segments.to_list() == viterbi(**zeros, backend="reference").segments.to_list()


@runs_kernels
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
def test_checkpoints_change_no_bit(dtype):
    inputs = long_ones(make_inputs(Size((37, 9), K=3, C=2), dtype, "tail"))
    whole = value_and_gradients(inputs)
    assert same_bits(value_and_gradients(inputs, checkpoint_interval=1), whole)
    p = Potentials(**moved(inputs)).canonical()
    kept = backend.forward(p, "log", True, 1)[1]
    assert kept.shape == backend.kept_shape(p, True, 1)
    assert len(kept) > 1


@runs_kernels
def test_sequences_that_share_a_program_change_nothing_of_each_other():
    inputs = long_ones(make_inputs(Size((9, 1, 6), K=3, C=2), flags="tail"))
    together, choose = value_and_gradients(inputs), launch().variant_of
    assert choose(Potentials(**inputs)).sequences > 1
    with mock.patch.object(
        launch(), "variant_of", lambda p: dataclasses.replace(choose(p), sequences=1)
    ):
        apart = value_and_gradients(inputs)
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_which_form_runs_is_said_and_long_segments_are_in_one_that_is_not_split():
    inputs = {n: x.to("meta") for n, x in make_inputs(Size((9,), K=1000, C=24)).items()}
    split, tail = Potentials(**inputs), torch.zeros(24, dtype=FLOAT64, device="meta")
    whole = dataclasses.replace(split, tail=tail)
    assert "split over programs" in backend.variant(split)
    assert backend.variant(whole).endswith("with a tail")
    assert "split" not in backend.variant(whole)


def test_what_has_no_tail_here_is_refused_in_one_line():
    inputs = make_inputs(Size((5,), K=3, C=2), flags="all-tail")
    reason = "has no geometric tail with (K, C, C) transitions"
    assert reason in backend.reasons_against("log_partition", Potentials(**inputs))
    assert reason in explain(**inputs).reasons["triton"]
    with mock.patch.object(backend, "INTERPRETED", True):
        for K, tail, most in ((1030, torch.zeros(24), 32768), (50_000, None, 1048576)):
            shapes = (1, 5, 24), (24, 24), (K, 24)
            p = Potentials(*(torch.zeros(shape) for shape in shapes), tail=tail)
            (reason,) = backend.reasons_against("log_partition", p)
            assert f"at most {most} durations times labels" in reason
            assert f"got K = {K} and C = 24" in reason
    (other,) = backend.reasons_against(
        "viterbi", Potentials(**{n: x.to("meta") for n, x in make_inputs(flags="tail").items()})
    )
    assert other == "needs CUDA tensors, got meta"
