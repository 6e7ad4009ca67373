"""The triton backend for (C, C) transitions: hostile scores, bases, checkpoints, variants, bits.

The kernels run in Triton's interpreter if TRITON_INTERPRET=1 is set, else on a CUDA device.
"""

import dataclasses
from unittest import mock

import pytest
import torch
from factory import Size, device_of, gradients_of, make_inputs, upstream, with_grad
from hostile_cases import CASES, hostile, marginal_tolerance

from torch_semimarkov import dispatch
from torch_semimarkov.backends import triton as backend
from torch_semimarkov.errors import UnsupportedError
from torch_semimarkov.functional import explain, log_partition, marginals, viterbi
from torch_semimarkov.potentials import Potentials

CAN_RUN = backend.INTERPRETED or torch.cuda.is_available()
runs_kernels = pytest.mark.skipif(
    not CAN_RUN, reason="needs TRITON_INTERPRET=1 or a CUDA device, or no kernel can run"
)
DEVICE = device_of("triton")
FLOAT64, FLOAT32 = torch.float64, torch.float32
# Several bases, and more positions than the longest duration.
T = 48
# In float64 those that differ most in how they are summed.
SOME = ("x100", "long durations 400 better", "drift that flips, long segments", "forbidden scores",
        "forbidden boundaries")  # fmt: skip


def moved(inputs, dtype=None):
    """The inputs on the backend's device."""
    return {n: x.to(DEVICE, dtype if x.is_floating_point() else None) for n, x in inputs.items()}


def both(inputs, **options):
    """Marginals of this backend, and the reference's of the very same numbers in float64."""
    wide = {n: x.double() if x.is_floating_point() else x for n, x in inputs.items()}
    found = marginals(**moved(inputs), backend="triton", **options)
    return found, marginals(**wide, backend="reference")


def assert_marginals(found, truth, absolute):
    for field in ("labels", "starts", "ends"):
        error = (getattr(found, field).cpu().double() - getattr(truth, field)).abs()
        assert error.max() <= absolute, (field, error.max().item())


def value_and_gradients(inputs, **options):
    leaves = with_grad(moved(inputs))
    value = log_partition(**leaves, backend="triton", **options)
    weight = upstream(len(value), value.dtype, DEVICE)
    return (value, *gradients_of(value, leaves, weight).values())


def same_bits(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# Numerics


@runs_kernels
@pytest.mark.parametrize("name", SOME)
def test_hostile_scores_give_the_marginals_of_the_reference(name):
    found, truth = both(hostile(name, T))
    torch.testing.assert_close(
        found.log_partition.cpu(), truth.log_partition, rtol=1e-12, atol=1e-11
    )
    assert_marginals(found, truth, marginal_tolerance(name))


@runs_kernels
@pytest.mark.parametrize("name", CASES)
def test_hostile_scores_in_float32_keep_the_promise_of_float32(name):
    # scores in the hundreds add up: starts far from where their segments end are large numbers
    found, truth = both(hostile(name, 200 if name == "x100" else T, FLOAT32))
    torch.testing.assert_close(
        found.log_partition.cpu().double(), truth.log_partition, rtol=1e-6, atol=0.0
    )
    assert_marginals(found, truth, 1e-4)


@runs_kernels
def test_expectations_agree_with_each_other_in_float32():
    found = marginals(**moved(make_inputs(Size((90,), K=12, C=4), FLOAT32)), backend="triton")
    torch.testing.assert_close(found.labels.sum(-1).cpu(), torch.ones(1, 90), rtol=0.0, atol=1e-6)
    number = found.starts.sum().item()
    for other in (found.ends.sum(), found.durations.sum(), found.transitions.sum() + 1.0):
        assert abs(other.item() - number) <= 1e-6 * number


# Forms of the same sum


@runs_kernels
@pytest.mark.parametrize(
    ("dtype", "flags"), [(FLOAT32, "boundary"), (FLOAT64, "forbidden"), (FLOAT32, "impossible")]
)
def test_checkpoints_change_no_bit(dtype, flags):
    inputs = make_inputs(Size((70, 33, 1), K=7, C=3), dtype, flags)
    whole = value_and_gradients(inputs)
    assert same_bits(value_and_gradients(inputs, checkpoint_interval=20), whole)


@runs_kernels
def test_two_runs_give_the_same_bits():
    inputs = make_inputs(Size((30, 13), K=9, C=5), FLOAT32, "boundary")
    assert same_bits(value_and_gradients(inputs), value_and_gradients(inputs))


@runs_kernels
def test_sequences_that_share_a_program_change_nothing_of_each_other():
    inputs = make_inputs(Size((20, 17, 1, 3, 9), K=4, C=3), flags="forbidden")
    together = value_and_gradients(inputs)
    choose = launch().variant_of

    def alone(p):
        assert choose(p).sequences > 1
        return dataclasses.replace(choose(p), sequences=1)

    with mock.patch.object(launch(), "variant_of", alone):
        apart = value_and_gradients(inputs)
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def launch():
    from torch_semimarkov.backends.triton import launch

    return launch


@runs_kernels
@pytest.mark.parametrize("interval", [None, 40])
def test_what_is_kept_has_the_shape_that_was_foretold(interval):
    p = Potentials(**moved(make_inputs(Size((40, 9), K=3, C=5), FLOAT32))).canonical()
    _, kept = backend.forward(p, "log", True, interval)
    assert kept.shape == backend.kept_shape(p, True, interval)
    assert backend.forward(p, "log", False, interval)[1].numel() == 0


@runs_kernels
def test_the_best_of_many_segmentations_is_that_of_the_reference():
    inputs = make_inputs(Size((50, 41), K=11, C=6), flags="start-end")
    found = viterbi(**moved(inputs), backend="triton")
    truth = viterbi(**inputs, backend="reference")
    assert found.segments.to_list() == truth.segments.to_list()


@runs_kernels
@pytest.mark.parametrize("flags", ["forbidden", "impossible"])
def test_many_labels_are_taken_in_parts(flags):
    inputs = make_inputs(Size((9, 4), K=3, C=70), flags=flags)
    found = value_and_gradients(inputs)
    leaves = with_grad(inputs)
    truth = log_partition(**leaves, backend="reference")
    exact = (truth, *gradients_of(truth, leaves, upstream(2)).values())
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-11, atol=1e-11)


# What it cannot run, and what it says


def potentials(C=2, K=3, dtype=FLOAT32, device="cpu"):
    return Potentials(
        torch.zeros(1, 4, C, dtype=dtype, device=device),
        torch.zeros(C, C, dtype=dtype, device=device),
        torch.zeros(K, C, dtype=dtype, device=device),
    )


def test_tensors_elsewhere_are_refused_in_one_line():
    (reason,) = backend.reasons_against("log_partition", potentials(device="meta"))
    assert reason == "needs CUDA tensors, got meta"
    with mock.patch.object(backend, "INTERPRETED", False):
        (reason,) = backend.reasons_against("log_partition", potentials())
    assert reason == "needs CUDA tensors, got cpu"


def test_the_automatic_choice_leaves_cpu_tensors_to_others():
    found = explain(torch.zeros(1, 4, 2), torch.zeros(2, 2), torch.zeros(3, 2))
    assert found.chosen == "cpu"
    assert len(found.reasons["triton"]) == 1


def test_too_many_labels_are_refused_in_one_line():
    with mock.patch.object(backend, "INTERPRETED", True):
        reasons = backend.reasons_against("log_partition", potentials(C=257))
    assert "takes at most C = 256 labels, got 257" in reasons


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("", "needs Triton, which is not installed; `pip install 'triton>=3.6'`"),
        ("3.5.1", "needs Triton 3.6 or later, got 3.5.1"),
        ("3.6.0+git1", ""),
        ("3.10.0", ""),
    ],
)
def test_triton_must_be_there_and_new_enough(version, reason):
    with mock.patch.object(backend, "_version", lambda package: version):
        assert backend.triton_problem() == reason


def test_a_gpu_with_too_little_shared_memory_is_refused_in_one_line():
    small = mock.Mock(shared_memory_per_block_optin=1000)
    with mock.patch.object(torch.cuda, "get_device_properties", lambda device: small):
        reason = backend.memory_problem(0, 4096)
    assert reason == "needs 4096 bytes of shared memory, the GPU has 1000; take fewer labels"


@runs_kernels
def test_an_explanation_says_which_form_of_the_kernels_runs():
    inputs = moved(make_inputs(Size((5,), K=100, C=24), FLOAT32))
    found = explain(**inputs, backend="triton")
    assert "128 x 32" in found.variant
    assert f"triton  runs: {found.variant}" in str(found)


def test_a_backend_without_forms_just_runs():
    call = torch.zeros(1, 4, 2), torch.zeros(2, 2), torch.zeros(3, 2)
    assert str(explain(*call, backend="reference")).endswith("reference  runs")


@runs_kernels
def test_an_unknown_semiring_is_refused_by_name():
    with pytest.raises(UnsupportedError, match="triton: has no semiring 'entropy'"):
        p = Potentials(**moved(make_inputs())).canonical()
        dispatch.select.choose("log_partition", p, "entropy", "triton")
