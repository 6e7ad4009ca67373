"""The vector type of the compiled CPU kernels, lane by lane against numpy."""

import numpy as np
import pytest
from numba import njit

from torch_semimarkov.backends.cpu import elementary
from torch_semimarkov.backends.cpu import vector as v
from torch_semimarkov.backends.cpu import vector_types as kinds


@njit
def apply_exp(x, y):
    for i in range(0, len(x), kinds.LANES):
        v.store(y, i, elementary.exp(v.load(x, i)))


@njit
def apply_log(x, y):
    for i in range(0, len(x), kinds.LANES):
        v.store(y, i, elementary.log(v.load(x, i)))


@njit
def apply_formula(a, b, y):
    x, z = v.load(a, 0), v.load(b, 0)
    v.store(y, 0, x * z + v.spread(2.0) - z)
    v.store(y, kinds.LANES, elementary.larger(x, z))
    v.store(y, 2 * kinds.LANES, v.where(x < z, x, v.spread(7.0)))
    v.store(y, 3 * kinds.LANES, v.multiply_add(x, z, x))


@njit
def apply_powers(x, y):
    v.store(y, 0, elementary.exponent(v.load(x, 0)))
    v.store(y, kinds.LANES, elementary.rounded(v.load(x, 0)))
    v.store(y, 2 * kinds.LANES, elementary.power_of_two(v.load(x, kinds.LANES)))


@njit
def apply_transpose(x, y):
    n = kinds.LANES
    rows = v.transpose((
        v.load(x, 0), v.load(x, n), v.load(x, 2 * n), v.load(x, 3 * n),
        v.load(x, 4 * n), v.load(x, 5 * n), v.load(x, 6 * n), v.load(x, 7 * n),
    ))  # fmt: skip
    for i in range(n):
        v.store(y, i * n, rows[i])


def test_transpose_exchanges_lanes_and_vectors():
    x = np.arange(64.0)
    y = np.empty_like(x)
    apply_transpose(x, y)
    assert (y.reshape(8, 8) == x.reshape(8, 8).T).all()


def test_powers_of_two_are_found_and_made_exactly():
    numbers = np.array([1.0, 1.999, 2.0, 0.75, 1e300, 3e-308, 0.0, 12345.678])
    powers = np.array([0.0, 1.0, -1.0, 1023.0, -1022.0, 52.0, -300.0, 7.0])
    y = np.empty(3 * kinds.LANES)
    apply_powers(np.concatenate((numbers, powers)), y)
    exponents = [0.0 if x == 0.0 else np.frexp(x)[1] - 1.0 for x in numbers]
    assert y[: kinds.LANES].tolist() == exponents
    small = numbers < 1e9
    assert (y[kinds.LANES : 2 * kinds.LANES][small] == np.rint(numbers[small])).all()
    assert (y[2 * kinds.LANES :] == np.ldexp(1.0, powers.astype(int))).all()


def test_exp_is_right_to_the_last_place_or_two():
    x = np.linspace(-707.9, 700.0, 80_000)
    y = np.empty_like(x)
    apply_exp(x, y)
    np.testing.assert_allclose(y, np.exp(x), rtol=4e-16)


@pytest.mark.parametrize("x, y", [(-np.inf, 0.0), (-708.5, 0.0), (-1e300, 0.0), (0.0, 1.0)])
def test_exp_of_what_underflows_is_zero_and_of_zero_is_one(x, y):
    found = np.empty(kinds.LANES)
    apply_exp(np.full(kinds.LANES, x), found)
    assert (found == y).all()


def test_exp_lets_nan_through():
    found = np.zeros(kinds.LANES)
    apply_exp(np.full(kinds.LANES, np.nan), found)
    assert np.isnan(found).all()


def test_log_is_numpys_and_minus_infinity_at_zero():
    x = np.concatenate((np.geomspace(1e-300, 1e300, 8 * kinds.LANES - 1), [0.0]))
    y = np.empty_like(x)
    apply_log(x, y)
    np.testing.assert_allclose(y[:-1], np.log(x[:-1]), rtol=4e-16)
    assert y[-1] == -np.inf


def test_formulas_work_lane_by_lane():
    rng = np.random.default_rng(0)
    a, b, y = rng.normal(size=kinds.LANES), rng.normal(size=kinds.LANES), np.empty(4 * kinds.LANES)
    apply_formula(a, b, y)
    expected = [a * b + 2.0 - b, np.maximum(a, b), np.where(a < b, a, 7.0), a * b + a]
    np.testing.assert_allclose(y, np.concatenate(expected), rtol=1e-14)


@njit
def apply_beats(a, b, y):
    v.store(y, 0, v.where(v.beats(v.load(a, 0), v.load(b, 0)), v.spread(1.0), v.spread(0.0)))


def test_the_larger_beats_the_smaller_and_nan_beats_and_loses_to_all():
    a = np.array([1.0, 2.0, 1.0, np.nan, 1.0, np.nan, -np.inf, np.inf])
    b = np.array([2.0, 1.0, 1.0, 1.0, np.nan, np.nan, -np.inf, 1.0])
    y = np.empty(kinds.LANES)
    apply_beats(a, b, y)
    assert y.tolist() == [0, 1, 0, 1, 1, 1, 0, 1]


def rows_in(algebra):
    @njit
    def apply(a, b, y):
        x, z = v.of(algebra, v.load_rows(a, 0)), v.of(algebra, v.load_rows(b, 0))
        width = kinds.ROWS * kinds.LANES
        v.store(y, 0, x * z)
        v.store(y, width, x + z)
        v.store(y, 2 * width, v.multiply_add(x, z, v.zero_rows(algebra)))
        v.store(y, 3 * width, v.repeat(v.sum_of_rows(x)))
        v.store(y, 4 * width, v.of(algebra, v.spread_each(b, 0)))

    return apply


@pytest.mark.parametrize(
    ("algebra", "plus", "times"),
    [(kinds.LINEAR, np.add, np.multiply), (kinds.TROPICAL, np.maximum, np.add)],
    ids=["linear", "tropical"],
)
def test_rows_follow_the_operations_of_their_algebra(algebra, plus, times):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, kinds.ROWS, kinds.LANES))
    y = np.empty((5, kinds.ROWS, kinds.LANES))
    rows_in(algebra)(a.reshape(-1), b.reshape(-1), y.reshape(-1))
    expected = [
        times(a, b), plus(a, b), times(a, b), np.broadcast_to(plus.reduce(a), a.shape),
        np.broadcast_to(b.reshape(-1)[: kinds.ROWS, None], a.shape),
    ]  # fmt: skip
    np.testing.assert_allclose(y, expected, rtol=1e-14)


@njit
def copy_part(x, y, count):
    v.store_part(y, 0, count, v.load_part(x, 0, count))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", range(1, kinds.LANES + 1))
def test_a_part_of_a_vector_leaves_the_rest_of_memory_alone(dtype, count):
    x, y = np.full(count, 1.5, dtype), np.zeros(kinds.LANES, dtype)
    copy_part(x, y, count)
    assert y.tolist() == [1.5] * count + [0.0] * (kinds.LANES - count)


@njit
def apply_any(x, bound):
    return v.any_of(v.load(x, 0) > v.spread(bound))


def test_any_of_the_flags():
    x = np.arange(kinds.LANES, dtype=float)
    assert apply_any(x, 6.5)
    assert not apply_any(x, 7.0)


@njit
def apply_across(a, limit, y):
    x = v.load(a, 0)
    y[0] = v.sum_of_lanes(x)
    y[1] = 1.0 if v.any_of(x > v.spread(limit)) else 0.0
    v.store(y, 2, v.spread_from(a, 5))


def test_lanes_are_summed_compared_and_filled_from_one_number():
    a = np.random.default_rng(0).normal(size=kinds.LANES)
    y = np.empty(2 + kinds.LANES)
    for limit, above in ((a.max(), 0.0), (np.sort(a)[-2], 1.0), (-np.inf, 1.0)):
        apply_across(a, limit, y)
        assert y[0] == pytest.approx(a.sum(), rel=1e-14)
        assert y[1] == above
        assert (y[2:] == a[5]).all()
