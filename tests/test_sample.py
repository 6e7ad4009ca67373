"""Posterior samples: their frequencies are the enumerated probabilities."""

import importlib
import os

import pytest
import torch
from factory import (
    BACKENDS,
    FLAGS,
    SIZES,
    Size,
    by_threads,
    device_of,
    make_inputs,
    one_sequence,
    oracles,
    runs_on,
    to_sequence,
    with_grad,
    with_padding,
)
from oracle import Oracle
from scipy.stats import chi2

from torch_semimarkov import explain, marginals, sample, segment_score
from torch_semimarkov.errors import NumericsError, ShapeError, UnsupportedError

# Triton's interpreter takes milliseconds for each operation of a draw.
DRAWS = 4_000 if os.environ.get("TRITON_INTERPRET") else 20_000
POSSIBLE = [name for name, flags in FLAGS.items() if "impossible" not in flags]
for_each_possible = pytest.mark.parametrize("flags", POSSIBLE)
for_each_backend = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def samples_side_by_side(monkeypatch):
    """Triton's interpreter takes as long for many rows of a tile as for one."""
    if os.environ.get("TRITON_INTERPRET"):
        home = importlib.import_module("torch_semimarkov.backends.triton.launch_walk")
        monkeypatch.setattr(home, "ENTRIES", 1 << 14)
        monkeypatch.setattr(home, "PAIR_ENTRIES", 1 << 16)


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


@for_each_backend
@for_each_possible
@pytest.mark.parametrize("size", [SIZES[3], SIZES[4], SIZES[5]], ids=str)
def test_frequencies_are_the_enumerated_probabilities(backend, flags, size):
    inputs = make_inputs(size, flags=flags, device=device_of(backend))
    with runs_on(backend):
        drawn = sample(**inputs, num_samples=DRAWS, generator=seeded())
    for b, found in enumerate(oracles(size, flags=flags)):
        assert p_value(paths(drawn, b), found) > 1e-3


@for_each_backend
def test_the_chi_squared_test_bites(backend):
    inputs = make_inputs(device=device_of(backend))
    other = {**inputs, "transition": inputs["transition"] + 0.2 * torch.eye(3).to(inputs["scores"])}
    drawn = sample(**other, num_samples=DRAWS, generator=seeded(), backend=backend)
    assert p_value(paths(drawn, 0), oracles()[0]) < 1e-3


@for_each_backend
@pytest.mark.parametrize("flags", ["boundary", "all", "all-tail"])
def test_padding_never_reaches_a_sample(backend, flags):
    size = Size((5, 1, 4), K=3, C=3, padding=2)
    inputs = make_inputs(size, flags=flags, device=device_of(backend))
    with runs_on(backend):
        clean = sample(**inputs, num_samples=50, generator=seeded())
        filled = with_padding(inputs, torch.nan)
        assert sample(**filled, num_samples=50, generator=seeded(), validate_args=False) == clean


@for_each_backend
def test_a_generator_makes_samples_reproducible(backend):
    inputs = {**make_inputs(device=device_of(backend)), "backend": backend}
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
    inputs = {**make_inputs(flags=flags), "backend": "reference"}
    drawn = sample(**inputs, num_samples=DRAWS, generator=seeded())
    assert drawn.counts.shape == (DRAWS, 3)
    for b, found in enumerate(oracles(flags=flags)):
        assert p_value(paths(drawn, b), found) > 1e-3


@for_each_backend
@pytest.mark.parametrize("flags", ["plain", "all", "tail", "all-tail"])
def test_samples_of_long_sequences_tile_them(backend, flags):
    size = Size((5000, 4321), K=12, C=4)
    inputs = make_inputs(size, torch.float32, flags, device=device_of(backend))
    with runs_on(backend):
        drawn = sample(**inputs, num_samples=5, generator=seeded())
    scores = segment_score(drawn, **inputs, validate_segments=True)
    assert scores.shape == (5, 2)
    assert scores.isfinite().all()
    assert len(scores.unique()) == 10


@for_each_backend
@pytest.mark.parametrize("flags", ["impossible", "impossible-per-duration"])
def test_an_impossible_sequence_is_an_error_that_names_it(backend, flags):
    with pytest.raises(NumericsError, match="no segmentation of sequence 0 is possible"):
        sample(**make_inputs(flags=flags, device=device_of(backend)), backend=backend)


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
    assert found.chosen == "cpu"
    assert "needs CUDA tensors" in str(found)
    with pytest.raises(UnsupportedError, match="triton: needs CUDA tensors, got cpu"):
        sample(**inputs, backend="triton")


def test_all_samples_share_one_pass_over_the_sequences(monkeypatch):
    passes = []
    home = importlib.import_module("torch_semimarkov.backends.reference.sample")
    scan = home.scan
    monkeypatch.setattr(home, "scan", lambda *a: passes.append(1) or scan(*a))
    sample(**make_inputs(), num_samples=100, backend="reference")
    assert len(passes) == 1


@pytest.mark.parametrize("flags", ["plain", "all", "tail"])
def test_the_cpu_backend_sweeps_each_sequence_once_whatever_the_number_of_samples(
    monkeypatch, flags
):
    home = importlib.import_module("torch_semimarkov.backends.cpu.paths")
    passes = []

    def counting(function):
        return lambda *a: passes.append(1) or function(*a)

    tails = importlib.import_module("torch_semimarkov.backends.cpu.tail_paths")
    monkeypatch.setattr(tails, "filter_long", counting(tails.filter_long))
    monkeypatch.setattr(home, "filter_forward", counting(home.filter_forward))
    monkeypatch.setattr(home.per_duration, "forward", counting(home.per_duration.forward))
    sample(**make_inputs(flags=flags), num_samples=600, backend="cpu")
    assert len(passes) == (1 if flags == "all" else 3)


@pytest.mark.parametrize("flags", ["plain", "all", "tail"])
def test_threads_and_the_number_of_samples_change_no_sample(flags):
    size = Size((900, 700, 800), K=40, C=8)
    inputs = make_inputs(size, flags=flags)
    one, two = by_threads(
        (1, 2), lambda: sample(**inputs, num_samples=300, generator=seeded(), backend="cpu")
    )
    assert one == two
    fewer = sample(**inputs, num_samples=3, generator=seeded(), backend="cpu")
    assert fewer == one[:3]


@pytest.mark.parametrize("flags", ["plain", "tail"])
@pytest.mark.parametrize("scale", [20.0, 300.0])
def test_the_cpu_backend_samples_right_where_its_tiles_are_in_logs(scale, flags):
    inputs = make_inputs(SIZES[4], flags=flags)
    inputs = {n: x if n == "lengths" else x * scale for n, x in inputs.items()}
    inputs["transition"] /= scale
    drawn = sample(**inputs, num_samples=DRAWS, generator=seeded(), backend="cpu")
    for b in range(3):
        assert p_value(paths(drawn, b), Oracle(to_sequence(inputs, b))) > 1e-3


@pytest.mark.parametrize("flags", ["plain", "all", "tail"])
def test_far_from_the_start_frequencies_are_those_of_the_marginals(flags):
    inputs = one_sequence(make_inputs(Size((400,), K=9, C=3), flags=flags, seed=2), 0)
    draws = 4000
    drawn = sample(**inputs, num_samples=draws, generator=seeded(), backend="cpu")
    labels = drawn.to_labels(400)[:, 0]
    seen = torch.nn.functional.one_hot(labels, 3).double().mean(0)
    truth = marginals(**inputs).labels[0]
    # a probability of 0 may be rounded below it
    error = (truth * (1 - truth) / draws).clamp(min=0).sqrt()
    assert ((seen - truth).abs() <= 5 * error + 1e-9).all()


def test_torch_compile_draws_anew_at_each_call():
    inputs = make_inputs()

    @torch.compile(fullgraph=True, backend="eager")
    def run(scores, transition, duration_bias, lengths):
        return sample(scores, transition, duration_bias, lengths, num_samples=20).starts

    torch.manual_seed(1)
    first, second = run(**inputs), run(**inputs)
    torch.manual_seed(1)
    assert torch.equal(run(**inputs), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("flags", ["plain", "all", "tail"])
def test_the_registered_op_keeps_its_promises(flags):
    from torch_semimarkov.dispatch.path_library import sample_op
    from torch_semimarkov.functional.inputs import gather

    fields = gather(**make_inputs(flags=flags)).fields()
    torch.library.opcheck(sample_op, (*fields, torch.tensor([7]), 3, "cpu"))


@pytest.mark.slow
def test_a_million_positions_are_sampled_in_bounded_memory():
    inputs = make_inputs(Size((1_000_000,), K=30, C=4), torch.float32)
    drawn = sample(**inputs, num_samples=2, generator=seeded(), backend="cpu")
    assert segment_score(drawn, **inputs, validate_segments=True).isfinite().all()
