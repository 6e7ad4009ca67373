"""Semirings by name, and what those of scores promise beyond the laws: gradients, large numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_semimarkov.errors import UnsupportedError
from torch_semimarkov.semirings import (
    SEMIRINGS,
    EntropySemiring,
    KMaxSemiring,
    as_semiring,
    by_name,
)

numbers = st.one_of(st.floats(-50, 50, allow_subnormal=False), st.just(-math.inf))
lists = st.lists(numbers, min_size=1, max_size=6)
# Those whose elements are scores in nats and whose product is +.
OF_SCORES = ("log", "max", "sampled")
for_each_semiring = pytest.mark.parametrize("semiring", [by_name(name) for name in OF_SCORES],
                                            ids=OF_SCORES)  # fmt: skip


def add(semiring, *values):
    return semiring.sum(torch.tensor(values, dtype=torch.float64), dim=0)


def same(left, right):
    torch.testing.assert_close(torch.as_tensor(left), torch.as_tensor(right, dtype=torch.float64),
                               rtol=1e-12, atol=1e-12)  # fmt: skip


@for_each_semiring
@settings(deadline=None)
@given(values=lists)
def test_the_gradient_of_a_sum_is_a_distribution_over_what_is_possible(semiring, values):
    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(semiring.sum(x, 0), x)
    possible = any(value > -math.inf for value in values)
    assert gradient.sum().item() == pytest.approx(1.0 if possible else 0.0)
    assert (gradient >= 0).all()
    assert (gradient[x == -math.inf] == 0).all()


@for_each_semiring
def test_a_sum_of_nothing_possible_has_gradient_zero_beside_one_that_has_some(semiring):
    x = torch.tensor([[-math.inf, -math.inf], [0.0, -math.inf]], requires_grad=True)
    value = semiring.sum(x, 1)
    (gradient,) = torch.autograd.grad(value[1] + torch.where(value[0] > 0, value[0], 0.0), x)
    assert value.tolist() == [-math.inf, 0.0]
    assert gradient.tolist() == [[0.0, 0.0], [1.0, 0.0]]
    (gradient,) = torch.autograd.grad(semiring.sum(x, 1), x, torch.ones(2))
    assert gradient.tolist() == [[0.0, 0.0], [1.0, 0.0]]


@for_each_semiring
@pytest.mark.parametrize("scale", [1e3, 1e300])
def test_large_numbers_do_not_overflow(semiring, scale):
    same(add(semiring, scale, -scale), scale)
    same(add(semiring, -scale, -math.inf), -scale)


def test_the_max_gives_its_gradient_to_the_first_of_equals():
    x = torch.tensor([1.0, 3.0, 3.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(by_name("max").sum(x, 0), x)
    assert gradient.tolist() == [0.0, 1.0, 0.0]


def test_each_semiring_knows_its_own_name():
    assert {name: semiring.name for name, semiring in SEMIRINGS.items()} == {
        name: name for name in SEMIRINGS
    }
    assert all(by_name(name).name == name for name in SEMIRINGS if name != "kmax")
    assert len(SEMIRINGS) == 8


def test_an_unknown_semiring_is_an_error_that_lists_the_known():
    with pytest.raises(UnsupportedError, match=r"\[.*'log', 'max'.*\], got 'tropical'"):
        by_name("tropical")


def test_a_semiring_may_be_given_by_name_class_or_itself():
    for semiring in ("entropy", EntropySemiring, EntropySemiring()):
        assert isinstance(as_semiring(semiring), EntropySemiring)


@pytest.mark.parametrize("semiring", ["kmax", KMaxSemiring])
def test_kmax_by_name_asks_for_its_k(semiring):
    with pytest.raises(UnsupportedError, match=r"pass KMaxSemiring\(k\)"):
        as_semiring(semiring)


@pytest.mark.parametrize("semiring", [None, 3, int, object()])
def test_what_is_no_semiring_is_refused(semiring):
    with pytest.raises(UnsupportedError, match=r"must be a name in .* or a semiring, got"):
        as_semiring(semiring)


@pytest.mark.parametrize("k", [0, -1, 2.0, True, "2"])
def test_a_k_that_is_no_whole_number_from_1_is_refused(k):
    with pytest.raises(UnsupportedError, match="k must be an integer >= 1, got"):
        KMaxSemiring(k)
