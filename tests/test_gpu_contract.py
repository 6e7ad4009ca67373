"""The triton backend on a GPU at full size, against the cpu backend in float64."""

import pytest
import torch
from factory import (
    FLAGS,
    Size,
    gradients_of,
    make_inputs,
    one_sequence,
    tensors,
    upstream,
    with_grad,
)
from gpu_cases import (
    LIMITS,
    assert_marginals,
    compare,
    everything,
    for_each_place,
    for_float_types,
    runs_at,
    same_bits,
    truth_of,
    wide,
)
from hostile_cases import CASES, hostile, marginal_tolerance

from torch_semimarkov import entropy, explain
from torch_semimarkov.errors import ShapeError, UnsupportedError
from torch_semimarkov.functional import log_partition, marginals, segment_score, viterbi

# What is asked of a GPU, and what stands in for it elsewhere: a name -> full size, reduced size.
SIZES = {
    "long": (Size((20_000,), K=100, C=24), Size((23,), K=6, C=3)),
    "longest durations": (Size((1500, 1203), K=1000, C=24), Size((20, 13), K=20, C=3)),
    "many labels": (Size((1000, 1, 700), K=50, C=256), Size((8, 1, 5), K=4, C=17)),
    "many sequences": (Size(tuple(range(1000, 744, -1)), K=100, C=24), Size((9, 8, 7, 6), 4, 2)),
    "odd and padded": (Size((4001, 3000, 17), K=33, C=7, padding=65), Size((9, 5, 2), 5, 7, 3)),
    "one duration": (Size((3000, 2999), K=1, C=9), Size((9, 8), K=1, C=3)),
    "two durations": (Size((3000, 1), K=2, C=40), Size((9, 1), K=2, C=4)),
    "durations beyond T": (Size((50, 37), K=1000, C=16), Size((9, 7), K=30, C=2)),
    "one label": (Size((5000,), K=300, C=1), Size((20,), K=10, C=1)),
}
# The work of (K, C, C) transitions goes with K C^2.
PER_DURATION = {
    "long": (Size((5000,), K=20, C=24), Size((9,), K=3, C=3)),
    "long durations": (Size((1000, 600), K=200, C=16), Size((9, 6), K=9, C=2)),
    "many labels": (Size((200, 99), K=5, C=100), Size((8, 3), K=2, C=9)),
}
# With a tail, where the history of long durations is not split.
TAILS = {
    "long": (Size((20_000,), K=100, C=24), Size((23,), K=6, C=3)),
    "long durations": (Size((1500, 1203), K=500, C=24), Size((20, 13), K=12, C=3)),
    "many labels": (Size((1000, 1, 700), K=10, C=256), Size((8, 1, 5), K=3, C=17)),
    "many sequences": (Size(tuple(range(1000, 744, -1)), K=8, C=9), Size((9, 8, 7, 6), 3, 2)),
    "one duration": (Size((3000, 2999), K=1, C=9), Size((9, 8), K=1, C=3)),
    "durations beyond T": (Size((50, 37), K=200, C=16), Size((9, 7), K=30, C=2)),
    "one label": (Size((5000,), K=300, C=1), Size((20,), K=10, C=1)),
}
# No kernel on a GPU has a tail with (K, C, C) transitions.
PROMISED = [flags for flags in FLAGS if not {"tail", "per-duration"} <= FLAGS[flags]]
PLAIN_FLAGS = [flags for flags in PROMISED if "per-duration" not in FLAGS[flags]]
OTHER_FLAGS = [flags for flags in PROMISED if "per-duration" in FLAGS[flags]]


def agrees(place, size, dtype, flags, seed=5):
    """Fail unless marginals and the best path are those of float64."""
    inputs = make_inputs(size, dtype, flags, seed)
    ready, possible = place.ready(inputs), has_paths(inputs)
    with runs_at(place):
        found, best = marginals(**ready), viterbi(**ready) if possible else None
    assert found.labels.device.type == torch.device(place.device).type
    assert_marginals(found, truth_of(inputs), LIMITS[dtype])
    if best is not None:
        path_is_a_best_one(best, inputs, LIMITS[dtype][0])


def has_paths(inputs):
    """True if every sequence has a segmentation of a finite score."""
    best = log_partition(**wide(inputs), semiring="max", backend="cpu")
    return bool(best.isfinite().all())


def path_is_a_best_one(best, inputs, limit):
    """Fail unless the path has the score that float64 finds for the best one."""
    right = viterbi(**wide(inputs), backend="cpu").scores
    compare(best.scores, right, rtol=limit, atol=limit)
    score = segment_score(best.segments.to("cpu"), **wide(inputs))
    compare(score, right, rtol=limit, atol=limit)


@for_each_place
@for_float_types
@pytest.mark.parametrize("size", SIZES)
def test_every_size_agrees_with_float64(place, dtype, size):
    agrees(place, place.pick(*SIZES[size]), dtype, "start-end")


@for_each_place
@for_float_types
@pytest.mark.parametrize("flags", PLAIN_FLAGS)
def test_every_term_agrees_with_float64(place, dtype, flags):
    agrees(place, place.pick(*SIZES["odd and padded"]), dtype, flags)


@for_each_place
@for_float_types
@pytest.mark.parametrize("size", TAILS)
def test_tails_of_every_size_agree_with_float64(place, dtype, size):
    agrees(place, place.pick(*TAILS[size]), dtype, "tail")


@for_each_place
@for_float_types
@pytest.mark.parametrize(
    ("size", "flags"),
    [
        *((size, "start-end") for size in SIZES),
        *(("odd and padded", each) for each in PLAIN_FLAGS if each != "tail"),
    ],
)
def test_the_entropy_and_its_gradient_agree_with_float64(place, dtype, size, flags):
    inputs = make_inputs(place.pick(*SIZES[size]), dtype, flags, seed=5)
    weight = upstream(len(inputs["lengths"]))
    leaves, right = with_grad(place.ready(inputs)), with_grad(wide(inputs))
    with runs_at(place):
        value = entropy(**leaves)
        found = gradients_of(value, leaves, weight.to(value))
    truth = entropy(**right, backend="cpu")
    limit = LIMITS[dtype][0]
    compare(value, truth, rtol=limit, atol=limit * inputs["scores"].shape[1])
    for name, expected in gradients_of(truth, right, weight).items():
        largest = expected.abs().max().item()
        compare(found[name], expected, rtol=10 * limit, atol=10 * limit * (1.0 + largest))


@for_each_place
@for_float_types
@pytest.mark.parametrize("flags", OTHER_FLAGS)
@pytest.mark.parametrize("size", PER_DURATION)
def test_transitions_of_each_duration_agree_with_float64(place, dtype, flags, size):
    agrees(place, place.pick(*PER_DURATION[size]), dtype, flags)


@for_each_place
@for_float_types
@pytest.mark.parametrize("name", CASES)
def test_hostile_scores_agree_with_float64(place, dtype, name):
    inputs = hostile(name, place.pick(2000, 45), dtype)
    with runs_at(place):
        found, best = marginals(**place.ready(inputs)), viterbi(**place.ready(inputs))
    limit = marginal_tolerance(name) if dtype == torch.float64 else float32_limit(inputs)
    value = LIMITS[dtype][0]
    assert_marginals(found, truth_of(inputs), (value, limit, limit))
    path_is_a_best_one(best, inputs, value)


def float32_limit(inputs):
    """What rounding alone does to a marginal: the sums of a window have 24 bits.

    The last bits of a sum of K scores, and of every other term that is added to it.
    """
    sizes = {name: float(x[x.isfinite()].abs().max()) for name, x in tensors(wide(inputs)).items()}
    K = inputs["duration_bias"].shape[0]
    return max(1e-4, 2.0**-23 * (K * sizes.pop("scores") + sum(sizes.values())))


@for_each_place
@for_float_types
@pytest.mark.parametrize("flags", ["boundary", "tail"])
@pytest.mark.parametrize("interval", [1, 64, 1000, 10**6])
def test_checkpoints_change_nothing_but_the_memory(place, dtype, interval, flags):
    size = place.pick(Size((3000, 2001), K=100, C=24), Size((12, 7), K=4, C=3))
    interval = max(1, place.pick(interval, interval // 10))
    inputs = make_inputs(size, dtype, flags)
    with runs_at(place):
        found = marginals(**place.ready(inputs), checkpoint_interval=interval)
    assert_marginals(found, truth_of(inputs), LIMITS[dtype])


@for_each_place
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_half_types_give_float32_of_their_own_numbers(place, dtype):
    size = place.pick(*SIZES["odd and padded"])
    inputs = make_inputs(size, dtype, "boundary")
    with runs_at(place):
        found = marginals(**place.ready(inputs))
    assert found.labels.dtype == found.log_partition.dtype == torch.float32
    assert_marginals(found, truth_of(inputs), LIMITS[torch.float32])


@for_each_place
@for_float_types
def test_padding_never_reaches_the_result(place, dtype):
    size = place.pick(Size((900, 513, 2), 64, 24, padding=129), Size((9, 5, 2), 4, 3, padding=3))
    inputs = make_inputs(size, dtype, "boundary")
    spoilt = {name: x.clone() for name, x in inputs.items()}
    for name in ("scores", "start_scores", "end_scores"):
        for b, length in enumerate(size.lengths):
            spoilt[name][b, length:] = torch.nan
    clean = everything(place, inputs, validate_args=False)
    assert same_bits(clean, everything(place, spoilt, validate_args=False))


@for_each_place
@for_float_types
def test_a_ragged_batch_is_its_sequences_one_by_one(place, dtype):
    size = place.pick(Size((700, 1, 350, 64), K=100, C=24), Size((9, 1, 5, 4), K=4, C=3))
    inputs = make_inputs(size, dtype, "boundary")
    with runs_at(place):
        whole = marginals(**place.ready(inputs))
        for b, length in enumerate(size.lengths):
            alone = marginals(**place.ready(one_sequence(inputs, b)))
            rtol, atol, _ = LIMITS[dtype]
            compare(whole.log_partition[b], alone.log_partition[0].cpu().double(), rtol, rtol)
            compare(whole.labels[b, :length], alone.labels[0].cpu().double(), 0.0, atol)


# Which backend runs, and what cannot run


@for_each_place
def test_the_automatic_choice_is_that_of_the_device(place):
    inputs = place.ready(make_inputs(SIZES["long"][1]))
    wanted = "triton" if place.device == "cuda" else "cpu"
    assert explain(**inputs).chosen == wanted
    assert explain(**inputs, op="viterbi").chosen == wanted


@for_each_place
@pytest.mark.parametrize("name", ["transition", "duration_bias", "start"])
def test_terms_on_two_devices_are_one_clear_error(place, name):
    inputs = place.ready(make_inputs(SIZES["long"][1], flags="start-end"))
    elsewhere = "cpu" if place.device == "cuda" else "meta"
    inputs[name] = inputs[name].to(elsewhere)
    message = f"{name} must be on {place.device}.* like scores, got {elsewhere}"
    for function in (log_partition, marginals, viterbi):
        with pytest.raises(ShapeError, match=message):
            function(**inputs)


@for_each_place
def test_more_labels_than_the_limit_are_refused_with_a_reason(place):
    if place.backend != "triton":
        pytest.skip("the cpu backend has no such limit")
    inputs = place.ready(make_inputs(Size((3,), K=2, C=257)))
    with pytest.raises(UnsupportedError, match=r"triton: .*256"):
        log_partition(**inputs, backend="triton")
