"""Associative scans against a loop over numbers and against torch.cumsum and its kin."""

import itertools

import pytest
import torch
from scan_cases import OPS, SHAPES, bits, edge_of, make, naive, naive_linear
from tolerances import assert_close

from torch_semimarkov.errors import ShapeError, UnsupportedError
from torch_semimarkov.scan import explain, fused_associative_scan, linear_scan

pytest.importorskip("numba")
BACKENDS = ("cpu", "reference")
FLAGS = list(itertools.product([False, True], repeat=2))
TORCH = {
    "add": torch.cumsum,
    "mul": torch.cumprod,
    "max": lambda x, dim: torch.cummax(x, dim).values,
    "min": lambda x, dim: torch.cummin(x, dim).values,
    "logaddexp": torch.logcumsumexp,
}
for_each_backend = pytest.mark.parametrize("backend", BACKENDS)
for_each_op = pytest.mark.parametrize("op", OPS)
for_each_shape = pytest.mark.parametrize(("shape", "dim"), SHAPES)


def flipped(x, dim, op):
    return TORCH[op](x.flip(dim), dim).flip(dim)


# Values


@for_each_backend
@for_each_op
@for_each_shape
def test_every_flag_gives_what_a_loop_over_numbers_gives(backend, op, shape, dim):
    for dtype, (reverse, exclusive), start in itertools.product(
        (torch.float64, torch.float32), FLAGS, (False, True)
    ):
        x = make(shape, dtype, op)
        options = {"op": op, "exclusive": exclusive}
        options["initial"] = edge_of(shape, dim, dtype) if start else None
        found = fused_associative_scan(
            x, dim, reverse, **options, return_final=True, backend=backend
        )
        for value, truth in zip(found, naive(x, dim, reverse, **options), strict=True):
            assert value.dtype == dtype
            assert_close("scan", dtype, value, truth)


@for_each_backend
@for_each_op
@for_each_shape
def test_a_scan_is_that_of_torch_in_float64(backend, op, shape, dim):
    x = make(shape, torch.float32, op)
    for scan, truth in ((False, TORCH[op](x.double(), dim)), (True, flipped(x.double(), dim, op))):
        found = fused_associative_scan(x, dim, scan, op=op, backend=backend)
        assert_close("scan", torch.float32, found, truth)


@for_each_backend
@for_each_op
def test_a_ragged_batch_is_its_sequences_one_by_one(backend, op):
    lengths = torch.tensor([9, 0, 5, 1])
    for shape, dim in (((4, 9, 3), 1), ((4, 2, 9), 2)):
        x = make(shape, torch.float64, op)
        hidden = x.clone()
        for row, n in enumerate(lengths.tolist()):
            hidden[row].narrow(dim - 1, n, 9 - n).fill_(torch.nan)
        for reverse, exclusive in FLAGS:
            options = {"op": op, "exclusive": exclusive, "initial": edge_of(shape, dim)}
            found = fused_associative_scan(
                hidden, dim, reverse, **options, lengths=lengths, backend=backend, return_final=True
            )
            truth = naive(x, dim, reverse, **options, lengths=lengths)
            for value, other in zip(found, truth, strict=True):
                assert_close("scan", torch.float64, value, other)


@for_each_backend
def test_lengths_may_have_several_leading_dimensions(backend):
    lengths = torch.tensor([[2, 3], [0, 1]])
    x = make((2, 2, 3, 2))
    found = fused_associative_scan(x, 2, lengths=lengths, backend=backend)
    assert_close("scan", torch.float64, found, naive(x, 2, lengths=lengths)[0])


@for_each_backend
@for_each_op
def test_both_ways_at_once_are_the_two_ways(backend, op):
    x = make((2, 9, 5), torch.float32, op)
    forward, backward = fused_associative_scan(x, 1, "both", op=op, backend=backend)
    assert torch.equal(forward, fused_associative_scan(x, 1, op=op, backend=backend))
    assert torch.equal(backward, fused_associative_scan(x, 1, True, op=op, backend=backend))


@for_each_backend
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("op", ["add", "mul"])
def test_complex_sums_and_products_are_those_of_torch(backend, dtype, op):
    if backend == "cpu" and op == "mul":
        backend = None  # has no kernel of it
    for shape, dim in SHAPES:
        x = make(shape, dtype, op)
        found = fused_associative_scan(x, dim, op=op, backend=backend)
        torch.testing.assert_close(found, TORCH[op](x, dim))
        found = fused_associative_scan(x, dim, True, op=op, backend=backend)
        torch.testing.assert_close(found, flipped(x, dim, op))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_integers_are_treated_as_torch_treats_them(dtype):
    x = make((2, 9, 3), dtype).abs() if dtype == torch.uint8 else make((2, 9, 3), dtype)
    for op in ("add", "mul", "max", "min"):
        found = fused_associative_scan(x, 1, op=op)
        truth = TORCH[op](x, 1)
        assert found.dtype == truth.dtype and torch.equal(found, truth)


@for_each_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_accumulated_in_float32(backend, dtype):
    x = torch.full((2, 3000), 0.1, dtype=dtype)
    y, final = fused_associative_scan(x, 1, return_final=True, backend=backend)
    truth = x.double().cumsum(1)
    assert y.dtype == dtype and final.dtype == torch.float32
    assert_close("gradient", dtype, y, truth)
    assert_close("scan", torch.float32, final, truth[:, -1])


def test_a_given_type_is_that_of_the_sum():
    x = torch.full((5,), 200, dtype=torch.uint8)
    found = fused_associative_scan(x, dtype=torch.float64)
    assert torch.equal(found, x.cumsum(0, dtype=torch.float64))
    assert fused_associative_scan(x, dtype=torch.uint8).dtype == torch.uint8


# Strides, sizes and special values


@for_each_backend
@for_each_op
def test_the_strides_of_the_input_do_not_matter(backend, op):
    dense = make((4, 18, 34), torch.float64, op)
    views = {
        "transposed": dense.transpose(0, 2),
        "permuted": dense.permute(1, 2, 0),
        "every other position": dense[:, ::2],
        "every other column": dense[..., ::2],
        "a part of the columns": dense[..., 3:20],
        "a part of the positions": dense[:, 5:14],
        "expanded": dense[:, :1].expand(4, 7, 34),
    }
    for name, x in views.items():
        before = x.clone()
        for dim, reverse in itertools.product(range(3), (False, True)):
            found = fused_associative_scan(x, dim, reverse, op=op, backend=backend)
            truth = flipped(before, dim, op) if reverse else TORCH[op](before, dim)
            torch.testing.assert_close(found, truth, msg=lambda text, name=name: f"{name}: {text}")
        assert torch.equal(x, before)


@for_each_backend
@for_each_op
@pytest.mark.parametrize("shape", [(0,), (2, 0, 3), (0, 4, 3), (2, 4, 0), ()])
def test_empty_and_scalar_inputs_are_those_of_torch(backend, op, shape):
    x = torch.ones(shape)
    for dim in range(-max(1, x.ndim), max(1, x.ndim)):
        found, final = fused_associative_scan(x, dim, op=op, return_final=True, backend=backend)
        truth = TORCH[op](x, dim)
        assert torch.equal(found, truth) and found.shape == truth.shape
        assert final.numel() == 0 or x.ndim == 0 or x.shape[dim] == 0


@for_each_backend
def test_the_final_value_of_nothing_is_the_initial_one(backend):
    y, final = fused_associative_scan(
        torch.zeros(2, 0), initial=torch.tensor([1.0, 2.0]), return_final=True, backend=backend
    )
    assert y.shape == (2, 0) and final.tolist() == [1.0, 2.0]


@for_each_backend
@for_each_op
def test_nan_and_infinities_go_where_torch_puts_them(backend, op):
    special = torch.tensor([torch.nan, torch.inf, -torch.inf])
    for shape, dim in (((20, 24), 0), ((20, 24), 1)):
        for value in special:
            x = make(shape, torch.float32, op)
            x[3, 5] = x[10, 17] = value
            x[7] = value
            found = fused_associative_scan(x, dim, op=op, backend=backend)
            torch.testing.assert_close(found, TORCH[op](x, dim), equal_nan=True)


@for_each_backend
def test_zeros_give_zeros_and_one_position_itself(backend):
    assert not fused_associative_scan(torch.zeros(3, 40), 1, backend=backend).any()
    x = make((5, 1, 30), torch.float32)
    assert torch.equal(fused_associative_scan(x, 1, backend=backend), x)


@pytest.mark.parametrize(("shape", "dim"), [((2, 8192, 16), 1), ((3, 8192), 1), ((1_000_000,), 0)])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_long_sums_hold_to_a_millionth_of_their_magnitudes(shape, dim, scale):
    x = scale * make(shape, torch.float32)
    for reverse in (False, True):
        found = fused_associative_scan(x, dim, reverse, backend="cpu").double()
        truth = (flipped if reverse else lambda x, dim, _: x.cumsum(dim))(x.double(), dim, "add")
        size = (flipped if reverse else lambda x, dim, _: x.cumsum(dim))(
            x.double().abs(), dim, "add"
        )
        assert ((found - truth).abs() <= 1e-6 * size).all()


@pytest.mark.slow
def test_ten_million_equal_terms_hold_to_a_millionth():
    x = torch.full((10_000_000,), 0.1)
    found, truth = fused_associative_scan(x, 0, backend="cpu"), x.double().cumsum(0)
    assert ((found.double() - truth).abs() <= 1e-6 * truth).all()


@for_each_op
def test_the_bits_depend_neither_on_the_call_nor_on_the_threads(op):
    before = torch.get_num_threads()
    try:
        for shape, dim in (((700_000,), 0), ((3, 700, 500), 1), ((400, 1100), 1)):
            x = make(shape, torch.float32, op)
            results = []
            for threads in (1, 2, 2):
                torch.set_num_threads(threads)
                results.append(bits(fused_associative_scan(x, dim, op=op, backend="cpu")))
            assert all(torch.equal(result, results[0]) for result in results)
    finally:
        torch.set_num_threads(before)


# Linear recurrences


@for_each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
@for_each_shape
def test_a_linear_scan_is_its_recurrence(backend, dtype, shape, dim):
    gates, inputs = 0.9 * make(shape, dtype, "mul"), make(shape, dtype, seed=2)
    for reverse, start in FLAGS:
        initial = edge_of(shape, dim, dtype) if start else None
        found = linear_scan(
            gates, inputs, dim, reverse, initial=initial, return_final=True, backend=backend
        )
        for value, truth in zip(
            found, naive_linear(gates, inputs, dim, reverse, initial), strict=True
        ):
            tolerance = 1e-5 if dtype == torch.float32 else 1e-11
            torch.testing.assert_close(value, truth, rtol=tolerance, atol=tolerance)


@for_each_backend
def test_a_ragged_linear_batch_is_its_sequences_one_by_one(backend):
    gates, inputs = make((3, 9, 20), seed=3).sigmoid(), make((3, 9, 20))
    lengths = torch.tensor([9, 0, 4])
    for reverse in (False, True):
        options = {"lengths": lengths, "backend": backend, "return_final": True}
        y, final = linear_scan(gates, inputs, 1, reverse, **options)
        for b, n in enumerate(lengths.tolist()):
            assert not y[b, n:].any()
            if n:
                truth, last = naive_linear(gates[b, :n], inputs[b, :n], 0, reverse)
                assert_close("scan", torch.float64, y[b, :n], truth)
                assert_close("scan", torch.float64, final[b], last)


@for_each_backend
def test_chunks_that_carry_their_state_are_the_whole(backend):
    gates, inputs = make((2, 9, 4), seed=3).sigmoid(), make((2, 9, 4))
    first, state = linear_scan(gates[:, :5], inputs[:, :5], 1, return_final=True, backend=backend)
    second = linear_scan(gates[:, 5:], inputs[:, 5:], 1, initial=state, backend=backend)
    whole = linear_scan(gates, inputs, 1, backend=backend)
    assert_close("scan", torch.float64, torch.cat([first, second], 1), whole)


# Bad input and the choice of a backend

X = torch.zeros(2, 3, 4)
BAD = {
    "dim": (ShapeError, r"dim must be in \[-3, 2\]", lambda: fused_associative_scan(X, 3)),
    "op": (UnsupportedError, "op must be one of", lambda: fused_associative_scan(X, op="mean")),
    "complex max": (
        UnsupportedError,
        "only 'add' and 'mul'",
        lambda: fused_associative_scan(X + 0j, op="max"),
    ),
    "integer logaddexp": (
        UnsupportedError,
        "dtype=torch.float32",
        lambda: fused_associative_scan(X.long(), op="logaddexp"),
    ),
    "initial": (
        ShapeError,
        r"\(2, 4\), or broadcast to it, got \(3,\)",
        lambda: fused_associative_scan(X, 1, initial=torch.zeros(3)),
    ),
    "lengths": (
        ShapeError,
        "move the batch before",
        lambda: fused_associative_scan(X, 0, lengths=torch.tensor([1, 2])),
    ),
    "long lengths": (
        ShapeError,
        r"in \[0, T\] = \[0, 3\], got 1 to 5",
        lambda: fused_associative_scan(X, 1, lengths=torch.tensor([1, 5])),
    ),
    "a list": (ShapeError, "x must be a tensor, got list", lambda: fused_associative_scan([1.0])),
    "a list of lengths": (
        ShapeError,
        "lengths must be a tensor, got list",
        lambda: fused_associative_scan(X, 1, lengths=[1, 2]),
    ),
    "a number to begin with": (
        ShapeError,
        r"initial must be a tensor, got float; pass torch.tensor\(initial\)",
        lambda: linear_scan(X, X, 1, initial=1.0),
    ),
    "no dimension and no type": (
        ShapeError,
        "dim must be an integer, got None\n.*dtype must be a torch.dtype .* got 'float32'",
        lambda: fused_associative_scan(X, None, dtype="float32"),
    ),
    "a word for a switch": (
        ShapeError,
        "exclusive must be True or False, got 'no'",
        lambda: fused_associative_scan(X, 1, exclusive="no"),
    ),
    "a tensor for a way": (ShapeError, "reverse", lambda: explain(X, 1, torch.tensor(True))),
    "a list of gates": (
        ShapeError,
        "gates must be a tensor, got list",
        lambda: linear_scan([1.0], X),
    ),
    "gates": (ShapeError, "gates must have the shape", lambda: linear_scan(X[0], X)),
    "integers": (UnsupportedError, "integers", lambda: linear_scan(X.long(), X.long())),
    "way": (ShapeError, "'both'", lambda: fused_associative_scan(X, 1, "left")),
    "backend": (
        UnsupportedError,
        "one of 'triton'",
        lambda: fused_associative_scan(X, backend="a"),
    ),
    "no kernel": (
        UnsupportedError,
        "has no kernel for int32",
        lambda: fused_associative_scan(X.int(), op="max", backend="cpu"),
    ),
}


@pytest.mark.parametrize(("error", "message", "call"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_error(error, message, call):
    with pytest.raises(error, match=message):
        call()


def test_explain_says_which_backend_runs_and_why_not_the_others():
    found = explain(torch.zeros(4, 512, 64), 1)
    assert found.chosen == "cpu"
    assert any("triton" in line or "CUDA" in line for line in found.reasons["triton"])
    assert explain(torch.zeros(3, dtype=torch.int16), op="max").chosen == "reference"
    assert explain(X, backend="reference").chosen == "reference"
    assert "scan(op='add')" in str(found)
