"""The uncertainty head: its answers against enumeration, and the weights of its loss."""

import head_cases as cases
import pytest
import torch
from head_cases import C, D, K, enumerate_batch, losses_of, random_batch, random_head
from tolerances import FLOAT64, assert_close

import torch_semimarkov as ts
from torch_semimarkov.errors import ConfigError

MODES = ("high_uncertainty", "boundary_regions")
for_each_mode = pytest.mark.parametrize("mode", MODES)


def uncertain_head(**options):
    plain = random_head(**options)
    settings = {"num_classes": C, "max_duration": K, "hidden_dim": D, **options}
    head = ts.UncertaintySemiMarkovCRFHead(**settings).to(FLOAT64)
    head.load_state_dict(plain.state_dict())
    return head


def setting(**options):
    head = uncertain_head(**options)
    hidden, lengths, labels = random_batch()
    segments = ts.Segments.from_labels(labels, lengths, head.max_duration, "split")
    return head, hidden, lengths, segments, enumerate_batch(head, hidden, lengths)


def probability_of(judge, holds):
    pairs = zip(judge.segmentations, judge.probabilities(), strict=True)
    return sum(p for segmentation, p in pairs if holds(segmentation))


def starts_at(t):
    return lambda segmentation: any(start == t for start, _, _ in segmentation)


@pytest.mark.parametrize("options", [{}, {"boundary_scores": True}], ids=["plain", "boundary"])
def test_the_marginals_and_the_entropy_are_those_of_enumeration(options):
    head, hidden, lengths, _, judges = setting(**options)
    boundaries = torch.zeros(hidden.shape[:2], dtype=FLOAT64)
    labels = torch.zeros(*hidden.shape[:2], C, dtype=FLOAT64)
    for b, judge in enumerate(judges):
        for t in range(int(lengths[b])):
            boundaries[b, t] = probability_of(judge, starts_at(t))
            for c in range(C):
                labels[b, t, c] = probability_of(
                    judge, lambda y, t=t, c=c: any(s <= t < e and k == c for s, e, k in y)
                )
    assert_close("marginals", FLOAT64, head.compute_boundary_marginals(hidden, lengths), boundaries)
    assert_close("marginals", FLOAT64, head.compute_position_marginals(hidden, lengths), labels)
    entropy = [judge.entropy() for judge in judges]
    assert_close("entropy", FLOAT64, head.compute_entropy(hidden, lengths), entropy)


@for_each_mode
def test_the_weighted_loss_is_that_of_enumeration(mode):
    head, hidden, lengths, segments, judges = setting()
    if mode == "high_uncertainty":
        total = torch.tensor([judge.entropy() for judge in judges], dtype=FLOAT64)
    else:
        p = [[probability_of(j, starts_at(t)) for t in range(n)]
             for j, n in zip(judges, lengths.tolist(), strict=True)]  # fmt: skip
        total = torch.stack(
            [sum(torch.special.entr(torch.tensor([x, 1 - x]).clamp(0, 1).double()).sum() for x in r)
             for r in p]
        )  # fmt: skip
    share = total / lengths
    weights = (1 + 3 * share / share.mean()) / 4
    found = head.compute_loss_uncertainty_weighted(
        hidden, lengths, segments=segments, uncertainty_weight=3.0, focus_mode=mode,
        reduction="none",
    )  # fmt: skip
    truth = weights * torch.tensor(losses_of(judges, segments))
    torch.testing.assert_close(found.detach(), truth, rtol=1e-6, atol=1e-6)
    assert float((weights - 1).abs().max()) > 0.1  # the weights do something here


@for_each_mode
def test_the_gradient_takes_the_weights_as_constants(mode):
    head, hidden, lengths, segments, _ = setting()
    hidden.requires_grad_()
    weights = head.uncertainty_weights(hidden, lengths, focus_mode=mode)
    assert not weights.requires_grad
    losses = head.compute_loss(hidden, lengths, segments=segments, reduction="none")
    (truth,) = torch.autograd.grad((weights * losses).mean(), hidden)
    weighted = head.compute_loss_uncertainty_weighted(
        hidden, lengths, segments=segments, focus_mode=mode
    )
    (found,) = torch.autograd.grad(weighted, hidden)
    assert_close("gradient", FLOAT64, found, truth)
    assert bool(found.abs().sum() > 0)


@for_each_mode
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_equally_uncertain_sequences_have_the_plain_loss(mode, reduction):
    head, hidden, _, _, _ = setting()
    same = hidden[:1].expand(3, -1, -1)
    labels = random_batch()[2][:1].expand(3, -1)
    options = {"labels": labels, "reduction": reduction}
    weighted = head.compute_loss_uncertainty_weighted(same, focus_mode=mode, **options)
    assert_close("log_prob", FLOAT64, weighted, head.compute_loss(same, **options))


@for_each_mode
def test_certain_sequences_have_the_plain_loss(mode):
    head = ts.UncertaintySemiMarkovCRFHead(num_classes=1, max_duration=1).double()
    weights = head.uncertainty_weights(torch.zeros(2, 4, 1, dtype=FLOAT64), focus_mode=mode)
    assert weights.tolist() == [1.0, 1.0]


def test_weights_average_one_and_zero_weight_is_the_plain_loss():
    head, hidden, lengths, _, _ = setting()
    assert_close("gradient", FLOAT64, head.uncertainty_weights(hidden, lengths).mean(), 1.0)
    flat = head.uncertainty_weights(hidden, lengths, uncertainty_weight=0.0)
    assert flat.tolist() == [1.0] * len(cases.LENGTHS)


@pytest.mark.parametrize(
    "wrong", [{"focus_mode": "low"}, {"uncertainty_weight": -1.0}, {"reduction": "max"}]
)
def test_a_setting_out_of_its_range_is_named(wrong):
    head, hidden, lengths, segments, _ = setting()
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        head.compute_loss_uncertainty_weighted(hidden, lengths, segments=segments, **wrong)
