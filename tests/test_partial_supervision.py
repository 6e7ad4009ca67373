"""The loss of what is known in part: labels at some positions, sets of labels, some boundaries."""

import numpy as np
import oracle
import pytest
import torch
from factory import SIZE, make_inputs, stacked, tensors, to_sequence
from head_cases import C, random_batch, random_head
from test_constraints_posterior import BOUNDARIES, SETS, obeys
from tolerances import FLOAT64, assert_close

import torch_semimarkov as ts
from torch_semimarkov.errors import NumericsError, SegmentError, ShapeError, UnsupportedError

KNOWN = {
    "sets": {"allowed": SETS},
    "boundaries": {"boundaries": BOUNDARIES},
    "both": {"allowed": SETS, "boundaries": BOUNDARIES},
}
for_each_knowledge = pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)


def agreement(inputs: dict, known: dict) -> tuple[list[float], list[dict]]:
    """By enumeration: the log-probability of what agrees, and its gradient, of each sequence."""
    values, slopes = [], []
    for b in range(SIZE.B):
        judge = oracle.Oracle(to_sequence(inputs, b))
        total, before = judge.log_partition, judge.gradient()
        kept = [obeys(y, known, b) for y in judge.segmentations]
        judge.scores = np.where(kept, judge.scores, -np.inf)
        judge.log_partition = oracle.log_sum_exp(judge.scores)
        after = judge.gradient()
        values.append(judge.log_partition - total)
        slopes.append({name: after[name] - before[name] for name in after})
    return values, slopes


@for_each_knowledge
@pytest.mark.parametrize("flags", ["start-end", "boundary", "per-duration"])
def test_it_is_the_probability_of_all_that_agrees(known, flags):
    inputs = make_inputs(flags=flags)
    leaves = {name: x.clone().requires_grad_() for name, x in tensors(inputs).items()}
    value = ts.partial_log_prob(**leaves, lengths=inputs["lengths"], **known)
    truth, slopes = agreement(inputs, known)
    assert_close("log_prob", FLOAT64, value, truth)
    value.sum().backward()
    for name, leaf in leaves.items():
        whole = stacked(inputs, name, [slope[name] for slope in slopes])
        assert_close("gradient", FLOAT64, leaf.grad, whole)


def known_of(segments: ts.Segments, T: int) -> dict:
    """Everything about segmentations, in the form of partial knowledge."""
    boundaries = torch.zeros(segments.batch_size, T, dtype=torch.int64)
    for b, y in enumerate(segments.to_list()):
        boundaries[b, [segment.start for segment in y]] = 1
    return {
        "allowed": ts.allowed_from_labels(segments.to_labels(T), C),
        "boundaries": boundaries,
    }


def test_with_everything_known_it_is_the_supervised_loss():
    torch.manual_seed(0)
    head = random_head(boundary_scores=True)
    hidden, lengths, _ = random_batch()
    segments = head.sample(hidden, lengths, generator=torch.Generator().manual_seed(2))[0]
    whole = head.compute_loss(hidden, lengths, segments=segments, reduction="none")
    grads = torch.autograd.grad(whole.sum(), list(head.parameters()))
    known = known_of(segments, hidden.shape[1])
    partial = head.compute_loss(hidden, lengths, **known, reduction="none")
    assert_close("log_prob", FLOAT64, partial, whole)
    for mine, theirs in zip(
        torch.autograd.grad(partial.sum(), list(head.parameters())), grads, strict=True
    ):
        assert_close("gradient", FLOAT64, mine, theirs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_with_nothing_known_it_is_zero_and_so_is_its_gradient(dtype):
    head = random_head(dtype)
    hidden, lengths, _ = random_batch(dtype)
    nothing = {
        "allowed": torch.ones(*hidden.shape[:2], C, dtype=torch.bool),
        "boundaries": torch.full(hidden.shape[:2], -1),
    }
    for names in (["allowed"], ["boundaries"], ["allowed", "boundaries"]):
        known = {name: nothing[name] for name in names}
        loss = head.compute_loss(hidden, lengths, **known, reduction="none")
        assert not loss.any()
        assert not any(g.any() for g in torch.autograd.grad(loss.sum(), list(head.parameters())))


def test_knowing_more_never_lowers_the_loss():
    head = random_head(torch.float32)
    hidden, lengths, labels = random_batch(torch.float32)
    losses = []
    for count in range(hidden.shape[1] + 1):
        seen = torch.where(torch.arange(hidden.shape[1]) < count, labels, -1)
        allowed = ts.allowed_from_labels(seen, C)
        losses.append(head.compute_loss(hidden, lengths, allowed=allowed, reduction="none"))
    steps = torch.stack(losses).diff(dim=0)
    assert bool((steps >= -1e-6).all())
    assert bool((losses[-1][:2] > 0).all())


def test_labels_alone_leave_open_where_a_run_is_cut():
    head = random_head()
    hidden, lengths, labels = random_batch()
    runs = head.compute_loss(hidden, lengths, labels=labels, reduction="none")
    alone = head.compute_loss(
        hidden, lengths, allowed=ts.allowed_from_labels(labels, C), reduction="none"
    )
    assert bool((alone[:2] < runs[:2]).all())


def test_training_on_known_positions_raises_their_probability():
    torch.manual_seed(0)
    head = ts.SemiMarkovCRFHead(C, 4, hidden_dim=5)
    hidden, lengths, labels = random_batch(torch.float32)
    allowed = ts.allowed_from_labels(torch.where(torch.rand(labels.shape) < 0.5, labels, -1), C)
    step = torch.optim.Adam(head.parameters(), lr=0.1)
    losses = []
    for _ in range(30):
        loss = head.compute_loss(hidden, lengths, allowed=allowed)
        step.zero_grad()
        loss.backward()
        step.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    assert min(losses) >= 0


# Bad input


def test_a_set_that_excludes_every_label_names_sequence_and_position():
    head = random_head()
    hidden, lengths, _ = random_batch()
    allowed = torch.ones(3, 6, C, dtype=torch.bool)
    allowed[2, 1:] = False  # past its length
    assert head.compute_loss(hidden, lengths, allowed=allowed) == 0
    allowed[1, 3] = False
    with pytest.raises(SegmentError, match="every label at sequence 1, position 3"):
        head.compute_loss(hidden, lengths, allowed=allowed)


def test_contradictory_knowledge_names_the_sequence():
    head = random_head()
    hidden, lengths, labels = random_batch()
    boundaries = torch.full((3, 6), -1)
    boundaries[1, 1] = 0  # its label changes there
    known = {"allowed": ts.allowed_from_labels(labels, C), "boundaries": boundaries}
    message = r"of sequences \[1\] agrees with allowed and boundaries: they contradict"
    with pytest.raises(NumericsError, match=message):
        head.compute_loss(hidden, lengths, **known)
    quiet = random_head(validate_args=False)
    loss = quiet.compute_loss(hidden, lengths, **known, reduction="none")
    assert loss.isinf().tolist() == [False, True, False]


def test_knowledge_that_the_model_forbids_names_the_sequence():
    head = random_head(allowed_transitions=1 - torch.eye(C), label_max_duration=2)
    hidden, lengths, labels = random_batch()
    with pytest.raises(NumericsError, match=r"sequences \[0\] agrees with allowed: .* the model"):
        head.compute_loss(
            hidden[:1], lengths[:1], allowed=ts.allowed_from_labels(labels[:1], C)
        )  # fmt: skip


def test_two_kinds_of_answers_at_once_are_refused():
    head = random_head()
    hidden, lengths, labels = random_batch()
    allowed = ts.allowed_from_labels(labels, C)
    for both in ({"labels": labels, "allowed": allowed}, {"labels": labels, "boundaries": labels}):
        with pytest.raises(ShapeError, match="allowed and boundaries without them"):
            head.compute_loss(hidden, lengths, **both)
    with pytest.raises(ShapeError, match="given as allowed, as boundaries or as both"):
        ts.partial_log_prob(**make_inputs())
    with pytest.raises(UnsupportedError, match="known in part has no backend"):
        head.compute_loss(hidden, lengths, allowed=allowed, backend="exact")


def test_labels_out_of_range_are_named():
    with pytest.raises(ShapeError, match=r"-1 or in 0..1, got 2 at sequence 0, position 1"):
        ts.allowed_from_labels(torch.tensor([[0, 2]]), 2)
    with pytest.raises(ShapeError, match=r"labels must be \(B, T\) int"):
        ts.allowed_from_labels(torch.zeros(1, 2), 2)
