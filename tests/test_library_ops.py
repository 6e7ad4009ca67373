"""The registered ops, through a stand-in for a compiled backend; opcheck and torch.compile."""

import contextlib

import compiled_double
import pytest
import torch
from compiled_double import registered
from factory import (
    LARGER_SIZES,
    SIZES,
    gradients_of,
    make_inputs,
    runs_on,
    tensors,
    upstream,
    with_grad,
)
from tolerances import assert_close
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from torch_semimarkov import dispatch
from torch_semimarkov.dispatch import direct, library
from torch_semimarkov.errors import UnsupportedError
from torch_semimarkov.functional import log_partition, marginals, segment_log_prob, viterbi
from torch_semimarkov.potentials import Potentials

FLAGS = ["plain", "start-end", "boundary", "forbidden", "impossible"]
for_each_flags = pytest.mark.parametrize("flags", FLAGS)
# What torch itself warns about where it traces.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")


@pytest.fixture(autouse=True)
def double():
    with registered():
        yield compiled_double.calls


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def canonical(flags, dtype=torch.float64, grad=False):
    inputs = make_inputs(SIZES[4], dtype, flags)
    return Potentials(**(with_grad(inputs) if grad else inputs)).canonical()


# opcheck: schema, fake tensors, autograd registration, dynamic shapes


@for_each_flags
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("interval", [None, 2])
def test_the_log_partition_op_passes_opcheck(flags, grad, interval):
    arguments = [*canonical(flags, grad=grad).fields(), "log", "double", grad, interval]
    torch.library.opcheck(library.log_partition_op, tuple(arguments))


def test_the_log_partition_op_passes_opcheck_in_the_max_semiring_and_in_float32():
    flat = canonical("boundary", torch.float32).fields()
    torch.library.opcheck(library.log_partition_op, (*flat, "max", "double", False, None))
    torch.library.opcheck(library.log_partition_op, (*flat, "log", "double", True, None))


@for_each_flags
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_backward_op_passes_opcheck(flags, dtype):
    flat = canonical(flags, dtype).fields()
    value, kept = library.log_partition_op(*flat, "log", "double", True, None)
    weight = upstream(3)
    arguments = (*flat, value, kept, weight, "double")
    torch.library.opcheck(library.log_partition_backward_op, arguments)


@for_each_flags
def test_the_viterbi_op_passes_opcheck(flags):
    flat = canonical(flags).fields()
    torch.library.opcheck(library.viterbi_op, (*flat, "double"))


# Values and gradients through the ops


@pytest.mark.parametrize("size", [*SIZES, LARGER_SIZES[2]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@for_each_flags
@pytest.mark.parametrize("interval", [None, 2])
def test_values_and_gradients_are_those_of_the_reference(size, dtype, flags, interval):
    inputs = with_grad(make_inputs(size, dtype, flags))
    weight = upstream(size.B, torch.promote_types(dtype, torch.float32))
    with runs_on("double"):
        value = log_partition(**inputs, checkpoint_interval=interval)
        gradients = gradients_of(value, inputs, weight)
    truth = log_partition(**inputs, backend="reference")
    assert_close("log_partition", dtype, value, truth)
    for name, gradient in gradients_of(truth, inputs, weight).items():
        assert gradients[name].dtype == dtype
        assert_close("gradient", dtype, gradients[name], gradient)


@for_each_flags
def test_marginals_and_losses_are_those_of_the_reference(flags):
    inputs = make_inputs(SIZES[4], flags=flags)
    with runs_on("double"):
        found = marginals(**inputs)
    truth = marginals(**inputs, backend="reference")
    for name in truth._fields:
        assert_close("marginals", torch.float64, getattr(found, name), getattr(truth, name))


def test_only_the_terms_that_require_a_gradient_get_one():
    inputs = make_inputs(SIZES[4], flags="boundary")
    leaf = inputs["duration_bias"].requires_grad_()
    log_partition(**inputs, backend="double").sum().backward()
    assert leaf.grad is not None
    assert all(x.grad is None for name, x in inputs.items() if name != "duration_bias")


def test_nothing_is_kept_without_a_gradient():
    p = canonical("plain")
    _, kept = library.log_partition_op(*p.fields(), "log", "double", False, None)
    assert kept.numel() == 0


def test_a_gradient_in_the_max_semiring_goes_along_the_best_path(double):
    inputs = with_grad(make_inputs(SIZES[4], flags="boundary"))
    with runs_on("double"):
        value = log_partition(**inputs, semiring="max")
        gradients = gradients_of(value, inputs, upstream(3))
    assert double == ["viterbi"]
    truth = log_partition(**inputs, semiring="max", backend="reference")
    for name, gradient in gradients_of(truth, inputs, upstream(3)).items():
        assert_close("gradient", torch.float64, gradients[name], gradient)


def test_a_gradient_of_the_op_itself_in_the_max_semiring_is_refused():
    flat = canonical("plain", grad=True).fields()
    value, _ = library.log_partition_op(*flat, "max", "double", True, None)
    with pytest.raises(UnsupportedError, match="gradient for semiring='log', not 'max'"):
        value.sum().backward()


def test_marginals_of_a_compiled_backend_are_differentiable():
    gradients = []
    for backend in ("double", "reference"):
        inputs = with_grad(make_inputs(SIZES[4]))
        found = marginals(**inputs, backend=backend)
        gradients += torch.autograd.grad(found.labels[0, 0, 0], inputs["scores"])
    assert gradients[0].any()
    assert_close("second derivative", torch.float64, *gradients)


# Who watches sees the op, and who does not watch pays for no op


class Listing(TorchDispatchMode):
    """A mode that lists the ops it sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.seen.append(str(op))
        return op(*args, **(kwargs or {}))


class Marked(torch.Tensor):
    """A tensor subclass without any behaviour of its own."""


def test_a_mode_sees_each_call_as_one_op_with_the_same_result(double):
    inputs = with_grad(make_inputs(SIZES[4], flags="boundary"))
    results, calls = [], []
    for listing in (Listing(), contextlib.nullcontext()):
        double.clear()
        with listing:
            value = log_partition(**inputs, backend="double")
            gradients = gradients_of(value, inputs, upstream(3))
            best = viterbi(**inputs, backend="double")
        calls.append(list(double))
        results.append((value, *gradients.values(), best.scores, best.segments.starts))
        if isinstance(listing, Listing):
            ops = [name for name in listing.seen if name.startswith("torch_semimarkov")]
            parts = ("log_partition", "log_partition_backward", "viterbi")
            assert ops == [f"torch_semimarkov.{part}.default" for part in parts]
    assert calls[0] == calls[1] == ["forward", "backward", "viterbi"]
    assert all(map(torch.equal, *results))


def test_fake_tensors_get_shapes_without_a_kernel(double):
    with FakeTensorMode() as mode:
        inputs = {name: mode.from_tensor(x) for name, x in make_inputs(SIZES[4]).items()}
        value = log_partition(**inputs, backend="double", validate_args=False)
    assert isinstance(value, FakeTensor) and value.shape == (3,)
    assert double == []


def test_only_plain_tensors_without_a_watcher_skip_the_op():
    plain = [torch.zeros(2), None, torch.nn.Parameter(torch.zeros(2))]
    assert direct.unwatched(plain)
    assert not direct.unwatched([*plain, torch.zeros(2).as_subclass(Marked)])
    with Listing():
        assert not direct.unwatched(plain)
    seen = []
    torch.func.vmap(lambda x: seen.append(direct.unwatched(plain)) or x)(torch.zeros(2))
    assert seen == [False]


@pytest.mark.parametrize("interval", [None, 2])
@pytest.mark.parametrize("guard", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_marginals_without_gradients_are_one_forward_and_one_backward(double, guard, interval):
    inputs = make_inputs(SIZES[4], torch.float32, "start-end")
    with guard():
        found = marginals(**inputs, backend="double", checkpoint_interval=interval)
    assert double == ["forward", "backward"]
    assert not any(x.requires_grad for x in found)
    truth = marginals(**with_grad(inputs), backend="double")
    for name in truth._fields:
        assert torch.equal(getattr(found, name), getattr(truth, name).detach())


# torch.compile


def compiled(function):
    return torch.compile(function, fullgraph=True, backend="aot_eager")


@pytest.mark.parametrize(
    ("flags", "how"),
    [*((flags, "argument") for flags in FLAGS), ("boundary", "pin"), ("boundary", "automatic")],
)
def test_log_partition_compiles_in_one_graph_forward_and_backward(fresh_compiler, flags, how):
    inputs = with_grad(make_inputs(SIZES[4], flags=flags))
    options = {"backend": "double"} if how == "argument" else {}
    if how == "automatic":
        dispatch.register_backend("double", "compiled_double", first=True)

    def loss(**terms):
        return log_partition(**terms, **options) * upstream(3)

    def run(function):
        value = function(**inputs)
        return value, gradients_of(value, inputs, torch.ones_like(value))

    with dispatch.use_backend("double" if how == "pin" else "auto"):
        value, gradients = run(compiled(loss))
        truth, expected = run(loss)
    assert set(compiled_double.calls) == {"forward", "backward"}
    assert_close("log_partition", torch.float64, value, truth)
    for name in expected:
        assert_close("gradient", torch.float64, gradients[name], expected[name])


@pytest.mark.parametrize("flags", ["plain", "boundary", "forbidden"])
def test_viterbi_compiles_in_one_graph(fresh_compiler, flags):
    inputs = make_inputs(SIZES[4], flags=flags)

    def decode(**terms):
        scores, segments = viterbi(**terms, backend="double")
        return scores, segments.starts, segments.ends, segments.labels, segments.counts

    scores, *tables = compiled(decode)(**inputs)
    truth = viterbi(**inputs, backend="double")
    assert_close("score", torch.float64, scores, truth.scores)
    width = truth.segments.starts.shape[-1]
    for table, name in zip(tables, ("starts", "ends", "labels"), strict=False):
        assert torch.equal(table[:, :width], getattr(truth.segments, name))
        assert (table[:, width:] == -1).all()
    assert torch.equal(tables[3], truth.segments.counts)


def test_a_loss_with_segments_compiles_in_one_graph(fresh_compiler):
    inputs = with_grad(make_inputs(SIZES[4], flags="boundary"))
    gold = viterbi(**inputs).segments

    def loss(**terms):
        return -segment_log_prob(gold, **terms, backend="double")

    value, truth = compiled(loss)(**inputs), loss(**inputs)
    assert_close("log_prob", torch.float64, value, truth)
    found = gradients_of(value, inputs, torch.ones_like(value))
    for name, gradient in gradients_of(truth, inputs, torch.ones_like(truth)).items():
        assert_close("gradient", torch.float64, found[name], gradient)


def test_a_best_score_with_a_gradient_compiles_in_one_graph(fresh_compiler):
    inputs = with_grad(make_inputs(SIZES[4], flags="impossible"))

    def best(**terms):
        return log_partition(**terms, semiring="max", backend="double")

    value, truth = compiled(best)(**inputs), best(**inputs)
    assert_close("score", torch.float64, value, truth)
    found = gradients_of(value, inputs, upstream(3))
    for name, gradient in gradients_of(truth, inputs, upstream(3)).items():
        assert_close("gradient", torch.float64, found[name], gradient)


def test_a_compiled_function_follows_a_changed_pin(fresh_compiler, double):
    inputs = make_inputs(SIZES[4])
    function = compiled(lambda **terms: log_partition(**terms))
    for name, calls in (("double", ["forward"]), ("reference", []), ("double", ["forward"])):
        double.clear()
        with dispatch.use_backend(name):
            assert function(**inputs).isfinite().all()
        assert double == calls, name


def test_other_shapes_compile_with_dynamic_sizes(fresh_compiler):
    function = torch.compile(
        lambda **terms: log_partition(**terms, backend="double"),
        fullgraph=True, backend="aot_eager", dynamic=True,
    )  # fmt: skip
    for size in (SIZES[4], SIZES[3], SIZES[5]):
        inputs = make_inputs(size)
        assert_close("log_partition", torch.float64, function(**inputs), log_partition(**inputs))


def test_the_gradient_penalty_of_a_compiled_loss_is_refused_not_wrong(fresh_compiler):
    inputs = with_grad(make_inputs(SIZES[4]))
    leaves = list(tensors(inputs).values())
    value = compiled(lambda **terms: log_partition(**terms, backend="double"))(**inputs)
    gradients = torch.autograd.grad(value.sum(), leaves, create_graph=True)
    with pytest.raises(RuntimeError):
        gradients[0].square().sum().backward()
