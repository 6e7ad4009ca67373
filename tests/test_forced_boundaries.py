"""Forced boundaries on longer sequences: backends agree, and the kernels stay in their fast way."""

import forced_boundaries as bench
import pytest
import torch
from factory import Size, make_inputs, tensors, with_grad
from tolerances import FLOAT64, assert_close

import torch_semimarkov as ts
from torch_semimarkov.backends import cpu
from torch_semimarkov.backends.cpu.plan import TILE
from torch_semimarkov.functional.inputs import gather


def test_backends_agree_on_forced_boundaries_of_longer_sequences():
    size = Size((97, 60), K=12, C=4)
    inputs = make_inputs(size, flags="boundary")
    boundaries = torch.where(torch.rand(2, 97, generator=torch.Generator().manual_seed(0)) < 0.3,
                             1, -1)  # fmt: skip
    boundaries[:, 5:8] = 0
    terms = ts.constrain(**inputs, boundaries=boundaries).terms
    values = [ts.log_partition(**terms, backend=name) for name in ("reference", "cpu")]
    assert_close("log_partition", FLOAT64, *values)
    starts = [ts.marginals(**terms, backend=name).boundaries for name in ("reference", "cpu")]
    assert_close("marginals", FLOAT64, *starts)
    known = boundaries[0] >= 0
    known[0] = False
    assert_close("marginals", FLOAT64, starts[1][0, known], boundaries[0, known].double())


@pytest.mark.parametrize("interval", [None, 20])
def test_durations_that_no_room_is_left_for_are_forbidden_and_get_no_gradient(interval):
    inputs = make_inputs(Size((61, 40), K=12, C=3))
    boundaries = torch.full((2, 61), -1)
    boundaries[:, ::5] = 1
    boundaries[1, 10] = -1  # ten positions
    grads = []
    for name in ("reference", "cpu"):
        leaves = with_grad(inputs)
        terms = ts.constrain(**leaves, boundaries=boundaries).terms
        assert (terms["duration_bias"][10:] == -torch.inf).all()
        assert (terms["duration_bias"][:10] > -torch.inf).all()
        value = ts.log_partition(**terms, backend=name, checkpoint_interval=interval)
        grads.append(torch.autograd.grad(value.sum(), list(tensors(leaves).values())))
    for truth, found in zip(*grads, strict=True):
        assert_close("gradient", FLOAT64, found, truth)


def test_forced_and_forbidden_boundaries_leave_most_tiles_of_a_kernel_linear():
    T = 800
    inputs = make_inputs(Size((T,), K=30, C=9))
    boundaries = torch.full((1, T), -1)
    boundaries[0, 100::100] = 1
    boundaries[0, 301:320] = 0
    terms = ts.constrain(**inputs, boundaries=boundaries).terms
    p = gather(**terms)
    _, kept = cpu.forward(p, "log", True, None)
    layout = cpu.layout_of(1, T, 30, 18, None)
    exact = kept[0, layout.info : layout.info + 3 * (T // TILE)].reshape(-1, 3)[:, 2]
    assert int(exact.sum()) <= 2 * 7


def test_the_benchmark_of_known_boundaries_looks_at_them_and_gives_multiples(monkeypatch):
    models = bench.models_of((2, 60, 6, 3), (20, 7))
    assert list(models) == ["plain", "one in 20", "one in 7", "forbidden"]
    first, *others = bench.multiples(ts.log_partition, list(models.values()), 2)
    assert first > 0 and len(others) == 3 and min(others) > 0
    monkeypatch.setattr(bench, "constrain", lambda *_, **call: ts.constrain(
        **{k: v for k, v in call.items() if k != "boundaries"}))  # fmt: skip
    with pytest.raises(SystemExit, match="another probability"):
        bench.models_of((2, 60, 6, 3), (20,))
