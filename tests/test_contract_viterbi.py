"""Contract of viterbi: path and score of the best enumerated segmentation."""

import pytest
import torch
from factory import (
    LARGER_SIZES,
    SIZES,
    device_of,
    for_each_backend,
    for_each_dtype,
    for_each_other_backend,
    for_each_possible,
    for_each_size,
    make_inputs,
    one_sequence,
    oracles,
    runs_on,
    to_sequence,
    with_grad,
    with_padding,
)
from oracle import Oracle
from tolerances import assert_close

from torch_semimarkov.errors import NumericsError
from torch_semimarkov.functional import segment_score, viterbi


def tied(inputs):
    """The same inputs with small whole numbers, so that many segmentations score exactly alike."""
    return {
        name: x.clamp(-2, 2).round() if x.is_floating_point() and not x.isinf().all() else x
        for name, x in inputs.items()
    }


def restore_forbidden(inputs, original):
    return {
        name: x.masked_fill(original[name] == -torch.inf, -torch.inf)
        if x.is_floating_point()
        else x
        for name, x in inputs.items()
    }


@for_each_backend
@for_each_size
@for_each_dtype
@for_each_possible
def test_path_and_score_are_those_of_the_best_segmentation(backend, size, dtype, flags):
    inputs = make_inputs(size, dtype, flags, device=device_of(backend))
    with runs_on(backend):
        result = viterbi(**inputs)
    found = oracles(size, dtype, flags)
    assert [tuple(path) for path in result.segments.to_list()] == [one.best() for one in found]
    assert result.scores.dtype == torch.promote_types(dtype, torch.float32)
    assert_close("score", dtype, result.scores, [one.best_score for one in found])


@for_each_backend
@for_each_size
@for_each_possible
@pytest.mark.parametrize("seed", [0, 1])
def test_of_equal_segmentations_the_documented_one_is_taken(backend, size, flags, seed):
    original = make_inputs(size, flags=flags, seed=seed)
    inputs = restore_forbidden(tied(original), original)
    found = [Oracle(to_sequence(inputs, b)) for b in range(size.B)]
    with runs_on(backend):
        result = viterbi(**{n: x.to(device_of(backend)) for n, x in inputs.items()})
    assert [tuple(path) for path in result.segments.to_list()] == [one.best() for one in found]
    assert result.scores.tolist() == [one.best_score for one in found]


def test_the_tied_inputs_do_have_ties():
    inputs = tied(make_inputs(SIZES[4]))
    assert any(len(Oracle(to_sequence(inputs, b)).all_best()) > 1 for b in range(3))


@for_each_backend
@for_each_size
@for_each_possible
def test_the_score_is_that_of_the_path(backend, size, flags):
    inputs = make_inputs(size, flags=flags, device=device_of(backend))
    with runs_on(backend):
        result = viterbi(**inputs)
    assert_close("score", torch.float64, segment_score(result.segments, **inputs), result.scores)


@for_each_backend
@for_each_possible
def test_a_ragged_batch_decodes_like_its_items(backend, flags):
    size = SIZES[4]
    inputs = make_inputs(size, torch.float32, flags, device=device_of(backend))
    with runs_on(backend):
        whole = viterbi(**inputs)
        for b in range(size.B):
            item = viterbi(**one_sequence(inputs, b))
            assert item.segments.to_list()[0] == whole.segments.to_list()[b]
            assert torch.equal(item.scores[0], whole.scores[b])


@for_each_backend
@for_each_possible
def test_padding_never_reaches_the_path(backend, flags):
    size = SIZES[4]
    inputs = make_inputs(size, flags=flags, device=device_of(backend))
    with runs_on(backend):
        clean = viterbi(**inputs)
        for junk in (torch.nan, torch.inf, 1e6):
            result = viterbi(**with_padding(inputs, junk))
            assert torch.equal(result.scores, clean.scores)
            assert result.segments == clean.segments


@for_each_backend
@pytest.mark.parametrize("flags", ["impossible", "impossible-per-duration"])
def test_an_impossible_sequence_is_an_error_that_names_it(backend, flags):
    inputs = make_inputs(flags=flags, device=device_of(backend))
    with (
        runs_on(backend),
        pytest.raises(NumericsError, match=r"no segmentation of sequence 0 is possible.*allow"),
    ):
        viterbi(**inputs)


@for_each_backend
def test_the_result_carries_no_graph_and_fits_its_width(backend):
    inputs = with_grad(make_inputs(device=device_of(backend)))
    with runs_on(backend):
        result = viterbi(**inputs)
    assert not result.scores.requires_grad
    assert result.segments.starts.shape[-1] == int(result.segments.counts.max())
    assert (result.segments.labels[~result.segments.mask] == -1).all()


@for_each_backend
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_needs_no_gradient_mode(backend, mode):
    inputs = make_inputs(device=device_of(backend))
    with runs_on(backend):
        expected = viterbi(**inputs)
        with mode():
            result = viterbi(**{name: x.clone() for name, x in inputs.items()})
    assert result.segments == expected.segments


@for_each_other_backend
@pytest.mark.parametrize("size", LARGER_SIZES, ids=str)
@for_each_possible
def test_beyond_enumeration_the_reference_is_the_judge(backend, size, flags):
    inputs = make_inputs(size, flags=flags, device=device_of(backend))
    with runs_on(backend):
        result = viterbi(**inputs)
    truth = viterbi(**inputs, backend="reference")
    assert result.segments == truth.segments
    assert_close("score", torch.float64, result.scores, truth.scores)
