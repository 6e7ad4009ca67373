"""Decoding for boundary F1: which number of starts, and in how many digits."""

import numpy as np
import pytest
from factory import Size, make_inputs

import torch_semimarkov as ts
from torch_semimarkov.functional import risk


def test_the_expected_f1_of_float32_potentials_keeps_its_digits_however_large_log_z():
    call = make_inputs(Size((300,), K=4, C=2), flags="plain")
    shifted = {**call, "scores": call["scores"] + 1000.0}
    narrow = {name: x.float() if x.is_floating_point() else x for name, x in shifted.items()}
    found = ts.posterior_decode(**narrow, objective="boundary_f1").expected
    wide = {name: x.double() if x.is_floating_point() else x for name, x in narrow.items()}
    truth = ts.posterior_decode(**wide, objective="boundary_f1").expected
    assert float(found) == pytest.approx(float(truth), abs=1e-6)


def f1_by_number(seed, T):
    """n -> the expected F1 of the n best of T starts, of independent ones."""
    rng = np.random.default_rng(seed)
    sure = 5 * rng.random()
    p = 1 / (1 + np.exp(-sure * rng.normal(size=T) + 2))
    p[0] = 1
    counts = (rng.random((4000, T)) < p).astype(float)

    def value(n):
        gain = (2 * counts / (n + counts.sum(1, keepdims=True))).mean(0)
        return gain[0] + np.sort(gain[1:])[::-1][: n - 1].sum()

    return value


@pytest.mark.parametrize("T", [1, 2, 3, 40])
def test_the_best_number_of_starts_is_that_of_all_numbers(T):
    for seed in range(5):
        value = f1_by_number(seed, T)
        n, best = risk._best_number(value, T)
        assert best == value(n) == max(value(m) for m in range(1, T + 1))


def test_few_numbers_of_starts_are_looked_at():
    looked = []

    def value(n, right=1000.0):
        looked.append(n)
        return 2 * min(n, right) / (n + right)

    assert risk._best_number(value, 100_000) == (1000, 1.0)
    assert len(looked) < 300
