"""The head in a training loop: it stays a likelihood, in autocast, saved, copied and compiled."""

import copy
import io
import math
import pickle

import pytest
import torch
from head_cases import C, D, K, random_batch, random_head

import torch_semimarkov as ts
from torch_semimarkov.nn import create_encoder

DURATIONS = ("learned", "geometric", "negative_binomial", "poisson", "uniform")


def test_no_training_pushes_the_loss_below_zero():
    """500 large steps on labels with runs longer than K, which are split.

    A run of 6 becomes 4 + 2. It has the same score as 2 + 4, so that its loss cannot pass log 2.
    """
    head = ts.SemiMarkovCRFHead(C, K, hidden_dim=D)
    hidden, lengths = torch.randn(3, 8, D), torch.tensor([8, 8, 5])
    rows = [[0, 0, 0, 0, 0, 0, 1, 1], [2, 1, 1, 1, 1, 1, 1, 0], [0, 1, 1, 2, 2, 0, 0, 0]]
    optimizer = torch.optim.Adam(head.parameters(), lr=0.3)
    losses = []
    for _ in range(500):
        optimizer.zero_grad()
        loss = head.compute_loss(
            hidden, lengths, torch.tensor(rows), long_runs="split", reduction="none"
        )
        loss.mean().backward()
        optimizer.step()
        losses.append(loss.detach())
    losses = torch.stack(losses)
    assert bool((losses >= 0).all())
    assert bool((losses[:, :2] >= math.log(2) - 1e-6).all())
    assert losses[-1, :2].max() < math.log(2) + 0.05
    assert losses[-1, 2] < 0.01


def test_a_head_on_an_encoder_learns_its_labels():
    encoder = create_encoder("conv", 2, 8, num_layers=2, dropout=0.0)
    head = ts.SemiMarkovCRFHead(2, 5, hidden_dim=8)
    labels = (torch.arange(20) // 4 % 2).expand(3, 20)
    features = torch.nn.functional.one_hot(labels, 2) + 0.3 * torch.randn(3, 20, 2)
    lengths = torch.tensor([20, 17, 9])
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=0.05)
    for _ in range(25):
        optimizer.zero_grad()
        head.compute_loss(encoder(features, lengths), lengths, labels).backward()
        optimizer.step()
    decoded = head.decode(encoder(features, lengths), lengths).segments
    assert decoded == ts.Segments.from_labels(labels, lengths)


# Autocast


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("boundary", [False, True], ids=["plain", "boundary scores"])
def test_under_autocast_the_loss_is_float32_and_close(boundary):
    head = random_head(torch.float32, boundary_scores=boundary)
    hidden, lengths, labels = random_batch(torch.float32)
    truth = head.compute_loss(hidden, lengths, labels)
    hidden = hidden.to(torch.bfloat16).requires_grad_()
    with autocast():
        loss = head.compute_loss(hidden, lengths, labels)
    assert loss.dtype == torch.float32
    assert loss.item() >= 0
    torch.testing.assert_close(loss, truth, rtol=0.02, atol=0.05)
    loss.backward()
    assert hidden.grad.dtype == torch.bfloat16
    for tensor in (hidden, *head.parameters()):
        assert bool(tensor.grad.isfinite().all())
        assert bool(tensor.grad.any())


def test_under_autocast_every_result_is_float32():
    head = random_head(torch.float32)
    hidden, lengths, _ = random_batch(torch.bfloat16)
    with autocast():
        found = head(hidden, lengths)
        marginals = head.marginals(hidden, lengths)
        decoded = head.decode(hidden, lengths)
    for result in (*found.values(), *marginals, decoded.scores):
        assert result.dtype == torch.float32
    inside = (torch.arange(6) < lengths[:, None]).float()
    torch.testing.assert_close(marginals.labels.sum(-1), inside)


def test_under_autocast_the_recurrence_loses_no_digits():
    """Only the projection runs in bfloat16; the rest agrees with its rounded scores exactly."""
    head = random_head(torch.float32)
    given = random_head(torch.float32, hidden_dim=None)
    given.load_state_dict(
        {key: value for key, value in head.state_dict().items() if "projection" not in key}
    )
    hidden, lengths, labels = random_batch(torch.float32)
    with autocast():
        scores = head.projection(hidden)
        loss = head.compute_loss(hidden, lengths, labels)
    assert scores.dtype == torch.bfloat16
    torch.testing.assert_close(loss, given.compute_loss(scores, lengths, labels))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_type_scores_give_a_float32_loss(dtype):
    head = random_head(torch.float32, hidden_dim=None)
    scores = torch.randn(3, 6, C).to(dtype)
    lengths, labels = random_batch()[1:]
    loss = head.compute_loss(scores, lengths, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, head.compute_loss(scores.float(), lengths, labels))


# Saving and copying


OPTIONS = {
    **{name: {"duration_distribution": name} for name in DURATIONS},
    "fixed durations": {"duration_distribution": torch.linspace(0, 1, K)},
    "constraints": {"min_duration": [1, 2, 1], "label_max_duration": 3},
    "boundary scores": {"boundary_scores": True},
}


def used_head(options):
    """A head that has already run forward and backward, so that leftovers would show."""
    head = random_head(**options)
    labels = torch.tensor([[0, 1, 1, 2], [2, 0, 1, 1]])
    head.compute_loss(torch.randn(2, 4, D, dtype=torch.float64), labels=labels).backward()
    return head


def assert_same_partition(one, other):
    hidden, lengths, _ = random_batch()
    mine, theirs = one(hidden, lengths), other(hidden, lengths)
    assert torch.equal(mine["partition"], theirs["partition"])
    assert one.decode(hidden, lengths).segments == other.decode(hidden, lengths).segments


for_each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@for_each_option
def test_a_saved_state_loads_into_a_new_head(options):
    head = used_head(options)
    file = io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    other = random_head(**options)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_same_partition(head, other)


def test_the_state_holds_exactly_the_parameters_and_constraints():
    assert set(random_head(boundary_scores=True).state_dict()) == {
        "transition", "start", "end", "durations.weight", "allowed_transitions",
        "allowed_durations", "allowed_first", "allowed_last", "projection.weight",
        "projection.bias", "start_projection.weight",
        "start_projection.bias", "end_projection.weight", "end_projection.bias",
    }  # fmt: skip


def test_a_state_of_another_size_is_refused():
    with pytest.raises(RuntimeError, match="size mismatch for transition"):
        random_head().load_state_dict(random_head(num_classes=4).state_dict())


@for_each_option
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_says_the_same_and_stands_alone(options, copied):
    head = used_head(options)
    other = copied(head)
    assert_same_partition(head, other)
    before = head.transition.detach().clone()
    with torch.no_grad():
        other.transition.add_(1.0)
    assert torch.equal(head.transition, before)


def test_a_double_head_and_a_float_head_agree():
    head = random_head(torch.float32)
    hidden, lengths, labels = random_batch(torch.float32)
    wide = copy.deepcopy(head).double().compute_loss(hidden.double(), lengths, labels)
    assert wide.dtype == torch.float64
    torch.testing.assert_close(head.compute_loss(hidden, lengths, labels).double(), wide)


# Compiled


# Dynamo itself reads .grad of what it carries over a graph break, and makes a Function.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_loss_is_the_same(backend):
    head = random_head(torch.float32, boundary_scores=True)
    hidden, lengths, labels = random_batch(torch.float32)
    truth = head.compute_loss(hidden, lengths, labels)
    grads = torch.autograd.grad(truth, head.parameters())
    torch._dynamo.reset()
    loss = torch.compile(head.compute_loss, backend=backend)(hidden, lengths, labels)
    torch.testing.assert_close(loss, truth)
    for mine, theirs in zip(torch.autograd.grad(loss, head.parameters()), grads, strict=True):
        torch.testing.assert_close(mine, theirs)
