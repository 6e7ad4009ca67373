"""SemiMarkovCRF keeps what torch asks of its own distributions."""

import pytest
import torch
from factory import (
    SIZE,
    SIZES,
    all_segmentations,
    for_each_possible,
    make_inputs,
    one_sequence,
    oracles,
    with_grad,
)
from head_cases import C, D, K, random_batch, random_head
from tolerances import assert_close
from torch.distributions import Distribution, kl_divergence

import torch_semimarkov
from torch_semimarkov import SemiMarkovCRF, kbest, viterbi
from torch_semimarkov.errors import NumericsError, SegmentError, ShapeError
from torch_semimarkov.segments import Segments

FLOAT64 = torch.float64


@pytest.fixture(autouse=True)
def torchs_own_default(monkeypatch):
    """torch.compile turns the checks of all distributions off for the rest of the process."""
    monkeypatch.setattr(Distribution, "_validate_args", True)


def crf(flags="plain", size=SIZE, seed=0, **options):
    return SemiMarkovCRF(**make_inputs(size, flags=flags, seed=seed), **options)


def single(flags="plain"):
    """One sequence, and what enumeration says of it."""
    inputs = one_sequence(make_inputs(SIZES[4], flags=flags), 0)
    return SemiMarkovCRF(**inputs), oracles(SIZES[4], flags=flags)[0]


def seeded():
    return torch.Generator().manual_seed(0)


# Shapes and expand


@pytest.mark.parametrize("shape", [(), (1,), (2,), (2, 3), (0,)])
def test_samples_have_the_sample_shape_and_then_the_batch_shape(shape):
    p = crf()
    drawn = p.sample(shape)
    assert p.batch_shape == (3,) and p.event_shape == ()
    assert isinstance(drawn, Segments)
    assert drawn.counts.shape == (*shape, 3)
    assert p.log_prob(drawn).shape == (*shape, 3)
    assert p.support.check(drawn).all()
    assert p.sample(torch.Size(shape)).counts.shape == (*shape, 3)


def test_sample_n_and_the_support_have_what_torch_looks_for():
    p = crf()
    assert p.support.event_dim == 0 and p.support.is_discrete
    assert not p.has_rsample and not p.has_enumerate_support
    for missing in (p.rsample, p.enumerate_support, lambda: p.mean, lambda: p.variance):
        with pytest.raises(NotImplementedError):
            missing()


@pytest.mark.filterwarnings("ignore:there are not k = 2 segmentations")
@pytest.mark.parametrize("flags", ["plain", "all"])
def test_expand_repeats_the_batch_in_every_query(flags):
    p = crf(flags)
    wide = p.expand((2, 3))
    assert wide.batch_shape == (2, 3) and wide.event_shape == p.event_shape
    assert wide.scores.data_ptr() == p.scores.data_ptr()
    assert torch.equal(wide.log_partition, p.log_partition.expand(2, 3))
    drawn = wide.sample((4,), generator=seeded())
    assert drawn.counts.shape == (4, 2, 3)
    assert torch.equal(wide.log_prob(drawn), p.log_prob(drawn))
    assert wide.mode[1] == p.mode
    best, once = wide.topk(2), p.topk(2)
    assert best.scores.shape == best.segments.counts.shape == (2, 2, 3)
    assert torch.equal(best.scores[:, 1], once.scores)
    assert best.segments[1][0] == once.segments[1]
    marginals = wide.marginals
    assert torch.equal(marginals.labels[1], p.marginals.labels)
    assert_close("marginals", FLOAT64, marginals.durations, 2 * p.marginals.durations)
    assert wide.expand((5, 2, 3)).sample().counts.shape == (5, 2, 3)


def test_expand_repeats_entropies():
    p = crf("boundary")
    assert torch.equal(p.expand((2, 3)).entropy(), p.entropy().expand(2, 3))


def test_samples_along_expanded_dimensions_are_independent():
    drawn = crf().expand((40, 3)).sample(generator=seeded())
    assert len({str(batch[0]) for batch in drawn.to_list()}) > 5


@pytest.mark.parametrize("flags", ["plain", "all"])
def test_one_sequence_expands_to_any_batch(flags):
    p, _ = single(flags)
    wide = p.expand((7,))
    assert wide.batch_shape == (7,)
    assert torch.equal(wide.log_partition, p.log_partition.expand(7))
    assert wide.log_prob(wide.sample((2,))).shape == (2, 7)
    assert torch.equal(wide.log_prob(p.mode), p.log_prob(p.mode).expand(7))


def test_a_subclass_expands_to_itself():
    class Sub(SemiMarkovCRF):
        pass

    wide = Sub(**make_inputs()).expand((2, 3))
    assert isinstance(wide, Sub)
    assert wide.sample().counts.shape == (2, 3)


@pytest.mark.parametrize("shape", [(4,), (3, 1), ()])
def test_a_shape_that_does_not_fit_is_refused(shape):
    with pytest.raises(ShapeError, match=r"\(3,\) does not expand to a batch shape of"):
        crf().expand(shape)


# Values


@for_each_possible
@pytest.mark.parametrize("size", [SIZES[3], SIZES[4]], ids=str)
def test_log_prob_is_the_enumerated_one(flags, size):
    for b, judge in enumerate(oracles(size, flags=flags)):
        every = all_segmentations(judge)
        inputs = one_sequence(make_inputs(size, flags=flags), b)
        alone = SemiMarkovCRF(**inputs, validate_args=False)
        assert_close("log_prob", FLOAT64, alone.log_prob(every)[:, 0].exp(), judge.probabilities())
        assert torch.equal(
            alone.support.check(every)[:, 0], torch.from_numpy(judge.probabilities() > 0)
        )


@for_each_possible
def test_probabilities_of_samples_are_above_0_and_sum_to_1_over_the_support(flags):
    p, judge = single(flags)
    drawn = p.sample((50,), generator=seeded())
    log_prob = p.log_prob(drawn)
    assert (log_prob <= 0).all() and log_prob.isfinite().all()
    k = int((judge.probabilities() > 0).sum())
    every = p.topk(k).segments
    assert_close("log_prob", FLOAT64, p.log_prob(every).exp().sum(0), torch.ones(1))


@for_each_possible
def test_mode_and_topk_are_the_best(flags):
    p, judge = single(flags)
    assert [tuple(map(tuple, row)) for row in p.mode.to_list()] == [judge.best()]
    best = p.topk(2)
    assert (p.log_prob(p.mode) >= p.log_prob(p.sample((30,), generator=seeded()))).all()
    assert_close("log_prob", FLOAT64, p.log_prob(best.segments), best.scores - p.log_partition)


@for_each_possible
def test_the_queries_are_those_of_the_functions(flags):
    inputs = make_inputs(flags=flags)
    p = SemiMarkovCRF(**inputs)
    assert torch.equal(p.log_partition, torch_semimarkov.log_partition(**inputs))
    assert p.mode == viterbi(**inputs).segments
    assert p.topk(1).segments == kbest(**inputs, k=1).segments
    for mine, theirs in zip(p.marginals, torch_semimarkov.marginals(**inputs), strict=True):
        assert torch.equal(mine, theirs)


@for_each_possible
def test_entropy_is_the_mean_of_minus_log_prob_over_samples(flags):
    p, judge = single(flags)
    probabilities = torch.from_numpy(judge.probabilities())
    exact = -torch.xlogy(probabilities, probabilities).sum()
    assert_close("log_prob", FLOAT64, p.entropy()[0], exact)
    minus = -p.log_prob(p.sample((10_000,), generator=seeded()))
    assert abs(minus.mean() - exact) < 5 * minus.std() / 100 + 1e-9


# KL


@pytest.mark.parametrize("flags", ["plain", "boundary", "per-duration"])
def test_kl_is_registered_and_equals_enumeration(flags):
    p, q = crf(flags), crf(flags, seed=1)
    found = kl_divergence(p, q)
    assert found.shape == (3,)
    for b, (left, right) in enumerate(
        zip(oracles(SIZE, flags=flags), oracles(SIZE, flags=flags, seed=1), strict=True)
    ):
        first, second = left.probabilities(), right.probabilities()
        truth = float((first * torch.tensor(first / second).log().numpy()).sum())
        assert_close("log_prob", FLOAT64, found[b], torch.tensor(truth, dtype=FLOAT64))


def test_kl_of_equal_models_is_0_and_of_a_forbidden_one_inf():
    p = crf()
    assert (kl_divergence(p, p) == 0).all()
    transition = p.transition.clone()
    transition[0, 1] = -torch.inf
    q = SemiMarkovCRF(p.scores, transition, p.duration_bias, p.lengths)
    assert (kl_divergence(p, q)[[0, 2]] == torch.inf).all()
    assert kl_divergence(q, p).isfinite().all()


def test_kl_broadcasts_batch_shapes():
    p, q = crf(), crf(seed=1)
    assert torch.equal(kl_divergence(p.expand((2, 3)), q)[1], kl_divergence(p, q))


# Checks of arguments


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["scores", "transition", "duration_bias", "start", "end_scores"])
def test_a_parameter_that_is_no_potential_is_a_value_error(name, value):
    inputs = make_inputs(flags="all")
    inputs[name] = inputs[name].clone()
    inputs[name].view(-1)[0] = value
    with pytest.raises(ValueError, match=name):
        SemiMarkovCRF(**inputs, validate_args=True)
    SemiMarkovCRF(**inputs, validate_args=False)


def test_arg_constraints_hold_for_the_parameters():
    p = crf("all")
    assert set(p.arg_constraints) == set(make_inputs(flags="all")) - {"lengths"}
    for name, constraint in p.arg_constraints.items():
        if not torch.distributions.constraints.is_dependent(constraint):
            assert constraint.check(getattr(p, name)).all()
    assert "SemiMarkovCRF" in repr(p) and "transition" in repr(p)


@pytest.mark.parametrize(
    "rows",
    [
        [(0, 2, 0)],
        [(0, 4, 0), (4, 5, 1)],
        [(0, 3, 0), (3, 5, 3)],
        [(0, 3, 0), (2, 5, 1)],
        [],
    ],
)
def test_log_prob_refuses_what_is_no_segmentation(rows):
    p, _ = single()
    segments = Segments.from_list([rows])
    assert not p.support.check(segments).any()
    with pytest.raises(SegmentError):
        p.log_prob(segments)


def test_a_forbidden_segmentation_is_refused_or_has_probability_0():
    inputs = make_inputs()
    inputs["transition"][0, 0] = -torch.inf
    p = SemiMarkovCRF(**inputs)
    segments = Segments.from_list([[(0, 3, 0), (3, 5, 0)], [(0, 1, 0)], [(0, 2, 0), (2, 4, 1)]])
    assert p.support.check(segments).tolist() == [False, True, True]
    with pytest.raises(ValueError, match="sequence 0"):
        p.log_prob(segments)
    unchecked = SemiMarkovCRF(**inputs, validate_args=False)
    assert unchecked.log_prob(segments)[0] == -torch.inf


@pytest.mark.parametrize("value", [None, torch.zeros(3), 2])
def test_log_prob_takes_segments_only(value):
    with pytest.raises(ShapeError, match="value must be Segments"):
        crf().log_prob(value)


def test_log_prob_names_a_batch_that_does_not_broadcast():
    with pytest.raises(ShapeError, match=r"batch shape \(3,\), got \(2,\)"):
        crf().log_prob(Segments.from_list([[(0, 1, 0)], [(0, 1, 0)]]))


def test_torchs_default_of_validate_args_is_followed():
    before = Distribution._validate_args
    try:
        Distribution.set_default_validate_args(False)
        inputs = make_inputs()
        inputs["transition"][0, 0] = torch.nan
        SemiMarkovCRF(**inputs)
    finally:
        Distribution.set_default_validate_args(before)
    with pytest.raises(ValueError, match="transition"):
        SemiMarkovCRF(**inputs)


def test_an_impossible_sequence_is_an_error_where_a_segmentation_is_asked_for():
    p = crf("impossible")
    for query in (p.sample, lambda: p.mode, lambda: p.topk(2)):
        with pytest.raises(NumericsError, match="sequence 0"):
            query()
    assert p.log_partition[0] == -torch.inf


# Gradients


def test_log_prob_entropy_and_kl_are_differentiable_and_samples_are_not():
    inputs = with_grad(make_inputs(flags="boundary"))
    p, q = SemiMarkovCRF(**inputs), crf("boundary", seed=1)
    drawn = p.sample((2,))
    for value in (p.log_prob(drawn), p.entropy(), kl_divergence(p, q), kl_divergence(q, p)):
        leaves = [x for x in inputs.values() if x.is_floating_point()]
        grads = torch.autograd.grad(value.sum(), leaves)
        assert all(grad.isfinite().all() for grad in grads)
        assert grads[0].abs().sum() > 0


# The head


@pytest.mark.parametrize("options", [{}, {"boundary_scores": True}])
def test_the_head_gives_the_distribution_of_its_posterior(options):
    head, (hidden, lengths, *_) = random_head(**options), random_batch()
    p = head.distribution(hidden, lengths)
    assert isinstance(p, SemiMarkovCRF)
    assert p.duration_bias.shape == (K, C) and hidden.shape[-1] == D
    assert torch.equal(p.log_partition, head(hidden, lengths)["partition"])
    assert p.mode == head.decode(hidden, lengths).segments
    assert p.topk(3).segments == head.kbest(hidden, lengths, k=3).segments
    assert torch.equal(p.entropy(), head.entropy(hidden, lengths))
    drawn = head.sample(hidden, lengths, num_samples=4, generator=seeded())
    assert p.sample((4,), generator=seeded()) == drawn
    (-p.log_prob(drawn).mean() - p.entropy().sum()).backward()
    assert head.transition.grad.abs().sum() > 0


def test_an_expanded_distribution_sums_over_its_copies_and_spreads_the_rest():
    torch.manual_seed(0)
    one = SemiMarkovCRF(
        torch.randn(2, 7, 3), torch.randn(3, 3), torch.randn(2, 3), tail=torch.randn(3) - 2
    )
    many = one.expand((4, 2))
    for name, x in one.marginals._asdict().items():
        found = getattr(many.marginals, name)
        if name in ("transitions", "durations", "beyond"):
            torch.testing.assert_close(found, 4 * x)
        else:
            assert torch.equal(found, x.expand(4, *x.shape))
