"""The head's exact path: an edge tensor from the same potentials, for every semiring."""

import head_cases as cases
import pytest
import torch
from edge_cases import EdgeOracle
from factory import FLAGS, SIZES, gradients_of, make_inputs, upstream, with_grad
from head_cases import LENGTHS, T, enumerate_batch, random_batch, random_head
from tolerances import FLOAT32, FLOAT64, assert_close

import torch_semimarkov as ts
from torch_semimarkov import semirings
from torch_semimarkov.errors import ConfigError, UnsupportedError
from torch_semimarkov.functional import exact, log_partition
from torch_semimarkov.functional.edges import edge_potentials
from torch_semimarkov.potentials import Potentials

HEADS = {
    "plain": {},
    "boundary scores": {"boundary_scores": True},
    "constraints": {
        "allowed_transitions": [[True, True, False], [True, True, True], [False, True, True]],
        "min_duration": [1, 1, 2],
    },
    "longer than the sequences": {"max_duration": 9},
    "one duration": {"max_duration": 1},
}
for_each_head = pytest.mark.parametrize("options", HEADS.values(), ids=HEADS)
for_each_semiring = pytest.mark.parametrize("semiring", ["log", "max"])


def by_path(path, inputs, semiring, weight):
    """Value and gradient of every term by one path."""
    leaves = with_grad(inputs)
    if path == "exact":
        value = exact.exact_log_partition(Potentials(**leaves).canonical(), semiring)
    else:
        value = log_partition(**leaves, semiring=semiring)
    return value.detach(), gradients_of(torch.where(value > -torch.inf, value, 0), leaves, weight)


@for_each_semiring
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_term_has_the_value_and_the_gradient_of_the_streaming_path(size, flags, semiring):
    inputs = make_inputs(size, flags=flags)
    weight = upstream(size.B)
    value, gradients = by_path("exact", inputs, semiring, weight)
    truth, wanted = by_path("streaming", inputs, semiring, weight)
    assert_close("log_partition", FLOAT64, value, truth)
    for name, gradient in wanted.items():
        assert_close("gradient", FLOAT64, gradients[name], gradient)


@pytest.mark.parametrize("flags", FLAGS)
def test_the_edges_have_the_total_that_enumeration_finds(flags):
    inputs = make_inputs(flags=flags)
    edge = edge_potentials(Potentials(**inputs).canonical())
    judges = [EdgeOracle(edge[b], int(length) + 1) for b, length in enumerate(inputs["lengths"])]
    total = log_partition(**inputs)
    assert_close("log_partition", FLOAT64, total, [judge.log_partition for judge in judges])


@for_each_head
@for_each_semiring
def test_the_head_agrees_with_streaming_in_value_and_gradient(options, semiring):
    head = random_head(**options)
    hidden, lengths, _ = random_batch()
    found = []
    for backend in ("exact", "streaming"):
        leaf = hidden.clone().requires_grad_()
        head.zero_grad()
        value = head.forward(leaf, lengths, backend=backend, semiring=semiring)["partition"]
        (value * upstream(3)).sum().backward()
        found.append([value.detach(), leaf.grad, *(x.grad.clone() for x in head.parameters())])
    for exactly, streamed in zip(*found, strict=True):
        assert_close("gradient", FLOAT64, exactly, streamed)


@for_each_head
def test_the_loss_is_the_same_likelihood(options):
    head = random_head(**options)
    hidden, lengths, _ = random_batch()
    segments = head.decode(hidden, lengths).segments
    found = []
    for backend in ("exact", "streaming"):
        head.zero_grad()
        loss = head.compute_loss(
            hidden, lengths, segments=segments, reduction="none", backend=backend
        )
        assert bool((loss >= 0).all())
        loss.sum().backward()
        found.append([loss.detach(), *(x.grad.clone() for x in head.parameters())])
    for exactly, streamed in zip(*found, strict=True):
        assert_close("gradient", FLOAT64, exactly, streamed)


def test_a_float32_head_gives_float32_by_both_paths():
    head = random_head(torch.float32)
    hidden, lengths, _ = random_batch(torch.float32)
    values = [head.forward(hidden, lengths, x)["partition"] for x in ("exact", "streaming")]
    assert {value.dtype for value in values} == {FLOAT32}
    assert_close("log_partition", FLOAT32, *values)


# Other semirings


@pytest.mark.parametrize("backend", ["auto", "exact"])
def test_the_entropy_is_that_of_enumeration(backend):
    head = random_head(boundary_scores=True)
    hidden, lengths, _ = random_batch()
    found = head.forward(hidden, lengths, backend, semiring="entropy")["partition"]
    truth = []
    for judge in enumerate_batch(head, hidden, lengths):
        log_p = judge.scores - judge.log_partition
        truth.append(-float((judge.probabilities() * log_p).sum()))
    assert_close("log_partition", FLOAT64, found, truth)


@pytest.mark.parametrize(
    "semiring", ["entropy", "std", semirings.KMaxSemiring(2)], ids=["entropy", "std", "kmax"]
)
def test_the_streaming_alternative_gives_the_same_without_an_edge_tensor(monkeypatch, semiring):
    head = random_head(boundary_scores=True)
    hidden, lengths, _ = random_batch()
    truth = head.forward(hidden, lengths, semiring=semiring)["partition"]
    monkeypatch.setattr(exact, "edge_potentials", None)
    found = head.forward(hidden, lengths, "streaming", semiring=semiring)["partition"]
    assert_close("log_partition", FLOAT64, found, truth)


def test_the_best_three_scores_are_those_of_enumeration():
    head = random_head()
    hidden, lengths, _ = random_batch()
    found = head.forward(hidden, lengths, semiring=semirings.KMaxSemiring(3))["partition"]
    for b, judge in enumerate(enumerate_batch(head, hidden, lengths)):
        best = sorted(judge.scores.tolist(), reverse=True)[:3]
        assert_close("score", FLOAT64, found[: len(best), b], best)


def test_plain_weights_are_exponentials_of_scores():
    head = random_head()
    hidden, lengths, _ = random_batch()
    total = head.forward(hidden, lengths, semiring="std")["partition"]
    assert_close("log_partition", FLOAT64, total.log(), head.forward(hidden, lengths)["partition"])


def test_a_semiring_of_two_models_is_refused_with_a_remedy():
    hidden, lengths, _ = random_batch()
    with pytest.raises(UnsupportedError, match=r"compares 2 models.*use SemiMarkov"):
        random_head().forward(hidden, lengths, semiring="kl_divergence")


def test_a_semiring_that_a_backend_lacks_is_an_error_with_its_reason():
    hidden, lengths, _ = random_batch()
    with pytest.raises(UnsupportedError, match="cpu: has no semiring 'entropy'"):
        random_head().forward(hidden, lengths, backend="cpu", semiring="entropy")
    with pytest.raises(UnsupportedError, match="semiring must be one of"):
        random_head().forward(hidden, lengths, semiring="sum")


# The decision


@pytest.mark.parametrize(
    "semiring, backend, path",
    [
        ("log", "auto", "streaming"),
        ("max", "auto", "streaming"),
        ("entropy", "auto", "exact"),
        ("std", "auto", "exact"),
        ("log", "exact", "exact"),
        ("max", "exact", "exact"),
        ("log", "streaming", "streaming"),
        ("log", "reference", "streaming"),
    ],
)
def test_the_path_is_the_one_that_is_explained(monkeypatch, semiring, backend, path):
    head, (hidden, lengths, _) = random_head(), random_batch()
    found = head.explain(hidden, lengths, backend, semiring)
    assert found.path == path
    built = []
    monkeypatch.setattr(exact, "edge_potentials", lambda p: built.append(p) or edge_potentials(p))
    head.forward(hidden, lengths, backend, semiring=semiring)
    assert bool(built) == (path == "exact")


def test_an_explanation_shows_the_bytes_the_threshold_and_the_backend():
    head = random_head(edge_memory_threshold=1e6)
    found = head.explain(*random_batch()[:2], semiring="entropy")
    size = 3 * T * cases.K * 9 * 8
    assert found.edge_bytes == size
    text = str(found)
    assert text.startswith("semiring='entropy': exact path")
    assert "streaming  not taken: it has kernels for log and max only" in text
    shape = (3, T, cases.K, 3, 3)
    assert f"edge tensor {shape} of {size:,} bytes fits under edge_memory_threshold" in text
    assert "edge_log_partition(semiring='entropy') on device=cpu, float64: reference" in text


@pytest.mark.parametrize("backend", ["auto", "exact"])
def test_an_edge_tensor_that_is_too_large_is_one_clear_error(backend):
    head = ts.SemiMarkovCRFHead(num_classes=24, max_duration=1000)
    hidden = torch.zeros(1, 10_000, 24)
    size = 10_000 * 1000 * 24 * 24 * 4
    message = (
        rf"(?s)edge tensor \(B, T, K, C, C\) = \(1, 10000, 1000, 24, 24\) of {size:,} bytes, more "
        r'than edge_memory_threshold = 8,000,000,000 bytes; use backend="streaming"'
    )
    assert head.explain(hidden, None, backend, "entropy").path is None
    with pytest.raises(UnsupportedError, match=message):
        head.forward(hidden, backend=backend, semiring="entropy")
    assert head.forward(hidden[:, :100], backend="auto")["partition"].isfinite().all()


def test_the_threshold_is_the_users():
    hidden, lengths, _ = random_batch()
    size = 3 * T * cases.K * 9 * 8
    fits = random_head(edge_memory_threshold=size)
    assert fits.forward(hidden, lengths, "exact")["partition"].isfinite().all()
    with pytest.raises(UnsupportedError, match="raise the threshold"):
        random_head(edge_memory_threshold=size - 1).forward(hidden, lengths, "exact")
    with pytest.raises(ConfigError, match="edge_memory_threshold must be >= 0"):
        random_head(edge_memory_threshold=-1)


@pytest.mark.parametrize("call", ["decode", "marginals"])
def test_calls_without_an_exact_path_say_so(call):
    hidden, lengths, _ = random_batch()
    with pytest.raises(UnsupportedError, match=f'{call} has no backend="exact"'):
        getattr(random_head(), call)(hidden, lengths, backend="exact")


def test_a_length_has_the_same_meaning_by_both_paths():
    head = random_head()
    hidden, lengths, _ = random_batch()
    hidden[torch.arange(T) >= lengths[:, None]] = torch.nan
    values = [head.forward(hidden, lengths, x)["partition"] for x in ("exact", "streaming")]
    assert_close("log_partition", FLOAT64, *values)
    assert len(values[0]) == len(LENGTHS)
