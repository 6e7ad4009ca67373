"""The model: every head's loss, decoding and posteriors."""

import itertools
import os

import pytest
import torch

from torch_semimarkov.errors import ConfigError, SegmentError, ShapeError
from torch_semimarkov.nn.segmenter import HEADS, Architecture, SegmentationModel
from torch_semimarkov.segments import Segments

LENGTHS = torch.tensor([6, 4])


def model(head, **changes):
    built = SegmentationModel(
        Architecture(2, 3, max_duration=4, head=head, hidden_dim=8, num_layers=1, **changes)
    ).eval()
    with torch.no_grad():
        for parameter in built.head.parameters():
            parameter.normal_()
    return built


def segments_for(head):
    lists = [[(0, 3, 1), (3, 6, 0)], [(0, 4, 2)]]
    if head != "semi-crf":
        lists = [[(t, t + 1, c) for s, e, c in one for t in range(s, e)] for one in lists]
    return Segments.from_list(lists)


@pytest.mark.parametrize("head", HEADS)
def test_the_loss_is_one_number_a_sequence_never_below_0_and_blind_to_padding(head):
    features = torch.randn(2, 6, 2)
    features[1, 4:] = torch.nan
    found = model(head)
    losses = found(features, LENGTHS, segments_for(head))
    assert losses.shape == (2,) and bool((losses >= 0).all())
    losses.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in found.parameters())
    alone = found(features[1:, :4], LENGTHS[1:], segments_for(head)[1:])
    torch.testing.assert_close(losses[1:], alone)


@pytest.mark.parametrize("head", HEADS)
def test_posteriors_sum_to_1_and_are_0_past_the_lengths(head):
    posteriors = model(head).marginals(torch.randn(2, 6, 2), LENGTHS)
    inside = torch.arange(6) < LENGTHS[:, None]
    torch.testing.assert_close(posteriors.labels.sum(-1), inside.float())
    assert bool((posteriors.boundaries[~inside] == 0).all())
    torch.testing.assert_close(posteriors.boundaries[:, 0], torch.ones(2))
    assert bool(((posteriors.boundaries >= 0) & (posteriors.boundaries <= 1)).all())


@pytest.mark.parametrize("boundary_scores", [False, True])
def test_the_boundaries_of_a_linear_crf_equal_those_of_enumeration(boundary_scores):
    found, T = model("linear-crf", boundary_scores=boundary_scores), 5
    features, lengths = torch.randn(1, T, 2), torch.tensor([T])
    paths = list(itertools.product(range(3), repeat=T))
    lists = [[(t, t + 1, c) for t, c in enumerate(path)] for path in paths]
    n = len(paths)
    losses = found(
        features.expand(n, -1, -1), lengths.expand(n), Segments.from_list(lists)
    ).double()
    weights = (-losses).exp()
    torch.testing.assert_close(weights.sum().item(), 1.0, atol=1e-5, rtol=0)
    changed = torch.tensor(
        [[1.0] + [float(a != b) for a, b in itertools.pairwise(p)] for p in paths]
    )
    expected = (weights[:, None] * changed).sum(0)
    actual = found.marginals(features, lengths).boundaries[0]
    torch.testing.assert_close(actual.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", ["linear-crf", "argmax"])
def test_heads_without_durations_decode_to_maximal_runs(head):
    for sequence in model(head).decode(torch.randn(2, 6, 2), LENGTHS).to_list():
        assert all(a.label != b.label for a, b in itertools.pairwise(sequence))


def test_merging_joins_neighbours_of_a_semi_crf():
    found = model("semi-crf")
    with torch.no_grad():
        found.head.projection.bias.copy_(torch.tensor([50.0, 0.0, 0.0]))
    features = torch.randn(1, 9, 2)
    assert int(found.decode(features).counts) > 1
    assert found.decode(features, merge=True).to_list() == [[(0, 9, 0)]]


def test_the_normaliser_is_part_of_the_model():
    found = model("argmax")
    features, lengths = torch.randn(1, 6, 2), torch.tensor([6])
    before = found.marginals(features, lengths).labels
    found.set_normaliser(torch.tensor([5.0, -3.0]), torch.tensor([2.0, 0.0]))
    shifted = features * torch.tensor([2.0, 1.0]) + torch.tensor([5.0, -3.0])
    torch.testing.assert_close(found.marginals(shifted, lengths).labels, before)


def train_alone(rank, store):
    """One process of one: the loss and a backward through the wrapped model."""
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=1)
    found = model("semi-crf")
    call = torch.randn(2, 6, 2), LENGTHS, segments_for("semi-crf")
    wrapped = torch.nn.parallel.DistributedDataParallel(found)
    torch.testing.assert_close(wrapped(*call), found(*call))
    wrapped(*call).sum().backward()
    assert all(weight.grad is not None for weight in found.parameters())
    os._exit(0)  # as in test_head_ddp: taking a group down can deadlock in torch


def test_it_trains_under_distributed_data_parallel(tmp_path):
    torch.multiprocessing.spawn(train_alone, (tmp_path / "store",), nprocs=1)


def test_misfits_are_named():
    with pytest.raises(ConfigError, match=r"(?s)num_classes must be.*encoder must be.*dropout"):
        Architecture(2, 0, encoder="x", dropout=1.0)
    with pytest.raises(ShapeError, match=r"features must be \(B, T, D\) = \(B, T, 2\)"):
        model("argmax").decode(torch.zeros(1, 4, 3))
    with pytest.raises(SegmentError, match="sequence 0: no segment covers position 2"):
        model("argmax")(torch.zeros(1, 4, 2), torch.tensor([4]), Segments.from_list([[(0, 2, 1)]]))
