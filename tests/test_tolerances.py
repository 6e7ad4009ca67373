"""The table of tolerances bites: wrong answers of the usual kinds fail in every row."""

import pytest
import torch
from factory import SIZES, make_inputs, oracles, stacked, upstream
from tolerances import TOLERANCES, assert_close


def truth_of(quantity: str, size, dtype) -> list[torch.Tensor]:
    """What a row judges, of the size it has in the contract tests."""
    inputs, found = make_inputs(size, dtype, "boundary"), oracles(size, dtype, "boundary")
    if quantity == "log_partition":
        return [torch.tensor([one.log_partition for one in found], dtype=torch.float64)]
    if quantity == "score":
        return [torch.tensor(one.scores) for one in found]
    if quantity == "log_prob":
        return [torch.tensor(one.scores - one.log_partition) for one in found]
    if quantity == "entropy":
        return [torch.tensor([one.entropy() for one in found], dtype=torch.float64)]
    if quantity == "marginals":
        return [torch.tensor(value) for one in found for value in one.marginals().values()]
    weight = upstream(size.B).tolist()
    gradients = [one.gradient() for one in found]
    parts = {
        name: [w * g[name] for w, g in zip(weight, gradients, strict=True)] for name in gradients[0]
    }
    return [stacked(inputs, name, parts[name]) for name in parts]


ROWS = [(quantity, dtype) for quantity, dtype in TOLERANCES]
for_each_row = pytest.mark.parametrize(
    ("quantity", "dtype"), ROWS, ids=[f"{q}-{str(d)[6:]}".replace(" ", "-") for q, d in ROWS]
)
for_each_size = pytest.mark.parametrize("size", SIZES[2:6], ids=str)


@pytest.fixture
def truths(quantity, size, dtype):
    return [value for value in truth_of(quantity, size, dtype) if value.abs().max() > 1e-3]


@for_each_row
@for_each_size
def test_the_truth_passes_and_so_does_its_rounding(quantity, size, dtype, truths):
    kept = dtype if quantity == "gradient" else torch.promote_types(dtype, torch.float32)
    for value in truths:
        assert_close(quantity, dtype, value.to(kept), value)


@for_each_row
@for_each_size
def test_a_zeroed_answer_fails(quantity, size, dtype, truths):
    for value in truths:
        with pytest.raises(AssertionError):
            assert_close(quantity, dtype, torch.zeros_like(value), value)


@for_each_row
@for_each_size
@pytest.mark.parametrize("factor", [1.01, 0.99, -1.0])
def test_a_scaled_answer_fails(quantity, size, dtype, truths, factor):
    for value in truths:
        with pytest.raises(AssertionError):
            assert_close(quantity, dtype, value * factor, value)


@for_each_row
@for_each_size
def test_a_single_entry_off_fails_wherever_it_is(quantity, size, dtype, truths):
    for value in truths:
        off = 0.01 * value.abs().max()
        for entry in (value.abs().argmin(), value.abs().argmax()):
            wrong = value.clone()
            wrong.view(-1)[entry] += off
            with pytest.raises(AssertionError):
                assert_close(quantity, dtype, wrong, value)


@for_each_row
@for_each_size
def test_nan_minus_infinity_and_a_wrong_shape_fail(quantity, size, dtype, truths):
    for value in truths:
        for wrong in (torch.full_like(value, bad) for bad in (torch.nan, -torch.inf)):
            with pytest.raises(AssertionError):
                assert_close(quantity, dtype, wrong, value)
        with pytest.raises(AssertionError):
            assert_close(quantity, dtype, value[None], value)


def test_every_type_has_a_row_for_every_first_order_quantity():
    # scans of half types come back in their type, as gradients do, and are kept to those rows
    quantities = {quantity for quantity, _ in TOLERANCES} - {"second derivative", "scan"}
    dtypes = {dtype for _, dtype in TOLERANCES}
    assert {(q, d) for q in quantities for d in dtypes} <= set(TOLERANCES)
    assert dtypes == {torch.float64, torch.float32, torch.bfloat16, torch.float16}
    assert {d for q, d in TOLERANCES if q == "scan"} == {torch.float64, torch.float32}


def test_no_row_is_looser_than_its_type_needs():
    for (_, dtype), (relative, absolute) in TOLERANCES.items():
        assert relative <= 2**-8, dtype
        assert absolute <= 1e-4, dtype
