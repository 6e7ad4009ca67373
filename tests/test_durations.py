"""Duration models against scipy's, their gradients, and bad settings."""

import numpy as np
import pytest
import torch
from head_cases import C, D, K, enumerate_batch, losses_of, random_batch, random_head
from scipy import stats
from tolerances import FLOAT64, assert_close

import torch_semimarkov as ts
from torch_semimarkov.durations import DURATION_DISTRIBUTIONS, DurationDistribution
from torch_semimarkov.errors import ConfigError, ShapeError

MEANS = (1.5, 4.0, 30.0)
# Distribution of d - 1 = 0, 1, ... as scipy has it, from the mean duration.
SCIPY = {
    "geometric": lambda mean: stats.geom(1 / mean, loc=-1),
    "poisson": lambda mean: stats.poisson(mean - 1),
    "negative_binomial": lambda mean: stats.nbinom(2.0, 2.0 / (2.0 + mean - 1)),
}
for_each_model = pytest.mark.parametrize("name", SCIPY)
for_each_named = pytest.mark.parametrize("name", DURATION_DISTRIBUTIONS)


def create(name, max_duration, num_classes, **options):
    return ts.create_duration_distribution(name, max_duration, num_classes, **options)


def cut(distribution, max_duration):
    """Log-probabilities over 1..K of scipy's distribution, cut at K and normalised."""
    weights = distribution.logpmf(np.arange(max_duration))
    return weights - np.logaddexp.reduce(weights)


# Values


@for_each_model
@pytest.mark.parametrize("max_duration", [1, 2, 7, 40])
def test_the_bias_is_scipys_log_probability_cut_at_k(name, max_duration):
    model = to_float64(create(name, max_duration, 3, mean=MEANS), name)
    truth = np.stack([cut(SCIPY[name](mean), max_duration) for mean in MEANS], axis=1)
    assert_close("log_prob", FLOAT64, model(), torch.from_numpy(truth))


def to_float64(model, name):
    """The model with parameters that are exact in float64, not rounded to float32 first."""
    model = model.double()
    mean = torch.tensor(MEANS, dtype=FLOAT64)
    with torch.no_grad():
        if name == "geometric":
            model.logit.copy_(torch.logit(1 / mean))
        elif name == "poisson":
            model.raw_rate.copy_(torch.expm1(mean - 1).log())
        else:
            model.raw_size.copy_(torch.expm1(torch.full((3,), 2.0, dtype=FLOAT64)).log())
            model.logit.copy_(torch.log(2.0 / (mean - 1)))
    return model


@for_each_model
def test_a_large_k_costs_no_digits_in_float32(name):
    mean = 2000.0
    bias = create(name, 8192, 1, mean=mean)()
    assert bias.dtype == torch.float32
    truth = torch.from_numpy(cut(SCIPY[name](mean), 8192))
    torch.testing.assert_close(bias[:, 0].detach().double(), truth, rtol=1e-3, atol=2e-3)
    steps = truth.diff()
    torch.testing.assert_close(bias[:, 0].detach().double().diff(), steps, rtol=0.0, atol=2e-3)


@for_each_model
@pytest.mark.parametrize("mean", [2.0, 10.0, 50.0])
def test_the_mean_is_the_one_asked_for_where_k_is_large(name, mean):
    probabilities = create(name, 2000, 2, mean=mean)().exp()
    expected = (torch.arange(1, 2001)[:, None] * probabilities).sum(0)
    torch.testing.assert_close(expected, torch.full((2,), mean), rtol=1e-4, atol=0.0)


@for_each_model
def test_the_default_mean_is_half_of_k(name):
    assert torch.equal(create(name, 9, 2)(), create(name, 9, 2, mean=5.0)())


@pytest.mark.parametrize("name", [*SCIPY, "uniform"])
@pytest.mark.parametrize("max_duration", [1, 2, 30])
def test_the_probabilities_of_a_named_model_sum_to_one(name, max_duration):
    bias = create(name, max_duration, C)()
    assert bias.shape == (max_duration, C)
    torch.testing.assert_close(bias.exp().sum(0), torch.ones(C))


def test_uniform_is_flat_and_learns_nothing():
    model = create("uniform", 8, C)
    torch.testing.assert_close(model(), torch.full((8, C), -np.log(8.0)).float())
    assert not list(model.parameters())


def test_learned_is_a_free_weight_for_each_duration_and_label():
    model = create("learned", 300, 20, init_scale=0.5)
    assert torch.equal(model(), model.weight)
    torch.testing.assert_close(model.weight.std(), torch.tensor(0.5), rtol=0.05, atol=0.0)
    assert not create("learned", 3, 2, init_scale=0.0).weight.any()


@for_each_named
def test_one_duration_carries_no_information_but_learned_weights(name):
    bias = create(name, 1, C)()
    assert bias.shape == (1, C)
    if name != "learned":
        assert not bias.any()


@for_each_model
@pytest.mark.parametrize("extreme", [-200.0, 200.0])
def test_extreme_parameters_give_numbers_and_gradients(name, extreme):
    model = create(name, 50, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(extreme)
    bias = model()
    assert not bias.isnan().any()
    bias[3].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", [*SCIPY, "uniform"])
def test_a_half_type_model_counts_durations_exactly(name):
    model = create(name, 600, 2, mean=None)
    half = create(name, 600, 2).to(torch.bfloat16)
    with torch.no_grad():
        for parameter, other in zip(model.parameters(), half.parameters(), strict=True):
            parameter.copy_(other)
    assert half().dtype == torch.float32
    torch.testing.assert_close(half(), model(), rtol=1e-5, atol=1e-5)


# A user's own


def test_a_fixed_tensor_is_the_bias():
    weights = torch.randn(K, C)
    model = create(weights, K, C)
    assert torch.equal(model(), weights)
    assert not list(model.parameters())
    weights.zero_()
    assert bool(model().any())


def test_one_weight_a_duration_serves_every_label():
    model = create(torch.tensor([0.0, 1.0, 2.0]), 3, 2)
    assert model().tolist() == [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]
    assert create(lambda d: -d, 3, 2)().tolist() == [[-1.0, -1.0], [-2.0, -2.0], [-3.0, -3.0]]


def test_whole_numbers_become_floats():
    assert create(torch.tensor([0, -1, -2]), 3, 2)().dtype == torch.float32
    assert create(lambda d: -d.long(), 3, 2)().tolist() == [[-1.0] * 2, [-2.0] * 2, [-3.0] * 2]


def test_a_fixed_tensor_may_forbid_durations():
    weights = torch.tensor([float("-inf"), 0.0, 0.0, float("-inf")])
    head = random_head(torch.float32, duration_distribution=weights)
    durations = head.decode(torch.randn(4, 9, D)).segments.durations
    assert set(durations[durations > 0].tolist()) <= {2, 3}


class Slopes(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, C)

    def forward(self, durations):
        return self.layer(durations[:, None])


MODELS = {name: name for name in (*SCIPY, "learned")} | {"module": Slopes}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_loss_reaches_every_parameter_of_a_duration_model(model):
    source = model if isinstance(model, str) else model()
    head = random_head(duration_distribution=source)
    head.compute_loss(*random_batch()).backward()
    names = [name for name, _ in head.named_parameters() if name.startswith("durations.")]
    assert names
    for parameter in head.durations.parameters():
        assert bool(parameter.grad.isfinite().all())
        assert bool((parameter.grad != 0).all())


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_gradient_of_a_duration_model_is_that_of_its_values(model):
    source = model if isinstance(model, str) else model()
    model = create(source, K, C).double()
    parameters = list(model.parameters())

    def bias(*values):
        names = [name for name, _ in model.named_parameters()]
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), ())

    assert torch.autograd.gradcheck(bias, parameters)


@pytest.mark.parametrize("name", [*SCIPY, "learned"])
def test_training_recovers_the_durations_of_the_data(name):
    """Alternating labels, all segments 3 long: the model must come to expect 3."""
    head = ts.SemiMarkovCRFHead(2, 8, duration_distribution=name)
    labels = (torch.arange(24) // 3 % 2).expand(4, 24)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.2)
    scores = torch.zeros(4, 24, 2)
    first = head.compute_loss(scores, labels=labels).item()
    for _ in range(40):
        optimizer.zero_grad()
        loss = head.compute_loss(scores, labels=labels)
        loss.backward()
        optimizer.step()
    assert 0 <= loss.item() < 0.8 * first
    expected = head.marginals(scores[:1]).durations.detach()
    mean = (torch.arange(1, 9)[:, None] * expected).sum() / expected.sum()
    torch.testing.assert_close(mean, torch.tensor(3.0), rtol=0.0, atol=0.35)


@pytest.mark.parametrize("name", [*SCIPY, "uniform"])
def test_a_named_model_enters_the_loss_as_it_says(name):
    head = random_head(duration_distribution=name)
    hidden, lengths, labels = random_batch()
    segments = ts.Segments.from_labels(labels, lengths)
    loss = head.compute_loss(hidden, lengths, segments=segments, reduction="none")
    truth = losses_of(enumerate_batch(head, hidden, lengths), segments)
    assert_close("log_prob", FLOAT64, loss, truth)


# Bad settings

BAD_SOURCES = {
    "an unknown name": ("weibull", ConfigError, "must be one of 'learned', .*'weibull'"),
    "a number": (5, ConfigError, "a tensor or a callable, got 5"),
    "nothing": (None, ConfigError, "a tensor or a callable, got None"),
    "a transposed tensor": (torch.zeros(3, 4), ShapeError, r"= \(4, 3\) or .* got \(3, 4\)"),
    "a scalar": (torch.tensor(1.0), ShapeError, r"got \(\)"),
    "a short callable": (lambda d: d[:2], ShapeError, r"got \(2,\)"),
    "a callable without a tensor": (lambda d: 3.0, ShapeError, "must give a tensor, got float"),
}  # fmt: skip
BAD_OPTIONS = {
    "no durations": ({"max_duration": 0}, "max_duration must be an integer >= 1, got 0"),
    "half a duration": ({"max_duration": 2.5}, "max_duration must be an integer >= 1, got 2.5"),
    "no labels": ({"num_classes": 0}, "num_classes must be an integer >= 1, got 0"),
    "mean below 1": ({"mean": 0.5}, r"mean must be one number or C = 3 numbers >= 1, got 0.5"),
    "NaN as mean": ({"mean": float("nan")}, "mean must be .* >= 1, got nan"),
    "infinite mean": ({"mean": float("inf")}, "mean must be .* >= 1, got inf"),
    "too few means": ({"mean": [2.0, 3.0]}, r"C = 3 numbers >= 1, got \[2.0, 3.0\]"),
    "a word as mean": ({"mean": "long"}, "mean must be .*, got long"),
    "negative scale": ({"init_scale": -1.0}, "init_scale must be a number >= 0, got -1.0"),
}


@pytest.mark.parametrize(("source", "error", "message"), BAD_SOURCES.values(), ids=BAD_SOURCES)
def test_a_bad_source_of_durations_is_one_clear_error(source, error, message):
    with pytest.raises(error, match=message):
        create(source, 4, 3)


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_a_bad_option_is_one_clear_error(options, message):
    arguments = {"max_duration": 4, "num_classes": 3, **options}
    with pytest.raises(ConfigError, match=message):
        ts.create_duration_distribution("geometric", **arguments)


@pytest.mark.parametrize("source", ["learned", "uniform", torch.zeros(4)], ids=str)
def test_a_mean_without_a_use_is_refused(source):
    with pytest.raises(ConfigError, match="only for 'geometric', 'negative_binomial', 'poisson'"):
        create(source, 4, 3, mean=2.0)


def test_every_misfit_is_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        create("weibull", 0, -1, init_scale=-1.0)
    for name in ("max_duration", "num_classes", "init_scale", "duration_distribution"):
        assert f"{name} must be" in str(caught.value)


def test_the_base_leaves_the_weights_to_its_models():
    with pytest.raises(NotImplementedError):
        DurationDistribution(3, 2)()
