"""The triton backend in a program: equal bits, memory, CUDA graphs, torch.compile, long inputs."""

import subprocess
import sys
from pathlib import Path

import gpu_racecheck
import pytest
import torch
from factory import Size, gradients_of, make_inputs, tensors, upstream, with_grad
from gpu_card import find_card
from gpu_cases import (
    LIMITS,
    OTHERS,
    PROBABILITIES,
    assert_consistent,
    assert_marginals,
    compare,
    everything,
    for_each_place,
    for_float_types,
    runs_at,
    same_bits,
    truth_of,
)

from torch_semimarkov.functional import log_partition, marginals, viterbi

RUNS = 20
# Of inputs and gradients, what a call may hold at most in the checkpointed mode.
MOST_MEMORY = 1.10


def loss_step(leaves, weight, **options):
    """From leaves to the loss and all gradients, as a training step does it."""

    def step():
        value = log_partition(**leaves, validate_args=False, **options)
        return value, *gradients_of(value, leaves, weight).values()

    return step


def peak_of(run):
    """Bytes that a call held beyond what lay there before, and its result; 0 without a GPU."""
    card = find_card()
    return (0, run()) if card is None else card.peak(run)


def bytes_of(inputs):
    """Of the float terms, which are also those of their gradients."""
    return sum(x.nbytes for x in tensors(inputs).values())


# The same call twice


@for_each_place
@for_float_types
@pytest.mark.parametrize("flags", ["boundary", "per-duration"])
@pytest.mark.parametrize("interval", [None, 300])
def test_twenty_runs_give_the_same_bits(place, dtype, flags, interval):
    full = Size((1500, 1001, 1), K=100 if flags == "boundary" else 20, C=24)
    size = place.pick(full, Size((9, 5, 1), K=3, C=3))
    inputs = make_inputs(size, dtype, flags)
    options = {} if interval is None else {"checkpoint_interval": place.pick(interval, 4)}
    first = everything(place, inputs, **options)
    for _ in range(place.pick(RUNS, 3) - 1):
        assert same_bits(first, everything(place, inputs, **options))


@for_each_place
@for_float_types
def test_a_lone_sequence_with_long_durations_gives_the_same_bits(place, dtype):
    inputs = make_inputs(place.pick(Size((5000,), 1000, 24), Size((20,), 16, 3)), dtype)
    first = everything(place, inputs)
    for _ in range(place.pick(RUNS, 2) - 1):
        assert same_bits(first, everything(place, inputs))


# Memory


@for_each_place
def test_the_forward_alone_keeps_nothing_that_grows_with_the_positions(place):
    peaks = []
    for T in place.pick((20_000, 80_000), (8, 16)):
        size = place.pick(Size((T, T), K=100, C=24), Size((T, T), K=5, C=3))
        inputs = place.ready(make_inputs(size, torch.float32))
        with torch.no_grad(), runs_at(place):
            log_partition(**inputs)
            peak, _ = peak_of(lambda inputs=inputs: log_partition(**inputs))
        peaks.append(peak)
    # The allocator rounds; one score in a thousand would be seen.
    assert peaks[1] <= peaks[0] + 2 * 60_000 * 24 * 4 // 1000


@for_each_place
@pytest.mark.parametrize("B", [1, 8])
def test_checkpoints_hold_little_beyond_inputs_and_gradients(place, B):
    T, interval = place.pick((100_000, 1300), (20, 8))
    size = place.pick(Size((T,) * B, K=100, C=24), Size((T,) * B, K=5, C=3))
    leaves = with_grad(place.ready(make_inputs(size, torch.float32)))
    weight = upstream(B, torch.float32, place.device)
    with runs_at(place):
        step = loss_step(leaves, weight, checkpoint_interval=interval)
        step()
        peak, _ = peak_of(step)
    assert bytes_of(leaves) + peak <= MOST_MEMORY * 2 * bytes_of(leaves)


@for_each_place
def test_nothing_stays_allocated_after_a_call(place):
    inputs = make_inputs(place.pick(Size((2000,) * 4, 100, 24), Size((9, 5), 3, 3)), torch.float32)
    everything(place, inputs)
    before = torch.cuda.memory_allocated() if place.device == "cuda" else 0
    everything(place, inputs)
    after = torch.cuda.memory_allocated() if place.device == "cuda" else 0
    assert after == before


# A training step as one graph


def captured(step):
    """A function that runs a step again on the same memory: as a CUDA graph where there is one.

    Returns:
        The function, and the tensors that it fills.
    """
    if find_card() is None:
        results = list(step())

        def again():
            for old, new in zip(results, step(), strict=True):
                old.detach().copy_(new)

        return again, results
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = list(step())
    return graph.replay, results


@for_each_place
@for_float_types
@pytest.mark.parametrize("flags", ["boundary", "per-duration"])
@pytest.mark.parametrize("interval", [None, 300])
def test_a_captured_training_step_gives_the_bits_of_an_eager_one(place, dtype, flags, interval):
    full = Size((1000, 999, 64), K=100 if flags == "boundary" else 10, C=24)
    size = place.pick(full, Size((9, 5, 1), K=3, C=3))
    options = {} if interval is None else {"checkpoint_interval": place.pick(interval, 4)}
    leaves = with_grad(place.ready(make_inputs(size, dtype, flags)))
    weight = upstream(size.B, dtype, place.device)
    step = loss_step(leaves, weight, **options)
    with runs_at(place):
        replay, results = captured(step)
        for seed in (1, 2):
            other = place.ready(make_inputs(size, dtype, flags, seed))
            with torch.no_grad():
                for name, leaf in tensors(leaves).items():
                    leaf.copy_(other[name])
            replay()
            assert same_bits([x.detach() for x in results], [x.detach() for x in step()])


# torch.compile


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(function, place):
    """One graph; by the default compiler on a GPU."""
    return torch.compile(function, fullgraph=True, backend=place.pick("inductor", "aot_eager"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@for_each_place
@pytest.mark.parametrize("flags", ["boundary", "per-duration"])
def test_a_training_step_compiles_in_one_graph(fresh_compiler, place, flags):
    size = place.pick(Size((500, 333), K=20, C=24), Size((9, 5), K=3, C=3))
    leaves = with_grad(place.ready(make_inputs(size, torch.float32, flags)))
    weight = upstream(size.B, torch.float32, place.device)

    def value(**terms):
        return log_partition(**terms, backend=place.backend)

    results = []
    for function in (compiled(value, place), value):
        found = function(**leaves)
        results.append((found.detach(), *gradients_of(found, leaves, weight).values()))
    assert same_bits(*results)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@for_each_place
def test_decoding_compiles_in_one_graph(fresh_compiler, place):
    size = place.pick(Size((500, 333), K=20, C=24), Size((9, 5), K=3, C=3))
    inputs = place.ready(make_inputs(size, torch.float32, "boundary"))

    def decode(**terms):
        scores, segments = viterbi(**terms, backend=place.backend)
        return scores, segments.counts

    assert same_bits(compiled(decode, place)(**inputs), decode(**inputs))


# What is run under compute-sanitizer


@pytest.mark.parametrize("place", OTHERS, ids=str)
def test_the_race_check_compares_what_it_runs(place, monkeypatch):
    case = Size((9, 4), K=3, C=2), "boundary"
    gpu_racecheck.run(place, (case,))
    monkeypatch.setattr(gpu_racecheck, "truth_of", lambda inputs: truth_of(make_inputs(*case[:1])))
    with pytest.raises(AssertionError):
        gpu_racecheck.run(place, (case,))


@pytest.mark.skipif(find_card() is not None, reason="there is a GPU")
def test_the_race_check_says_that_there_is_no_gpu():
    script = [sys.executable, Path(gpu_racecheck.__file__)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (0, 1, "")


# A million positions in float32


@pytest.fixture(scope="module")
def long_truths():
    """Marginals in float64 of long inputs, by T; computed once."""
    found = {}

    def of(T):
        sizes = (100, 24) if T > 1000 else (5, 3)
        if T not in found:
            inputs = make_inputs(Size((T,), *sizes), torch.float32, "start-end")
            found[T] = inputs, truth_of(inputs)
        return found[T]

    return of


@for_each_place
@pytest.mark.parametrize("interval", [None, 4000])
def test_a_million_positions_keep_their_digits_in_float32(place, interval, long_truths):
    inputs, truth = long_truths(place.pick(1_000_000, 25))
    with runs_at(place):
        found = marginals(**place.ready(inputs), checkpoint_interval=interval)
    assert_marginals(found, truth, LIMITS[torch.float32])
    assert_consistent(found, 1, 1e-5)
    ones = torch.ones(found.labels.shape[:2], dtype=torch.float64)
    compare(found.labels.double().sum(-1), ones, rtol=0.0, atol=LIMITS[torch.float32][1])
    for name in PROBABILITIES:
        probability = getattr(found, name)
        assert probability.min() >= -1e-4 and probability.max() <= 1 + 1e-4


@for_each_place
@pytest.mark.parametrize("offset", [50.0, -50.0])
def test_an_offset_of_every_score_changes_no_marginal(place, offset, long_truths):
    inputs, _ = long_truths(place.pick(100_000, 25))
    inputs = {**inputs, "scores": inputs["scores"] + offset}
    with runs_at(place):
        found = marginals(**place.ready(inputs))
    assert_marginals(found, truth_of(inputs), LIMITS[torch.float32])
