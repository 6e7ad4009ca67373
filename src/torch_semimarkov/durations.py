"""Duration models: each gives the (K, C) duration bias that a head adds to its segments."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from torch_semimarkov.errors import ConfigError, ShapeError

DurationSource = str | Tensor | Callable[[Tensor], Tensor]


class DurationDistribution(nn.Module):
    """Base of the duration models.

    Args:
        max_duration: longest duration K >= 1.
        num_classes: labels C >= 1.

    Calling the model gives the (K, C) duration bias in nats, row d-1 for durations of d positions.
    """

    durations: Tensor

    def __init__(self, max_duration: int, num_classes: int):
        super().__init__()
        self.max_duration = max_duration
        self.num_classes = num_classes
        durations = torch.arange(1, max_duration + 1, dtype=torch.get_default_dtype())
        self.register_buffer("durations", durations, persistent=False)

    def forward(self) -> Tensor:
        """(K, C). The duration bias."""
        return self.log_weights().expand(self.max_duration, self.num_classes)

    def log_weights(self) -> Tensor:
        """(K, C) or (K, 1). What the model says of each duration, in nats."""
        raise NotImplementedError


class LearnedDurations(DurationDistribution):
    """One free weight for every duration and label, not normalised."""

    def __init__(self, max_duration: int, num_classes: int, init_scale: float = 0.1):
        super().__init__(max_duration, num_classes)
        self.weight = nn.Parameter(init_scale * torch.randn(max_duration, num_classes))

    def log_weights(self) -> Tensor:
        return self.weight


class UniformDurations(DurationDistribution):
    """Every duration up to K has probability 1/K; nothing is learned."""

    def log_weights(self) -> Tensor:
        return torch.zeros_like(self.durations[:, None]).log_softmax(0)


class GeometricDurations(DurationDistribution):
    """Geometric on 1, 2, ..., cut at K and normalised, with one learned rate a label."""

    def __init__(self, max_duration: int, num_classes: int, mean: Tensor):
        super().__init__(max_duration, num_classes)
        self.logit = nn.Parameter(torch.logit(1.0 / mean.clamp(min=1.01)))

    def log_weights(self) -> Tensor:
        longer = (self.durations - 1)[:, None] * logsigmoid(-self.logit)
        return (longer + logsigmoid(self.logit)).log_softmax(0)


class PoissonDurations(DurationDistribution):
    """Poisson on d - 1, cut at K and normalised, with one learned rate a label."""

    def __init__(self, max_duration: int, num_classes: int, mean: Tensor):
        super().__init__(max_duration, num_classes)
        self.raw_rate = nn.Parameter(_inverse_softplus((mean - 1).clamp(min=0.1)))

    def log_weights(self) -> Tensor:
        rate = softplus(self.raw_rate)
        k = (self.durations - 1)[:, None]
        return (k * rate.log() - rate - torch.lgamma(k + 1)).log_softmax(0)


class NegativeBinomialDurations(DurationDistribution):
    """Negative binomial on d - 1, cut at K and normalised, with learned size and rate a label."""

    def __init__(self, max_duration: int, num_classes: int, mean: Tensor, size: float = 2.0):
        super().__init__(max_duration, num_classes)
        self.raw_size = nn.Parameter(_inverse_softplus(torch.full((num_classes,), size)))
        self.logit = nn.Parameter(torch.log(size / (mean - 1).clamp(min=0.1)))

    def log_weights(self) -> Tensor:
        r, k = softplus(self.raw_size), (self.durations - 1)[:, None]
        ways = torch.lgamma(k + r) - torch.lgamma(r) - torch.lgamma(k + 1)
        return (ways + r * logsigmoid(self.logit) + k * logsigmoid(-self.logit)).log_softmax(0)


class CallableDurations(DurationDistribution):
    """The user's own durations: a fixed (K, C) tensor, or a function or module of 1..K."""

    def __init__(
        self, max_duration: int, num_classes: int, source: Tensor | Callable[[Tensor], Tensor]
    ):
        super().__init__(max_duration, num_classes)
        if isinstance(source, Tensor):
            self.register_buffer("fixed", source.detach().clone())
        else:
            self.source = source
        self.log_weights()

    def log_weights(self) -> Tensor:
        K, C = self.max_duration, self.num_classes
        found = self.fixed if "fixed" in self._buffers else self.source(self.durations)
        found = found[:, None] if found.dim() == 1 else found
        if tuple(found.shape) not in [(K, C), (K, 1)]:
            raise ShapeError(
                f"duration_distribution must give (K, C) = ({K}, {C}) or (K,) = ({K},), "
                f"got {tuple(found.shape)}"
            )
        return found


_MODELS: dict[str, Callable[..., DurationDistribution]] = {
    "geometric": GeometricDurations,
    "negative_binomial": NegativeBinomialDurations,
    "poisson": PoissonDurations,
}
DURATION_DISTRIBUTIONS = ("learned", *_MODELS, "uniform")


def create_duration_distribution(
    distribution: DurationSource,
    max_duration: int,
    num_classes: int,
    *,
    init_scale: float = 0.1,
    mean: float | Sequence[float] | None = None,
) -> DurationDistribution:
    """A duration model by name, or around a user's own.

    Args:
        distribution: "learned" (a free weight for each duration and label), "geometric",
            "negative_binomial" (size and rate learned), "poisson" (these three on d-1 = 0, 1, ...,
            cut at K and normalised), "uniform"; or a fixed (K, C) or (K,) tensor in nats; or a
            callable (a module's parameters are trained) from the (K,) tensor 1..K to such a tensor.
        max_duration: longest duration K >= 1.
        num_classes: labels C >= 1.
        init_scale: standard deviation of the initial weights of "learned", >= 0.
        mean: initial mean duration, one for all labels or one a label, in positions, >= 1;
            default (K + 1) / 2.

    Returns:
        A module; calling it gives the (K, C) duration bias in nats.

    Raises:
        ConfigError: an unknown name, or a number out of its range.
        ShapeError: the user's own durations have the wrong shape.

    >>> bias = create_duration_distribution("geometric", 3, 1, mean=2.0)()
    >>> (bias[0] - bias[1]).item()  # each position more halves the probability
    0.6931...
    """
    if max_duration < 1 or num_classes < 1:
        raise ConfigError(
            f"max_duration and num_classes must be >= 1, got {max_duration} and {num_classes}"
        )
    if not isinstance(distribution, str):
        return CallableDurations(max_duration, num_classes, distribution)
    if distribution == "learned":
        return LearnedDurations(max_duration, num_classes, init_scale)
    if distribution == "uniform":
        return UniformDurations(max_duration, num_classes)
    if distribution not in _MODELS:
        known = ", ".join(repr(name) for name in DURATION_DISTRIBUTIONS)
        raise ConfigError(
            f"duration_distribution must be one of {known}, a tensor or a callable, "
            f"got {distribution!r}"
        )
    return _MODELS[distribution](max_duration, num_classes, _means(mean, max_duration, num_classes))


def _means(mean: float | Sequence[float] | None, K: int, C: int) -> Tensor:
    values = torch.as_tensor((K + 1) / 2 if mean is None else mean).to(torch.get_default_dtype())
    if values.dim() > 1 or (values.dim() == 1 and len(values) != C) or bool((values < 1).any()):
        raise ConfigError(f"mean must be one number or C = {C} numbers >= 1, got {mean}")
    return values.expand(C).clone()


def _inverse_softplus(x: Tensor) -> Tensor:
    return x + torch.log(-torch.expm1(-x))
