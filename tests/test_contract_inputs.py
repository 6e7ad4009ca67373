"""Contract of bad input: every public function refuses it with one clear error."""

import pytest
import torch
from factory import PER_POSITION, SIZES, Size, device_of, for_each_backend, make_inputs, tensors

import torch_semimarkov as ts
from torch_semimarkov.errors import NumericsError, SemiMarkovError, ShapeError, UnsupportedError
from torch_semimarkov.functional import (
    kbest,
    log_partition,
    marginals,
    segment_log_prob,
    segment_score,
    viterbi,
)
from torch_semimarkov.segments import Segments

GOLD = Segments.from_list([[(0, 3, 0), (3, 5, 1)], [(0, 1, 0)], [(0, 2, 0), (2, 4, 1)]])


def score(**inputs):
    return segment_score(gold_beside(inputs.get("transition")), **inputs)


def log_prob(**inputs):
    return segment_log_prob(gold_beside(inputs.get("transition")), **inputs)


def gold_beside(tensor):
    return GOLD if tensor is None else GOLD.to(tensor.device)


FUNCTIONS = [log_partition, marginals, viterbi, score, log_prob]
for_each_function = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)


def broken(inputs, name, value):
    """The inputs with one of them replaced, or with an entry of it changed."""
    if callable(value):
        value = value(inputs[name].clone())
    return {**inputs, name: value}


def with_entry(entry, value):
    def change(x):
        x[entry] = value
        return x

    return change


BAD = {
    "scores without a batch": ("scores", lambda x: x[0], r"scores must be \(B, T, C\)"),
    "empty scores": ("scores", lambda x: x[:, :0], r"scores must be .*got \(3, 0, 3\)"),
    "integer scores": ("scores", lambda x: x.long(), "scores must be float16.*got int64"),
    "scores as a list": ("scores", lambda x: x.tolist(), "scores must be a tensor, got list"),
    "a transition of other labels": ("transition", lambda x: x[:2, :2], r"transition must be"),
    "a bias of other labels": ("duration_bias", lambda x: x[:, :1], r"duration_bias must be"),
    "start as a column": ("start", lambda x: x[:, None], r"start must be \(C,\) = \(3,\)"),
    "end of another type": ("end", lambda x: x.to(torch.complex64), "end must be float16"),
    "short start_scores": ("start_scores", lambda x: x[:, 1:], "start_scores must be"),
    "end_scores elsewhere": ("end_scores", lambda x: x.to("meta"), "end_scores must be on"),
    "lengths of zero": ("lengths", with_entry(1, 0), r"lengths must be in 1\.\.T = 1\.\.5"),
    "lengths above T": ("lengths", with_entry(0, 6), r"lengths must be in 1\.\.T = 1\.\.5"),
    "fractional lengths": ("lengths", lambda x: x + 0.5, "lengths must be integers"),
    "lengths as a column": ("lengths", lambda x: x[:, None], r"lengths must be \(B,\) = \(3,\)"),
    "lengths as a list": ("lengths", lambda x: x.tolist(), "lengths must be a tensor, got list"),
    "NaN in scores": (
        "scores",
        with_entry((2, 3, 1), torch.nan),
        "scores .* got nan at sequence 2, position 3, label 1",
    ),
    "plus infinity in scores": (
        "scores",
        with_entry((0, 0, 2), torch.inf),
        "scores .* got inf at sequence 0, position 0, label 2",
    ),
    "NaN in transition": ("transition", with_entry((0, 0), torch.nan), "transition .* got nan"),
    "NaN in duration_bias": ("duration_bias", with_entry((1, 0), torch.nan), "duration_bias .*nan"),
    "NaN in start": ("start", with_entry(0, torch.nan), "start must hold numbers .*nan"),
}


@for_each_backend
@for_each_function
@pytest.mark.parametrize(("name", "value", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_error(backend, function, name, value, message):
    inputs = make_inputs(SIZES[4], flags="boundary", device=device_of(backend))
    inputs.update(make_inputs(SIZES[4], flags="start-end", device=device_of(backend)))
    options = {} if function is score else {"backend": backend}
    options["validate_args"] = True
    with pytest.raises(ShapeError, match=message):
        function(**broken(inputs, name, value), **options)


@for_each_function
def test_all_misfits_of_a_call_are_in_one_error(function):
    inputs = make_inputs(SIZES[4], flags="start-end")
    wrong = {**inputs, "transition": inputs["transition"][:1], "start": inputs["start"][:1],
             "lengths": inputs["lengths"][:1]}  # fmt: skip
    with pytest.raises(ShapeError, match=r"(?s)transition must be.*start must be.*lengths must be"):
        function(**wrong)


@for_each_function
def test_a_required_argument_left_out_is_a_type_error(function):
    inputs = make_inputs(SIZES[4])
    del inputs["transition"]
    with pytest.raises(TypeError, match="transition"):
        function(**inputs)


@for_each_function
def test_an_unknown_argument_is_a_type_error(function):
    with pytest.raises(TypeError, match="end_score"):
        function(**make_inputs(SIZES[4]), end_score=None)


@pytest.mark.parametrize("function", [log_partition, score, log_prob], ids=lambda f: f.__name__)
def test_without_value_checks_nan_reaches_its_own_sequence_and_no_other(function):
    inputs = make_inputs(SIZES[4])
    right = function(**inputs)
    inputs["scores"][1, 0] = torch.nan
    with pytest.raises(ShapeError, match="got nan at sequence 1, position 0, label 0"):
        function(**inputs)
    found = function(**inputs, validate_args=False)
    assert found[1].isnan()
    assert torch.equal(found[[0, 2]], right[[0, 2]])


def test_without_value_checks_nan_reaches_the_marginals_of_its_own_sequence_and_no_other():
    inputs = make_inputs(SIZES[4])
    right = marginals(**inputs)
    inputs["scores"][1, 0] = torch.nan
    found = marginals(**inputs, validate_args=False)
    assert found.labels[1, 0].isnan().all()
    assert torch.equal(found.labels[[0, 2]], right.labels[[0, 2]])


def test_without_value_checks_nan_reaches_the_best_score_of_its_own_sequence_and_no_other():
    inputs = make_inputs(SIZES[4])
    right = viterbi(**inputs)
    inputs["scores"][1, 0] = torch.nan
    found = viterbi(**inputs, validate_args=False)
    assert found.scores[1].isnan()
    assert torch.equal(found.scores[[0, 2]], right.scores[[0, 2]])
    for b in (0, 2):
        assert found.segments.to_list()[b] == right.segments.to_list()[b]


BEST = {
    "log_partition": log_partition,
    "viterbi": lambda **call: viterbi(**call).scores,
    "kbest": lambda **call: kbest(**call, k=2).scores[0],
    "max_marginals": lambda **call: ts.max_marginals(**call).labels.flatten(1).sum(1),
    "marginals": lambda **call: marginals(**call).starts.flatten(1).sum(1),
}


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("name", BEST)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("flags", ["boundary", "tail"])
def test_without_value_checks_nan_in_any_term_is_nan_in_the_result(flags, backend, name, place):
    inputs = make_inputs(Size((12, 12), K=3, C=2), flags=flags)
    call, right = BEST[name], BEST[name](**inputs, backend=backend)
    for term in tensors(inputs).keys() - {"lengths"}:
        spoilt = {**inputs, term: inputs[term].clone()}
        per_position = term in PER_POSITION
        (spoilt[term][1] if per_position else spoilt[term]).view(-1)[place] = torch.nan
        found = call(**spoilt, backend=backend, validate_args=False)
        assert found[1].isnan(), term
        assert torch.equal(found[0], right[0]) if per_position else found[0].isnan(), term


def test_without_value_checks_nan_has_no_samples_and_reaches_what_a_distribution_says():
    inputs = make_inputs(SIZES[4], flags="tail")
    inputs["tail"][0] = torch.nan
    with pytest.raises(NumericsError, match="potentials of sequence 0, 1, 2 hold NaN"):
        ts.sample(**inputs, validate_args=False)
    crf = ts.SemiMarkovCRF(**inputs, validate_args=False)
    assert crf.topk(2).scores.isnan().all() and crf.log_partition.isnan().all()


@pytest.mark.parametrize("function", [log_partition, marginals, log_prob])
@pytest.mark.parametrize("interval", [0, -1])
def test_a_checkpoint_interval_below_one_is_an_error(function, interval):
    with pytest.raises(ShapeError, match=f"checkpoint_interval must be >= 1, got {interval}"):
        function(**make_inputs(SIZES[4]), checkpoint_interval=interval)


def test_an_unknown_semiring_is_an_error_with_or_without_a_gradient():
    inputs = make_inputs(SIZES[4])
    for scores in (inputs["scores"], inputs["scores"].clone().requires_grad_()):
        with pytest.raises(UnsupportedError, match="'tropical'"):
            log_partition(**{**inputs, "scores": scores}, semiring="tropical")


def test_every_error_can_be_caught_by_one_name():
    assert issubclass(ShapeError, SemiMarkovError)
    assert issubclass(UnsupportedError, SemiMarkovError)
    assert issubclass(ShapeError, ValueError)


def test_inputs_are_left_as_they_were():
    inputs = make_inputs(SIZES[4], flags="all")
    before = {name: x.clone() for name, x in inputs.items()}
    for function in (log_partition, marginals, viterbi):
        function(**inputs)
    assert all(torch.equal(inputs[name], before[name]) for name in inputs)
    assert all(not x.requires_grad and x.grad is None for x in inputs.values())
