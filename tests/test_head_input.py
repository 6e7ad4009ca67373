"""Bad input to the head: one clear error that names the argument."""

import pytest
import torch
from head_cases import LENGTHS, C, D, T, random_batch, random_head

import torch_semimarkov as ts
from torch_semimarkov.errors import ConfigError, NumericsError, SegmentError, ShapeError

LABELS = random_batch()[2]
BAD_HIDDEN = {
    "two dimensions": (torch.randn(6, D), r"hidden must be \(B, T, hidden_dim\) = .*got \(6, 5\)"),
    "another width": (torch.randn(3, 6, 4), r"= \(B, T, 5\) .* got \(3, 6, 4\)"),
    "no positions": (torch.randn(3, 0, D), r"with B, T >= 1, got \(3, 0, 5\)"),
    "integers": (torch.ones(3, 6, D, dtype=torch.long), "hidden must be float, got int64"),
    "another type": (torch.randn(3, 6, D).half(), "must be float32 like the head's weights, got"),
    "a list": ([[[0.0] * D]], "hidden must be a tensor, got list"),
}
BAD_LENGTHS = {
    "zero": (torch.tensor([6, 0, 1]), r"lengths must be in 1..T = 1..6, got \[6, 0, 1\]"),
    "too long": (torch.tensor([7, 4, 1]), r"lengths must be in 1..T = 1..6, got \[7, 4, 1\]"),
    "fractional": (torch.tensor([6.0, 4.5, 1.0]), "lengths must be integers .* float32"),
    "too few": (torch.tensor([6, 4]), r"lengths must be \(B,\) = \(3,\), got \(2,\)"),
    "a list": ([6, 4, 1], "lengths must be a tensor, got list"),
}
BAD_LABELS = {
    "too high": (LABELS + 1, SegmentError, r"sequence 0, .* label in 0..2, got 3"),
    "negative": (LABELS - 1, SegmentError, "labels must be >= 0, got -1 at sequence 0, position 0"),
    "fractional": (LABELS.float(), ShapeError, r"labels must be \(B, T\) int .* float32"),
    "another shape": (LABELS[:, 1:], ShapeError, r"labels must be \(B, T\) = \(3, 6\)"),
    "one dimension": (LABELS[0], ShapeError, r"labels must be \(B, T\) = \(3, 6\)"),
    "a list": (LABELS.tolist(), ShapeError, "labels must be a tensor, got list"),
}
METHODS = ("forward", "compute_loss", "decode", "marginals")


def call(head, method, hidden, lengths):
    more = {"labels": LABELS} if method == "compute_loss" else {}
    return getattr(head, method)(hidden, lengths, **more)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("hidden", "message"), BAD_HIDDEN.values(), ids=BAD_HIDDEN)
def test_bad_hidden_states_are_named(method, hidden, message):
    with pytest.raises(ShapeError, match=message):
        call(random_head(torch.float32), method, hidden, None)


def test_bad_scores_are_named_by_the_number_of_labels():
    head = random_head(torch.float32, hidden_dim=None)
    with pytest.raises(ShapeError, match=r"\(B, T, num_classes\) = \(B, T, 3\)"):
        head(torch.randn(3, 6, D))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("lengths", "message"), BAD_LENGTHS.values(), ids=BAD_LENGTHS)
def test_bad_lengths_are_named(method, lengths, message):
    with pytest.raises(ShapeError, match=message):
        call(random_head(), method, random_batch()[0], lengths)


@pytest.mark.parametrize("kind", ["fractional", "too few", "a list"])
def test_the_kind_of_lengths_is_checked_without_validation_too(kind):
    lengths, message = BAD_LENGTHS[kind]
    with pytest.raises(ShapeError, match=message):
        random_head(validate_args=False).decode(random_batch()[0], lengths)


@pytest.mark.parametrize(("labels", "error", "message"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_bad_labels_are_named(labels, error, message):
    hidden, lengths, _ = random_batch()
    with pytest.raises(error, match=message):
        random_head().compute_loss(hidden, lengths, labels)


BAD_SEGMENTS = {
    "a gap": ([[(0, 2, 0), (3, 6, 1)]], r"sequence 0, segment 1 \[3, 6\) must start at 2"),
    "an overlap": ([[(0, 4, 0), (3, 6, 1)]], r"sequence 0, segment 1 \[3, 6\) must start at 4"),
    "too short": ([[(0, 4, 0)]], "sequence 0, the segments must end at its length 6, got 4"),
    "too long": ([[(0, 4, 0), (4, 7, 1)]], "must end at its length 6, got 7"),
    "an unknown label": ([[(0, 4, 0), (4, 6, C)]], r"must have a label in 0..2, got 3"),
}


@pytest.mark.parametrize(("segments", "message"), BAD_SEGMENTS.values(), ids=BAD_SEGMENTS)
def test_segments_that_do_not_tile_their_sequence_are_named(segments, message):
    hidden = torch.randn(1, T, D, dtype=torch.float64)
    with pytest.raises(SegmentError, match=message):
        random_head().compute_loss(hidden, segments=ts.Segments.from_list(segments))


def test_segments_of_another_batch_or_kind_are_named():
    head, (hidden, lengths, labels) = random_head(), random_batch()
    one = ts.Segments.from_labels(labels[:1], lengths[:1])
    with pytest.raises(ShapeError, match="segments must hold B = 3 sequences like scores, got 1"):
        head.compute_loss(hidden, lengths, segments=one)
    with pytest.raises(ShapeError, match="segments must be Segments, got Tensor"):
        head.compute_loss(hidden, lengths, segments=labels)


def test_an_unknown_treatment_of_long_runs_is_named():
    with pytest.raises(ShapeError, match='long_runs must be "error" or "split"'):
        random_head().compute_loss(*random_batch(), long_runs="cut")


def test_a_sequence_that_the_scores_forbid_is_named_in_every_method():
    head = random_head(hidden_dim=None)
    scores = torch.randn(2, T, C, dtype=torch.float64)
    scores[1, 3] = float("-inf")
    with pytest.raises(NumericsError, match=r"no segmentation of sequences? \[?1\]? is possible"):
        head(scores)
    with pytest.raises(NumericsError, match=r"no segmentation of sequences? \[?1\]? is possible"):
        head.decode(scores)
    with pytest.raises(SegmentError, match=r"sequence 1, segment 1 \[2, 4\) .*-inf in scores"):
        head.compute_loss(scores, labels=(torch.arange(T) // 2).expand(2, T))


# The penalty


def test_the_penalty_sums_the_powers_of_the_models_own_weights():
    head = random_head()
    own = [head.transition, head.start, head.end, head.durations.weight]
    for p in (1.0, 2.0):
        truth = sum(weight.detach().abs().pow(p).sum() for weight in own)
        torch.testing.assert_close(head.parameter_penalty(p).detach(), truth)


def test_the_penalty_leaves_the_projection_alone_and_reaches_every_other_weight():
    head = random_head(boundary_scores=True, duration_distribution="negative_binomial")
    head.parameter_penalty().backward()
    reached = {name for name, weight in head.named_parameters() if weight.grad is not None}
    assert reached == {
        "transition", "start", "end", "durations.raw_size", "durations.logit"
    }  # fmt: skip


@pytest.mark.parametrize("p", [0.0, -1.0, float("nan")])
def test_the_power_of_the_penalty_must_be_positive(p):
    with pytest.raises(ConfigError, match="p must be > 0"):
        random_head().parameter_penalty(p)


# The name


def test_the_head_loads_from_the_root_by_its_name():
    from torch_semimarkov.nn import SemiMarkovCRFHead

    assert ts.SemiMarkovCRFHead is SemiMarkovCRFHead
    assert "SemiMarkovCRFHead" in dir(ts)
    assert repr(random_head()).startswith("SemiMarkovCRFHead(\n  num_classes=3, max_duration=4")


def test_lengths_may_be_any_integer_type():
    head, (hidden, lengths, labels) = random_head(), random_batch()
    truth = head.compute_loss(hidden, lengths, labels)
    for dtype in (torch.int32, torch.int16, torch.uint8):
        assert torch.equal(head.compute_loss(hidden, lengths.to(dtype), labels), truth)
    assert tuple(lengths.tolist()) == LENGTHS
