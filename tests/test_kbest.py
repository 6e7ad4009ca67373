"""The k best segmentations: all different, in their order, and those that enumeration finds."""

import warnings

import numpy as np
import pytest
import torch
from factory import (
    FLAGS,
    LARGER_SIZES,
    PER_POSITION,
    SIZE,
    SIZES,
    Size,
    by_threads,
    make_inputs,
    one_sequence,
    oracles,
    runs_on,
    tensors,
    to_sequence,
    with_grad,
)
from oracle import Oracle
from test_contract_viterbi import restore_forbidden, tied
from tolerances import assert_close

import torch_semimarkov as ts
from torch_semimarkov import explain, kbest, segment_score, viterbi
from torch_semimarkov.errors import ConfigError, NumericsError, ShapeError, UnsupportedError
from torch_semimarkov.semirings import KMaxSemiring

for_each_backend = pytest.mark.parametrize("backend", ["reference", "cpu"])
POSSIBLE = [name for name, flags in FLAGS.items() if "impossible" not in flags]
for_each_possible = pytest.mark.parametrize("flags", POSSIBLE)


def quiet(inputs, k, backend=None):
    """The k best, without the warning where there are fewer; skips what a backend cannot run."""
    with warnings.catch_warnings(), runs_on(backend or "cpu"):
        warnings.simplefilter("ignore", UserWarning)
        return kbest(**inputs, k=k)


def paths(result, b):
    """The segmentations of sequence b that there are, best first."""
    rows = [batch[b] for batch in result.segments.to_list()]
    return [tuple(tuple(s) for s in row) for row in rows if row]


def assert_equal_to_enumeration(inputs, found, k, backend):
    result = quiet(inputs, k, backend)
    assert result.scores.shape == result.segments.counts.shape == (k, len(found))
    for b, judge in enumerate(found):
        possible = judge.scores[judge.scores > -np.inf]
        wanted = np.sort(possible)[::-1][:k]
        scores = result.scores[:, b]
        assert_close("score", torch.float64, scores[: len(wanted)], wanted.copy())
        assert (scores[len(wanted) :] == -torch.inf).all()
        chosen = paths(result, b)
        assert len(chosen) == len(set(chosen)) == len(wanted), "all different, and all there are"
        value = dict(zip(judge.segmentations, judge.scores, strict=True))
        assert_close("score", torch.float64, scores[: len(wanted)], [value[y] for y in chosen])
        assert chosen[0] == judge.best()


@for_each_backend
@for_each_possible
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("k", [1, 3, 20])
def test_they_are_those_of_enumeration(backend, flags, size, k):
    found = oracles(size, flags=flags)
    assert_equal_to_enumeration(make_inputs(size, flags=flags), found, k, backend)


@for_each_backend
@for_each_possible
def test_all_segmentations_are_found_when_all_are_asked_for(backend, flags):
    size = SIZES[4]
    k = len(oracles(size, flags=flags)[0].segmentations) + 1
    found = oracles(size, flags=flags)
    assert_equal_to_enumeration(make_inputs(size, flags=flags), found, k, backend)


@for_each_backend
@for_each_possible
@pytest.mark.parametrize("seed", [0, 1])
def test_of_equal_segmentations_all_are_different_and_the_first_is_viterbis(backend, flags, seed):
    original = make_inputs(SIZES[4], flags=flags, seed=seed)
    inputs = restore_forbidden(tied(original), original)
    found = [Oracle(to_sequence(inputs, b)) for b in range(SIZES[4].B)]
    assert_equal_to_enumeration(inputs, found, 30, backend)


@for_each_backend
def test_where_there_are_fewer_it_says_so(backend):
    inputs = make_inputs(Size((2, 5), K=2, C=1))
    message = r"there are not k = 9 segmentations: sequence 0 has 2, sequence 1 has 8;"
    with pytest.warns(UserWarning, match=message):
        result = kbest(**inputs, k=9, backend=backend)
    assert (result.segments.counts > 0).sum(0).tolist() == [2, 8]
    assert (result.scores[2:, 0] == -torch.inf).all()
    assert (result.segments.starts[2:, 0] == -1).all()


def test_without_a_shortage_it_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kbest(**make_inputs(Size((5,), K=2, C=2)), k=5)


@for_each_backend
@pytest.mark.parametrize("flags", ["impossible", "impossible-per-duration"])
def test_an_impossible_sequence_is_an_error_that_names_it(backend, flags):
    with pytest.raises(NumericsError, match="no segmentation of sequence 0 is possible"):
        kbest(**make_inputs(flags=flags), k=2, backend=backend)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, None])
def test_k_must_be_a_whole_number_above_0(k):
    with pytest.raises(ShapeError, match="k must be an integer >= 1"):
        kbest(**make_inputs(), k=k)


@pytest.mark.parametrize("one", [np.int64(2), np.array(2), torch.tensor(2)], ids=repr)
def test_a_count_may_be_an_integer_of_any_type(one):
    inputs = make_inputs(Size((5, 4), K=2, C=3))
    assert kbest(**inputs, k=one).segments == kbest(**inputs, k=2).segments
    assert ts.SemiMarkovCRF(**inputs).topk(one).scores.shape == (2, 2)
    assert ts.sample(**inputs, num_samples=one).counts.shape == (2, 2)
    assert ts.duration_posterior(torch.ones(2, 1, dtype=int), longest=one, **inputs).shape[2] == 2
    assert ts.posterior_decode(**inputs, objective="boundary_f1", nodes=one).expected.shape == (2,)
    head = ts.SemiMarkovCRFHead(num_classes=one, max_duration=one, hidden_dim=one)
    assert all(type(x) is int for x in (head.num_classes, head.max_duration, head.hidden_dim))
    terms = inputs["transition"], inputs["duration_bias"]
    stream = ts.SemiMarkovStream(*terms, decode=True, lag=one)
    assert len(stream.push(inputs["scores"])) == 2
    assert KMaxSemiring(one).components == (2,)


@pytest.mark.parametrize("one", [np.bool_(True), torch.tensor(True), np.array([2, 3]), "2"])
def test_what_is_no_count_is_refused_whatever_its_type(one):
    for call in (
        lambda: kbest(**make_inputs(), k=one),
        lambda: ts.sample(**make_inputs(), num_samples=one),
        lambda: ts.SemiMarkovCRFHead(num_classes=one, max_duration=2),
    ):
        with pytest.raises((ShapeError, ConfigError), match="must be an integer >= 1, got"):
            call()


def test_the_warning_of_fewer_than_k_points_at_the_line_that_asked():
    inputs = make_inputs(Size((1,), K=1, C=2))
    head = ts.SemiMarkovCRFHead(num_classes=2, max_duration=1)
    calls = (
        lambda: kbest(**inputs, k=3),
        lambda: ts.SemiMarkovCRF(**inputs).topk(3),
        lambda: head.kbest(torch.zeros(1, 1, 2), k=3),
    )
    for call in calls:
        with pytest.warns(UserWarning, match="there are not k = 3") as found:
            call()
        (warning,) = found
        assert (warning.filename, warning.lineno) == (__file__, call.__code__.co_firstlineno)


@pytest.mark.parametrize("size", LARGER_SIZES, ids=str)
@for_each_possible
def test_beyond_enumeration_the_reference_is_the_judge(size, flags):
    inputs = make_inputs(size, flags=flags)
    found, truth = quiet(inputs, 12, "cpu"), quiet(inputs, 12, "reference")
    assert_close("score", torch.float64, found.scores, truth.scores)
    # neighbours of one label may swap their durations, so that rounding decides who comes first
    for result in (found, truth):
        again = segment_score(result.segments, **inputs, validate_segments=False)
        there = result.scores > -torch.inf
        assert_close("score", torch.float64, again[there], result.scores[there])
        for b in range(size.B):
            assert len(set(paths(result, b))) == int(there[:, b].sum())
    assert found.segments[0] == truth.segments[0]


@for_each_backend
@for_each_possible
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_types_are_decoded_as_they_are(backend, flags, dtype):
    inputs = make_inputs(SIZE, dtype, flags)
    result = quiet(inputs, 4, backend)
    assert result.scores.dtype == torch.float32
    for b, judge in enumerate(oracles(SIZE, dtype, flags)):
        wanted = np.sort(judge.scores[judge.scores > -np.inf])[::-1][:4].copy()
        assert_close("score", dtype, result.scores[: len(wanted), b], wanted)


@pytest.mark.parametrize("flags", [flags for flags in POSSIBLE if "tail" not in FLAGS[flags]])
@pytest.mark.parametrize("k", [1, 7])
def test_the_first_is_viterbis_to_the_bit(flags, k):
    # a tail is taken in by other steps there, so it rounds otherwise
    inputs = make_inputs(LARGER_SIZES[0], flags=flags)
    best, result = viterbi(**inputs, backend="cpu"), quiet(inputs, k, "cpu")
    assert torch.equal(result.scores[0], best.scores)
    assert result.segments[0] == best.segments


@pytest.mark.parametrize(
    ("flags", "size"),
    [
        ("forbidden", Size((130, 129), K=33, C=5, padding=7)),
        ("forbidden", Size((300, 211), K=20, C=3)),
        ("per-duration", Size((64,), K=9, C=1)),
    ],
)
def test_rounding_breaks_no_tie_between_neighbours_with_swapped_durations(flags, size):
    inputs = make_inputs(size, flags=flags)
    inputs["transition"] -= 4  # longer segments, of which more are next to one of their label
    best = viterbi(**inputs, backend="cpu")
    for k in (1, 3):
        assert quiet(inputs, k, "cpu").segments[0] == best.segments


def test_where_all_are_alike_they_are_still_different():
    size = Size((200,), K=7, C=3)
    zeros = {name: torch.zeros_like(x) for name, x in tensors(make_inputs(size)).items()}
    result = kbest(**zeros, k=60, backend="cpu")
    assert (result.scores == 0).all()
    assert len(set(paths(result, 0))) == 60


@pytest.mark.parametrize("flags", ["plain", "per-duration", "tail"])
def test_ways_that_never_meet_again_are_found(flags):
    inputs = make_inputs(Size((60, 33), K=6, C=4), flags=flags)
    group = torch.arange(4) // 2
    inputs["transition"][..., group[:, None] != group] = -torch.inf
    found, truth = quiet(inputs, 30, "cpu"), quiet(inputs, 30, "reference")
    assert_close("score", torch.float64, found.scores, truth.scores)
    for b in range(2):
        assert len(set(paths(found, b))) == 30


@pytest.mark.parametrize("K", [1, 2, 7, 8, 60])
@pytest.mark.parametrize("hostile", [False, True])
def test_a_tail_that_is_no_list_of_durations_gives_those_of_the_list(K, hostile):
    inputs = make_inputs(Size((50, 31, 1), K=K, C=3, padding=2), flags="tail")
    # new segments cost much, so that long ones are among the best
    inputs["transition"] -= 5
    inputs["tail"] = inputs["tail"] / 10 - 0.2
    if hostile:
        draw = torch.Generator().manual_seed(0)
        for name in PER_POSITION:
            forbidden = torch.rand(inputs[name].shape, generator=draw) < 0.2
            forbidden[..., -1] = False
            inputs[name][forbidden] = -torch.inf
    found, truth = quiet(inputs, 12, "cpu"), quiet(inputs, 12, "reference")
    assert_close("score", torch.float64, found.scores, truth.scores)
    assert found.segments[0] == truth.segments[0] == viterbi(**inputs).segments
    assert int(found.segments.durations.max()) > min(K, 40), "no segment was in the tail"
    again = segment_score(found.segments, **inputs, validate_segments=False)
    there = found.scores > -torch.inf
    assert_close("score", torch.float64, again[there], found.scores[there])
    for b in range(3):
        assert len(set(paths(found, b))) == int(there[:, b].sum())


@for_each_backend
@for_each_possible
def test_padding_never_reaches_them(backend, flags):
    inputs = make_inputs(flags=flags)
    outside = torch.arange(SIZE.T) >= inputs["lengths"][:, None]
    filled = {
        name: x.masked_fill(outside[..., None], torch.nan) if name in PER_POSITION else x
        for name, x in inputs.items()
    }
    clean, spoilt = quiet(inputs, 6, backend), quiet(filled, 6, backend)
    assert torch.equal(clean.scores, spoilt.scores)
    assert clean.segments == spoilt.segments


@for_each_possible
def test_a_ragged_batch_decodes_like_its_items(flags):
    inputs = make_inputs(LARGER_SIZES[0], flags=flags)
    whole = quiet(inputs, 5, "cpu")
    for b in range(LARGER_SIZES[0].B):
        alone = quiet(one_sequence(inputs, b), 5, "cpu")
        assert torch.equal(alone.scores[:, 0], whole.scores[:, b])
        assert paths(alone, 0) == paths(whole, b)


@pytest.mark.parametrize("flags", ["plain", "all"])
def test_threads_do_not_matter(flags):
    inputs = make_inputs(Size((900, 700, 800), K=40, C=8), flags=flags)
    one, two = by_threads((1, 2), lambda: kbest(**inputs, k=5))
    assert torch.equal(one.scores, two.scores)
    assert one.segments == two.segments


@pytest.mark.parametrize("flags", ["plain", "boundary", "forbidden", "all"])
def test_scores_of_long_sequences_are_those_of_their_paths(flags):
    inputs = make_inputs(Size((3000,), K=12, C=4), flags=flags)
    result = kbest(**inputs, k=40, backend="cpu")
    assert_close("score", torch.float64, segment_score(result.segments, **inputs), result.scores)
    assert (result.scores[1:] <= result.scores[:-1]).all()
    assert len(set(paths(result, 0))) == 40


def test_it_records_no_gradient():
    assert not kbest(**with_grad(make_inputs()), k=2).scores.requires_grad


def test_explain_says_which_backend_runs_it():
    for flags in ("plain", "tail", "all"):
        assert explain(**make_inputs(flags=flags), op="kbest", semiring="max").chosen == "cpu"
    with pytest.raises(UnsupportedError, match=r"needs CUDA tensors|has no kbest"):
        kbest(**make_inputs(), k=2, backend="triton")


def test_torch_compile_sees_one_op():
    inputs = make_inputs()

    @torch.compile(fullgraph=True, backend="eager")
    def run(scores, transition, duration_bias, lengths):
        return kbest(scores, transition, duration_bias, lengths, k=3).scores

    assert torch.equal(run(**inputs), kbest(**inputs, k=3).scores)


@pytest.mark.parametrize("flags", ["plain", "all"])
def test_the_registered_op_keeps_its_promises(flags):
    from torch_semimarkov.dispatch.path_library import kbest_op
    from torch_semimarkov.functional.inputs import gather

    fields = gather(**make_inputs(flags=flags)).fields()
    torch.library.opcheck(kbest_op, (*fields, 3, "cpu"))
