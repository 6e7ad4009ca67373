"""What the tests of the triton backend share: where they run, at which size, and what is right.

Each runs at full size on a GPU. At a reduced size it also runs on the cpu backend, so that no test
is untried code, and with TRITON_INTERPRET=1 on the triton backend under Triton's interpreter.
"""

import os
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import pytest
import torch
from factory import runs_on, tensors, upstream, with_grad

from torch_semimarkov.functional import log_partition, marginals, viterbi

# What is compared with a float64 truth: relative to values, absolute in a probability, relative to
# a count. float32: as wanted of T = 1e6.
LIMITS = {torch.float32: (1e-6, 1e-4, 1e-4), torch.float64: (1e-10, 1e-8, 1e-8)}
TABLES = ("transitions", "durations", "beyond")
PROBABILITIES = ("labels", "starts", "ends", "boundaries")


@dataclass(frozen=True)
class Place:
    """A backend and the device of its inputs.

    Args:
        backend: the one that is pinned.
        device: where the inputs lie.
        full: the sizes are those that are wanted of a GPU.
    """

    backend: str
    device: str
    full: bool = False

    def pick(self, full, reduced):
        """One of two sizes."""
        return full if self.full else reduced

    def ready(self, inputs):
        """The inputs on the device."""
        return {name: x.to(self.device) for name, x in inputs.items()}

    def __str__(self):
        return f"{self.backend} on {self.device}"


GPU = Place("triton", "cuda", full=True)
PLACES = [pytest.param(GPU, marks=pytest.mark.gpu, id=str(GPU))]
OTHERS = [Place("cpu", "cpu")]
if os.environ.get("TRITON_INTERPRET") and find_spec("triton"):
    OTHERS.append(Place("triton", "cpu"))
PLACES += [pytest.param(place, id=str(place)) for place in OTHERS]
for_each_place = pytest.mark.parametrize("place", PLACES)
for_float_types = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64], ids=lambda dtype: str(dtype)[6:]
)


@contextmanager
def runs_at(place):
    """As ``runs_on``, where a refusal is a failure: every call of these tests is promised."""
    try:
        with runs_on(place.backend):
            yield
    except pytest.skip.Exception as refusal:
        raise AssertionError(f"{place} refused a call: {refusal}") from None


def wide(inputs):
    """The same numbers in float64 on the CPU."""
    return {n: x.cpu().double() if x.is_floating_point() else x.cpu() for n, x in inputs.items()}


def truth_of(inputs):
    """Marginals of the same numbers in float64 on the cpu backend."""
    return marginals(**wide(inputs), backend="cpu")


def everything(place, inputs, **options):
    """Value, gradients under unequal weights and the best path, as a flat tuple of tensors."""
    leaves = with_grad(place.ready(inputs))
    B = leaves["scores"].shape[0]
    with runs_at(place):
        value = log_partition(**leaves, **options)
        weight = upstream(B, value.dtype, place.device)
        gradients = torch.autograd.grad(value, list(tensors(leaves).values()), weight)
        with torch.no_grad():
            best = viterbi(**leaves)
    paths = (best.segments.starts, best.segments.ends, best.segments.labels, best.segments.counts)
    return value.detach(), *gradients, best.scores, *paths


def same_bits(first, second):
    """True if two tuples of tensors are equal to the last bit; NaN would not be."""
    return len(first) == len(second) and all(map(torch.equal, first, second))


def assert_marginals(found, truth, limits):
    """Fail unless marginals are the truth to (value, probability, count); shapes must agree."""
    value, probability, count = limits
    compare(found.log_partition, truth.log_partition, rtol=value, atol=value)
    for name in PROBABILITIES:
        compare(getattr(found, name), getattr(truth, name), rtol=0.0, atol=probability)
    for name in TABLES:
        compare(getattr(found, name), getattr(truth, name), rtol=count, atol=count)


def compare(found, truth, rtol, atol):
    """``assert_close`` in float64 on the CPU."""
    torch.testing.assert_close(found.detach().cpu().double(), truth.detach(), rtol=rtol, atol=atol)


def assert_consistent(found, number_of_sequences, limit):
    """Fail unless starts, ends, durations and transitions count the same segments."""
    starts = found.starts.double().sum().item()
    assert found.ends.double().sum().item() == pytest.approx(starts, rel=limit)
    assert found.durations.double().sum().item() == pytest.approx(starts, rel=limit)
    inner = found.transitions.double().sum().item()
    assert inner == pytest.approx(starts - number_of_sequences, rel=limit, abs=limit)
