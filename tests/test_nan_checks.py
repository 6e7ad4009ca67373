"""NaN and Inf are found where they arise: which tensor, how many, which sequences, what to try."""

import pytest
import torch
from head_cases import C, D, K, random_batch, random_head

from torch_semimarkov import dispatch
from torch_semimarkov.errors import NumericsError, SegmentError
from torch_semimarkov.functional import log_partition
from torch_semimarkov.nn import head as head_module
from torch_semimarkov.nn.checks import require_finite, require_partition, watch_gradient
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.segments import Segments

NAN, INF = float("nan"), float("inf")
METHODS = ("forward", "compute_loss", "decode", "marginals")
for_each_method = pytest.mark.parametrize("method", METHODS)
for_each_value = pytest.mark.parametrize(
    ("value", "count"), [(NAN, "1 NaN and 0 Inf"), (INF, "0 NaN and 1 Inf")]
)


def call(head, method, hidden, lengths, labels):
    more = {"labels": labels} if method == "compute_loss" else {}
    return getattr(head, method)(hidden, lengths, **more)


# Values


@for_each_method
@for_each_value
def test_a_bad_hidden_state_is_found(method, value, count):
    hidden, lengths, labels = random_batch()
    hidden[1, 2, 3] = value
    place = r"first at sequence 1, position 2, feature 3\)"
    message = rf"^hidden holds {count} of 90 values \(in sequences 1; {place}"
    with pytest.raises(NumericsError, match=message + "; check the encoder"):
        call(random_head(), method, hidden, lengths, labels)


@for_each_method
def test_every_sequence_with_a_bad_value_is_named(method):
    hidden, lengths, labels = random_batch()
    hidden[0, :2, 0], hidden[2, 0, 1] = NAN, -INF
    with pytest.raises(NumericsError, match=r"hidden holds 2 NaN and 1 Inf .*in sequences 0, 2;"):
        call(random_head(), method, hidden, lengths, labels)


def test_only_the_first_of_many_sequences_are_listed():
    with pytest.raises(NumericsError, match=r"in sequences 0, 1, 2, 3, 4, 5, 6, 7, \.\.\.; first"):
        random_head()(torch.full((20, 2, D), NAN, dtype=torch.float64))


def test_given_scores_may_forbid_labels_and_nothing_else():
    head = random_head(hidden_dim=None)
    scores = torch.randn(2, 4, C, dtype=torch.float64)
    scores[0, 1, 0] = -INF
    assert bool(head(scores)["partition"].isfinite().all())
    scores[1, 1, 0] = INF
    with pytest.raises(NumericsError, match=r"hidden holds 0 NaN and 1 Inf .*sequences 1;"):
        head(scores)


PROJECTIONS = {
    "projection": "scores",
    "start_projection": "start_scores",
    "end_projection": "end_scores",
}


@for_each_method
@pytest.mark.parametrize(("layer", "name"), PROJECTIONS.items())
def test_a_bad_projection_is_found_after_the_projection(method, layer, name):
    head, batch = random_head(boundary_scores=True), random_batch()
    getattr(head, layer).bias.data[1] = NAN
    message = rf"^{name} \(after the projection\) holds 18 NaN .*sequences 0, 1, 2;"
    with pytest.raises(NumericsError, match=message + ".*; check the projection's weights"):
        call(head, method, *batch)


PARAMETERS = {
    "transition": lambda head: head.transition,
    "start": lambda head: head.start,
    "end": lambda head: head.end,
    "duration_bias": lambda head: head.durations.weight,
}


@for_each_method
@for_each_value
@pytest.mark.parametrize(("name", "weight"), PARAMETERS.items(), ids=PARAMETERS)
def test_a_bad_parameter_is_found(method, value, count, name, weight):
    head, batch = random_head(), random_batch()
    row = weight(head).data[1]
    row.view(-1)[0] = value
    message = rf"^{name} holds {count} of \d+ values \(in rows 1; .*; .*lower the learning rate"
    with pytest.raises(NumericsError, match=message):
        call(head, method, *batch)


@pytest.mark.parametrize("model", ["geometric", "negative_binomial", "poisson"])
def test_a_bad_duration_parameter_is_found(model):
    head, batch = random_head(duration_distribution=model), random_batch()
    next(head.durations.parameters()).data[2] = NAN
    message = rf"^duration_bias holds {K} NaN and 0 Inf of {K * C} values"
    with pytest.raises(NumericsError, match=message):
        head.compute_loss(*batch)


def test_a_partition_that_overflows_is_found():
    head = random_head(torch.float32, hidden_dim=None)
    scores = torch.zeros(2, 6, C)
    scores[1] = 3e38
    with pytest.raises(
        NumericsError, match=r"the log partition holds 0 NaN and 1 Inf .*sequences 1;"
    ):
        head(scores)
    with pytest.raises(NumericsError, match=r"no segmentation of sequences .0, 1. is possible"):
        require_partition(torch.tensor([-INF, -INF]))


def test_a_loss_that_is_no_number_is_found():
    head = random_head(torch.float32, hidden_dim=None)
    scores = torch.full((2, 4, C), -3e38)
    scores[..., 0] = 3e38
    with pytest.raises(NumericsError, match=r"the loss holds 0 NaN and 1 Inf .*in sequences 1;"):
        head.compute_loss(scores, labels=torch.tensor([[0] * 4, [1] * 4]))


# Gradients


@pytest.mark.parametrize("boundary", [False, True], ids=["plain", "boundary scores"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_bad_upstream_gradient_is_found(boundary, value):
    head = random_head(boundary_scores=boundary)
    loss = head.compute_loss(*random_batch())
    names = "scores|start_scores|end_scores|transition|duration_bias|start|end"
    message = rf"^the gradient of ({names}) holds \d+ NaN and \d+ Inf .*; lower the learning rate"
    with pytest.raises(NumericsError, match=message + ".*parameter_penalty"):
        (loss * value).backward()


def test_a_bad_gradient_names_its_sequences():
    head = random_head(hidden_dim=None)
    scores = torch.randn(3, 6, C, dtype=torch.float64, requires_grad=True)
    lengths, labels = random_batch()[1:]
    loss = head.requires_grad_(False).compute_loss(scores, lengths, labels, reduction="none")
    with pytest.raises(NumericsError, match=r"the gradient of scores holds 12 NaN .*sequences 1;"):
        loss.backward(torch.tensor([1.0, NAN, 1.0]).double())


def test_a_bad_gradient_of_forward_is_found():
    found = random_head()(*random_batch()[:2])
    with pytest.raises(NumericsError, match=r"the gradient of"):
        (found["partition"].sum() * NAN).backward()


def test_watching_leaves_no_hook_on_a_parameter():
    head = random_head()
    for _ in range(3):
        head.compute_loss(*random_batch()).backward()
    assert not any(weight._backward_hooks for weight in head.parameters())
    head.transition.grad = None
    (head.transition.sum() * NAN).backward()


def test_only_what_needs_a_gradient_is_watched():
    plain = torch.ones(2)
    assert watch_gradient("x", plain, "") is plain
    with torch.no_grad():
        weight = torch.nn.Parameter(torch.ones(2))
        assert watch_gradient("x", weight, "") is weight


# Without validation


@for_each_method
def test_without_validation_nothing_is_raised(method):
    head = random_head(boundary_scores=True, validate_args=False)
    hidden, lengths, labels = random_batch()
    hidden[0, 1, 2] = NAN
    call(head, method, hidden, lengths, labels)
    head.transition.data[0, 1] = NAN
    call(head, method, hidden, lengths, labels)


def test_without_validation_bad_gradients_pass():
    head = random_head(validate_args=False)
    (head.compute_loss(*random_batch()) * NAN).backward()
    assert bool(head.transition.grad.isnan().any())


def test_validation_is_on_by_default_on_a_cpu():
    hidden, lengths, labels = random_batch()
    hidden[0, 0, 0] = NAN
    for validate_args in (None, True):
        with pytest.raises(NumericsError):
            random_head(validate_args=validate_args).compute_loss(hidden, lengths, labels)


# Nothing is looked at twice


@pytest.fixture
def looked_at(monkeypatch):
    """Names of the tensors whose values were looked at, in their order."""
    seen = []
    by_head, by_function = head_module.require_finite, Potentials._value_problems
    by_kernel = dispatch.looks_clean

    def require(name, *args, **kwargs):
        seen.append(name)
        return by_head(name, *args, **kwargs)

    def problems(self, name, tensor):
        seen.append(name)
        return by_function(self, name, tensor)

    def looks_clean(p):
        clean = by_kernel(p)
        if clean:  # else the function looks at them itself
            seen.extend(name for name, _ in p.terms())
        return clean

    monkeypatch.setattr(dispatch, "looks_clean", looks_clean)
    monkeypatch.setattr(head_module, "require_finite", require)
    monkeypatch.setattr(Potentials, "_value_problems", problems)
    return seen


@for_each_method
def test_no_tensor_is_looked_at_twice(method, looked_at):
    call(random_head(boundary_scores=True), method, *random_batch())
    names = [name.split(" (")[0] for name in looked_at]
    assert {"hidden", *PROJECTIONS.values(), *PARAMETERS} <= set(names)
    assert len(names) == len(set(names))


def test_potentials_taken_out_of_a_head_are_looked_at_by_the_functions(looked_at):
    terms = random_head().potentials(*random_batch()[:2])
    looked_at.clear()
    log_partition(**terms)
    assert {"scores", *PARAMETERS} == set(looked_at)


@for_each_method
def test_without_validation_no_tensor_is_looked_at(method, looked_at):
    call(random_head(validate_args=False), method, *random_batch())
    assert looked_at == []


def test_a_loss_refuses_segments_outside_its_support_although_its_values_were_checked():
    hidden, lengths, _ = random_batch()
    gold = Segments.from_list([[(0, int(L), 0)] for L in lengths])
    assert int(lengths.max()) > K
    with pytest.raises(SegmentError, match=f"more than K = {K}"):
        random_head().compute_loss(hidden, lengths, segments=gold)
    short = Segments.from_list([[(0, 1, 0)] for _ in lengths])
    with pytest.raises(SegmentError, match="the segments must end at its length"):
        random_head().compute_loss(hidden, lengths, segments=short)
    random_head(validate_args=False).compute_loss(hidden, lengths, segments=gold)


# The check itself


@pytest.mark.parametrize("shape", [(), (4,), (4, 3), (4, 3, 2), (4, 3, 2, 2)])
def test_the_check_takes_any_shape(shape):
    x = torch.zeros(shape)
    require_finite("x", x, "try")
    with pytest.raises(NumericsError, match=r"x holds \d+ NaN and 0 Inf of \d+ values .*; try"):
        require_finite("x", x + NAN, "try")


def test_large_finite_values_are_no_fault():
    require_finite("x", torch.full((3,), 1.7e308, dtype=torch.float64), "try")


def test_opposite_infinities_do_not_cancel():
    with pytest.raises(NumericsError, match=r"0 NaN and 2 Inf"):
        require_finite("x", torch.tensor([INF, -INF]), "try")
