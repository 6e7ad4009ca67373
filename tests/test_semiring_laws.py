"""The laws of a semiring, for each of them, and no NaN in the gradient of what is impossible."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_semimarkov.semirings import (
    SEMIRINGS,
    CrossEntropySemiring,
    EntropySemiring,
    KLDivergenceSemiring,
    KMaxSemiring,
    LogSemiring,
    MaxSemiring,
    SampledSemiring,
    StdSemiring,
    filled,
)

inf = math.inf
finite = st.floats(-50, 50, allow_subnormal=False)
scores = st.one_of(finite, st.just(-inf))
weights = st.one_of(st.floats(0, 50, allow_subnormal=False), st.just(0.0))
means = st.floats(0, 10, allow_subnormal=False)


@st.composite
def best(draw):
    """Three scores in descending order, the last of which may be missing."""
    found = sorted(draw(st.lists(finite, max_size=3)), reverse=True)
    return (*found, *[-inf] * (3 - len(found)))


@st.composite
def with_entropy(draw):
    """Log mass and entropy; nothing has no entropy."""
    mass = draw(scores)
    return mass, 0.0 if mass == -inf else draw(means)


@st.composite
def with_cost(draw):
    """Log masses of p and q, and a cost that is infinite where p allows what q does not."""
    p, q = draw(scores), draw(scores)
    cost = inf if q == -inf else draw(means)
    return p, q, 0.0 if p == -inf else cost


KINDS = {
    "log": (LogSemiring(), scores),
    "max": (MaxSemiring(), scores),
    "std": (StdSemiring(), weights),
    "kmax": (KMaxSemiring(3), best()),
    "entropy": (EntropySemiring(), with_entropy()),
    "cross_entropy": (CrossEntropySemiring(), with_cost()),
    "kl_divergence": (KLDivergenceSemiring(), with_cost()),
    "sampled": (SampledSemiring(), scores),
}
for_each_semiring = pytest.mark.parametrize("name", KINDS)
often = settings(deadline=None, max_examples=60)


def draw_elements(name, data, count):
    """``count`` elements of a semiring, (*components, 1) each."""
    semiring, elements = KINDS[name]
    drawn = [data.draw(elements) for _ in range(count)]
    return semiring, *(torch.tensor(x, dtype=torch.float64)[..., None] for x in drawn)


def add(semiring, *elements):
    return semiring.sum(torch.cat(elements, -1), -1)[..., None]


def constant(semiring, element):
    return filled(element, (1,), torch.zeros(0, dtype=torch.float64))


def same(left, right):
    torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-10)


def products_are_associative_and_commutative(semiring, a, b, c):
    times = semiring.times
    same(times(times(a, b), c), times(a, times(b, c)))
    same(times(a, b), times(b, a))


def products_distribute(semiring, a, b, c):
    products = semiring.times(a, b), semiring.times(a, c)
    same(semiring.times(a, add(semiring, b, c)), add(semiring, *products))


def zero_annihilates(semiring, a):
    zero = constant(semiring, semiring.zero)
    same(semiring.times(a, zero), zero)
    same(semiring.times(zero, a), zero)


def test_there_are_laws_for_every_semiring():
    assert set(KINDS) == set(SEMIRINGS)
    assert all(type(KINDS[name][0]) is SEMIRINGS[name] for name in KINDS)


@for_each_semiring
@often
@given(data=st.data())
def test_the_sum_is_associative_and_commutative(name, data):
    semiring, a, b, c = draw_elements(name, data, 3)
    left = add(semiring, add(semiring, a, b), c)
    same(left, add(semiring, a, add(semiring, b, c)))
    same(left, add(semiring, a, b, c))
    same(left, add(semiring, c, a, b))


@for_each_semiring
@often
@given(data=st.data())
def test_the_product_is_associative_and_commutative(name, data):
    products_are_associative_and_commutative(*draw_elements(name, data, 3))


@for_each_semiring
@often
@given(data=st.data())
def test_the_product_distributes_over_the_sum(name, data):
    products_distribute(*draw_elements(name, data, 3))


@for_each_semiring
@often
@given(data=st.data())
def test_zero_is_neutral_in_sums_and_annihilates_products(name, data):
    semiring, a = draw_elements(name, data, 1)
    zero = constant(semiring, semiring.zero)
    same(add(semiring, a, zero), a)
    same(add(semiring, zero, a), a)
    same(add(semiring, zero, zero), zero)
    zero_annihilates(semiring, a)


@for_each_semiring
@often
@given(data=st.data())
def test_one_is_neutral_in_products(name, data):
    semiring, a = draw_elements(name, data, 1)
    one = constant(semiring, semiring.one)
    same(semiring.times(a, one), a)
    same(semiring.times(one, a), a)
    same(add(semiring, a), a)


@for_each_semiring
def test_neutral_scores_are_lifted_to_one_and_forbidden_ones_to_zero(name):
    semiring, _ = KINDS[name]
    for score, element in ((semiring.neutral, "one"), (semiring.forbidden, "zero")):
        lifted = semiring.lift(*[torch.full((1,), score, dtype=torch.float64)] * semiring.arguments)
        assert torch.equal(lifted, constant(semiring, getattr(semiring, element)))


@for_each_semiring
@often
@given(data=st.data())
def test_a_gradient_is_never_nan_and_is_0_at_what_is_forbidden(name, data):
    semiring, _ = KINDS[name]
    allowed = weights if name == "std" else scores
    rows = [
        [[data.draw(allowed) for _ in range(3)] for _ in range(2)]
        for _ in range(semiring.arguments)
    ]
    leaves = [torch.tensor(row, dtype=torch.float64, requires_grad=True) for row in rows]
    left, right = semiring.lift(*leaves).unbind(-2)
    product = semiring.times(semiring.sum(left, -1), semiring.sum(right, -1))
    value = semiring.lower(product)
    for leaf, gradient in zip(leaves, torch.autograd.grad(value.sum(), leaves), strict=True):
        assert gradient.isfinite().all()
        if name != "std":
            assert (gradient[leaf == -inf] == 0).all()


@for_each_semiring
@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
def test_a_sum_runs_along_the_dimension_asked_for(name, dim):
    semiring, _ = KINDS[name]
    x = semiring.lift(*torch.rand(semiring.arguments, 2, 3, 4, dtype=torch.float64))
    axis = dim if dim < 0 else dim - 3
    rows = x.movedim(axis, -1)
    expected = rows[..., :1]
    for i in range(1, rows.shape[-1]):
        expected = add_last(semiring, expected, rows[..., i : i + 1])
    same(semiring.sum(x, dim), expected[..., 0])


def add_last(semiring, a, b):
    return semiring.sum(torch.cat((a, b), -1), -1)[..., None]


@for_each_semiring
def test_products_broadcast_behind_the_components(name):
    semiring, _ = KINDS[name]
    x = semiring.lift(*torch.rand(semiring.arguments, 2, 3, dtype=torch.float64))
    outer = semiring.times(x[..., :, :1], x[..., :1, :])
    assert outer.shape == (*semiring.components, 2, 3)
    same(outer[..., 1, 2], semiring.times(x[..., 1, 0], x[..., 0, 2]))


@often
@given(data=st.data())
def test_the_k_best_of_lifted_scores_are_the_largest_in_order(data):
    drawn = data.draw(st.lists(scores, min_size=1, max_size=6))
    value = KMaxSemiring(4).sum(
        KMaxSemiring(4).lift(torch.tensor(drawn, dtype=torch.float64)), dim=0
    )
    expected = (sorted(drawn, reverse=True) + [-inf] * 4)[:4]
    assert value.tolist() == expected
    assert all(a >= b for a, b in pairwise(value.tolist()))


def test_0_log_0_is_0_in_entropies():
    semiring = EntropySemiring()
    x = semiring.lift(torch.tensor([0.0, -inf, -2000.0], dtype=torch.float64))
    assert semiring.lower(semiring.sum(x, -1)).item() == 0.0


@pytest.mark.parametrize("semiring", [CrossEntropySemiring(), KLDivergenceSemiring()])
def test_what_q_forbids_costs_infinitely_much_where_p_allows_it_and_nothing_where_not(semiring):
    q = torch.tensor([0.0, -inf], dtype=torch.float64)
    allowed = semiring.lift(torch.tensor([0.0, 0.0], dtype=torch.float64), q)
    forbidden = semiring.lift(torch.tensor([0.0, -inf], dtype=torch.float64), q)
    assert semiring.lower(semiring.sum(allowed, -1)).item() == inf
    assert semiring.lower(semiring.sum(forbidden, -1)).item() == 0.0
    assert semiring.lower(allowed).tolist() == [0.0, inf]
    assert semiring.lower(forbidden).tolist() == [0.0, 0.0]


class _PlainEntropy(EntropySemiring):
    def times(self, a, b):
        return a + b


class _PlainKMax(KMaxSemiring):
    def times(self, a, b):
        return a + b


class _Difference(LogSemiring):
    def times(self, a, b):
        return a - b


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (_PlainEntropy(), lambda semiring, a, b, c: zero_annihilates(semiring, a)),
        (_PlainKMax(2), products_distribute),
        (_Difference(), products_are_associative_and_commutative),
    ],
)
def test_each_law_of_products_bites(broken, law):
    rows = torch.tensor([[3.0, 1.0], [2.0, 0.5], [1.5, -4.0]], dtype=torch.float64)
    elements = rows[..., None] if broken.components else rows[:, :1]
    with pytest.raises(AssertionError):
        law(broken, *elements)


def test_a_sample_is_drawn_by_its_probability():
    p = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
    x = p.log().expand(20000, 4).clone().requires_grad_()
    semiring = SampledSemiring(torch.Generator().manual_seed(0))
    (drawn,) = torch.autograd.grad(semiring.sum(x, -1).sum(), x)
    assert (drawn.sum(-1) == 1).all() and ((drawn == 0) | (drawn == 1)).all()
    spread = 5 * (p * (1 - p) / len(x)).sqrt()
    assert ((drawn.mean(0) - p).abs() <= spread).all()


def test_a_seed_fixes_the_samples_and_each_backward_draws_anew():
    x = torch.zeros(100, 5, dtype=torch.float64, requires_grad=True)

    def drawn(generator, times):
        value = SampledSemiring(generator).sum(x, -1).sum()
        return [torch.autograd.grad(value, x, retain_graph=True)[0] for _ in range(times)]

    first, second = drawn(torch.Generator().manual_seed(3), 2)
    assert not torch.equal(first, second)
    assert torch.equal(first, drawn(torch.Generator().manual_seed(3), 1)[0])
