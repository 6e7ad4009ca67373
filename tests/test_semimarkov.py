"""SemiMarkov in every semiring, by both scans, against enumeration."""

from math import inf

import pytest
import torch
from edge_cases import SIZES, EdgeOracle, make_edges, spoil_padding
from factory import upstream
from semimarkov_cases import (
    K_BEST,
    PAIRS,
    for_each_pair_semiring,
    for_each_scan,
    for_each_semiring,
    for_each_single_semiring,
    plain_weights,
    semiring_called,
    truth,
)
from tolerances import assert_close

import torch_semimarkov
from torch_semimarkov import SemiMarkov
from torch_semimarkov.functional.edge_totals import edge_total
from torch_semimarkov.semirings import KMaxSemiring, LogSemiring, SampledSemiring

float64 = torch.float64
for_each_size = pytest.mark.parametrize("size", SIZES)


def inputs_of(name, size, dtype=float64, forbid=0.2):
    """What the semiring takes: one edge tensor, or a pair; and lengths."""
    edge, lengths = make_edges(SIZES[size], dtype, forbid)
    edges = (edge, make_edges(SIZES[size], dtype, 0.0, seed=1)[0])
    edges = edges if name in PAIRS else edges[:1]
    return tuple(plain_weights(name, x) for x in edges), lengths


def as_argument(edges):
    return edges if len(edges) > 1 else edges[0]


def leaves_of(edges):
    return tuple(x.clone().requires_grad_() for x in edges)


def total(name, edges, lengths, scan="linear", **options):
    struct = SemiMarkov(semiring_called(name), scan=scan, **options)
    return struct.sum(as_argument(edges), lengths)


def gradient(value, edges):
    """Gradients with a different weight for each sequence, and for each of k scores."""
    weight = upstream(value.shape[-1])
    if value.dim() == 2:
        weight = weight * torch.arange(1, len(value) + 1, dtype=float64)[:, None]
    finite = torch.where(value.detach().abs() < inf, value, 0.0)
    return torch.autograd.grad((finite * weight).sum(), edges, materialize_grads=True)


@for_each_scan
@for_each_size
@for_each_semiring
def test_values_and_gradients_are_those_of_enumeration(name, size, scan):
    edges, lengths = inputs_of(name, size)
    ours, theirs = leaves_of(edges), leaves_of(edges)
    value = total(name, ours, lengths, scan)
    rows = [
        truth(name, tuple(x[b] for x in theirs), int(length)) for b, length in enumerate(lengths)
    ]
    expected = torch.stack(rows, -1)
    assert_close("log_partition", float64, value, expected)
    pairs = zip(gradient(value, ours), gradient(expected, theirs), strict=True)
    for found, wanted in pairs:
        assert_close("gradient", float64, found, wanted)


@for_each_size
@for_each_semiring
def test_the_tree_equals_the_linear_scan_on_the_reference(name, size):
    edges, lengths = inputs_of(name, size)
    linear, tree = leaves_of(edges), leaves_of(edges)
    along = total(name, linear, lengths, "linear", backend="reference")
    pairwise = total(name, tree, lengths, "tree")
    assert_close("log_partition", float64, pairwise, along)
    for found, wanted in zip(gradient(pairwise, tree), gradient(along, linear), strict=True):
        assert_close("gradient", float64, found, wanted)


@for_each_scan
@for_each_semiring
def test_edges_past_a_length_have_no_effect_whatever_they_hold(name, scan):
    edges, lengths = inputs_of(name, "none reaches N")
    clean = leaves_of(edges)
    spoiled = leaves_of(tuple(spoil_padding(x, lengths) for x in edges))
    values = [total(name, x, lengths, scan, backend="reference") for x in (clean, spoiled)]
    assert torch.equal(*values)
    for left, right in zip(gradient(values[0], clean), gradient(values[1], spoiled), strict=True):
        assert torch.equal(left, right)


@for_each_scan
@for_each_semiring
def test_a_ragged_batch_equals_its_sequences_one_by_one(name, scan):
    edges, lengths = inputs_of(name, "none reaches N")
    value = total(name, edges, lengths, scan)
    for b, length in enumerate(lengths.tolist()):
        alone = tuple(x[b : b + 1, : max(1, length - 1)] for x in edges)
        one = total(name, alone, torch.tensor([length]), scan)
        assert_close("log_partition", float64, value[..., b : b + 1], one)


@for_each_scan
@for_each_semiring
def test_where_nothing_is_possible_gradients_are_0(name, scan):
    edges, lengths = inputs_of(name, "linear chain", forbid=0.0)
    edges = leaves_of(edges)
    barred = tuple(
        torch.where(
            torch.arange(len(x))[:, None, None, None, None] == 0, semiring_called(name).forbidden, x
        )
        for x in edges
    )
    value = total(name, barred, lengths, scan)
    expected = {"log": -inf, "max": -inf, "kmax": -inf}.get(name, 0.0)
    assert (value[..., 0] == expected).all()
    grads = torch.autograd.grad(value[..., 0].sum(), edges, materialize_grads=True)
    assert all((g == 0).all() for g in grads)


@for_each_scan
@for_each_pair_semiring
def test_what_q_forbids_and_p_allows_costs_infinitely_much_with_gradient_0(name, scan):
    (q, p), lengths = inputs_of(name, "longer than the sequences", forbid=0.6)
    edges = leaves_of((p, q))
    value = total(name, edges, lengths, scan)
    assert value.tolist() == [inf, inf]
    assert all((g == 0).all() for g in torch.autograd.grad(value.sum(), edges))


def test_the_kl_divergence_of_a_model_from_itself_is_0_and_its_cross_entropy_its_entropy():
    edge, lengths = make_edges(SIZES["linear chain"])
    edge.requires_grad_()
    divergence = SemiMarkov("kl_divergence").sum((edge, edge), lengths)
    assert_close("log_partition", float64, divergence, torch.zeros(2))
    (slope,) = torch.autograd.grad(divergence.sum(), edge)
    assert_close("gradient", float64, slope, torch.zeros_like(edge))
    cross = SemiMarkov("cross_entropy").sum((edge, edge), lengths)
    assert_close("log_partition", float64, cross, SemiMarkov("entropy").sum(edge, lengths))


# Marginals


@for_each_scan
@for_each_size
@pytest.mark.parametrize("name", ["log", "max"])
def test_marginals_are_those_of_enumeration(name, size, scan):
    edge, lengths = make_edges(SIZES[size])
    found = SemiMarkov(name, scan=scan).marginals(edge, lengths)
    for b, length in enumerate(lengths.tolist()):
        assert_close("marginals", float64, found[b], EdgeOracle(edge[b], length).gradient(name))
    assert not edge.requires_grad


@for_each_scan
def test_marginals_of_kmax_are_the_k_best_segmentations(scan):
    edge, lengths = make_edges(SIZES["linear chain"], forbid=0.0)
    struct = SemiMarkov(KMaxSemiring(3), scan=scan)
    parts, scores = struct.marginals(edge, lengths), struct.sum(edge, lengths)
    assert parts.shape == (3, *edge.shape)
    assert_close("score", float64, SemiMarkov("log").score(edge, parts), scores)
    sequences = [SemiMarkov.from_parts(best)[0] for best in parts]
    assert not torch.equal(sequences[0], sequences[1])


@for_each_pair_semiring
def test_marginals_of_a_pair_are_a_pair(name):
    (p, q), lengths = inputs_of(name, "one label")
    found = SemiMarkov(name).marginals((p, q), lengths)
    assert [x.shape for x in found] == [p.shape, q.shape]


def test_marginals_are_differentiable_where_the_edges_are():
    edge, lengths = make_edges(SIZES["linear chain"], forbid=0.0)
    edge.requires_grad_()
    weight = torch.rand_like(edge)

    def weighted(x):
        return (SemiMarkov("log", backend="reference").marginals(x, lengths) * weight).sum()

    (found,) = torch.autograd.grad(weighted(edge), edge)
    step = 1e-5 * torch.randn_like(edge)
    with torch.no_grad():
        ahead, behind = weighted(edge + step), weighted(edge - step)
    assert float(found.flatten() @ step.flatten()) == pytest.approx(
        float(ahead - behind) / 2, rel=1e-4
    )


@for_each_scan
@pytest.mark.parametrize("name", ["log", "std", "entropy", "cross_entropy", "kl_divergence"])
def test_totals_are_differentiable_twice(name, scan):
    edges, lengths = inputs_of(name, "longer than the sequences", forbid=0.0)
    small = leaves_of(tuple(x[:1, :3, :2] for x in edges))

    def value(*edges):
        return total(name, edges, lengths[:1] - 1, scan, backend="reference")

    assert torch.autograd.gradgradcheck(value, small)


def test_marginals_run_in_inference_mode():
    with torch.inference_mode():
        edge, lengths = make_edges(SIZES["linear chain"])
        inside = SemiMarkov("log").marginals(edge, lengths)
    assert_close("marginals", float64, inside, SemiMarkov("log").marginals(edge.clone(), lengths))


@for_each_scan
def test_samples_are_segmentations_drawn_by_their_probability(scan):
    edge, lengths = make_edges((1, 3, 2, 2, (4,)), forbid=0.2, seed=2)
    many = 4000
    generator = torch.Generator().manual_seed(0)
    parts = SemiMarkov(SampledSemiring(generator), scan=scan).marginals(
        edge.expand(many, -1, -1, -1, -1), lengths.expand(many)
    )
    sequences, _ = SemiMarkov.from_parts(parts.long())
    found = EdgeOracle(edge[0], 4)
    probability = torch.from_numpy(found.scores).softmax(0)
    spread = 5 * (probability * (1 - probability) / many).sqrt()
    seen = 0
    for path, p, allowed in zip(found.paths, probability, spread, strict=True):
        wanted = torch.zeros(edge.shape[1:], dtype=torch.long)
        for entry in path:
            wanted[entry] = 1
        labels = SemiMarkov.from_parts(wanted[None])[0]
        share = (sequences == labels).all(1).double().mean()
        assert abs(share - p) <= allowed
        seen += share
    assert seen == pytest.approx(1.0)


# What a call gives back


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@for_each_scan
@for_each_single_semiring
def test_results_come_back_in_the_type_of_the_edges_and_half_types_as_float32(name, scan, dtype):
    edges, lengths = inputs_of(name, "linear chain", dtype)
    value = total(name, edges, lengths, scan)
    assert value.dtype == torch.float32
    wide = tuple(x.double() for x in edges)
    assert_close("log_partition", dtype, value, total(name, wide, lengths, scan))
    marginals = SemiMarkov(semiring_called(name), scan=scan).marginals(*edges, lengths)
    assert marginals.dtype == torch.float32


def test_a_log_partition_comes_with_its_edges_and_shapes_as_the_semiring_says():
    edge, lengths = make_edges(SIZES["linear chain"])
    value, aux = SemiMarkov(LogSemiring).logpartition(edge, lengths)
    assert value.shape == (2,) and aux is edge
    best, _ = SemiMarkov(KMaxSemiring(K_BEST)).logpartition(edge, lengths)
    assert best.shape == (K_BEST, 2)


def test_without_lengths_every_sequence_reaches_n():
    edge, _ = make_edges(SIZES["linear chain"])
    full = torch.full((2,), 6)
    assert torch.equal(SemiMarkov("entropy").sum(edge), SemiMarkov("entropy").sum(edge, full))


def test_without_validation_a_nan_goes_through():
    edge, lengths = make_edges(SIZES["linear chain"], forbid=0.0)
    edge[0, 0] = torch.nan
    value = SemiMarkov("entropy", validate_args=False).sum(edge, lengths)
    assert value.isnan().tolist() == [True, False]


def test_the_class_is_exported_with_its_semirings():
    assert torch_semimarkov.SemiMarkov is SemiMarkov
    assert "SemiMarkov" in torch_semimarkov.__all__


@for_each_single_semiring
def test_the_total_over_edges_is_a_function_too(name):
    edges, lengths = inputs_of(name, "one label")
    assert torch.equal(
        edge_total(*edges, lengths, semiring=semiring_called(name)), total(name, edges, lengths)
    )
