"""Sums over explicit edges: enumeration, the reference, padding, bits, ops, bad input."""

import edge_cases
import pytest
import torch
from edge_cases import LARGER, EdgeOracle, make_edges, spoil_padding
from factory import for_each_backend, for_each_other_backend, upstream
from tolerances import FLOAT32, FLOAT64, assert_close

from torch_semimarkov import dispatch
from torch_semimarkov.dispatch import edge_library, edges
from torch_semimarkov.errors import ShapeError, UnsupportedError
from torch_semimarkov.functional.edges import edge_log_partition
from torch_semimarkov.potentials import EdgePotentials

SIZES = edge_cases.SIZES
for_each_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
for_each_larger = pytest.mark.parametrize("size", LARGER.values(), ids=LARGER)
for_each_semiring = pytest.mark.parametrize("semiring", ["log", "max"])
for_each_dtype = pytest.mark.parametrize("dtype", [FLOAT64, FLOAT32], ids=["float64", "float32"])
# What torch itself warns about where it traces.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")


def run(edge, lengths, semiring, backend, weight=None):
    """Value and gradient on one backend; skips where it says that it cannot."""
    edge = edge.detach().clone().requires_grad_()
    p = EdgePotentials(edge, lengths)
    reasons = dispatch.explain_op(dispatch.EDGE_OP, p, semiring, backend).reasons[backend]
    if reasons:
        pytest.skip("; ".join(reasons))
    value = edge_log_partition(edge, lengths, semiring=semiring, backend=backend)
    weight = upstream(len(value), value.dtype) if weight is None else weight
    finite = torch.where(value == -torch.inf, 0.0, value)
    return value.detach(), torch.autograd.grad(finite, edge, weight)[0]


@for_each_backend
@for_each_semiring
@for_each_dtype
@for_each_size
def test_values_and_gradients_are_those_of_enumeration(size, dtype, semiring, backend):
    edge, lengths = make_edges(size, dtype)
    weight = upstream(len(edge), dtype)
    value, gradient = run(edge, lengths, semiring, backend, weight)
    judges = [EdgeOracle(edge[b], int(lengths[b])) for b in range(len(edge))]
    assert value.dtype == gradient.dtype == dtype
    assert_close("log_partition", dtype, value, [judge.value(semiring) for judge in judges])
    truth = torch.stack([judge.gradient(semiring) for judge in judges])
    assert_close("gradient", dtype, gradient, truth * weight.double()[:, None, None, None, None])


@for_each_other_backend
@for_each_semiring
@for_each_dtype
@for_each_larger
def test_values_and_gradients_are_those_of_the_reference(size, dtype, semiring, backend):
    edge, lengths = make_edges(size, dtype)
    value, gradient = run(edge, lengths, semiring, backend)
    truth, wanted = run(edge.double(), lengths, semiring, "reference")
    assert_close("log_partition", dtype, value, truth)
    assert_close("gradient", dtype, gradient, wanted)


@for_each_backend
@for_each_semiring
@pytest.mark.parametrize("size", [SIZES["none reaches N"], LARGER["nine labels"]], ids=str)
def test_edges_past_a_length_have_no_effect_whatever_they_hold(size, semiring, backend):
    edge, lengths = make_edges(size)
    spoilt = run(spoil_padding(edge, lengths), lengths, semiring, backend)
    for clean, other in zip(run(edge, lengths, semiring, backend), spoilt, strict=True):
        assert torch.equal(clean, other)


@for_each_backend
@for_each_semiring
def test_a_ragged_batch_equals_its_sequences_one_by_one(semiring, backend):
    edge, lengths = make_edges(LARGER["nine labels"])
    value, gradient = run(edge, lengths, semiring, backend)
    weight = upstream(len(edge))
    for b, length in enumerate(lengths.tolist()):
        alone = edge[b : b + 1, : length - 1]
        one, grad = run(alone, None, semiring, backend, weight[b : b + 1])
        assert torch.equal(one[0], value[b])
        assert torch.equal(grad[0], gradient[b, : length - 1])
        assert not gradient[b, length - 1 :].any()


@for_each_backend
@for_each_semiring
def test_a_sequence_without_any_segmentation_is_minus_infinity_with_no_gradient(semiring, backend):
    edge, lengths = make_edges(SIZES["linear chain"])
    edge[1, 2] = -torch.inf
    value, gradient = run(edge, lengths, semiring, backend)
    assert value[1] == -torch.inf and value[0] > -torch.inf
    assert not gradient[1].any() and gradient[0].any()


@for_each_backend
@for_each_semiring
def test_the_same_call_twice_gives_the_same_bits(semiring, backend):
    edge, lengths = make_edges(LARGER["seventeen labels"], FLOAT32)
    first, second = (run(edge, lengths, semiring, backend) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_bits_do_not_depend_on_the_number_of_threads(monkeypatch):
    monkeypatch.setattr("torch_semimarkov.backends.cpu.threads._WORTH_THREADS", 0)
    edge, lengths = make_edges((5, 30, 7, 4, (31, 2, 17, 9, 30)), FLOAT32)
    runs = []
    before = torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        runs.append(run(edge, lengths, "log", "cpu"))
    torch.set_num_threads(before)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@for_each_other_backend
def test_far_apart_edges_lose_nothing(backend):
    edge, lengths = make_edges((2, 30, 4, 3, (31, 20)), forbid=0.0)
    edge = edge * 1e3
    value, gradient = run(edge, lengths, "log", backend)
    truth, wanted = run(edge, lengths, "log", "reference")
    assert_close("log_partition", FLOAT64, value, truth)
    assert_close("gradient", FLOAT64, gradient, wanted)


def test_equal_segmentations_have_the_gradient_of_the_reference():
    edge = torch.zeros(1, 5, 3, 2, 2, dtype=FLOAT64)
    found = [run(edge, None, "max", backend)[1] for backend in ("cpu", "reference")]
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_come_back_as_float32(dtype):
    edge, lengths = make_edges(SIZES["linear chain"], dtype)
    value = edge_log_partition(edge, lengths)
    assert value.dtype == FLOAT32
    assert_close("log_partition", FLOAT32, value, edge_log_partition(edge.double(), lengths))


def test_edges_that_are_not_contiguous_are_taken_as_they_are_meant():
    edge, lengths = make_edges(SIZES["linear chain"])
    turned = edge.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert not turned.is_contiguous()
    assert torch.equal(edge_log_partition(turned, lengths), edge_log_partition(edge, lengths))


def test_float_edges_reach_the_kernel_without_a_copy():
    for dtype in (FLOAT32, FLOAT64):
        edge, lengths = make_edges(SIZES["linear chain"], dtype)
        assert EdgePotentials(edge, lengths).canonical().edge is edge


def test_a_gradient_of_the_gradient_is_that_of_the_reference():
    edge, lengths = make_edges(SIZES["linear chain"], forbid=0.0)
    found = []
    for backend in ("cpu", "reference"):
        leaf = edge.clone().requires_grad_()
        value = edge_log_partition(leaf, lengths, backend=backend)
        (first,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), leaf)[0])
    assert found[0].any()
    assert_close("second derivative", FLOAT64, *found)


# The registered ops


def arguments(semiring, grad):
    edge, lengths = make_edges(SIZES["none reaches N"])
    return edge.requires_grad_(grad), lengths, semiring, "cpu", grad


@for_each_semiring
@pytest.mark.parametrize("grad", [False, True])
def test_the_op_passes_opcheck(semiring, grad):
    torch.library.opcheck(edge_library.edge_log_partition_op, arguments(semiring, grad))


@for_each_semiring
def test_the_backward_op_passes_opcheck(semiring):
    edge, lengths, *rest = arguments(semiring, False)
    _, kept = edge_library.edge_log_partition_op(edge, lengths, *rest[:2], True)
    found = edge, lengths, kept, upstream(3), semiring, "cpu"
    torch.library.opcheck(edge_library.edge_backward_op, found)


@for_each_semiring
def test_a_compiled_function_gives_the_same(semiring):
    edge, lengths = make_edges(SIZES["none reaches N"])

    def loss(x):
        return edge_log_partition(x, lengths, semiring=semiring, backend="cpu").sum()

    found = []
    torch.compiler.reset()
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaf = edge.clone().requires_grad_()
        value = function(leaf)
        found.append((value.detach(), *torch.autograd.grad(value, leaf)))
    torch.compiler.reset()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# Bad input


def test_a_wrong_axis_is_one_clear_error():
    with pytest.raises(ShapeError, match=r"edge must be \(B, N-1, K, C, C\).*got \(1, 4, 2, 3\)"):
        edge_log_partition(torch.zeros(1, 4, 2, 3))
    with pytest.raises(ShapeError, match=r"got \(1, 4, 2, 3, 2\)"):
        edge_log_partition(torch.zeros(1, 4, 2, 3, 2))


def test_all_misfits_are_named_at_once():
    edge = torch.zeros(2, 4, 2, 3, 3, dtype=torch.int64)
    with pytest.raises(
        ShapeError, match=r"(?s)float64, got int64.*lengths must be \(B,\) = \(2,\)"
    ):
        edge_log_partition(edge, torch.tensor([5]))


@pytest.mark.parametrize("lengths", [[5, 6], [0, 5]])
def test_lengths_outside_the_edges_are_an_error_that_says_how_they_count(lengths):
    message = r"lengths must be in 1\.\.N = 1\.\.5, the positions of each sequence plus one"
    with pytest.raises(ShapeError, match=message):
        edge_log_partition(torch.zeros(2, 4, 2, 3, 3), torch.tensor(lengths))


@for_each_backend
@for_each_semiring
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_and_infinite_edges_are_an_error_that_says_where(bad, semiring, backend):
    edge, lengths = make_edges(SIZES["linear chain"], forbid=0.0)
    edge[1, 2, 0, 1, 2] = bad
    message = r"got (nan|inf) at sequence 1, start 2, duration 1, destination 1, source 2"
    with pytest.raises(ShapeError, match=message):
        run(edge, lengths, semiring, backend)


def test_a_semiring_that_a_backend_lacks_is_an_error_with_its_reason():
    edge, lengths = make_edges(SIZES["linear chain"])
    with pytest.raises(UnsupportedError, match=r"cpu: has no semiring 'entropy', only"):
        edge_log_partition(edge, lengths, semiring="entropy", backend="cpu")
    with pytest.raises(UnsupportedError, match="'sum'"):
        edge_log_partition(edge, lengths, semiring="sum")


def test_other_semirings_run_on_the_reference_without_being_asked():
    edge, lengths = make_edges(SIZES["linear chain"], forbid=0.0)
    found = dispatch.explain_op(dispatch.EDGE_OP, EdgePotentials(edge, lengths), "entropy")
    assert found.chosen == "reference"
    entropy = edge_log_partition(edge, lengths, semiring="entropy")
    judges = [EdgeOracle(edge[b], int(lengths[b])) for b in range(2)]
    truth = []
    for judge in judges:
        log_p = torch.from_numpy(judge.scores) - judge.log_partition
        truth.append(float(-(log_p.exp() * log_p).sum()))
    assert_close("log_partition", FLOAT64, entropy, truth)


def test_an_explanation_names_the_operation_on_edges():
    edge, lengths = make_edges(SIZES["linear chain"])
    found = dispatch.explain_op(dispatch.EDGE_OP, EdgePotentials(edge, lengths), "log")
    assert found.chosen == "cpu"
    assert str(found).startswith("edge_log_partition(semiring='log') on device=cpu, float64: cpu")


def test_what_is_no_tensor_is_refused():
    with pytest.raises(ShapeError, match="edge must be a tensor, got list"):
        edge_log_partition([1.0])
    with pytest.raises(ShapeError, match="lengths must be a tensor, got list"):
        edge_log_partition(torch.zeros(1, 4, 2, 3, 3), [5])


def test_nothing_is_kept_without_a_gradient():
    edge, lengths = make_edges(SIZES["linear chain"])
    p = EdgePotentials(edge, lengths)
    _, kept = dispatch.registry.load("cpu").edge_forward(p, "log", False)
    assert kept.numel() == 0
    assert edges.EDGE_OP == dispatch.EDGE_OP
