"""The established call on explicit edges: its switches do what they say, and it trains."""

import resource
import sys

import pytest
import torch
from edge_cases import LARGER, SIZES, EdgeOracle, make_edges
from tolerances import FLOAT64, assert_close

from torch_semimarkov import dispatch
from torch_semimarkov.dispatch import edges
from torch_semimarkov.errors import NumericsError, ShapeError, UnsupportedError
from torch_semimarkov.triton_scan import semi_crf_triton_forward


@pytest.fixture
def chosen(monkeypatch):
    """Names of the backends that calls on edges ran on."""
    names, choose = [], edges.choose

    def spy(*arguments):
        found = choose(*arguments)
        names.append(found.NAME)
        return found

    monkeypatch.setattr(edges, "choose", spy)
    return names


@pytest.mark.parametrize("semiring", ["log", "max"])
def test_the_value_is_that_of_enumeration(semiring):
    edge, lengths = make_edges(SIZES["none reaches N"])
    value = semi_crf_triton_forward(edge, lengths, semiring=semiring, validate=True)
    judges = [EdgeOracle(edge[b], int(lengths[b])) for b in range(3)]
    assert_close("log_partition", FLOAT64, value, [judge.value(semiring) for judge in judges])


def test_without_compilation_the_reference_runs(chosen):
    edge, lengths = make_edges(SIZES["linear chain"])
    values = [semi_crf_triton_forward(edge, lengths, use_compile=on) for on in (True, False)]
    assert chosen[0] != "reference" and chosen[1] == "reference"
    assert_close("log_partition", FLOAT64, *values)


def test_without_triton_its_kernels_are_left_out(monkeypatch):
    edge, lengths = make_edges(SIZES["linear chain"])
    seen = []

    def look(*arguments):
        seen.append(dict(dispatch.select._left_out()))
        return choose(*arguments)

    choose = edges.choose
    monkeypatch.setattr(edges, "choose", look)
    semi_crf_triton_forward(edge, lengths)
    semi_crf_triton_forward(edge, lengths, use_triton=False)
    assert seen == [{}, {"triton": "use_triton=False"}]


def test_validation_passes_what_is_right_and_costs_one_more_call(chosen):
    edge, lengths = make_edges(LARGER["nine labels"], torch.float32)
    plain = semi_crf_triton_forward(edge, lengths)
    assert torch.equal(semi_crf_triton_forward(edge, lengths, validate=True), plain)
    assert chosen == ["cpu", "cpu", "reference", "reference", "reference"]


@pytest.mark.parametrize("wrong", [1.01, float("nan"), 0.0])
def test_validation_says_which_sequence_is_off_and_by_how_much(monkeypatch, wrong):
    edge, lengths = make_edges(LARGER["nine labels"], torch.float32, forbid=0.0)
    backend = dispatch.registry.load("cpu")
    forward = backend.edge_forward

    def off(p, semiring, keep):
        value, kept = forward(p, semiring, keep)
        value[1] *= wrong
        return value, kept

    monkeypatch.setattr(backend, "edge_forward", off)
    with pytest.raises(NumericsError, match=r"sequence 1: the log total is .*, and \d+.* by the"):
        semi_crf_triton_forward(edge, lengths, validate=True)


def test_impossible_sequences_pass_validation():
    edge, lengths = make_edges(SIZES["linear chain"])
    edge[1] = -torch.inf
    assert semi_crf_triton_forward(edge, lengths, validate=True)[1] == -torch.inf


def test_other_semirings_are_refused_with_the_place_that_has_them():
    edge, lengths = make_edges(SIZES["linear chain"])
    with pytest.raises(UnsupportedError, match=r'"log" or "max", got \'entropy\'; SemiMarkov'):
        semi_crf_triton_forward(edge, lengths, semiring="entropy")


def test_lengths_beyond_n_are_an_error():
    edge, _ = make_edges(SIZES["linear chain"])
    with pytest.raises(ShapeError, match=r"1\.\.N = 1\.\.6"):
        semi_crf_triton_forward(edge, torch.tensor([7, 6]))


@pytest.mark.parametrize("semiring", ["log", "max"])
def test_ten_thousand_positions_train_without_recursion_or_a_graph(semiring):
    edge = torch.randn(1, 10_000, 4, 3, 3).requires_grad_()
    limit = sys.getrecursionlimit()
    value = semi_crf_triton_forward(edge, torch.tensor([10_001]), semiring=semiring)
    leaf, *others = value.grad_fn.next_functions
    assert leaf[0].variable is edge and all(node is None for node, _ in others)
    sys.setrecursionlimit(200)
    try:
        (gradient,) = torch.autograd.grad(value.sum(), edge)
    finally:
        sys.setrecursionlimit(limit)
    covered = (gradient.sum((0, 1, 3, 4)) * torch.arange(1, 5)).sum()
    assert_close("marginals", torch.float32, covered / 10_000, torch.tensor(1.0))


def test_loss_falls_when_edges_are_trained():
    edge, lengths = make_edges(LARGER["whole vectors"], forbid=0.0)
    edge.requires_grad_()
    optimizer = torch.optim.Adam([edge], lr=0.1)
    losses = []
    for _ in range(30):
        loss = (
            semi_crf_triton_forward(edge, lengths) - score_of_single_positions(edge, lengths)
        ).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(loss >= 0 for loss in losses)
    assert losses[-1] < 0.2 * losses[0]


def score_of_single_positions(edge, lengths):
    """Score of the segmentation into single positions, all labelled 0."""
    inside = torch.arange(edge.shape[1]) < lengths[:, None] - 1
    return torch.where(inside, edge[:, :, 0, 0, 0], 0.0).sum(1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident set as Linux counts it")
def test_the_forward_makes_no_second_copy_of_the_edges():
    edge = torch.zeros(1, 400, 50, 24, 24)
    semi_crf_triton_forward(edge[:, :2])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    semi_crf_triton_forward(edge)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert 1024 * grown < 0.25 * edge.numel() * edge.element_size()
