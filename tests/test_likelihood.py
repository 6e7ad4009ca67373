"""It is a likelihood: probabilities sum to 1, no loss is negative, K = 1 is a linear CRF."""

import pytest
import torch
import torchcrf
from factory import (
    SIZES,
    Size,
    all_segmentations,
    device_of,
    for_each_backend,
    gradients_of,
    make_inputs,
    one_sequence,
    oracles,
    runs_on,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_close

from torch_semimarkov.functional import log_partition, segment_log_prob, viterbi
from torch_semimarkov.segments import Segments

FLAGS = ["plain", "start-end", "boundary", "per-duration", "forbidden", "all", "tail", "all-tail"]


@for_each_backend
@settings(max_examples=40, deadline=None)
@given(
    size=st.sampled_from(SIZES),
    flags=st.sampled_from(FLAGS),
    seed=st.integers(1, 2**31),
    scale=st.sampled_from([0.0, 0.1, 1.0, 30.0]),
)
def test_the_probabilities_of_all_segmentations_sum_to_one(backend, size, flags, seed, scale):
    # Zero times -inf is NaN: a scale of 0 keeps what is forbidden.
    inputs = {
        name: torch.where(x.isinf(), x, x * scale) if x.is_floating_point() else x
        for name, x in make_inputs(size, flags=flags, seed=seed, device=device_of(backend)).items()
    }
    everything = all_segmentations(oracles(size, flags=flags)[0]).to(device_of(backend))
    with runs_on(backend):
        log_prob = segment_log_prob(everything, **one_sequence(inputs, 0), validate_args=False)
    assert (log_prob <= 0).all()
    assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-10)


@for_each_backend
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("flags", ["plain", "boundary", "per-duration"])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_the_loss_of_the_likeliest_segmentation_is_never_negative(backend, dtype, flags, scale):
    for seed in range(5):
        inputs = make_inputs(SIZES[4], dtype, flags, seed, device=device_of(backend))
        inputs = {n: x * scale if x.is_floating_point() else x for n, x in inputs.items()}
        with runs_on(backend):
            best = viterbi(**inputs).segments
            loss = -segment_log_prob(best, **inputs)
        assert (loss >= 0).all()


@for_each_backend
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("T", [1, 7, 1000])
def test_a_sequence_with_only_one_segmentation_has_loss_zero(backend, scale, T):
    device = device_of(backend)
    inputs = {
        "scores": torch.randn(3, T, 1, device=device) * scale,
        "transition": torch.randn(1, 1, device=device) * scale,
        "duration_bias": torch.randn(1, 1, device=device) * scale,
    }
    segments = Segments.from_labels(torch.zeros(3, T, dtype=torch.int64, device=device), None, 1,
                                    long_runs="split")  # fmt: skip
    with runs_on(backend):
        loss = -segment_log_prob(segments, **inputs)
    assert (loss >= 0).all()
    assert_close("log_prob", torch.float32, loss, torch.zeros(3))


def test_of_equal_segmentations_each_has_its_share():
    size = Size((4,), K=2, C=2)
    inputs = {name: x * 0 if x.is_floating_point() else x for name, x in make_inputs(size).items()}
    found = oracles(size)[0]
    value = segment_log_prob(all_segmentations(found), **inputs)
    share = torch.full_like(value, 1 / len(found.segmentations)).log()
    assert_close("log_prob", torch.float64, value, share)


# Training


@for_each_backend
@pytest.mark.parametrize("flags", ["boundary", "per-duration"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_five_hundred_optimiser_steps_cannot_push_the_loss_below_zero(backend, flags, dtype):
    device = device_of(backend)
    B, T, K, C = 3, 12, 3, 2
    lengths = torch.tensor([12, 7, 9], device=device)
    generator = torch.Generator().manual_seed(7)
    labels = torch.randint(C, (B, T), generator=generator).repeat_interleave(3, 1)[:, :T].to(device)
    labels[0, :9] = 1
    gold = Segments.from_labels(labels, lengths, K, long_runs="split")
    size = Size(tuple(lengths.tolist()), K, C)
    inputs = make_inputs(size, dtype, flags, device=device)
    parameters = {n: x.requires_grad_() for n, x in inputs.items() if x.is_floating_point()}
    optimiser = torch.optim.Adam(parameters.values(), lr=0.2)
    losses = []
    with runs_on(backend):
        for _ in range(500):
            optimiser.zero_grad()
            loss = -segment_log_prob(gold, **parameters, lengths=lengths)
            loss.sum().backward()
            optimiser.step()
            losses.append(loss.detach())
    history = torch.stack(losses)
    assert (history >= 0).all()
    assert (history[-1] < 0.05).all()
    assert (history[0] > 1.0).all()


# K = 1 is a linear-chain CRF: pytorch-crf is the judge


@pytest.fixture
def chain():
    crf = torchcrf.CRF(4, batch_first=True).double()
    generator = torch.Generator().manual_seed(3)
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    lengths = torch.tensor([9, 1, 6])
    emissions = torch.randn(3, 9, 4, dtype=torch.float64, generator=generator)
    labels = torch.randint(4, (3, 9), generator=generator)
    mask = torch.arange(9) < lengths[:, None]
    return crf, emissions, labels, lengths, mask


def terms_of(crf, emissions):
    return {
        "scores": emissions.clone().requires_grad_(),
        "transition": crf.transitions.detach().clone().requires_grad_(),
        "duration_bias": torch.zeros(1, 4, dtype=torch.float64),
        "start": crf.start_transitions.detach().clone().requires_grad_(),
        "end": crf.end_transitions.detach().clone().requires_grad_(),
    }


@for_each_backend
def test_with_k_of_one_log_likelihood_and_gradients_are_those_of_pytorch_crf(backend, chain):
    crf, emissions, labels, lengths, mask = chain
    device = device_of(backend)
    terms = {n: x.detach().to(device).requires_grad_() for n, x in terms_of(crf, emissions).items()}
    gold = Segments.from_labels(labels, lengths, 1, long_runs="split").to(device)
    weight = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    with runs_on(backend):
        value = segment_log_prob(gold, **terms, lengths=lengths.to(device))
        found = gradients_of(value, terms, weight.to(device))
    their_emissions = emissions.clone().requires_grad_()
    theirs = crf(their_emissions, labels, mask, reduction="none")
    assert_close("log_prob", torch.float64, value, theirs)
    (theirs * weight).sum().backward()
    gradients = {
        "scores": their_emissions.grad,
        "transition": crf.transitions.grad,
        "start": crf.start_transitions.grad,
        "end": crf.end_transitions.grad,
    }
    for name, gradient in gradients.items():
        assert_close("gradient", torch.float64, found[name], gradient)


@for_each_backend
def test_with_k_of_one_the_log_partition_is_that_of_pytorch_crf(backend, chain):
    crf, emissions, _, lengths, mask = chain
    device = device_of(backend)
    terms = {name: x.detach().to(device) for name, x in terms_of(crf, emissions).items()}
    with runs_on(backend):
        value = log_partition(**terms, lengths=lengths.to(device))
    theirs = crf._compute_normalizer(emissions.transpose(0, 1), mask.T)
    assert_close("log_partition", torch.float64, value, theirs)


@for_each_backend
def test_with_k_of_one_the_decoded_labels_are_those_of_pytorch_crf(backend, chain):
    crf, emissions, _, lengths, mask = chain
    device = device_of(backend)
    terms = {name: x.detach().to(device) for name, x in terms_of(crf, emissions).items()}
    with runs_on(backend):
        paths = viterbi(**terms, lengths=lengths.to(device)).segments.to_list()
    assert [[segment.label for segment in path] for path in paths] == crf.decode(emissions, mask)
