"""Questions about the posterior of a model with a tail, against enumeration and a very large K."""

from itertools import product
from unittest import mock

import pytest
import torch
from factory import LARGER_SIZES, Size, make_inputs, oracles, tensors
from question_cases import (
    assert_durations,
    assert_probabilities,
    every_window,
    has_run,
    has_start_in,
    is_segment,
    painted,
    some_runs,
)
from tolerances import FLOAT64, assert_close

import torch_semimarkov as ts
from torch_semimarkov import dispatch
from torch_semimarkov.errors import ShapeError
from torch_semimarkov.functional.inputs import gather
from torch_semimarkov.potentials import Potentials

SIZES = [Size((6, 4), K=2, C=2), Size((5, 3), K=1, C=2), Size((5, 4), K=7, C=2, padding=1)]
for_each_size = pytest.mark.parametrize("size", SIZES, ids=str)
for_each_flags = pytest.mark.parametrize("flags", ["tail", "all-tail"])


def never_unrolled():
    """A block in which no call may spell the tail out as durations up to T."""

    def refuse(_):
        raise AssertionError("the tail is spelt out")

    return mock.patch.object(Potentials, "without_tail", refuse)


@for_each_flags
@for_each_size
def test_the_probability_of_a_segment_of_any_length(size, flags):
    asked = [
        [(s, e, c) for s in range(L) for e in range(s + 1, L + 1) for c in range(2)]
        for L in size.lengths
    ]
    with never_unrolled():
        found = ts.segment_marginals(ts.Segments.from_list(asked), **make_inputs(size, flags=flags))
    assert_probabilities(found, asked, is_segment, oracles(size, flags=flags))


@for_each_flags
@for_each_size
def test_the_probability_of_a_boundary_in_a_window(size, flags):
    asked, table = every_window(size)
    with never_unrolled():
        found = ts.window_marginals(table, **make_inputs(size, flags=flags))
    assert_probabilities(found, asked, has_start_in, oracles(size, flags=flags))


@for_each_flags
@for_each_size
def test_the_probability_of_a_run(size, flags):
    asked = some_runs(size)
    with never_unrolled():
        found = ts.run_marginals(ts.Segments.from_list(asked), **make_inputs(size, flags=flags))
    assert_probabilities(found, asked, has_run, oracles(size, flags=flags))


@for_each_flags
@for_each_size
def test_the_posterior_of_the_duration_goes_on_to_the_last_position(size, flags):
    inputs = make_inputs(size, flags=flags)
    positions = torch.tensor([[0, L // 2, L - 1] for L in size.lengths])
    with never_unrolled():
        found = ts.duration_posterior(positions, **inputs)
        few = ts.duration_posterior(positions, longest=3, **inputs)
    assert found.shape[2] == max(size.K, size.T)
    assert_durations(found, positions, oracles(size, flags=flags))
    assert_close("marginals", FLOAT64, few[:, :, :2], found[:, :, :2])
    assert_close("marginals", FLOAT64, few[:, :, 2], found[:, :, 2:].sum(2))


def test_more_rows_of_a_duration_than_there_are_have_no_probability():
    inputs = make_inputs(Size((4,), K=2, C=2))
    found = ts.duration_posterior(torch.tensor([[1]]), longest=4, **inputs)
    assert_close("marginals", FLOAT64, found[:, :, :2],
                 ts.duration_posterior(torch.tensor([[1]]), **inputs))  # fmt: skip
    assert not found[:, :, 2:].any()


@pytest.mark.parametrize("longest", [0, -1, 1.5, True])
def test_less_than_one_row_of_a_duration_is_refused(longest):
    with pytest.raises(ShapeError, match="longest must be an integer >= 1"):
        ts.duration_posterior(torch.tensor([[1]]), longest=longest, **make_inputs(Size((4,), 2, 2)))


@for_each_flags
def test_far_along_a_sequence_the_answers_are_those_of_a_very_large_k(flags):
    size = Size((90, 71), K=4, C=3)
    inputs = make_inputs(size, flags=flags)
    inputs["transition"] -= 4  # long segments
    if flags == "tail":
        inputs["tail"] = torch.tensor([-0.02, 0.1, -torch.inf]).double()
    p = Potentials(**inputs).canonical().without_tail()
    large = {**dict(p.terms()), "lengths": p.lengths}
    windows = torch.tensor([[(3, 4), (20, 22), (30, 60), (68, 71), (0, 1), (1, 71)]] * 2)
    positions = torch.tensor([[40], [70]])
    with never_unrolled():
        found = ts.window_marginals(windows, **inputs)
        durations = ts.duration_posterior(positions, **inputs)
    assert_close("marginals", FLOAT64, found, ts.window_marginals(windows, **large))
    truth = ts.duration_posterior(positions, **large)
    assert_close("marginals", FLOAT64, durations, truth)
    assert truth[:, :, 10:].sum() > 0.05, "no segment was long"
    for objective in ("position_accuracy", "boundary_f1"):
        with never_unrolled():
            mine = ts.posterior_decode(**inputs, objective=objective, nodes=16)
        theirs = ts.posterior_decode(**large, objective=objective, nodes=16)
        assert_close("marginals", FLOAT64, mine.expected, theirs.expected)
        assert mine.segments == theirs.segments


def gates_and_inputs():
    draw = torch.Generator().manual_seed(0)
    gates, inputs = torch.randn(2, 2, 37, 3, generator=draw, dtype=FLOAT64)
    gates[0, 20] = inputs[1, :5] = inputs[1, 30:, 2] = gates[1, 31, 2] = -torch.inf
    return gates, inputs


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("reverse", [False, True])
def test_what_is_carried_is_the_sum_over_where_it_comes_from(backend, reverse):
    p = Potentials(**make_inputs(Size((37, 37), K=2, C=3))).canonical()
    gates, inputs = gates_and_inputs()
    kept, truth = (gates.clone(), inputs.clone()), torch.empty_like(inputs)
    for t in range(37):
        sources = range(t, 37) if reverse else range(t + 1)
        spans = [(t, s) if reverse else (s, t) for s in sources]
        between = torch.stack([gates[:, a + 1 : b + 1].sum(1) for a, b in spans], 1)
        truth[:, t] = (inputs[:, sources] + between).logsumexp(1)
    found = dispatch.carried(p, gates, inputs, reverse=reverse, backend=backend)
    assert_close("log_partition", FLOAT64, found, truth)
    assert torch.isinf(truth).any(), "nothing was closed"
    assert all(map(torch.equal, (gates, inputs), kept)), "an argument was changed"
    inputs[1, 10, 1] = gates[0, 25, 2] = torch.nan
    unknown = dispatch.carried(p, gates, inputs, reverse=reverse, backend=backend).isnan()
    for (b, c), at, first in (((1, 1), 10, 10), ((0, 2), 25, 25 - reverse)):
        after = slice(0, first + 1) if reverse else slice(at, None)
        assert unknown[b, after, c].all() and unknown[b, :, c].sum() == len(range(37)[after])


# Max-marginals

QUANTITIES = {
    "labels": lambda y, t, c: painted(y)[t] == c,
    "starts": lambda y, t, c: any(s == t and label == c for s, _, label in y),
    "ends": lambda y, t, c: any(e == t + 1 and label == c for _, e, label in y),
}


MAX_FLAGS = [
    "plain", "boundary", "forbidden", "impossible", "tail", "per-duration", "all",
    "impossible-per-duration",
]  # fmt: skip


@pytest.mark.parametrize(
    ("backend", "flags"),
    [*product(["reference", "cpu"], MAX_FLAGS), ("reference", "all-tail")],
)
@pytest.mark.parametrize("size", [*SIZES, Size((5, 1, 4), K=3, C=3)], ids=str)
def test_max_marginals_are_the_best_of_what_has_it(backend, size, flags):
    with dispatch.use_backend(backend):
        found = ts.max_marginals(**make_inputs(size, flags=flags))
    for b, judge in enumerate(oracles(size, flags=flags)):
        for name, has in QUANTITIES.items():
            truth = torch.full((size.T, size.C), -torch.inf, dtype=FLOAT64)
            for y, score in zip(judge.segmentations, judge.scores, strict=True):
                for t in range(size.lengths[b]):
                    for c in range(size.C):
                        if has(y, t, c):
                            truth[t, c] = max(truth[t, c], score)
            assert_close("score", FLOAT64, getattr(found, name)[b], truth)


MAX_CASES = [(size, flags) for size in LARGER_SIZES for flags in ("boundary", "tail", "forbidden")]
MAX_CASES += [(Size((200, 150), K=1, C=9), "tail"), (Size((60,), K=90, C=2), "tail")]
MAX_CASES += [(Size((50, 17), K=K, C=9), "boundary") for K in (1, 2, 8, 9, 16, 17, 60)]
MAX_CASES += [(Size((70, 41), K=9, C=11), "all"), (Size((30, 1), K=40, C=4), "per-duration")]


@pytest.mark.parametrize(("size", "flags"), MAX_CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
def test_compiled_max_marginals_are_the_references(size, flags, dtype):
    inputs = make_inputs(size, dtype, flags)
    if flags == "tail":  # long segments, and places that none lies across
        inputs["transition"] -= 4
        inputs["scores"][0, 10, 0] = inputs["start_scores"][0, 20, 1] = -torch.inf
        inputs["end_scores"][0, 30, 0] = -torch.inf
    found = ts.max_marginals(**inputs, backend="cpu")
    truth = ts.max_marginals(**inputs, backend="reference")
    for value, expected in zip(found, truth, strict=True):
        assert value.dtype == dtype
        assert_close("score", dtype, value, expected)
    best = ts.viterbi(**inputs, backend="cpu").scores
    inside = gather(**inputs).inside()
    for b, score in enumerate(best):
        highest = found.labels[b].amax(-1)[inside[b]]
        assert_close("score", dtype, highest, score.expand_as(highest))


def test_forbidden_scores_in_some_tiles_do_not_reach_what_other_tiles_cover():
    inputs = make_inputs(Size((150, 131), K=40, C=9), flags="boundary")
    inputs["scores"][0, [3, 70, 149], [0, 4, 8]] = -torch.inf
    inputs["scores"][1, 64:, 2] = -torch.inf
    found = ts.max_marginals(**inputs, backend="cpu")
    truth = ts.max_marginals(**inputs, backend="reference")
    for value, expected in zip(found, truth, strict=True):
        assert_close("score", FLOAT64, value, expected)


def test_max_marginals_call_no_reference_and_do_not_read_the_padding():
    inputs = make_inputs(Size((9, 5), K=3, C=2), flags="tail")
    filled = {k: x.clone() for k, x in inputs.items()}
    for name in ("scores", "start_scores", "end_scores"):
        filled[name][1, 5:] = torch.nan
    with dispatch.use_backend("cpu"), never_unrolled():
        found = ts.max_marginals(**filled, validate_args=False)
    for value, expected in zip(found, ts.max_marginals(**inputs), strict=True):
        assert torch.equal(value, expected)
    assert set(tensors(inputs)) >= {"tail", "scores"}
