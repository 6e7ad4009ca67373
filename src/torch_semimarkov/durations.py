"""Duration models: each gives the (K, C) duration bias that a head adds to its segments."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from torch_semimarkov.errors import ConfigError, ShapeError, raise_all
from torch_semimarkov.segments import count_of

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


class NormalizedDurations(DurationDistribution):
    """Base of the models whose probabilities over 1..K sum to 1.

    They are computed in float64 (lgamma of a large K has no digits to spare in float32) and come
    back in the model's type, half types as float32.
    """

    def log_weights(self) -> Tensor:
        dtype, device = self.durations.dtype, self.durations.device
        wide = torch.float32 if device.type == "mps" else torch.float64
        k = torch.arange(self.max_duration, dtype=wide, device=device)[:, None]
        weights = self.log_pmf(k).log_softmax(0)
        return weights.to(torch.promote_types(dtype, torch.float32))

    def log_pmf(self, k: Tensor) -> Tensor:
        """(K, C) or (K, 1). Log-probabilities of k = d - 1, up to a constant a label."""
        raise NotImplementedError


class UniformDurations(NormalizedDurations):
    """Every duration up to K has probability 1/K; nothing is learned."""

    def log_pmf(self, k: Tensor) -> Tensor:
        return torch.zeros_like(k)


class GeometricDurations(NormalizedDurations):
    """Geometric on 1, 2, ..., cut at K and normalised, with one learned rate a label."""

    def __init__(self, max_duration: int, num_classes: int, mean: Tensor):
        super().__init__(max_duration, num_classes)
        self.logit = nn.Parameter(torch.logit(1.0 / mean.clamp(min=1.01)))

    def log_pmf(self, k: Tensor) -> Tensor:
        return k * logsigmoid(-self.logit.to(k))


class PoissonDurations(NormalizedDurations):
    """Poisson on d - 1, cut at K and normalised, with one learned rate a label."""

    def __init__(self, max_duration: int, num_classes: int, mean: Tensor):
        super().__init__(max_duration, num_classes)
        self.raw_rate = nn.Parameter(_inverse_softplus((mean - 1).clamp(min=0.1)))

    def log_pmf(self, k: Tensor) -> Tensor:
        return k * softplus(self.raw_rate.to(k)).log() - torch.lgamma(k + 1)


class NegativeBinomialDurations(NormalizedDurations):
    """Negative binomial on d - 1, cut at K and normalised, with learned size and rate a label."""

    def __init__(self, max_duration: int, num_classes: int, mean: Tensor, size: float = 2.0):
        super().__init__(max_duration, num_classes)
        self.raw_size = nn.Parameter(_inverse_softplus(torch.full((num_classes,), size)))
        self.logit = nn.Parameter(torch.log(size / (mean - 1).clamp(min=0.1)))

    def log_pmf(self, k: Tensor) -> Tensor:
        size = softplus(self.raw_size.to(k))
        ways = torch.lgamma(k + size) - torch.lgamma(k + 1)
        return ways + k * logsigmoid(-self.logit.to(k))


class CallableDurations(DurationDistribution):
    """The user's own durations: a fixed (K, C) tensor, or a function or module of 1..K."""

    def __init__(
        self, max_duration: int, num_classes: int, source: Tensor | Callable[[Tensor], Tensor]
    ):
        super().__init__(max_duration, num_classes)
        if isinstance(source, Tensor):
            self.register_buffer("fixed", self._as_weights(source.detach().clone()))
        else:
            self.source = source
        self.log_weights()

    def log_weights(self) -> Tensor:
        if "fixed" in self._buffers:
            return self.fixed
        return self._as_weights(self.source(self.durations))

    def _as_weights(self, found: Tensor) -> Tensor:
        """(K, C) or (K, 1) float from what the user gave."""
        K, C = self.max_duration, self.num_classes
        if not isinstance(found, Tensor):
            raise ShapeError(
                f"duration_distribution must give a tensor, got {type(found).__name__}"
            )
        weights = found[:, None] if found.dim() == 1 else found
        if tuple(weights.shape) not in [(K, C), (K, 1)]:
            raise ShapeError(
                f"duration_distribution must give (K, C) = ({K}, {C}) or (K,) = ({K},), "
                f"got {tuple(found.shape)}"
            )
        return weights if weights.is_floating_point() else weights.to(self.durations.dtype)


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
        mean: initial mean duration before the cut at K, one for all labels or one a label, in
            positions, >= 1; default (K + 1) / 2. Only for the three models that have a mean.

    Returns:
        A module; calling it gives the (K, C) duration bias in nats.

    Raises:
        ConfigError: an unknown name, or a number out of its range.
        ShapeError: the user's own durations have the wrong shape.

    >>> bias = create_duration_distribution("geometric", 3, 1, mean=2.0)()
    >>> (bias[0] - bias[1]).item()  # each position more halves the probability
    0.6931...
    """
    _check_arguments(distribution, max_duration, num_classes, init_scale, mean)
    if not isinstance(distribution, str):
        return CallableDurations(max_duration, num_classes, distribution)
    if distribution == "learned":
        return LearnedDurations(max_duration, num_classes, init_scale)
    if distribution == "uniform":
        return UniformDurations(max_duration, num_classes)
    return _MODELS[distribution](max_duration, num_classes, _means(mean, max_duration, num_classes))


def _check_arguments(
    distribution: object, K: object, C: object, init_scale: float, mean: object
) -> None:
    problems = []
    for name, size in (("max_duration", K), ("num_classes", C)):
        if count_of(size) is None:
            problems.append(f"{name} must be an integer >= 1, got {size!r}")
    if not isinstance(init_scale, int | float) or not 0 <= init_scale < math.inf:
        problems.append(f"init_scale must be a number >= 0, got {init_scale!r}")
    named = isinstance(distribution, str)
    known = distribution in DURATION_DISTRIBUTIONS if named else callable(distribution)
    if not known and not isinstance(distribution, Tensor):
        names = ", ".join(repr(name) for name in DURATION_DISTRIBUTIONS)
        problems.append(
            f"duration_distribution must be one of {names}, a tensor or a callable, "
            f"got {distribution!r}"
        )
    elif mean is not None and not (named and distribution in _MODELS):
        models = ", ".join(repr(name) for name in _MODELS)
        problems.append(f"a mean duration has a meaning only for {models}; leave it out")
    raise_all(ConfigError, "the duration model cannot be built", problems)


def _means(mean: float | Sequence[float] | None, K: int, C: int) -> Tensor:
    try:
        values = torch.as_tensor((K + 1) / 2 if mean is None else mean)
        values = values.to(torch.get_default_dtype())
    except (TypeError, ValueError, RuntimeError):
        values = torch.tensor(math.nan)
    fits = values.dim() == 0 or values.shape == (C,)
    if not fits or not bool(((values >= 1) & values.isfinite()).all()):
        raise ConfigError(f"mean must be one number or C = {C} numbers >= 1, got {mean}")
    return values.expand(C).clone()


def _inverse_softplus(x: Tensor) -> Tensor:
    return x + torch.log(-torch.expm1(-x))
