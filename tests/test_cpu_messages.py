"""What the cpu backend keeps between forward and backward: how much, and which tiles are exact."""

import pytest
import torch
from factory import Size, make_inputs
from hostile_cases import hostile
from tolerances import assert_close

from torch_semimarkov.backends import cpu
from torch_semimarkov.backends.cpu.messages import layout_of
from torch_semimarkov.backends.cpu.plan import TILE
from torch_semimarkov.dispatch.queries import messages
from torch_semimarkov.potentials import Potentials

FLOAT32_BYTES, FLOAT64_BYTES = 4, 8


def potentials_of(inputs):
    return Potentials(**inputs).canonical()


def shapes_only(B, T, K, C):
    """Potentials of a size that take no room."""
    zero = torch.zeros(())
    return Potentials(zero.expand(B, T, C), zero.expand(C, C), zero.expand(K, C))


def kept_bytes(p, interval=None):
    B, numbers = cpu.kept_shape(p, True, interval)
    return B * numbers * FLOAT64_BYTES


@pytest.mark.parametrize("interval", [None, 100])
@pytest.mark.parametrize("lengths", [(3000,), (3000, 2000)])
def test_the_forward_alone_keeps_nothing(lengths, interval):
    p = potentials_of(make_inputs(Size(lengths, K=20, C=9)))
    value, kept = cpu.forward(p, "log", False, interval)
    assert kept.numel() == 0
    assert kept.shape == cpu.kept_shape(p, False, interval)
    assert value.isfinite().all()


@pytest.mark.parametrize("B", [1, 2, 8])
@pytest.mark.parametrize("C", [1, 2, 3, 8, 9, 17, 24, 40])
def test_what_is_kept_has_at_most_three_times_the_size_of_the_scores(C, B):
    for T in (200, 255, 256, 257, 272, 1000, 100_000):
        size = kept_bytes(shapes_only(B, T, 100, C))
        assert size <= 3 * B * T * C * FLOAT32_BYTES, T


@pytest.mark.parametrize("C", [9, 24])
def test_checkpoints_keep_far_less(C):
    p = shapes_only(1, 1_000_000, 100, C)
    assert kept_bytes(p, 2000) < kept_bytes(p) / 3
    assert kept_bytes(p, 2000) < 1_000_000 * C * FLOAT32_BYTES
    assert kept_bytes(p, 20_000) < kept_bytes(p, 2000) / 9


@pytest.mark.parametrize("interval", [None, 1, 100, 2000])
@pytest.mark.parametrize("B", [1, 2])
def test_what_is_kept_has_the_promised_shape(B, interval):
    p = potentials_of(make_inputs(Size((700, 699)[:B], K=20, C=9)))
    assert cpu.forward(p, "log", True, interval)[1].shape == cpu.kept_shape(p, True, interval)


def exact_share(name, T=1600):
    """Share of the tiles of the left-to-right sweep that were done again in logs."""
    p = potentials_of(hostile(name, T))
    layout = layout_of(p.B, p.T, p.K, p.C, None)
    row = cpu.forward(p, "log", True, None)[1][0]
    flags = row[layout.info + 2 : layout.info + 3 * (T // TILE) : 3]
    assert set(flags.tolist()) <= {0.0, 1.0}
    return flags.mean().item()


@pytest.mark.parametrize(
    "name",
    ["plain", "offset 30", "offset -1000", "far start", "durations forbidden to 20"],
)
def test_tame_scores_need_no_exact_tile(name):
    assert exact_share(name) == 0.0


@pytest.mark.parametrize(
    "name",
    [
        "x100",
        "drift",
        "drift that flips, long segments",
        "gentle drift that flips, long segments",
        "long durations 400 better",
        "low transitions",
        "one label at 1e4",
        "each label at 1e4 in turn",
        "strong boundaries",
    ],
)
def test_hostile_scores_take_the_exact_way(name):
    assert exact_share(name) > 0.5


def test_only_tiles_that_need_it_take_the_exact_way():
    assert 0.0 < exact_share("x10") < 0.5


@pytest.mark.parametrize("flags", ["boundary", "forbidden", "all", "tail", "per-duration"])
@pytest.mark.parametrize("size", [Size((70, 41, 1), K=9, C=11), Size((6,), K=20, C=3)], ids=str)
@pytest.mark.parametrize("factor", [1.0, 400.0])
def test_the_messages_in_nats_are_the_references(size, flags, factor):
    inputs = {
        name: x * factor if name in ("scores", "transition") else x
        for name, x in make_inputs(size, flags=flags).items()
    }
    p = Potentials(**inputs).canonical()
    inside = p.inside()
    found, truth = messages(p, "cpu"), messages(p, "reference")
    for value, expected in zip(found, truth, strict=True):
        assert value.dtype == torch.float64
        assert_close("log_partition", torch.float64, value[inside], expected[inside])
        assert (value[~inside] == -torch.inf).all()
