"""The scan whose history several programs sum: the one-program scan's and the reference's results.

Test sizes are small, so the table of variants is one whose rows all split, in tiles of 8 or 16.
"""

import os
from unittest import mock

import pytest
import torch

if not os.environ.get("TRITON_INTERPRET"):
    pytest.skip("needs TRITON_INTERPRET=1: make test-triton", allow_module_level=True)
pytest.importorskip("triton")

from factory import Size, gradients_of, make_inputs, upstream, with_grad
from hostile_cases import hostile, marginal_tolerance
from tolerances import assert_close

from torch_semimarkov.backends import triton as backend
from torch_semimarkov.backends.triton import variants
from torch_semimarkov.functional import explain, log_partition, marginals, viterbi
from torch_semimarkov.potentials import Potentials

FLOAT64, FLOAT32 = torch.float64, torch.float32
# More positions than the longest duration, and no multiple of the tile.
T = 84
HOSTILE = ("durations forbidden to 20", "long durations 400 better", "forbidden scores",
           "drift that flips, long segments", "each label at 1e4 in turn")  # fmt: skip


def table(tile):
    """A table whose only row splits; 0 for none."""
    return mock.patch.object(variants, "TABLE", ((1 << 20, 1, 4, 4, tile),))


def value_and_gradients(inputs, **options):
    leaves = with_grad(inputs)
    value = log_partition(**leaves, **options)
    weight = upstream(len(value), value.dtype)
    return (value, *gradients_of(value, leaves, weight).values())


def wide(inputs):
    return {n: x.double() if x.is_floating_point() else x for n, x in inputs.items()}


def same_bits(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("tile", [8, 16])
@pytest.mark.parametrize("semiring", ["log", "max"])
@pytest.mark.parametrize(
    ("size", "flags"),
    [
        (Size((77, 40, 16, 1), K=40, C=3), "boundary"),
        (Size((33, 20, 9), K=57, C=2, padding=3), "forbidden"),
        (Size((50, 49, 24), K=33, C=5, padding=1), "impossible"),
        (Size((48,), K=40, C=3), "start-end"),
    ],
    ids=str,
)
def test_it_has_the_values_of_one_program_and_of_the_reference(tile, semiring, size, flags):
    for dtype in (FLOAT64, FLOAT32):
        inputs = make_inputs(size, dtype, flags)
        with table(tile):
            found = log_partition(**inputs, backend="triton", semiring=semiring)
        with table(0):
            one = log_partition(**inputs, backend="triton", semiring=semiring)
        truth = log_partition(**wide(inputs), backend="reference", semiring=semiring)
        assert_close("log_partition", dtype, found, truth)
        assert_close("log_partition", dtype, found, one)


@pytest.mark.parametrize("flags", ["boundary", "forbidden", "impossible"])
def test_gradients_are_those_of_the_reference(flags):
    inputs = make_inputs(Size((60, 35, 8), K=40, C=3, padding=1), FLOAT64, flags)
    with table(16):
        found = value_and_gradients(inputs, backend="triton")
    for one, other in zip(found, value_and_gradients(inputs, backend="reference"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [FLOAT64, FLOAT32])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_scores_give_the_marginals_of_the_reference(name, dtype):
    inputs = hostile(name, T, dtype)
    with table(16):
        found = marginals(**inputs, backend="triton")
    truth = marginals(**wide(inputs), backend="reference")
    relative, absolute = (1e-12, marginal_tolerance(name)) if dtype == FLOAT64 else (1e-6, 1e-4)
    torch.testing.assert_close(
        found.log_partition.double(), truth.log_partition, rtol=relative, atol=1e-11
    )
    for field in ("labels", "starts", "ends"):
        error = (getattr(found, field).double() - getattr(truth, field)).abs().max()
        assert error <= absolute, (field, error.item())


@pytest.mark.parametrize("flags", ["start-end", "forbidden"])
def test_the_best_segmentation_is_that_of_the_reference(flags):
    inputs = make_inputs(Size((70, 41, 12), K=40, C=4), flags=flags)
    with table(8):
        found = viterbi(**inputs, backend="triton")
    truth = viterbi(**inputs, backend="reference")
    assert found.segments.to_list() == truth.segments.to_list()


def test_of_equal_segmentations_the_documented_one_is_taken():
    zeros = {n: torch.zeros_like(x) for n, x in make_inputs(Size((50,), K=40, C=3)).items()}
    zeros["lengths"] = torch.tensor([50])
    # four segments at least: those that are longer than a tile are as good as several in it
    zeros["duration_bias"][:10] = -1.0
    with table(8):
        found = viterbi(**zeros, backend="triton")
    truth = viterbi(**zeros, backend="reference")
    assert found.segments.to_list() == truth.segments.to_list()


def test_long_segments_of_a_label_end_where_its_score_is_forbidden():
    inputs = make_inputs(Size((64,), K=40, C=3))
    inputs["scores"][0, [15, 16, 31, 45], [0, 1, 0, 2]] = -torch.inf
    inputs["duration_bias"][:12] -= 30.0
    with table(16):
        found = value_and_gradients(inputs, backend="triton")
    for one, other in zip(found, value_and_gradients(inputs, backend="reference"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_two_runs_and_other_batch_mates_change_no_bit():
    inputs = make_inputs(Size((60, 45), K=40, C=3), FLOAT32, "boundary")
    with table(16):
        found = value_and_gradients(inputs, backend="triton")
        assert same_bits(value_and_gradients(inputs, backend="triton"), found)
        shared = ("transition", "duration_bias", "start", "end")
        alone = {n: x if n in shared else x[:1] for n, x in inputs.items()}
        first = log_partition(**alone, backend="triton")
    assert torch.equal(first, found[0][:1].detach())


def test_checkpoints_change_no_bit():
    inputs = make_inputs(Size((150, 133, 1), K=17, C=3), FLOAT32, "forbidden")
    with table(8):
        whole = value_and_gradients(inputs, backend="triton")
        options = {"backend": "triton", "checkpoint_interval": 30}
        assert same_bits(value_and_gradients(inputs, **options), whole)
        p = Potentials(**inputs).canonical()
        kept = backend.forward(p, "log", True, 30)[1]
        assert kept.shape == backend.kept_shape(p, True, 30)
        assert len(kept) > 1


def test_many_labels_are_taken_in_parts():
    inputs = make_inputs(Size((20, 4), K=17, C=70))
    with table(8), mock.patch.object(variants, "SHORTEST_TILE", 8):
        found = value_and_gradients(inputs, backend="triton")
    for one, other in zip(found, value_and_gradients(inputs, backend="reference"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_which_tile_runs_depends_on_durations_and_labels_alone():
    def variant(B, T, K, C, dtype=FLOAT32):
        shapes = (B, T, C), (C, C), (K, C)
        return backend.variant_of(Potentials(*(torch.empty(x, dtype=dtype) for x in shapes)))

    assert variant(1, 5, 1000, 24) == variant(64, 2000, 1000, 24)
    assert variant(1, 5, 1000, 24).tile == 64
    assert variant(1, 5, 100, 24).tile == variant(1, 5, 60, 24, FLOAT64).tile == 0
    assert variant(1, 5, 250, 24).tile == variant(1, 5, 100, 24, FLOAT64).tile == 64
    assert variant(1, 5, 1000, 256).tile == 16
    assert variant(1, 5, 8, 256).tile == 0


def test_an_explanation_says_that_the_history_is_split():
    inputs = make_inputs(Size((5,), K=1000, C=24), FLOAT32)
    assert "history of 64 positions split" in explain(**inputs, backend="triton").variant
