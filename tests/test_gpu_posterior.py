"""Samples, messages and max-marginals of the triton backend on a GPU at full size."""

from contextlib import nullcontext

import pytest
import torch
from factory import Size, make_inputs
from gpu_cases import LIMITS, compare, for_each_place, for_float_types, runs_at, truth_of, wide

from torch_semimarkov.functional import (
    max_marginals,
    sample,
    segment_marginals,
    segment_score,
    viterbi,
)

# A name -> full size, reduced size.
SIZES = {
    "long": (Size((20_000,), K=100, C=24), Size((19,), K=5, C=3)),
    "longest durations": (Size((2500, 1203), K=1000, C=24), Size((12, 7), K=12, C=2)),
    "many labels": (Size((700, 1, 500), K=50, C=256), Size((5, 1, 4), K=3, C=17)),
    "odd and padded": (Size((4001, 3000, 17), K=33, C=7, padding=65), Size((9, 5, 2), 5, 7, 3)),
    "one duration": (Size((3000, 2999), K=1, C=9), Size((7, 6), K=1, C=3)),
    "durations beyond T": (Size((50, 37), K=1000, C=16), Size((7, 5), K=30, C=2)),
    "one label": (Size((5000,), K=300, C=1), Size((12,), K=6, C=1)),
}
PER_DURATION = Size((3000, 2000), K=20, C=24), Size((7, 4), K=3, C=2)
for_each_size = pytest.mark.parametrize("size", SIZES)


def seeded(place, seed=0):
    return torch.Generator(place.device).manual_seed(seed)


def drawn_at(place, inputs, num_samples, seed=0):
    with runs_at(place):
        return sample(**inputs, num_samples=num_samples, generator=seeded(place, seed))


@for_each_place
@for_float_types
@for_each_size
def test_samples_of_every_size_tile_their_sequences(place, dtype, size):
    inputs = place.ready(make_inputs(place.pick(*SIZES[size]), dtype, "boundary"))
    drawn = drawn_at(place, inputs, place.pick(7, 2))
    assert drawn.starts.device.type == torch.device(place.device).type
    assert segment_score(drawn, **inputs, validate_segments=True).isfinite().all()


@for_each_place
@pytest.mark.parametrize("flags", ["boundary", "forbidden", "per-duration", "all"])
def test_frequencies_of_labels_are_their_marginals(place, flags):
    per_duration = flags in ("per-duration", "all")
    sizes = PER_DURATION if per_duration else (Size((4000, 2777), K=40, C=9), Size((7, 4), 3, 3))
    inputs, draws = make_inputs(place.pick(*sizes), torch.float32, flags), place.pick(1000, 40)
    labels = drawn_at(place, place.ready(inputs), draws).to_labels(inputs["scores"].shape[1]).cpu()
    C = inputs["scores"].shape[2]
    seen = torch.stack([(labels == c).double().mean(0) for c in range(C)], -1)
    truth = truth_of(inputs).labels
    # a probability of 0 may be rounded below it
    error = (truth * (1 - truth) / draws).clamp(min=0).sqrt()
    assert ((seen - truth).abs() <= 6 * error + 1e-3).all()


@for_each_place
@pytest.mark.parametrize("flags", ["boundary", "per-duration"])
def test_the_same_seed_gives_the_same_samples_and_more_of_them_change_none(place, flags):
    sizes = Size((3000, 1234, 1), K=150, C=24), Size((6, 3, 1), K=3, C=3)
    if flags == "per-duration":
        sizes = PER_DURATION
    inputs = place.ready(make_inputs(place.pick(*sizes), torch.float32, flags))
    first = drawn_at(place, inputs, 9)
    assert drawn_at(place, inputs, 9) == first
    assert drawn_at(place, inputs, 3) == first[:3]
    assert drawn_at(place, inputs, 9, seed=1) != first


@for_each_place
@for_float_types
@for_each_size
def test_max_marginals_of_every_size_agree_with_float64(place, dtype, size):
    inputs = make_inputs(place.pick(*SIZES[size]), dtype, "boundary")
    truth = max_marginals(**wide(inputs), backend="cpu")
    with runs_at(place):
        found = max_marginals(**place.ready(inputs))
        again = max_marginals(**place.ready(inputs))
    for name in ("labels", "starts", "ends"):
        one = getattr(found, name)
        assert torch.equal(one, getattr(again, name))
        compare(one, getattr(truth, name), rtol=LIMITS[dtype][0], atol=10 * LIMITS[dtype][0])


@for_each_place
def test_the_largest_max_marginal_is_the_best_score(place):
    size = place.pick(Size((100_000,), K=100, C=24), Size((15,), K=4, C=3))
    inputs = place.ready(make_inputs(size, torch.float32, "start-end"))
    with runs_at(place):
        found, best = max_marginals(**inputs), viterbi(**inputs).scores
    for name in ("labels", "starts", "ends"):
        largest = getattr(found, name).amax((1, 2))
        compare(largest, best.cpu().double(), rtol=1e-6, atol=1e-5)


@for_each_place
@for_float_types
@for_each_size
def test_probabilities_of_segments_agree_with_float64(place, dtype, size):
    inputs = make_inputs(place.pick(*SIZES[size]), dtype, "boundary")
    asked = drawn_at(place, place.ready(inputs), 2)
    with runs_at(place):
        found = segment_marginals(asked, **place.ready(inputs))
    truth = segment_marginals(asked.to("cpu"), **wide(inputs), backend="cpu")
    compare(found, truth, rtol=0.0, atol=LIMITS[dtype][1])


@for_each_place
@for_float_types
def test_probabilities_of_segments_agree_where_transitions_go_by_duration(place, dtype):
    inputs = make_inputs(place.pick(*PER_DURATION), dtype, "all")
    asked = drawn_at(place, place.ready(inputs), 2)
    # the cpu backend has no such messages
    home = nullcontext() if place.backend == "cpu" else runs_at(place)
    with home:
        found = segment_marginals(asked, **place.ready(inputs))
    truth = segment_marginals(asked.to("cpu"), **wide(inputs), backend="reference")
    compare(found, truth, rtol=0.0, atol=LIMITS[dtype][1])
