"""Segmentations as indicators over edges, their scores, HSMM edges; and what is refused."""

from itertools import product

import pytest
import torch
from edge_cases import SIZES, EdgeOracle, make_edges, spoil_padding
from semimarkov_cases import path_scores
from tolerances import assert_close

from torch_semimarkov import SemiMarkov
from torch_semimarkov.errors import SegmentError, ShapeError, UnsupportedError
from torch_semimarkov.functional.edge_parts import check_edge_size
from torch_semimarkov.semirings import CrossEntropySemiring, KLDivergenceSemiring, KMaxSemiring

float64 = torch.float64


def sequence_of(path, length, first_label=0):
    """Labels at boundaries of a path of the oracle."""
    labels = [-1] * length
    labels[0] = path[0][3] if path else first_label
    for start, row, destination, _ in path:
        labels[start + row + 1] = destination
    return labels


def indicator_of(paths, shape):
    parts = torch.zeros(len(paths), *shape, dtype=torch.long)
    for b, path in enumerate(paths):
        for entry in path:
            parts[b][entry] = 1
    return parts


@pytest.mark.parametrize("size", ["linear chain", "longer than the sequences", "one label"])
def test_parts_of_every_segmentation_go_there_and_back(size):
    _, T, K, C, _ = SIZES[size]
    edge = torch.zeros(T, K, C, C)
    paths = EdgeOracle(edge, T + 1).paths
    sequence = torch.tensor([sequence_of(path, T + 1) for path in paths])
    parts = SemiMarkov.to_parts(sequence, (C, K))
    assert torch.equal(parts, indicator_of(paths, edge.shape))
    back, extra = SemiMarkov.from_parts(parts)
    assert torch.equal(back, sequence) and extra == (C, K)


def test_what_lies_past_a_length_has_no_part():
    sequence = torch.tensor([[0, -1, 1, 1, 0], [1, 0, 7, -5, 1], [1, 0, 0, 0, 0]])
    lengths = torch.tensor([3, 2, 1])
    parts = SemiMarkov.to_parts(sequence, (2, 2), lengths)
    assert parts.nonzero().tolist() == [[0, 0, 1, 1, 0], [1, 0, 0, 0, 1]]
    back, _ = SemiMarkov.from_parts(parts)
    assert back.tolist() == [[0, -1, 1, -1, -1], [1, 0, -1, -1, -1], [-1] * 5]


def test_the_score_of_parts_is_that_of_their_path_and_never_beyond_the_partition():
    edge, lengths = make_edges(SIZES["none reaches N"])
    for name in ("log", "std"):
        weights = edge.exp() if name == "std" else edge
        struct = SemiMarkov(name)
        total = struct.sum(weights, lengths)
        for b, length in enumerate(lengths.tolist()):
            expected = path_scores(weights[b], length, name)
            paths = EdgeOracle(edge[b], length).paths
            parts = indicator_of(paths, edge.shape[1:])
            found = struct.score(weights[b : b + 1].expand(len(paths), -1, -1, -1, -1), parts)
            assert_close("score", float64, found, expected)
            assert (found <= total[b] + 1e-12).all()


def test_the_probabilities_of_all_parts_sum_to_1():
    edge, _ = make_edges(SIZES["linear chain"], forbid=0.0)
    paths = EdgeOracle(edge[0], 6).paths
    parts = indicator_of(paths, edge.shape[1:])[:, None]
    log_prob = SemiMarkov("log").score(edge[:1], parts) - SemiMarkov("log").sum(edge[:1])
    assert log_prob.shape == (len(paths), 1)
    assert float(log_prob.exp().sum()) == pytest.approx(1.0)


def test_the_best_parts_have_the_best_score():
    edge, lengths = make_edges(SIZES["none reaches N"], forbid=0.0)
    struct = SemiMarkov("max")
    parts = struct.marginals(edge, lengths)
    assert_close("score", float64, struct.score(edge, parts), struct.sum(edge, lengths))


def test_edges_without_a_part_have_no_effect_on_a_score_whatever_they_hold():
    edge, lengths = make_edges(SIZES["none reaches N"], forbid=0.3)
    parts = SemiMarkov("max").marginals(edge, lengths)
    spoiled = spoil_padding(edge, lengths).requires_grad_()
    value = SemiMarkov("log").score(spoiled, parts)
    assert_close("score", float64, value, SemiMarkov("max").sum(edge, lengths))
    (gradient,) = torch.autograd.grad(value.sum(), spoiled)
    assert torch.equal(gradient, parts)


@pytest.mark.parametrize("batched", [False, True])
def test_hsmm_edges_are_the_log_probabilities_of_their_parts(batched):
    B, T, K, C = 2, 4, 3, 2
    init = torch.randn(B, C, dtype=float64).log_softmax(-1)
    to_z = torch.randn(C, C, dtype=float64).log_softmax(-1)
    to_l = torch.randn(C, K, dtype=float64).log_softmax(-1)
    emission = torch.randn(B, T, K, C, dtype=float64)
    edge = SemiMarkov.hsmm(init if batched else init[0], to_z, to_l, emission)
    assert edge.shape == (B, T, K, C, C)
    for b, s, d, c, before in product(range(B), range(T), range(K), range(C), range(C)):
        expected = to_z[before, c] + to_l[c, d] + emission[b, s, d, c]
        if s == 0:
            expected = expected + (init[b] if batched else init[0])[before]
        assert float(edge[b, s, d, c, before]) == pytest.approx(float(expected))


def test_an_hsmm_without_observations_is_a_distribution_over_durations():
    """With emissions of probability 1 the total is P(the durations end exactly at T)."""
    half = torch.tensor([0.5, 0.5], dtype=float64).log()
    to_l = torch.tensor([[0.25, 0.75], [0.25, 0.75]], dtype=float64).log()
    edge = SemiMarkov.hsmm(half, half.expand(2, 2), to_l, torch.zeros(1, 3, 2, 2, dtype=float64))
    expected = 0.25**3 + 2 * 0.25 * 0.75
    assert float(SemiMarkov("log").sum(edge).exp()) == pytest.approx(expected)


def test_hsmm_edges_are_differentiable_in_every_part():
    parts = [
        torch.randn(*shape, dtype=float64, requires_grad=True)
        for shape in ((2,), (2, 2), (2, 3), (1, 4, 3, 2))
    ]
    assert torch.autograd.gradcheck(lambda *x: SemiMarkov("log").sum(SemiMarkov.hsmm(*x)), parts)


# What is refused

GOOD = torch.zeros(2, 4, 3, 2, 2)


@pytest.mark.parametrize("scan", ["linear", "tree"])
@pytest.mark.parametrize(
    "edge", [GOOD[0], torch.zeros(2, 4, 3, 2, 3), torch.zeros(2, 0, 3, 2, 2), GOOD.long()]
)
def test_edges_with_a_wrong_axis_are_one_clear_error(edge, scan):
    for call in (SemiMarkov("log", scan=scan).sum, SemiMarkov("log", scan=scan).marginals):
        with pytest.raises(ShapeError, match=r"edge must be .*got"):
            call(edge)


@pytest.mark.parametrize("scan", ["linear", "tree"])
@pytest.mark.parametrize("lengths", [[6, 2], [0, 3], [-1, 3]])
def test_lengths_outside_their_range_are_one_clear_error(lengths, scan):
    with pytest.raises(ShapeError, match=r"lengths must be in 1\.\.N = 1\.\.5"):
        SemiMarkov("entropy", scan=scan).sum(GOOD, torch.tensor(lengths))
    with pytest.raises(ShapeError, match="lengths must be"):
        SemiMarkov("log", scan=scan).sum(GOOD, torch.tensor([5, 5, 5]))


@pytest.mark.parametrize("scan", ["linear", "tree"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("semiring", ["log", "max", "std", "entropy", "sampled", KMaxSemiring(2)])
def test_nan_and_infinite_edges_are_an_error_that_says_where(semiring, bad, scan):
    edge = GOOD.clone()
    edge[1, 2, 1, 0, 1] = bad
    with pytest.raises(ShapeError, match=r"sequence 1, start 2, duration 2, destination 0, sour"):
        SemiMarkov(semiring, scan=scan).sum(edge)


@pytest.mark.parametrize("semiring", [CrossEntropySemiring, KLDivergenceSemiring])
@pytest.mark.parametrize("side", [0, 1])
def test_nan_edges_of_a_pair_are_an_error_that_says_where(semiring, side):
    pair = [GOOD.clone(), GOOD.clone()]
    pair[side][0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ShapeError, match="sequence 0, start 0, duration 1"):
        SemiMarkov(semiring).sum(tuple(pair))


def test_negative_weights_are_refused_by_the_standard_semiring_unless_they_lie_past_a_length():
    edge = torch.ones(2, 4, 3, 2, 2)
    edge[1, 3, 1:] = -1.0
    assert SemiMarkov("std").sum(edge).isfinite().all()
    edge[1, 3, 0, 1, 0] = -2.0
    with pytest.raises(ShapeError, match=r"weights >= 0 in semiring 'std', got -2.0 at sequence 1"):
        SemiMarkov("std").sum(edge)


def test_a_pair_is_asked_for_where_two_models_are_compared_and_only_there():
    with pytest.raises(ShapeError, match="takes a pair of edge tensors, got 1"):
        SemiMarkov("kl_divergence").sum(GOOD)
    with pytest.raises(ShapeError, match="takes one edge tensor, got 2"):
        SemiMarkov("log").sum((GOOD, GOOD))
    with pytest.raises(ShapeError, match="must have the same shape"):
        SemiMarkov("kl_divergence").sum((GOOD, GOOD[:, :3]))


def test_a_backend_that_lacks_a_semiring_or_a_scan_says_so():
    with pytest.raises(UnsupportedError, match="cpu: has no semiring 'entropy'"):
        SemiMarkov("entropy", backend="cpu").sum(GOOD)
    with pytest.raises(UnsupportedError, match="cpu: has no edge_tree"):
        SemiMarkov("log", backend="cpu", scan="tree").sum(GOOD)
    with pytest.raises(UnsupportedError, match="backend must be one of"):
        SemiMarkov("log", backend="abacus").sum(GOOD)


@pytest.mark.parametrize("semiring", ["tropical", None, int])
def test_an_unknown_semiring_or_scan_is_refused(semiring):
    with pytest.raises(UnsupportedError, match="semiring must be"):
        SemiMarkov(semiring)
    with pytest.raises(UnsupportedError, match="scan must be 'linear' or 'tree', got 'bush'"):
        SemiMarkov("log", scan="bush").sum(GOOD)


def test_a_tree_that_would_not_fit_in_memory_is_refused_with_its_size():
    edge = torch.zeros(1, 1, 1, 1, 1).expand(4, 1000, 50, 10, 10)
    with pytest.raises(UnsupportedError, match=r"scan='tree' needs [\d,]+ bytes .* K C = 500"):
        SemiMarkov("log", scan="tree").sum(edge)
    with pytest.raises(UnsupportedError, match="more than memory_limit = 1,000 bytes"):
        SemiMarkov("log", scan="tree", memory_limit=1000).sum(GOOD)


def test_an_edge_tensor_that_would_not_fit_in_memory_is_not_made():
    emission = torch.zeros(1, 1, 1, 1).expand(8, 10000, 500, 24)
    with pytest.raises(UnsupportedError, match=r"\(8, 10000, 500, 24, 24\) takes [\d,]+ bytes"):
        SemiMarkov.hsmm(torch.zeros(24), torch.zeros(24, 24), torch.zeros(24, 500), emission)
    with pytest.raises(UnsupportedError, match="more than memory_limit = 10 bytes"):
        SemiMarkov.to_parts(torch.zeros(1, 3, dtype=torch.long), (1, 2), memory_limit=10)
    check_edge_size((1, 2, 3, 4, 4), torch.float32, 384)
    with pytest.raises(UnsupportedError, match="384 bytes"):
        check_edge_size((1, 2, 3, 4, 4), torch.float32, 383)


@pytest.mark.parametrize(
    ("labels", "rule"),
    [
        ([0, 1, 2], "labels must be -1 or in 0..1"),
        ([0, -2, 1], "labels must be -1 or in 0..1"),
        ([-1, 0, 1], "boundary 0 must have the label"),
        ([0, 1, -1], "its last boundary must have a label"),
        ([0, -1, 1], "no segment may have more than K = 1 positions"),
    ],
)
def test_labels_that_are_no_segmentation_are_refused(labels, rule):
    with pytest.raises(SegmentError, match=rf"sequence 1, boundary . with .*: {rule}"):
        SemiMarkov.to_parts(torch.tensor([[0, 0, 0], labels]), (2, 1))


@pytest.mark.parametrize(
    ("sequence", "extra", "lengths", "rule"),
    [
        (torch.zeros(3, dtype=torch.long), (1, 1), None, r"\(B, N\) with N >= 2"),
        (torch.zeros(2, 3), (1, 1), None, "must hold integers"),
        (torch.zeros(2, 3, dtype=torch.long), (0, 1), None, r"extra must be \(C, K\)"),
        (torch.zeros(2, 3, dtype=torch.long), (1, 1), torch.tensor([3]), "lengths must be"),
        (torch.zeros(2, 3, dtype=torch.long), (1, 1), torch.tensor([3, 4]), "lengths must be"),
    ],
)
def test_arguments_of_to_parts_that_do_not_fit_are_refused(sequence, extra, lengths, rule):
    with pytest.raises(ShapeError, match=rule):
        SemiMarkov.to_parts(sequence, extra, lengths)


@pytest.mark.parametrize(
    "entries",
    [
        [(1, 0, 0, 0)],
        [(0, 0, 1, 0), (1, 0, 0, 0)],
        [(0, 0, 0, 0), (2, 0, 0, 0)],
        [(0, 0, 0, 0), (0, 1, 0, 0)],
        [(0, 1, 0, 0), (2, 1, 0, 0)],
    ],
    ids=["starts late", "another source", "a gap", "two from one", "beyond the end"],
)
def test_parts_that_are_no_segmentation_are_refused(entries):
    parts = indicator_of([[], entries], (3, 2, 2, 2))
    with pytest.raises(SegmentError, match=r"sequence 1: the segment .* does not follow"):
        SemiMarkov.from_parts(parts)


def test_marginals_of_many_segmentations_are_no_parts():
    with pytest.raises(ShapeError, match="parts must hold 0 and 1"):
        SemiMarkov.from_parts(SemiMarkov("log").marginals(GOOD))
    with pytest.raises(ShapeError, match=r"parts must be \(B, N-1, K, C, C\), got \(4, 3, 2, 2\)"):
        SemiMarkov.from_parts(GOOD[0])


def test_scores_of_parts_of_another_shape_are_refused():
    with pytest.raises(ShapeError, match=r"potentials must be .* got \(2, 4, 3, 2, 2\) and \(2, 3"):
        SemiMarkov("log").score(GOOD, GOOD[:, :3])


def test_hsmm_parts_that_do_not_fit_are_named_at_once():
    with pytest.raises(ShapeError) as error:
        SemiMarkov.hsmm(
            torch.zeros(3), torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(1, 4, 3, 2)
        )
    text = str(error.value)
    assert "init must be (2,) or (1, 2), got (3,)" in text
    assert "transition_z_to_z must be (2, 2), got (2, 3)" in text
    assert "transition_z_to_l must be (2, 3), got (3, 2)" in text
    with pytest.raises(ShapeError, match=r"emission must be \(B, N-1, K, C\)"):
        SemiMarkov.hsmm(torch.zeros(3), torch.zeros(3, 3), torch.zeros(3, 2), torch.zeros(4, 3, 2))
