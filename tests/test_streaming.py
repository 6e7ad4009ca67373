"""The established streaming call: log_partition on differences of neighbouring prefix sums."""

import importlib.util
import runpy
from dataclasses import replace

import compiled_double
import numpy as np
import pytest
import torch
from compiled_double import calls, registered
from factory import (
    SIZES,
    device_of,
    for_each_backend,
    for_each_flags,
    for_each_size,
    gradients_of,
    make_inputs,
    oracles,
    runs_on,
    tensors,
    to_sequence,
    upstream,
    with_grad,
)
from oracle import Oracle
from tolerances import assert_close

from torch_semimarkov import dispatch
from torch_semimarkov import streaming as module
from torch_semimarkov.errors import ShapeError, UnsupportedError
from torch_semimarkov.functional import log_partition
from torch_semimarkov.streaming import semi_crf_streaming_forward

NAMES = {"start_scores": "proj_start", "end_scores": "proj_end"}
for_each_semiring = pytest.mark.parametrize("semiring", ["log", "max"])


def streaming(inputs, K=None, **options):
    """The call on the prefix sums of the same inputs."""
    scores = inputs["scores"]
    named = {NAMES.get(n, n): x for n, x in inputs.items() if n != "scores"}
    first = scores.new_zeros(scores.shape[0], 1, scores.shape[2])
    cum_scores = torch.cat((first, scores.cumsum(1)), dim=1)
    K = len(inputs["duration_bias"]) if K is None else K
    return semi_crf_streaming_forward(cum_scores, K=K, **named, **options)


def without_forbidden_scores(inputs):
    """Prefix sums cannot forbid a label at one position: -inf would stay for all that follow."""
    return {**inputs, "scores": inputs["scores"].nan_to_num(neginf=-3.0)}


@for_each_backend
@for_each_size
@for_each_flags
@for_each_semiring
def test_it_is_the_log_partition_of_the_differences(backend, size, flags, semiring):
    inputs = without_forbidden_scores(make_inputs(size, flags=flags, device=device_of(backend)))
    inputs = with_grad(inputs)
    weight = upstream(size.B, device=device_of(backend))
    with runs_on(backend):
        value = streaming(inputs, semiring=semiring)
        truth = log_partition(**inputs, semiring=semiring)
        gradients = gradients_of(value, inputs, weight)
        expected = gradients_of(truth, inputs, weight)
    assert_close("log_partition", torch.float64, value, truth)
    for name in expected:
        assert_close("gradient", torch.float64, gradients[name], expected[name])


def test_the_value_is_the_enumerated_one():
    found = oracles(SIZES[4], torch.float64, "boundary")
    value = streaming(make_inputs(SIZES[4], flags="boundary"))
    assert_close("log_partition", torch.float64, value, [one.log_partition for one in found])


def test_the_gradient_for_cum_scores_is_starts_and_ends_of_segments():
    size = SIZES[4]
    inputs = make_inputs(size)
    cum_scores = torch.randn(size.B, size.T + 1, size.C, dtype=torch.float64, requires_grad=True)
    value = semi_crf_streaming_forward(
        cum_scores, inputs["transition"], inputs["duration_bias"], inputs["lengths"], size.K
    )
    (gradient,) = torch.autograd.grad(value, cum_scores, upstream(size.B))
    scores = cum_scores.diff(dim=1).detach()
    for b, (L, weight) in enumerate(zip(size.lengths, upstream(size.B).tolist(), strict=True)):
        found = Oracle(to_sequence({**inputs, "scores": scores}, b)).marginals()
        truth = np.zeros((size.T + 1, size.C))
        truth[1 : L + 1] += found["ends"]
        truth[:L] -= found["starts"]
        assert_close("gradient", torch.float64, gradient[b], torch.from_numpy(weight * truth))


def test_only_differences_matter():
    inputs = make_inputs(SIZES[4], flags="boundary")
    cum_scores = torch.cat(
        (torch.zeros(3, 1, 3, dtype=torch.float64), inputs["scores"].cumsum(1)), 1
    )
    shifted = cum_scores + torch.randn(3, 1, 3, dtype=torch.float64)
    terms = (inputs["transition"], inputs["duration_bias"], inputs["lengths"], 3)
    value = semi_crf_streaming_forward(cum_scores, *terms)
    assert_close("log_partition", torch.float64, semi_crf_streaming_forward(shifted, *terms), value)


@pytest.mark.parametrize("junk", [torch.nan, torch.inf, -torch.inf])
def test_prefix_sums_past_a_length_have_no_effect(junk):
    inputs = make_inputs(SIZES[4])
    base = torch.randn(3, 6, 3, dtype=torch.float64)
    past = torch.arange(6)[:, None] > inputs["lengths"][:, None, None]
    terms = (inputs["transition"], inputs["duration_bias"], inputs["lengths"], 3)
    results = []
    for cum_scores in (base, base.masked_fill(past, junk)):
        leaf = cum_scores.clone().requires_grad_()
        value = semi_crf_streaming_forward(leaf, *terms)
        results.append((value, torch.autograd.grad(value, leaf, upstream(3))[0]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("size", [SIZES[2], SIZES[4]], ids=str)
def test_a_virtual_first_transition_is_a_start_of_summed_transitions(size):
    """The seed implementation let a free label before the first segment into its partition."""
    inputs = make_inputs(size)
    transition = inputs["transition"]
    summed, best = [], []
    for b in range(size.B):
        sequence = to_sequence(inputs, b)
        freely = [
            Oracle(replace(sequence, start=transition[before].numpy())) for before in range(size.C)
        ]
        summed.append(float(np.logaddexp.reduce([one.log_partition for one in freely])))
        best.append(max(one.best_score for one in freely))
    value = streaming(inputs, start=transition.logsumexp(0))
    assert_close("log_partition", torch.float64, value, summed)
    value = streaming(inputs, start=transition.amax(0), semiring="max")
    assert_close("score", torch.float64, value, best)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_result_is_of_the_type_of_cum_scores_and_half_types_give_float32(dtype):
    inputs = make_inputs(SIZES[4], dtype)
    expected = torch.promote_types(dtype, torch.float32)
    assert streaming(inputs).dtype == expected


@pytest.mark.parametrize("checkpoint_interval", [1, 2])
def test_checkpoints_change_nothing(checkpoint_interval):
    inputs = with_grad(make_inputs(SIZES[4], flags="boundary"))
    plain, value = streaming(inputs), streaming(inputs, checkpoint_interval=checkpoint_interval)
    assert torch.equal(value, plain)
    gradients = gradients_of(value, inputs, upstream(3))
    for name, gradient in gradients_of(plain, inputs, upstream(3)).items():
        assert_close("gradient", torch.float64, gradients[name], gradient)


# The choice of a backend


def test_a_backend_can_be_named():
    with registered():
        streaming(make_inputs(SIZES[4]), backend="double")
        assert calls == ["forward"]
    with pytest.raises(UnsupportedError, match="'none'"):
        streaming(make_inputs(SIZES[4]), backend="none")


@pytest.fixture
def double_as_triton(monkeypatch):
    """The stand-in under the name of Triton, before all others."""
    monkeypatch.setattr(dispatch.registry, "_MODULES", dispatch.registry._MODULES.copy())
    monkeypatch.setattr(compiled_double, "NAME", "triton")
    dispatch.register_backend("triton", "compiled_double", first=True)
    calls.clear()


def test_use_triton_false_leaves_triton_out_of_the_automatic_choice(double_as_triton):
    inputs = make_inputs(SIZES[4])
    streaming(inputs)
    assert calls == ["forward"]
    calls.clear()
    streaming(inputs, use_triton=False)
    assert calls == []
    streaming(inputs)
    assert calls == ["forward"]


def test_a_backend_asked_for_by_name_beats_use_triton_false(double_as_triton):
    streaming(make_inputs(SIZES[4]), use_triton=False, backend="triton")
    assert calls == ["forward"]


@pytest.mark.parametrize("installed", [True, False])
def test_has_triton_says_whether_it_is_installed(monkeypatch, installed):
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: {"triton": True}[name] if installed else None
    )
    assert runpy.run_path(module.__file__)["HAS_TRITON"] is installed


def test_it_compiles_in_one_graph():
    inputs = with_grad(make_inputs(SIZES[4], flags="boundary"))

    def call(**terms):
        return streaming(terms, use_triton=False, backend="double")

    torch.compiler.reset()
    with registered():
        value = torch.compile(call, fullgraph=True, backend="aot_eager")(**inputs)
        gradients = gradients_of(value, inputs, upstream(3))
    truth = log_partition(**inputs, backend="reference")
    assert_close("log_partition", torch.float64, value, truth)
    for name, gradient in gradients_of(truth, inputs, upstream(3)).items():
        assert_close("gradient", torch.float64, gradients[name], gradient)


# Bad input


def arguments(**changes):
    inputs = make_inputs(SIZES[4], flags="boundary")
    named = {NAMES.get(n, n): x for n, x in inputs.items() if n != "scores"}
    return {"cum_scores": torch.zeros(3, 6, 3), "K": 3, **named, **changes}


BAD = {
    "no batch": ({"cum_scores": torch.zeros(6, 3)}, r"cum_scores must be \(B, T\+1, C\)"),
    "no position": ({"cum_scores": torch.zeros(3, 1, 3)}, "cum_scores must be .* with T >= 1"),
    "integers": ({"cum_scores": torch.zeros(3, 6, 3).long()}, "cum_scores must be .*int64"),
    "a list": ({"cum_scores": [[[0.0]]]}, "cum_scores must be a tensor, got list"),
    "another K": ({"K": 4}, r"duration_bias must be \(K, C\) with K = 4, got \(3, 3\)"),
    "a bias as a list": ({"duration_bias": [[0.0]]}, "duration_bias must be a tensor, got list"),
    "one position more": ({"proj_start": torch.zeros(3, 6, 3)}, "start_scores must be .*3, 5, 3"),
    "lengths above T": (
        {"lengths": torch.tensor([6, 1, 1])},
        r"lengths must be in 1\.\.T = 1\.\.5",
    ),
    "no lengths": ({"lengths": torch.tensor([0, 1, 1])}, r"lengths must be in 1\.\.T = 1\.\.5"),
    "odd warps": ({"num_warps": 3}, "num_warps must be 1, 2, 4, 8 or 16, got 3"),
    "no interval": ({"checkpoint_interval": 0}, "checkpoint_interval must be >= 1, got 0"),
    "NaN": ({"cum_scores": torch.full((3, 6, 3), torch.nan)}, "got nan at sequence 0, position 0"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_error(changes, message):
    with pytest.raises(ShapeError, match=message):
        semi_crf_streaming_forward(**arguments(**changes))


def test_good_input_is_none():
    assert semi_crf_streaming_forward(**arguments()).shape == (3,)
    assert set(tensors(make_inputs(SIZES[4], flags="boundary"))) >= {"start_scores", "end_scores"}
