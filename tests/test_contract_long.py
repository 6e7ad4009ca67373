"""Long sequences: float32 inputs lose no digits, and expectations stay consistent."""

import numpy as np
import pytest
import torch
from factory import Size, device_of, for_each_backend, make_inputs, runs_on

from torch_semimarkov.functional import log_partition, marginals, segment_score, viterbi

SIZE = Size((20_000,), K=3, C=2)
OFFSETS = [0.0, 50.0]


def with_offset(inputs, offset):
    return {**inputs, "scores": inputs["scores"] + offset}


def forward_in_numpy(inputs):
    """Log partition by the textbook O(T K C^2) recurrence, a text of its own."""
    scores, transition, bias, start, end = (
        inputs[name].double().cpu().numpy()
        for name in ("scores", "transition", "duration_bias", "start", "end")
    )
    prefix = np.concatenate((np.zeros((1, scores.shape[2])), scores[0].cumsum(0)))
    alpha = [None]
    for t in range(1, scores.shape[1] + 1):
        ways = []
        for d in range(1, min(len(bias), t) + 1):
            content = prefix[t] - prefix[t - d] + bias[d - 1]
            before = start if d == t else np.logaddexp.reduce(alpha[t - d][:, None] + transition)
            ways.append(before + content)
        alpha.append(np.logaddexp.reduce(ways))
    return float(np.logaddexp.reduce(alpha[-1] + end))


@pytest.fixture(scope="module", params=OFFSETS)
def case(request):
    """Inputs of float32; log partition and marginals of the very same numbers in float64."""
    inputs = with_offset(make_inputs(SIZE, torch.float32, "start-end"), request.param)
    wide = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
    return inputs, forward_in_numpy(inputs), marginals(**wide, backend="reference")


@for_each_backend
def test_the_log_partition_keeps_six_digits(backend, case):
    inputs, truth, judged = case
    with runs_on(backend):
        value = log_partition(**{name: x.to(device_of(backend)) for name, x in inputs.items()})
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(truth, rel=1e-6)
    assert judged.log_partition.item() == pytest.approx(truth, rel=1e-10)


@for_each_backend
def test_the_marginals_keep_four_digits_and_are_consistent(backend, case):
    inputs, _, judged = case
    with runs_on(backend):
        found = marginals(**{name: x.to(device_of(backend)) for name, x in inputs.items()})
    for name in ("labels", "starts", "ends", "boundaries"):
        value = getattr(found, name).cpu().double()
        torch.testing.assert_close(value, getattr(judged, name), rtol=0.0, atol=1e-4)
    for name in ("transitions", "durations"):
        value = getattr(found, name).cpu().double()
        torch.testing.assert_close(value, getattr(judged, name), rtol=1e-4, atol=1e-4)
    number = found.starts.double().sum().item()
    assert found.ends.double().sum().item() == pytest.approx(number, rel=1e-6)
    assert found.durations.double().sum().item() == pytest.approx(number, rel=1e-6)
    assert found.transitions.double().sum().item() == pytest.approx(number - 1, rel=1e-6)
    ones = torch.ones(1, SIZE.T, dtype=torch.float64)
    torch.testing.assert_close(found.labels.cpu().double().sum(-1), ones, rtol=0.0, atol=1e-4)


@for_each_backend
def test_the_path_is_a_best_one_to_six_digits(backend):
    inputs = with_offset(make_inputs(SIZE, torch.float32, "start-end"), 50.0)
    wide = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
    with runs_on(backend):
        result = viterbi(**{name: x.to(device_of(backend)) for name, x in inputs.items()})
    best = viterbi(**wide, backend="reference").scores.item()
    assert segment_score(result.segments.to("cpu"), **wide).item() == pytest.approx(best, rel=1e-6)
    assert result.scores.item() == pytest.approx(best, rel=1e-6)
