"""The Triton kernels for (K, C, C) transitions, called directly; the reference is the judge."""

import os

import pytest
import torch

if not os.environ.get("TRITON_INTERPRET") and not torch.cuda.is_available():
    pytest.skip("needs TRITON_INTERPRET=1 or a CUDA device", allow_module_level=True)
pytest.importorskip("triton")

import triton.language as tl
from factory import (
    PER_POSITION,
    SIZES,
    Size,
    gradients_of,
    make_inputs,
    outside_of,
    tensors,
    upstream,
    with_grad,
    with_padding,
)
from test_contract_viterbi import restore_forbidden, tied
from tolerances import assert_close

from torch_semimarkov.backends.triton import per_duration, per_duration_count
from torch_semimarkov.functional import log_partition, viterbi
from torch_semimarkov.potentials import Potentials

INTERPRETED = bool(os.environ.get("TRITON_INTERPRET"))
DEVICE = "cpu" if INTERPRETED else "cuda"
# More durations than a tile of labels has rows, and neither a power of two.
RAGGED = Size((9, 6, 1), K=5, C=3, padding=2)
CASES = [
    (RAGGED, torch.float64, "all"),
    (RAGGED, torch.float32, "all"),
    (RAGGED, torch.float64, "impossible"),
    (Size((7, 5), K=3, C=11), torch.float64, "all"),
    (Size((4, 3), K=2, C=9), torch.float32, "per-duration"),
    (Size((4, 3), K=9, C=2, padding=1), torch.float64, "all"),
    (Size((6, 4), K=1, C=5), torch.float64, "all"),
    (Size((8,), K=3, C=1), torch.float64, "all"),
    (SIZES[0], torch.float64, "all"),
]
for_each_case = pytest.mark.parametrize(
    ("size", "dtype", "flags"), CASES, ids=[f"{s}-{str(d)[6:]}-{f}" for s, d, f in CASES]
)


def inputs_of(size, dtype, flags, seed=0):
    inputs = make_inputs(size, dtype, flags, seed)
    if inputs["transition"].dim() == 2:
        inputs["transition"] = inputs["transition"].repeat(size.K, 1, 1)
    return inputs


def on_device(inputs):
    return Potentials(**{name: x.to(DEVICE) for name, x in inputs.items()}).canonical()


def train(inputs, interval=None):
    """Value and gradients, as the kernels give them."""
    p = on_device(inputs)
    value, kept = per_duration.forward(p, "log", True, interval)
    assert kept.shape == per_duration.kept_shape(p, True, interval)
    weight = upstream(p.B, device=DEVICE)
    return value, per_duration.backward(p, value, kept, weight)


def judged(inputs):
    """Value and gradients of the same numbers in float64 by the reference."""
    wide = with_grad({n: x.double() if x.is_floating_point() else x for n, x in inputs.items()})
    value = log_partition(**wide, backend="reference")
    return value.detach(), gradients_of(value, wide, upstream(len(value)))


def paths(segments):
    return [tuple(path) for path in segments.to_list()]


def decoded(inputs):
    """Scores and paths, as the kernels give them."""
    scores, table, counts = per_duration.viterbi(on_device(inputs))
    found = []
    for b, count in enumerate(counts.tolist()):
        assert (table[:, b, count:] == -1).all()
        found.append(tuple(map(tuple, table[:, b, :count].T.tolist())))
    return scores.cpu(), found


@pytest.fixture
def short_blocks(monkeypatch):
    """Blocks of a few positions, so that a short sequence has several stretches."""
    if not INTERPRETED:
        pytest.skip("a compiled kernel keeps its constants; longer sequences are tested there")
    for module in (per_duration, per_duration_count):
        monkeypatch.setattr(module, "BLOCK", tl.constexpr(4))


@for_each_case
def test_value_and_gradients_are_those_of_the_reference(size, dtype, flags):
    inputs = inputs_of(size, dtype, flags)
    value, found = train(inputs)
    truth, expected = judged(inputs)
    assert value.dtype == torch.float64
    assert_close("log_partition", dtype, value, truth)
    assert set(found) == set(tensors(inputs))
    for name, gradient in found.items():
        assert gradient.dtype == dtype
        assert_close("gradient", dtype, gradient, expected[name])


@for_each_case
def test_the_best_score_and_path_are_those_of_the_reference(size, dtype, flags):
    inputs = inputs_of(size, dtype, flags)
    wide = {n: x.double() if x.is_floating_point() else x for n, x in inputs.items()}
    possible = flags != "impossible"
    alive = slice(0 if possible else 1, None)
    kept = {n: x[alive] if n in (*PER_POSITION, "lengths") else x for n, x in wide.items()}
    truth = viterbi(**kept, backend="reference")
    scores, found = decoded(inputs)
    assert_close("score", dtype, scores[alive], truth.scores)
    assert found[alive] == paths(truth.segments)
    if not possible:
        assert scores[0] == -torch.inf
        assert found[0] == ()
    total, _ = per_duration.forward(on_device(inputs), "max", False, None)
    assert torch.equal(total.cpu(), scores)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_many_durations_take_several_tiles(monkeypatch, dtype):
    monkeypatch.setattr(per_duration, "TILE", 32)
    test_value_and_gradients_are_those_of_the_reference(RAGGED, dtype, "all")
    test_the_best_score_and_path_are_those_of_the_reference(RAGGED, dtype, "all")
    original = inputs_of(RAGGED, dtype, "per-duration")
    inputs = tied(original)
    assert decoded(inputs)[1] == paths(viterbi(**inputs, backend="reference").segments)


@pytest.mark.parametrize("size", [RAGGED, Size((5, 4), K=3, C=9)], ids=str)
@pytest.mark.parametrize("flags", ["per-duration", "all"])
@pytest.mark.parametrize("offset", [0.0, 40.0])
def test_of_equal_segmentations_the_documented_one_is_taken(size, flags, offset):
    original = inputs_of(size, torch.float64, flags)
    inputs = restore_forbidden(tied(original), original)
    inputs["scores"] += offset
    truth = viterbi(**inputs, backend="reference")
    scores, found = decoded(inputs)
    assert found == paths(truth.segments)
    assert torch.equal(scores, truth.scores)


def test_padding_changes_no_bit():
    inputs = inputs_of(RAGGED, torch.float32, "all")
    filled = with_padding(inputs, torch.nan)
    value, found = train(inputs)
    with_junk, again = train(filled)
    assert torch.equal(with_junk, value)
    for name, gradient in again.items():
        assert torch.equal(gradient, found[name]), name
        if name in PER_POSITION:
            assert (gradient[outside_of(inputs).to(DEVICE)] == 0).all(), name
    assert decoded(filled)[1] == decoded(inputs)[1]


@pytest.mark.parametrize(
    ("dtype", "lengths"), [(torch.float32, (18, 8, 1)), (torch.float64, (16, 9))]
)
def test_checkpoints_change_no_bit(short_blocks, dtype, lengths):
    inputs = inputs_of(Size(lengths, K=2, C=3), dtype, "all")
    value, plain = train(inputs)
    for interval in (1,) if dtype == torch.float32 else (1, 12):
        assert per_duration.kept_shape(on_device(inputs), True, interval)[1] > 0
        again, found = train(inputs, interval)
        assert torch.equal(again, value)
        assert all(torch.equal(found[name], plain[name]) for name in plain)


@pytest.mark.parametrize("lengths", [(7, 3), (4, 2)])
def test_one_stretch_for_all_is_no_exception(short_blocks, lengths):
    inputs = inputs_of(Size(lengths, K=3, C=2), torch.float64, "all")
    value, plain = train(inputs)
    assert per_duration.kept_shape(on_device(inputs), True, 12)[1] == 0
    again, found = train(inputs, 12)
    assert torch.equal(again, value)
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_without_a_gradient_only_a_window_is_in_memory(short_blocks):
    inputs = inputs_of(Size((22, 9), K=3, C=2), torch.float64, "all")
    p = on_device(inputs)
    value, kept = per_duration.forward(p, "log", False, None)
    assert kept.shape == per_duration.kept_shape(p, False, None) == (0,)
    assert torch.equal(value, per_duration.forward(p, "log", True, None)[0])
    best, _ = per_duration.forward(p, "max", False, None)
    assert torch.equal(best, per_duration.viterbi(p)[0])


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_far_scores_keep_every_digit(scale):
    inputs = inputs_of(Size((14, 9), K=4, C=3), torch.float64, "all")
    inputs = {n: x * scale if x.is_floating_point() else x for n, x in inputs.items()}
    inputs["scores"][:, 5:9] -= 900.0
    inputs["scores"][..., 1] += 30.0
    value, found = train(inputs)
    truth, expected = judged(inputs)
    assert_close("log_partition", torch.float64, value, truth)
    for name, gradient in found.items():
        assert_close("gradient", torch.float64, gradient, expected[name])


def test_nan_reaches_the_value_where_it_is_not_refused():
    inputs = inputs_of(RAGGED, torch.float64, "per-duration")
    _, clean = decoded(inputs)
    inputs["scores"][0, 4, 1] = torch.nan
    value, _ = train(inputs)
    assert value[0].isnan()
    assert value[1:].isfinite().all()
    _, paths_beside_it = decoded(inputs)
    assert paths_beside_it[1:] == clean[1:]


if not INTERPRETED:

    @pytest.mark.parametrize("interval", [None, 500])
    def test_a_long_sequence_in_float32_keeps_four_digits(interval):
        inputs = inputs_of(Size((10_000, 6_000), K=3, C=2), torch.float32, "all")
        inputs["scores"] += 50.0
        value, found = train(inputs, interval)
        truth, expected = train(
            {n: x.double() if x.is_floating_point() else x for n, x in inputs.items()}
        )
        torch.testing.assert_close(value, truth, rtol=1e-6, atol=0.0)
        for name in PER_POSITION:
            assert (found[name] - expected[name]).abs().max() < 1e-4, name
