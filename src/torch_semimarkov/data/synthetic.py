"""Sequences drawn from a known semi-Markov process, for demos and tests."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from torch_semimarkov.data.records import NamedSegment, Record
from torch_semimarkov.errors import ConfigError, raise_all


@dataclass(frozen=True, eq=False)
class SyntheticProcess:
    """A semi-Markov process with C labels, D features and durations of at most K positions.

    Labels come in pairs that look almost alike: the first of a pair, then the second, then the
    first of another pair. Where a pair begins can be seen; where its second label takes over is
    told mostly by how long each of them lasts. A duration is ``1 + Poisson(mean - 1)``, cut at K:
    a peak that a chain of single positions (K = 1), whose durations fall geometrically, cannot
    express.

    Args:
        durations: (K, C) float64. Column c holds P(duration = row + 1 | label c); sums to 1.
        transition: (C, C) float64. P(next label | label), rows sum to 1, zero diagonal.
        means: (C, D) float64. Mean of the features under each label.
        noise: standard deviation of the features about their mean, > 0.
        label_names: C names.
    """

    durations: np.ndarray
    transition: np.ndarray
    means: np.ndarray
    noise: float
    label_names: tuple[str, ...]

    def draw(self, name: str, shortest: int, generator: np.random.Generator) -> Record:
        """One labelled record of whole segments, at least ``shortest`` positions long."""
        K, C = self.durations.shape
        label = 2 * int(generator.integers((C + 1) // 2))
        segments, labels, position = [], [], 0
        while position < shortest:
            d = 1 + int(generator.choice(K, p=self.durations[:, label]))
            segments.append(NamedSegment(position, position + d, self.label_names[label]))
            labels += [label] * d
            position += d
            label = int(generator.choice(C, p=self.transition[label]))
        noise = generator.normal(0.0, self.noise, (position, self.means.shape[1]))
        return Record(name, self.means[labels] + noise, segments)


def synthetic_process(
    num_labels: int = 4, num_features: int = 4, noise: float = 1.0, contrast: float = 0.25
) -> SyntheticProcess:
    """The process :func:`make_synthetic` draws from; nothing about it is random.

    Args:
        num_labels: C >= 3. Labels 0 and 1 form the first pair, 2 and 3 the second, and so on.
        num_features: D >= the number of pairs; a pair raises one feature by 1.5.
        noise: standard deviation of the features, > 0.
        contrast: the second label of a pair raises it by this much more, >= 0; 0 leaves only the
            durations to tell them apart.

    Raises:
        ConfigError: an argument is out of its range.

    >>> process = synthetic_process()
    >>> process.label_names
    ('a-first', 'a-second', 'b-first', 'b-second')
    """
    pairs = math.ceil(num_labels / 2)
    problems = []
    if not 3 <= num_labels <= 52:
        problems.append(f"num_labels must be in 3..52, got {num_labels}")
    if num_features < pairs:
        problems.append(f"num_features must be >= the {pairs} pairs of labels, got {num_features}")
    if not 0 < noise < math.inf:
        problems.append(f"noise must be > 0, got {noise}")
    if not 0 <= contrast < math.inf:
        problems.append(f"contrast must be >= 0, got {contrast}")
    raise_all(ConfigError, "no such synthetic process", problems)
    label = np.arange(num_labels)
    pair, second = label // 2, label % 2 == 1
    mean = 14.0 + 4.0 * pair + 8.0 * second * np.where(pair % 2 == 0, 1, -1)
    means = np.zeros((num_labels, num_features))
    means[label, pair] = 1.5 + contrast * second
    names = tuple(f"{chr(97 + c // 2)}-{('first', 'second')[c % 2]}" for c in range(num_labels))
    return SyntheticProcess(
        _shifted_poisson(mean), _pair_transition(num_labels), means, float(noise), names
    )


def _pair_transition(C: int) -> np.ndarray:
    """(C, C) probabilities: first of a pair -> its second -> the first of any other pair."""
    transition = np.zeros((C, C))
    for source in range(C):
        if source % 2 == 0 and source + 1 < C:
            transition[source, source + 1] = 1.0
        else:
            transition[source, 0::2] = 1.0
            transition[source, source - source % 2] = 0.0
    return transition / transition.sum(axis=1, keepdims=True)


def _shifted_poisson(mean: np.ndarray) -> np.ndarray:
    """(K, C) probabilities of ``1 + Poisson(mean - 1)``, cut four standard deviations out."""
    K = math.ceil(float(mean.max()) + 4.0 * math.sqrt(float(mean.max())))
    count = np.arange(K)[:, None]
    log_factorial = np.array([math.lgamma(n + 1.0) for n in range(K)])[:, None]
    weight = np.exp(count * np.log(mean - 1.0) - (mean - 1.0) - log_factorial)
    return weight / weight.sum(axis=0)


def make_synthetic(
    num_sequences: int = 200,
    min_length: int = 200,
    max_length: int = 400,
    *,
    seed: int = 0,
    process: SyntheticProcess | None = None,
) -> list[Record]:
    """Labelled sequences of a process with known durations.

    The same arguments give the same records. Draw splits with different seeds.

    Args:
        num_sequences: number of records, >= 1.
        min_length: fewest positions of a record, >= 1.
        max_length: most positions, >= min_length + K - 1 (whole segments must fit).
        seed: seed of the random numbers, >= 0.
        process: the process; default :func:`synthetic_process` with 4 labels, 4 features.

    Raises:
        ConfigError: an argument is out of its range.

    >>> records = make_synthetic(2, seed=1)
    >>> records[0].name, records[0].num_features, 200 <= records[0].length <= 400
    ('synthetic-1-0', 4, True)
    """
    process = synthetic_process() if process is None else process
    K = process.durations.shape[0]
    problems = []
    if num_sequences < 1:
        problems.append(f"num_sequences must be >= 1, got {num_sequences}")
    if min_length < 1:
        problems.append(f"min_length must be >= 1, got {min_length}")
    if max_length < min_length + K - 1:
        problems.append(
            f"max_length must be >= min_length + K - 1 = {min_length + K - 1}, got {max_length}"
        )
    if seed < 0:
        problems.append(f"seed must be >= 0, got {seed}")
    raise_all(ConfigError, "no synthetic data", problems)
    generator = np.random.default_rng(seed)
    shortest = generator.integers(min_length, max_length - K + 2, size=num_sequences)
    return [
        process.draw(f"synthetic-{seed}-{i}", int(length), generator)
        for i, length in enumerate(shortest)
    ]
