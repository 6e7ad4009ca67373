"""The head is a likelihood: its loss, decode and marginals against enumeration, and its manners."""

import head_cases as cases
import pytest
import torch
from head_cases import LENGTHS, C, D, K, T, enumerate_batch, losses_of, random_batch, random_head
from tolerances import FLOAT32, FLOAT64, assert_close

import torch_semimarkov as ts
from torch_semimarkov.errors import ConfigError, SegmentError, ShapeError, UnsupportedError

HEADS = {
    "plain": {},
    "boundary scores": {"boundary_scores": True},
    "geometric": {"duration_distribution": "geometric"},
    "uniform": {"duration_distribution": "uniform"},
    "one duration": {"max_duration": 1},
    "one label": {"num_classes": 1},
    "longer than the sequences": {"max_duration": 9},
}
for_each_head = pytest.mark.parametrize("options", HEADS.values(), ids=HEADS)


def batch_for(head):
    hidden, lengths, labels = random_batch(head.transition.dtype)
    labels = labels % head.num_classes
    segments = ts.Segments.from_labels(labels, lengths, head.max_duration, "split")
    return hidden, lengths, segments


# Likelihood


@for_each_head
@pytest.mark.parametrize("dtype", [FLOAT64, FLOAT32], ids=["float64", "float32"])
def test_the_loss_equals_enumeration(options, dtype):
    head = random_head(dtype, **options)
    hidden, lengths, segments = batch_for(head)
    loss = head.compute_loss(hidden, lengths, segments=segments, reduction="none")
    assert loss.dtype == dtype
    judges = enumerate_batch(head, hidden, lengths)
    assert_close("log_prob", dtype, loss, losses_of(judges, segments))


@for_each_head
def test_the_losses_of_all_segmentations_are_those_of_probabilities(options):
    head = random_head(**options)
    hidden = torch.randn(1, 4, D, dtype=FLOAT64)
    (judge,) = enumerate_batch(head, hidden, torch.tensor([4]))
    everything = ts.Segments.from_list([list(y) for y in judge.segmentations])
    losses = head.compute_loss(
        hidden.expand(len(judge.segmentations), -1, -1), segments=everything, reduction="none"
    )
    assert bool((losses >= 0).all())
    assert_close("log_prob", FLOAT64, torch.exp(-losses).sum(), torch.tensor(1.0))


def test_scores_can_be_given_instead_of_hidden_states():
    head = random_head(hidden_dim=None)
    scores, lengths = torch.randn(3, T, C, dtype=FLOAT64), torch.tensor(LENGTHS)
    segments = ts.Segments.from_labels(random_batch()[2], lengths)
    loss = head.compute_loss(scores, lengths, segments=segments, reduction="none")
    assert_close(
        "log_prob", FLOAT64, loss, losses_of(enumerate_batch(head, scores, lengths), segments)
    )


def test_the_gradients_equal_enumeration():
    head = random_head(boundary_scores=True)
    hidden, lengths, segments = batch_for(head)
    head.compute_loss(hidden, lengths, segments=segments, reduction="sum").backward()
    judges = enumerate_batch(head, hidden, lengths)
    total = {name: torch.zeros_like(weight) for name, weight in head.named_parameters()}
    golds = [tuple(tuple(s) for s in gold) for gold in segments.to_list()]
    layers = {"scores": "projection", "start_scores": "start_projection"}
    layers["end_scores"] = "end_projection"
    shared = {"transition": "transition", "start": "start", "end": "end"}
    shared["duration_bias"] = "durations.weight"
    for b, (judge, gold) in enumerate(zip(judges, golds, strict=True)):
        expected = judge.gradient()
        for name, count in cases.oracle.counts_of(judge.sequence, gold).items():
            difference = torch.from_numpy(expected[name] - count)
            if name == "tail":
                assert not difference.any()  # this head has none
            elif name in layers:
                total[f"{layers[name]}.weight"] += difference.T @ hidden[b, : LENGTHS[b]]
                total[f"{layers[name]}.bias"] += difference.sum(0)
            elif name != "tail":  # which this head has not
                total[shared[name]] += difference
    for name, weight in head.named_parameters():
        assert_close("gradient", FLOAT64, weight.grad, total[name])


# Arguments of the loss


def test_labels_and_segments_give_the_same_loss():
    head = random_head()
    hidden, lengths, labels = random_batch()
    segments = ts.Segments.from_labels(labels, lengths)
    by_labels = head.compute_loss(hidden, lengths, labels)
    assert torch.equal(by_labels, head.compute_loss(hidden, lengths, segments=segments))


def test_neighbouring_segments_of_one_label_are_another_segmentation_than_their_union():
    head = random_head()
    hidden = torch.randn(1, 4, D, dtype=FLOAT64)
    (judge,) = enumerate_batch(head, hidden, torch.tensor([4]))
    for gold in ([(0, 4, 1)], [(0, 2, 1), (2, 4, 1)]):
        segments = ts.Segments.from_list([gold])
        loss = head.compute_loss(hidden, segments=segments)
        assert_close("log_prob", FLOAT64, loss, torch.tensor(losses_of([judge], segments)[0]))


def test_reductions_are_mean_sum_and_none_over_the_sequences():
    head = random_head()
    batch = random_batch()
    losses = head.compute_loss(*batch, reduction="none")
    assert losses.shape == (3,)
    assert torch.equal(head.compute_loss(*batch), losses.mean())
    assert torch.equal(head.compute_loss(*batch, reduction="sum"), losses.sum())
    with pytest.raises(
        ConfigError, match=r'reduction must be "mean", "sum" or "none", got \'max\''
    ):
        head.compute_loss(*batch, reduction="max")


def test_a_long_run_is_an_error_that_says_what_to_do():
    labels = torch.zeros(1, 6, dtype=torch.long)
    remedy = r'sequence 0: the run \[0, 6\) of label 0 .* max_duration = 4; .*long_runs="split"'
    with pytest.raises(SegmentError, match=remedy):
        random_head().compute_loss(torch.randn(1, 6, D, dtype=FLOAT64), labels=labels)


def test_a_long_run_is_split_if_asked():
    head = random_head()
    hidden = torch.randn(1, 6, D, dtype=FLOAT64)
    split = head.compute_loss(hidden, labels=torch.zeros(1, 6, dtype=torch.long), long_runs="split")
    pieces = ts.Segments.from_list([[(0, 4, 0), (4, 6, 0)]])
    assert torch.equal(split, head.compute_loss(hidden, segments=pieces))


@pytest.mark.parametrize("validate_args", [None, False], ids=["checked", "unchecked"])
def test_a_segment_longer_than_k_never_counts_as_a_shorter_one(validate_args):
    head = random_head(validate_args=validate_args)
    hidden = torch.randn(1, 6, D, dtype=FLOAT64)
    segments = ts.Segments.from_list([[(0, 6, 1)]])
    if validate_args is False:
        assert head.compute_loss(hidden, segments=segments).item() == float("inf")
        return
    with pytest.raises(SegmentError, match=r"sequence 0, segment 0 \[0, 6\) .*raise max_duration"):
        head.compute_loss(hidden, segments=segments)


def test_the_loss_takes_either_labels_or_segments():
    head = random_head()
    hidden, lengths, labels = random_batch()
    segments = ts.Segments.from_labels(labels, lengths)
    for given in ({}, {"labels": labels, "segments": segments}):
        with pytest.raises(ShapeError, match="either labels or segments"):
            head.compute_loss(hidden, lengths, **given)


# Padding and batch mates


def spoilt_padding(hidden, lengths, value):
    position = torch.arange(hidden.shape[1] + 2)
    wider = torch.nn.functional.pad(hidden, (0, 0, 0, 2))
    return torch.where((position < lengths[:, None])[..., None], wider, value)


@pytest.mark.parametrize("value", [0.0, 1e6, float("nan"), float("inf")])
@pytest.mark.parametrize("boundary", [False, True], ids=["plain", "boundary scores"])
def test_padding_never_reaches_the_loss_or_its_gradients(value, boundary):
    head = random_head(boundary_scores=boundary)
    hidden, lengths, labels = random_batch()
    clean = hidden.clone().requires_grad_()
    loss = head.compute_loss(clean, lengths, labels)
    grads = torch.autograd.grad(loss, [clean, *head.parameters()])
    spoilt = spoilt_padding(hidden, lengths, value).requires_grad_()
    labels = torch.nn.functional.pad(labels, (0, 2), value=-1)
    other = head.compute_loss(spoilt, lengths, labels)
    assert torch.equal(loss, other)
    others = torch.autograd.grad(other, [spoilt, *head.parameters()])
    inside = (torch.arange(T) < lengths[:, None])[..., None]
    assert_close("gradient", FLOAT64, others[0][:, :T] * inside, grads[0])
    assert not others[0][:, T:].any()
    for mine, theirs in zip(others[1:], grads[1:], strict=True):
        assert_close("gradient", FLOAT64, mine, theirs)


def test_padding_never_reaches_decode_marginals_or_forward():
    head = random_head(boundary_scores=True)
    hidden, lengths, _ = random_batch()
    spoilt = spoilt_padding(hidden, lengths, float("nan"))
    assert head.decode(hidden, lengths).segments == head.decode(spoilt, lengths).segments
    mine, theirs = head.marginals(hidden, lengths), head.marginals(spoilt, lengths)
    assert torch.equal(mine.labels, theirs.labels[:, :T])
    assert torch.equal(mine.log_partition, theirs.log_partition)
    mine, theirs = head(hidden, lengths), head(spoilt, lengths)
    assert torch.equal(mine["partition"], theirs["partition"])
    assert bool(theirs["cum_scores"].isfinite().all())


def test_batch_mates_do_not_change_a_loss():
    head = random_head()
    hidden, lengths, labels = random_batch()
    together = head.compute_loss(hidden, lengths, labels, reduction="none")
    alone = [
        head.compute_loss(hidden[b : b + 1, :n], labels=labels[b : b + 1, :n])
        for b, n in enumerate(LENGTHS)
    ]
    assert_close("log_prob", FLOAT64, together, torch.stack(alone))


# Decode and marginals


@for_each_head
def test_decode_finds_the_best_enumerated_segmentation(options):
    head = random_head(**options)
    hidden, lengths, _ = batch_for(head)
    result = head.decode(hidden, lengths)
    judges = enumerate_batch(head, hidden, lengths)
    assert [tuple(map(tuple, y)) for y in result.segments.to_list()] == [y.best() for y in judges]
    assert_close("score", FLOAT64, result.scores, [judge.best_score for judge in judges])
    assert not result.scores.requires_grad


def test_decode_with_traceback_is_decode():
    head = random_head()
    hidden, lengths, _ = random_batch()
    mine, theirs = head.decode(hidden, lengths), head.decode_with_traceback(hidden, lengths)
    assert torch.equal(mine.scores, theirs.scores)
    assert mine.segments == theirs.segments


def test_no_segmentation_has_a_smaller_loss_than_the_decoded_one():
    head = random_head()
    hidden, lengths, labels = random_batch()
    best = head.decode(hidden, lengths).segments
    mine = head.compute_loss(hidden, lengths, segments=best, reduction="none")
    assert bool((mine <= head.compute_loss(hidden, lengths, labels, reduction="none")).all())


@for_each_head
def test_marginals_equal_enumeration_and_sum_to_one(options):
    head = random_head(**options)
    hidden, lengths, _ = batch_for(head)
    found = head.marginals(hidden, lengths)
    for b, judge in enumerate(enumerate_batch(head, hidden, lengths)):
        for name in ("labels", "starts", "ends", "boundaries"):
            value = getattr(found, name)[b, : LENGTHS[b]]
            assert_close("marginals", FLOAT64, value, torch.from_numpy(judge.marginals()[name]))
        assert not found.labels[b, LENGTHS[b] :].any()
    inside = (torch.arange(T) < lengths[:, None]).to(FLOAT64)
    assert_close("marginals", FLOAT64, found.labels.sum(-1), inside)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_everything_works_without_gradients(context):
    head = random_head()
    hidden, lengths, labels = random_batch()
    loss = head.compute_loss(hidden, lengths, labels)
    with context():
        assert torch.equal(head.compute_loss(hidden, lengths, labels), loss)
        assert head.decode(hidden, lengths).segments.counts.min() >= 1
        head.marginals(hidden, lengths)
        head(hidden, lengths)


# Forward


@for_each_head
def test_forward_gives_the_partition_and_the_prefix_sums(options):
    head = random_head(**options)
    hidden, lengths, _ = batch_for(head)
    found = head(hidden, lengths)
    assert set(found) == {"partition", "cum_scores"}
    judges = enumerate_batch(head, hidden, lengths)
    truth = [judge.log_partition for judge in judges]
    assert_close("log_partition", FLOAT64, found["partition"], truth)
    for b, judge in enumerate(judges):
        sums = torch.from_numpy(judge.sequence.scores).cumsum(0)
        assert not found["cum_scores"][b, 0].any()
        assert_close("score", FLOAT64, found["cum_scores"][b, 1 : LENGTHS[b] + 1], sums)


def test_the_prefix_sums_give_the_partition_through_the_streaming_call():
    head = random_head(boundary_scores=True)
    hidden, lengths, _ = random_batch()
    found = head(hidden, lengths)
    again = ts.semi_crf_streaming_forward(
        found["cum_scores"],
        head.transition,
        head.durations(),
        lengths,
        K,
        start=head.start,
        end=head.end,
        proj_start=head.start_projection(hidden),
        proj_end=head.end_projection(hidden),
    )
    assert_close("log_partition", FLOAT64, again, found["partition"])


# Backends

CALLS = {
    "forward": lambda head, batch, **how: head(*batch[:2], **how)["partition"],
    "compute_loss": lambda head, batch, **how: head.compute_loss(*batch, **how),
    "decode": lambda head, batch, **how: head.decode(*batch[:2], **how).scores,
    "marginals": lambda head, batch, **how: head.marginals(*batch[:2], **how).labels,
}
for_each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@for_each_call
def test_every_backend_name_gives_the_same(call):
    head, batch = random_head(), random_batch()
    truth = call(head, batch)
    for how in ({"backend": "auto"}, {"backend": "streaming"}, {"backend": "reference"}):
        assert_close("log_partition", FLOAT64, call(head, batch, **how), truth)
    assert_close("log_partition", FLOAT64, call(head, batch, use_triton=False), truth)


@for_each_call
@pytest.mark.parametrize("name", ["edges", "tritn"])
def test_a_backend_that_is_not_there_is_an_error_that_lists_those_that_are(call, name):
    with pytest.raises(UnsupportedError, match=f"'reference'.*got '{name}'"):
        call(random_head(), random_batch(), backend=name)


# Bad input

NO_HEAD = {
    "no labels": ({"num_classes": 0}, "num_classes must be an integer >= 1, got 0"),
    "half a label": ({"num_classes": 1.5}, "num_classes must be an integer >= 1, got 1.5"),
    "no durations": ({"max_duration": 0}, "max_duration must be an integer >= 1, got 0"),
    "no hidden dimension": ({"hidden_dim": -1}, "hidden_dim must be an integer >= 1, got -1"),
    "negative scale": ({"init_scale": -0.1}, "init_scale must be a number >= 0, got -0.1"),
    "NaN as scale": ({"init_scale": float("nan")}, "init_scale must be a number >= 0, got nan"),
    "an unknown duration model": ({"duration_distribution": "gama"}, "must be one of 'learned'"),
    "a mean without use": ({"duration_mean": 2.0}, "only for 'geometric'"),
    "boundaries of scores": ({"hidden_dim": None, "boundary_scores": True}, "needs hidden_dim"),
}


@pytest.mark.parametrize(("options", "message"), NO_HEAD.values(), ids=NO_HEAD)
def test_a_bad_setting_is_one_clear_error(options, message):
    with pytest.raises(ConfigError, match=message):
        random_head(**options)
