"""Posterior samples: their frequencies are the enumerated probabilities."""

import importlib

import pytest
import torch
from factory import FLAGS, PER_POSITION, SIZES, Size, make_inputs, oracles, with_grad
from scipy.stats import chi2

from torch_semimarkov import dispatch, explain, sample, segment_score
from torch_semimarkov.errors import NumericsError, ShapeError, UnsupportedError

DRAWS = 20_000
POSSIBLE = [name for name, flags in FLAGS.items() if "impossible" not in flags]
for_each_possible = pytest.mark.parametrize("flags", POSSIBLE)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def paths(drawn, b):
    """The drawn segmentations of sequence b."""
    return [batch[b] for batch in drawn.to_list()]


def p_value(drawn, found):
    """Chi-squared test of draws of one sequence; outcomes expected under 5 times are merged."""
    counts = dict.fromkeys(found.segmentations, 0)
    for path in drawn:
        counts[tuple((s.start, s.end, s.label) for s in path)] += 1
    rare_seen = rare_expected = statistic = 0.0
    cells = 0
    for (path, seen), probability in zip(counts.items(), found.probabilities(), strict=True):
        expected = probability * len(drawn)
        assert expected > 0 or seen == 0, f"{path} has probability 0 and was drawn"
        if expected < 5:
            rare_seen, rare_expected = rare_seen + seen, rare_expected + expected
        else:
            statistic, cells = statistic + (seen - expected) ** 2 / expected, cells + 1
    if rare_expected > 0:
        statistic, cells = statistic + (rare_seen - rare_expected) ** 2 / rare_expected, cells + 1
    return chi2.sf(statistic, cells - 1) if cells > 1 else 1.0


@for_each_possible
@pytest.mark.parametrize("size", [SIZES[3], SIZES[4], SIZES[5]], ids=str)
def test_frequencies_are_the_enumerated_probabilities(flags, size):
    inputs = make_inputs(size, flags=flags)
    drawn = sample(**inputs, num_samples=DRAWS, generator=seeded())
    for b, found in enumerate(oracles(size, flags=flags)):
        assert p_value(paths(drawn, b), found) > 1e-3


def test_the_chi_squared_test_bites():
    inputs = make_inputs()
    other = {**inputs, "transition": inputs["transition"] + 0.2 * torch.eye(3)}
    drawn = sample(**other, num_samples=DRAWS, generator=seeded())
    assert p_value(paths(drawn, 0), oracles()[0]) < 1e-3


def test_padding_never_reaches_a_sample():
    size = Size((5, 1, 4), K=3, C=3, padding=2)
    inputs = make_inputs(size, flags="all-tail")
    outside = torch.arange(size.T) >= inputs["lengths"][:, None]
    filled = {
        name: x.masked_fill(outside[..., None], torch.nan) if name in PER_POSITION else x
        for name, x in inputs.items()
    }
    clean = sample(**inputs, num_samples=50, generator=seeded())
    assert sample(**filled, num_samples=50, generator=seeded()) == clean


def test_a_generator_makes_samples_reproducible():
    inputs = make_inputs()
    first = sample(**inputs, num_samples=50, generator=seeded(1))
    assert sample(**inputs, num_samples=50, generator=seeded(1)) == first
    assert sample(**inputs, num_samples=50, generator=seeded(2)) != first
    torch.manual_seed(3)
    by_default = sample(**inputs, num_samples=50)
    torch.manual_seed(3)
    assert sample(**inputs, num_samples=50) == by_default


@pytest.mark.parametrize("flags", ["plain", "all", "tail", "all-tail"])
def test_samples_that_walk_in_turns_have_the_same_frequencies(monkeypatch, flags):
    home = importlib.import_module("torch_semimarkov.backends.reference.sample")
    monkeypatch.setattr(home, "_CHUNK", 9 * 1000)
    drawn = sample(**make_inputs(flags=flags), num_samples=DRAWS, generator=seeded())
    assert drawn.counts.shape == (DRAWS, 3)
    for b, found in enumerate(oracles(flags=flags)):
        assert p_value(paths(drawn, b), found) > 1e-3


@pytest.mark.parametrize("flags", ["plain", "all", "tail", "all-tail"])
def test_samples_of_long_sequences_tile_them(flags):
    inputs = make_inputs(Size((5000, 4321), K=12, C=4), torch.float32, flags)
    drawn = sample(**inputs, num_samples=5, generator=seeded())
    scores = segment_score(drawn, **inputs, validate_segments=True)
    assert scores.shape == (5, 2)
    assert scores.isfinite().all()
    assert len(scores.unique()) == 10


@pytest.mark.parametrize("flags", ["impossible", "impossible-per-duration"])
def test_an_impossible_sequence_is_an_error_that_names_it(flags):
    with pytest.raises(NumericsError, match="no segmentation of sequence 0 is possible"):
        sample(**make_inputs(flags=flags))


def test_a_seed_is_no_generator():
    with pytest.raises(ShapeError, match=r"generator must be a torch\.Generator or None, got int"):
        sample(**make_inputs(), generator=3)


@pytest.mark.parametrize("num_samples", [0, -1, 1.5, True])
def test_fewer_than_one_sample_is_refused(num_samples):
    with pytest.raises(ShapeError, match="num_samples must be an integer >= 1"):
        sample(**make_inputs(), num_samples=num_samples)


def test_sampling_records_no_gradient_and_leaves_arguments_alone():
    inputs = with_grad(make_inputs())
    before = {name: x.detach().clone() for name, x in inputs.items()}
    drawn = sample(**inputs, num_samples=2, generator=seeded())
    assert drawn.starts.shape[:-1] == (2, 3)
    assert all(torch.equal(before[name], x) for name, x in inputs.items())


def test_explain_says_which_backend_samples():
    inputs = make_inputs()
    found = explain(**inputs, op="sample")
    assert found.chosen == "reference"
    assert "has no sample" in str(found)
    other = next(name for name in dispatch.available_backends() if name != "reference")
    with pytest.raises(UnsupportedError, match="has no sample"):
        sample(**inputs, backend=other)


def test_all_samples_share_one_pass_over_the_sequences(monkeypatch):
    passes = []
    home = importlib.import_module("torch_semimarkov.backends.reference.sample")
    scan = home.scan
    monkeypatch.setattr(home, "scan", lambda *a: passes.append(1) or scan(*a))
    sample(**make_inputs(), num_samples=100)
    assert len(passes) == 1
