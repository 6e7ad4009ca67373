"""Potentials: every misfit at once, values that must not be, and the canonical form."""

import pytest
import torch
from factory import FLAGS, SIZES, make_inputs, tensors

from torch_semimarkov.errors import ShapeError
from torch_semimarkov.potentials import TERMS, Potentials

HEADING = "semi-CRF potentials do not fit together:"


def potentials(**changes):
    return Potentials(**{**make_inputs(SIZES[4], torch.float32, "all-tail"), **changes})


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_everything_the_factory_makes_fits_together(size, flags):
    p = Potentials(**make_inputs(size, flags=flags))
    assert p.check() is p
    assert p.check_values() is p
    assert (p.B, p.T, p.K, p.C) == (size.B, size.T, size.K, size.C)
    assert p.per_duration == ("per-duration" in FLAGS[flags])


def test_every_misfit_is_reported_at_once_with_symbols_and_numbers():
    p = potentials(
        transition=zeros(2, 2),
        duration_bias=zeros(3, 4),
        start=zeros(2),
        end=zeros(1, 3),
        start_scores=zeros(3, 4, 3),
        end_scores=zeros(2, 5, 3),
        lengths=torch.tensor([1]),
    )
    with pytest.raises(ShapeError) as caught:
        p.check()
    assert str(caught.value).splitlines() == [
        HEADING,
        "  transition must be (C, C) = (3, 3) or (K, C, C) = (3, 3, 3), got (2, 2)",
        "  duration_bias must be (K, C) = (3, 3), got (3, 4)",
        "  start must be (C,) = (3,), got (2,)",
        "  end must be (C,) = (3,), got (1, 3)",
        "  start_scores must be (B, T, C) = (3, 5, 3), got (3, 4, 3)",
        "  end_scores must be (B, T, C) = (3, 5, 3), got (2, 5, 3)",
        "  lengths must be (B,) = (3,), got (1,)",
    ]


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("name", TERMS)
def test_a_term_that_is_no_real_float_is_named(name, dtype):
    p = potentials()
    changed = potentials(**{name: getattr(p, name).nan_to_num(0, 0, 0).to(dtype)})
    kind = str(dtype)[6:]
    with pytest.raises(ShapeError, match=f"{name} must be float16, .* or float64, got {kind}"):
        changed.check()


@pytest.mark.parametrize("name", TERMS[1:])
def test_a_term_on_another_device_is_named(name):
    p = potentials()
    with pytest.raises(ShapeError, match=f"{name} must be on cpu like scores, got meta"):
        potentials(**{name: getattr(p, name).to("meta")}).check()


EMPTY = {
    "no sequence": ("scores", (0, 5, 3)),
    "no position": ("scores", (3, 0, 3)),
    "no label": ("scores", (3, 5, 0)),
    "no batch dimension": ("scores", (5, 3)),
    "a dimension too many": ("scores", (1, 3, 5, 3)),
    "no duration": ("duration_bias", (0, 3)),
    "one bias a duration": ("duration_bias", (3,)),
}


@pytest.mark.parametrize(("name", "shape"), EMPTY.values(), ids=EMPTY)
def test_empty_terms_and_a_wrong_number_of_dimensions_are_errors(name, shape):
    message = rf"{name} must be .*every size at least 1, got \({shape[0]},"
    with pytest.raises(ShapeError, match=message):
        potentials(**{name: zeros(*shape)}).check()


BAD_LENGTHS = {
    "a wrong shape": (torch.tensor([5, 1]), r"lengths must be \(B,\) = \(3,\), got \(2,\)"),
    "two dimensions": (torch.tensor([[5, 1, 4]]), r"lengths must be \(B,\) = \(3,\), got \(1, 3\)"),
    "fractions": (torch.tensor([5.0, 1.0, 4.5]), r"lengths must be integers in 1\.\.T.*float32"),
    "booleans": (torch.tensor([True] * 3), r"lengths must be integers in 1\.\.T = 1\.\.5.*bool"),
}


@pytest.mark.parametrize(("lengths", "message"), BAD_LENGTHS.values(), ids=BAD_LENGTHS)
def test_lengths_of_a_wrong_kind_are_errors(lengths, message):
    with pytest.raises(ShapeError, match=message):
        potentials(lengths=lengths).check()


@pytest.mark.parametrize("values", [[5, 0, 4], [5, 6, 4], [-1, 1, 1]])
def test_lengths_out_of_range_are_errors(values):
    with pytest.raises(ShapeError, match=r"lengths must be in 1\.\.T = 1\.\.5, got \["):
        potentials(lengths=torch.tensor(values)).check_values()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["scores", "start_scores", "end_scores"])
def test_a_bad_value_per_position_is_named_with_its_place(name, bad):
    term = getattr(potentials(), name).clone()
    term[2, 3, 1] = bad
    message = (
        f"{name} must hold numbers or -inf, got {bad} at sequence 2, position 3, label 1 "
        r"\(1 such values\)"
    )
    with pytest.raises(ShapeError, match=message):
        potentials(**{name: term}).check_values()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["scores", "start_scores", "end_scores"])
def test_any_value_in_the_padding_is_fine(name, bad):
    term = getattr(potentials(), name).clone()
    term[1, 1:] = bad
    term[2, 4] = bad
    potentials(**{name: term}).check_values()


@pytest.mark.parametrize("name", ["transition", "duration_bias", "start", "end"])
def test_a_bad_value_of_a_shared_term_is_named(name):
    term = getattr(potentials(), name).clone()
    term.view(-1)[-1] = torch.nan
    with pytest.raises(ShapeError, match=f"{name} must hold numbers or -inf, got nan"):
        potentials(**{name: term}).check_values()


def test_a_bad_value_hides_behind_no_minus_infinity():
    scores = potentials().scores.clone()
    scores[0, 0, 0], scores[0, 0, 1] = -torch.inf, torch.nan
    with pytest.raises(ShapeError, match="got nan at sequence 0, position 0, label 1"):
        potentials(scores=scores).check_values()


def test_bad_values_of_all_terms_are_reported_at_once():
    p = potentials()
    broken = {name: torch.full_like(getattr(p, name), torch.nan) for name in TERMS}
    with pytest.raises(ShapeError) as caught:
        potentials(**broken).check_values()
    assert all(f"  {name} must hold" in str(caught.value) for name in TERMS)


def test_large_numbers_are_no_bad_values():
    potentials(scores=torch.full((3, 5, 3), 3e38)).check_values()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_canonical_form_is_contiguous_of_one_type_with_int64_lengths(dtype):
    wide = make_inputs(SIZES[4], dtype, "all-tail")
    strided = {n: x.mT.contiguous().mT if x.dim() > 1 else x for n, x in tensors(wide).items()}
    lengths = wide["lengths"].to(torch.int32)
    p = Potentials(**strided, lengths=lengths).canonical()
    assert {x.dtype for _, x in p.terms()} == {torch.promote_types(dtype, torch.float32)}
    assert all(x.is_contiguous() for _, x in p.terms())
    assert p.lengths.dtype == torch.int64
    assert [name for name, _ in p.terms()] == list(TERMS)
    assert all(torch.equal(x, wide[name].to(x.dtype)) for name, x in p.terms())


def test_lengths_left_out_become_all_positions():
    p = potentials(lengths=None)
    assert p.canonical().lengths.tolist() == [5, 5, 5]
    assert p.inside().all()


def test_the_widest_term_sets_the_type():
    assert potentials().compute_dtype == torch.float32
    assert potentials(end=zeros(3, dtype=torch.float64)).compute_dtype == torch.float64


def test_they_are_frozen():
    with pytest.raises(AttributeError):
        potentials().scores = zeros(1, 1, 1)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("T", [1, 7, 64, 1001])
def test_a_bad_value_is_found_wherever_it_stands_among_forbidden_ones(T, dtype, bad):
    scores = torch.full((1, T, 3), -torch.inf, dtype=dtype)
    scores[0, :, 1] = torch.linspace(-100, 100, T)
    p = Potentials(scores, zeros(3, 3), zeros(2, 3))
    p.check_values()
    for position in {0, T // 3, T // 2, T - 1}:
        before = scores[0, position].clone()
        scores[0, position] = torch.tensor([-torch.inf, 0.0, bad])
        with pytest.raises(ShapeError, match=f"scores must hold .* got {bad} at .*{position}, la"):
            p.check_values()
        scores[0, position] = before
