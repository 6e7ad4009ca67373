"""The synthetic data: known durations, the same for a seed, and a problem that needs durations."""

from itertools import pairwise

import numpy as np
import pytest

from torch_semimarkov.data import make_synthetic, synthetic_process
from torch_semimarkov.errors import ConfigError

NEGATIVE = -1e30


def path_labels(scores, transition, duration_bias):
    """Labels of the best segmentation, in plain numpy."""
    T, C = scores.shape
    cumulative = np.vstack([np.zeros(C), scores.cumsum(0)])
    best = np.full((T + 1, C), NEGATIVE)
    entered = np.zeros((T + 1, C))
    back = np.zeros((T + 1, C, 2), dtype=int)
    for t in range(1, T + 1):
        longest = min(len(duration_bias), t)
        starts = t - 1 - np.arange(longest)
        total = entered[starts] - cumulative[starts] + duration_bias[:longest] + cumulative[t]
        d = total.argmax(0)
        best[t] = total[d, np.arange(C)]
        step = best[t][:, None] + transition
        back[t, :, 0], back[t, :, 1] = d + 1, step.argmax(0)
        entered[t] = step.max(0)
    labels, t, c = np.zeros(T, dtype=int), T, int(best[T].argmax())
    while t > 0:
        d = back[t, c, 0]
        labels[t - d : t] = c
        t -= d
        c = back[t, c, 1]
    return labels


def gold_labels(record, names):
    return np.concatenate([[names.index(s.label)] * s.duration for s in record.segments])


def log_likelihood(process, record):
    distance = record.features[:, None, :].astype(float) - process.means
    return -0.5 * (distance**2).sum(-1) / process.noise**2


@pytest.fixture(scope="module")
def accuracies():
    """Position accuracy of the true process, of its best chain, and of single positions."""
    process = synthetic_process()
    K, C = process.durations.shape
    with np.errstate(divide="ignore"):
        transition = np.maximum(np.log(process.transition), NEGATIVE)
    mean = (process.durations * np.arange(1, K + 1)[:, None]).sum(0)
    chain = process.transition / mean[:, None] + np.diag(1 - 1 / mean)
    with np.errstate(divide="ignore"):
        chain = np.maximum(np.log(chain), NEGATIVE)
    right = {"semi-Markov": [], "chain": [], "position": []}
    for record in make_synthetic(20, seed=7, process=process):
        gold = gold_labels(record, process.label_names)
        scores = log_likelihood(process, record)
        semi = path_labels(scores, transition, np.log(process.durations + 1e-300))
        right["semi-Markov"].append(semi == gold)
        right["chain"].append(path_labels(scores, chain, np.zeros((1, C))) == gold)
        right["position"].append(scores.argmax(1) == gold)
    return {name: np.concatenate(hits).mean() for name, hits in right.items()}


def test_durations_decide_the_labels(accuracies):
    assert accuracies["semi-Markov"] > 0.88
    assert accuracies["chain"] < accuracies["semi-Markov"] - 0.1
    assert accuracies["position"] < accuracies["chain"] - 0.1


def test_the_same_seed_gives_the_same_records():
    one, two = make_synthetic(3, seed=5), make_synthetic(3, seed=5)
    for a, b in zip(one, two, strict=True):
        assert a.segments == b.segments and np.array_equal(a.features, b.features)


def test_another_seed_gives_other_records():
    assert make_synthetic(1, seed=0)[0].segments != make_synthetic(1, seed=1)[0].segments


def test_lengths_stay_in_the_range_asked_for():
    lengths = [record.length for record in make_synthetic(50, 100, 160, seed=2)]
    assert min(lengths) >= 100 and max(lengths) <= 160


def test_neighbouring_segments_never_share_a_label():
    for record in make_synthetic(5, seed=3):
        labels = [segment.label for segment in record.segments]
        assert all(a != b for a, b in pairwise(labels))


def test_drawn_durations_have_the_stated_means():
    process = synthetic_process()
    found = {name: [] for name in process.label_names}
    for record in make_synthetic(100, seed=4, process=process):
        for segment in record.segments:
            found[segment.label].append(segment.duration)
    expected = (process.durations * np.arange(1, len(process.durations) + 1)[:, None]).sum(0)
    for name, mean in zip(process.label_names, expected, strict=True):
        assert abs(np.mean(found[name]) - mean) < 0.05 * mean


@pytest.mark.parametrize("num_labels", [3, 5, 8])
def test_every_number_of_labels_gives_a_process(num_labels):
    process = synthetic_process(num_labels, num_features=4)
    assert np.allclose(process.durations.sum(0), 1) and np.allclose(process.transition.sum(1), 1)
    assert np.diag(process.transition).max() == 0


def test_every_bad_argument_of_the_process_is_named():
    with pytest.raises(ConfigError, match=r"(?s)num_labels.*num_features.*noise.*contrast"):
        synthetic_process(2, 0, noise=0.0, contrast=-1.0)


def test_every_bad_argument_of_the_data_is_named():
    with pytest.raises(ConfigError, match=r"(?s)num_sequences.*min_length.*max_length.*seed"):
        make_synthetic(0, 0, 10, seed=-1)
