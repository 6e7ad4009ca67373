"""Contract of segment_score and segment_log_prob, for every segmentation there is."""

import pytest
import torch
from factory import (
    PER_POSITION,
    SIZE,
    SIZES,
    all_segmentations,
    device_of,
    for_each_backend,
    for_each_dtype,
    for_each_flags,
    for_each_possible,
    for_each_size,
    gradients_of,
    make_inputs,
    one_sequence,
    oracles,
    runs_on,
    stacked,
    upstream,
    with_grad,
    with_padding,
)
from oracle import counts_of
from tolerances import assert_close

from torch_semimarkov.errors import SegmentError, ShapeError
from torch_semimarkov.functional import segment_log_prob, segment_score, viterbi
from torch_semimarkov.segments import Segments


def some_segmentations(size, flags, seed=1):
    """One possible segmentation of each sequence, not the best one, and its place in the oracle."""
    found = oracles(size, torch.float64, flags)
    picked = []
    for b, one in enumerate(found):
        possible = [y for y, score in zip(one.segmentations, one.scores, strict=True)
                    if score > -torch.inf]  # fmt: skip
        picked.append(possible[(seed * 7919 + b) % len(possible)])
    return picked


@for_each_size
@for_each_dtype
@for_each_flags
def test_every_segmentation_has_its_enumerated_score(size, dtype, flags):
    inputs = make_inputs(size, dtype, flags)
    for b, found in enumerate(oracles(size, dtype, flags)):
        alone = one_sequence(inputs, b)
        score = segment_score(all_segmentations(found), **alone, validate_args=False)
        assert score.dtype == torch.promote_types(dtype, torch.float32)
        assert_close("score", dtype, score[:, 0], found.scores.tolist())


@for_each_backend
@for_each_size
@for_each_dtype
@for_each_possible
def test_every_log_probability_is_the_enumerated_one(backend, size, dtype, flags):
    inputs = make_inputs(size, dtype, flags, device=device_of(backend))
    for b, found in enumerate(oracles(size, dtype, flags)):
        everything = all_segmentations(found).to(device_of(backend))
        with runs_on(backend):
            value = segment_log_prob(everything, **one_sequence(inputs, b), validate_args=False)
        assert (value <= 0).all()
        assert_close("log_prob", dtype, value[:, 0], (found.scores - found.log_partition).tolist())


@for_each_size
@for_each_possible
def test_the_gradient_of_a_score_counts_the_entries_in_it(size, flags):
    inputs = with_grad(make_inputs(size, flags=flags))
    picked, weight = some_segmentations(size, flags), upstream(size.B)
    score = segment_score(Segments.from_list(picked), **inputs)
    found = oracles(size, torch.float64, flags)
    counts = [counts_of(one.sequence, y) for one, y in zip(found, picked, strict=True)]
    for name, gradient in gradients_of(score, inputs, weight).items():
        weighted = [w * one[name] for w, one in zip(weight.tolist(), counts, strict=True)]
        assert_close("gradient", torch.float64, gradient, stacked(inputs, name, weighted))


@for_each_backend
@for_each_size
@for_each_possible
def test_the_gradient_of_a_log_probability_is_counts_less_expected_counts(backend, size, flags):
    inputs = with_grad(make_inputs(size, flags=flags, device=device_of(backend)))
    picked, weight = some_segmentations(size, flags), upstream(size.B, device=device_of(backend))
    segments = Segments.from_list(picked, device=device_of(backend))
    with runs_on(backend):
        gradients = gradients_of(segment_log_prob(segments, **inputs), inputs, weight)
    found = oracles(size, torch.float64, flags)
    for name, gradient in gradients.items():
        weighted = [
            w * (counts_of(one.sequence, y)[name] - one.gradient()[name])
            for w, one, y in zip(weight.tolist(), found, picked, strict=True)
        ]
        assert_close("gradient", torch.float64, gradient, stacked(inputs, name, weighted))


@for_each_backend
@for_each_possible
def test_padding_reaches_neither_value_nor_gradient(backend, flags):
    size = SIZES[4]
    inputs = make_inputs(size, flags=flags, device=device_of(backend))
    segments = Segments.from_list(some_segmentations(size, flags), device=device_of(backend))
    results = []
    for case in (with_grad(inputs), with_grad(with_padding(inputs, torch.nan))):
        with runs_on(backend):
            value = segment_log_prob(segments, **case)
            results.append((value, gradients_of(value, case, torch.ones_like(value))))
    (clean, clean_gradients), (value, gradients) = results
    assert torch.equal(value, clean)
    assert all(torch.equal(gradients[name], clean_gradients[name]) for name in gradients)


@for_each_backend
@for_each_possible
def test_the_loss_of_a_sequence_depends_on_nothing_but_that_sequence(backend, flags):
    size = SIZES[4]
    inputs = make_inputs(size, torch.float32, flags, device=device_of(backend))
    picked = some_segmentations(size, flags)
    wider = {
        name: torch.nn.functional.pad(x, (0, 0, 0, 90), value=5.0) if name in PER_POSITION else x
        for name, x in inputs.items()
    }
    with runs_on(backend):
        segments = Segments.from_list(picked, device=device_of(backend))
        together = segment_log_prob(segments, **inputs)
        assert torch.equal(segment_log_prob(segments, **wider), together)
        for b, y in enumerate(picked):
            alone = Segments.from_list([y], device=device_of(backend))
            assert torch.equal(
                segment_log_prob(alone, **one_sequence(inputs, b)), together[b : b + 1]
            )


def test_leading_dimensions_hold_many_segmentations_of_each_sequence():
    inputs = make_inputs(SIZES[4], flags="all")
    rows = [Segments.from_list(some_segmentations(SIZES[4], "all", seed)) for seed in range(6)]
    width = max(row.starts.shape[-1] for row in rows)
    padded = [
        [torch.nn.functional.pad(x, (0, width - x.shape[-1]), value=-1)
         for x in (row.starts, row.ends, row.labels)] + [row.counts] for row in rows
    ]  # fmt: skip
    many = Segments(
        *(torch.stack(parts).unflatten(0, (2, 3)) for parts in zip(*padded, strict=True))
    )
    for function in (segment_score, segment_log_prob):
        value = function(many, **inputs)
        assert value.shape == (2, 3, 3)
        one_by_one = torch.stack([function(row, **inputs) for row in rows]).unflatten(0, (2, 3))
        assert_close("log_prob", torch.float64, value, one_by_one)


def test_the_decoded_path_has_the_decoded_score_and_the_highest_probability():
    inputs = make_inputs(SIZES[4], flags="all")
    best = viterbi(**inputs)
    found = oracles(SIZES[4], torch.float64, "all")
    truth = [float(one.probabilities().max()) for one in found]
    assert_close("log_prob", torch.float64, segment_log_prob(best.segments, **inputs).exp(), truth)


# Segmentations outside of the support: the error names sequence, segment and remedy


def simple(T=4, K=2, C=2):
    zeros = torch.zeros
    return {
        "scores": zeros(2, T, C),
        "transition": zeros(C, C),
        "duration_bias": zeros(K, C),
        "start": zeros(C),
        "end": zeros(C),
        "start_scores": zeros(2, T, C),
        "end_scores": zeros(2, T, C),
    }


FINE = [(0, 2, 0), (2, 4, 1)]
FORBIDDEN = {
    "a label": ("scores", (1, 3, 1), "sequence 1, segment 1 .*scores.*allow it in the model"),
    "a duration": ("duration_bias", (1, 1), "sequence 0, segment 1 .*duration of 2.*allow it"),
    "a transition": ("transition", (0, 1), "sequence 0, segment 1 .*from label 0.*allow it"),
    "a start": ("start", (0,), "sequence 0, segment 0 .*from the start.*allow it"),
    "an end": ("end", (1,), "sequence 0, segment 1 .*ending there.*allow it"),
    "a place to start": ("start_scores", (1, 2, 1), "sequence 1, segment 1 .*allow it"),
    "a place to end": ("end_scores", (1, 1, 0), "sequence 1, segment 0 .*allow it"),
}


@pytest.mark.parametrize("function", [segment_score, segment_log_prob])
@pytest.mark.parametrize(("term", "entry", "message"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_forbidden_part_is_an_error_that_names_it(function, term, entry, message):
    inputs = simple()
    inputs[term][entry] = -torch.inf
    with pytest.raises(SegmentError, match=message):
        function(Segments.from_list([FINE, FINE]), **inputs)


@pytest.mark.parametrize("function", [segment_score, segment_log_prob])
def test_a_segment_longer_than_k_is_an_error_that_names_it(function):
    message = r"sequence 1, segment 1 \[1, 4\) has 3 positions, more than K = 2; raise max_duration"
    with pytest.raises(SegmentError, match=message):
        function(Segments.from_list([FINE, [(0, 1, 0), (1, 4, 1)]]), **simple())


def test_it_is_never_clamped_not_even_without_validation():
    segments = Segments.from_list([FINE, [(0, 1, 0), (1, 4, 1)]])
    for function in (segment_score, segment_log_prob):
        value = function(segments, **simple(), validate_args=False)
        assert value[1] == -torch.inf
        assert value[0].isfinite()


MALFORMED = {
    "a gap": ([(0, 1, 0), (2, 4, 1)], r"segment 1 \[2, 4\) must start at 1"),
    "an overlap": ([(0, 2, 0), (1, 3, 1), (3, 4, 0)], r"segment 1 \[1, 3\) must start at 2"),
    "a late start": ([(1, 2, 0), (2, 4, 1)], r"segment 0 \[1, 2\) must start at 0"),
    "an early end": ([(0, 2, 0), (2, 3, 1)], "must end at its length 4, got 3"),
    "a late end": ([(0, 2, 0), (2, 4, 1), (4, 5, 0)], "must end at its length 4, got 5"),
    "a label out of range": ([(0, 2, 0), (2, 4, 2)], r"label in 0\.\.1, got 2"),
    "no segment": ([], "must end at its length 4, got 0"),
}


@pytest.mark.parametrize("function", [segment_score, segment_log_prob])
@pytest.mark.parametrize(("faulty", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_segmentation_is_an_error_that_names_it(function, faulty, message):
    with pytest.raises(SegmentError, match=f"sequence 1, .*{message}"):
        function(Segments.from_list([FINE, faulty]), **simple())


def test_every_faulty_sequence_is_named_at_once():
    segments = Segments.from_list([[(0, 1, 0)], [(1, 4, 0)]])
    with pytest.raises(SegmentError, match=r"(?s)sequence 0.*sequence 1"):
        segment_score(segments, **simple())


@pytest.mark.parametrize("function", [segment_score, segment_log_prob])
def test_another_batch_is_an_error(function):
    with pytest.raises(ValueError, match="B = 2 sequences like scores, got 1"):
        function(Segments.from_list([FINE]), **simple())


def test_segments_on_another_device_are_an_error():
    with pytest.raises(ValueError, match="segments must be on cpu like scores, got meta"):
        segment_score(Segments.from_list([FINE, FINE]).to("meta"), **simple())


def test_without_checks_a_segmentation_of_an_impossible_sequence_has_log_probability_minus_inf():
    inputs = make_inputs(SIZE, flags="impossible")
    gold = Segments.from_list([[(i, i + 1, 0) for i in range(n)] for n in SIZE.lengths])
    log_prob = segment_log_prob(gold, **inputs, validate_args=False)
    assert log_prob[0] == -torch.inf
    assert log_prob[1:].isfinite().all()


@pytest.mark.parametrize("function", [segment_score, segment_log_prob])
def test_what_is_not_segments_is_refused_by_name(function):
    with pytest.raises(ShapeError, match="segments must be Segments, got list"):
        function([[(0, 1, 0)]], **make_inputs(SIZE))
