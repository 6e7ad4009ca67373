"""Segments: conversions there and back, splitting of long runs, and clear errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_semimarkov.errors import SegmentError, ShapeError
from torch_semimarkov.segments import Segment, Segments, check_lengths

label_rows = st.integers(1, 12).flatmap(
    lambda T: st.lists(st.lists(st.integers(0, 2), min_size=T, max_size=T), min_size=1, max_size=4)
)


@st.composite
def tilings(draw):
    """A list of sequences, each a list of adjacent segments from position 0 on."""
    sequences = []
    for _ in range(draw(st.integers(1, 4))):
        pieces = draw(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), max_size=5))
        position, sequence = 0, []
        for duration, label in pieces:
            sequence.append(Segment(position, position + duration, label))
            position += duration
        sequences.append(sequence)
    return sequences


def runs(labels):
    """Maximal runs of equal labels, in plain Python."""
    found = []
    for t, label in enumerate(labels):
        if found and found[-1][2] == label:
            found[-1] = (found[-1][0], t + 1, label)
        else:
            found.append((t, t + 1, label))
    return found


def cut(segments, K):
    """Each segment in pieces of K positions and a remainder."""
    return [
        (first, min(first + K, end), label)
        for start, end, label in segments
        for first in range(start, end, K)
    ]


@settings(deadline=None)
@given(sequences=tilings())
def test_a_list_survives_the_way_there_and_back(sequences):
    segments = Segments.from_list(sequences)
    assert segments.to_list() == sequences
    assert segments.counts.tolist() == [len(sequence) for sequence in sequences]
    assert segments.batch_size == len(sequences)


@settings(deadline=None)
@given(rows=label_rows, data=st.data())
def test_labels_survive_the_way_there_and_back(rows, data):
    T = len(rows[0])
    lengths = torch.tensor([data.draw(st.integers(1, T)) for _ in rows])
    segments = Segments.from_labels(torch.tensor(rows), lengths)
    inside = torch.arange(T) < lengths[:, None]
    assert torch.equal(segments.to_labels(T), torch.where(inside, torch.tensor(rows), -1))
    assert segments.to_list() == [runs(row[:n]) for row, n in zip(rows, lengths, strict=True)]


@settings(deadline=None)
@given(rows=label_rows, K=st.integers(1, 5))
def test_long_runs_are_cut_into_pieces_of_k_and_a_remainder_when_asked(rows, K):
    segments = Segments.from_labels(torch.tensor(rows), None, K, long_runs="split")
    assert segments.to_list() == [cut(runs(row), K) for row in rows]
    assert int(segments.durations.max()) <= K
    assert torch.equal(segments.to_labels(), torch.tensor(rows))


@settings(deadline=None)
@given(rows=label_rows, K=st.integers(1, 5))
def test_a_long_run_is_an_error_unless_splitting_was_asked_for(rows, K):
    long = [(b, run) for b, row in enumerate(rows) for run in runs(row) if run[1] - run[0] > K]
    if not long:
        segments = Segments.from_labels(torch.tensor(rows), None, K)
        assert segments.to_list() == [runs(row) for row in rows]
        return
    b, (start, end, label) = long[0]
    message = (
        rf"sequence {b}: the run \[{start}, {end}\) of label {label} is longer than "
        rf'max_duration = {K}; raise max_duration, or pass long_runs="split"'
    )
    with pytest.raises(SegmentError, match=message):
        Segments.from_labels(torch.tensor(rows), None, K)


def test_a_run_that_goes_on_in_the_padding_ends_at_the_length():
    labels = torch.zeros(2, 6, dtype=torch.int64)
    segments = Segments.from_labels(labels, torch.tensor([2, 6]), 6)
    assert segments.to_list() == [[(0, 2, 0)], [(0, 6, 0)]]
    with pytest.raises(SegmentError, match=r"sequence 1: the run \[0, 6\)"):
        Segments.from_labels(labels, torch.tensor([2, 6]), 2)


def test_labels_in_the_padding_have_no_effect():
    labels = torch.tensor([[1, 1, -100, 7]])
    assert Segments.from_labels(labels, torch.tensor([2])).to_list() == [[(0, 2, 1)]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_labels_and_lengths_of_any_integer_type_become_int64(dtype):
    labels, lengths = torch.tensor([[1, 1, 0]], dtype=dtype), torch.tensor([3], dtype=dtype)
    segments = Segments.from_labels(labels, lengths, 2)
    assert segments.labels.dtype == torch.int64
    assert segments.to_list() == [[(0, 2, 1), (2, 3, 0)]]


def test_the_padding_is_minus_one_and_the_mask_leaves_it_out():
    segments = Segments.from_list([[(0, 1, 0), (1, 3, 1)], [(0, 2, 1)], []])
    assert segments.mask.tolist() == [[True, True], [True, False], [False, False]]
    assert segments.durations.tolist() == [[1, 2], [2, 0], [0, 0]]
    for tensor in (segments.starts, segments.ends, segments.labels):
        assert (tensor[~segments.mask] == -1).all()


def test_uncovered_positions_have_label_minus_one():
    segments = Segments.from_list([[(1, 2, 0), (3, 5, 2)]])
    assert segments.to_labels(6).tolist() == [[-1, 0, -1, 2, 2, -1]]
    assert segments.to_labels().shape == (1, 5)
    with pytest.raises(SegmentError, match="T must be >= the largest end = 5, got 4"):
        segments.to_labels(4)


def test_equality_looks_at_the_segments_and_not_at_the_padding():
    one = Segments.from_list([[(0, 2, 1)]])
    padded = Segments(*(torch.nn.functional.pad(x, (0, 3), value=9) for x in
                        (one.starts, one.ends, one.labels)), one.counts)  # fmt: skip
    assert one == padded
    assert one != Segments.from_list([[(0, 2, 0)]])
    assert one != Segments.from_list([[(0, 2, 1)], [(0, 2, 1)]])
    assert one != [[(0, 2, 1)]]
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)


def leading():
    rows = [[[(0, 1, s), (1, 3, b)] for b in range(3)] for s in range(2)]
    parts = [Segments.from_list(row) for row in rows]
    return rows, Segments(*(torch.stack([getattr(p, name) for p in parts]) for name in
                            ("starts", "ends", "labels", "counts")))  # fmt: skip


def test_leading_dimensions_nest_in_every_conversion():
    rows, segments = leading()
    assert segments.to_list() == rows
    assert segments.batch_size == 3
    assert segments.to_labels(3).shape == (2, 3, 3)
    assert segments.to_labels(3)[1, 2].tolist() == [1, 2, 2]
    assert segments.mask.shape == (2, 3, 2)


def test_selecting_follows_the_leading_dimensions_and_keeps_a_batch():
    rows, segments = leading()
    assert segments[1].to_list() == rows[1]
    assert segments[1][0].to_list() == [rows[1][0]]
    assert segments[1][1:].to_list() == rows[1][1:]
    assert segments[0][torch.tensor([2, 0])].to_list() == [rows[0][2], rows[0][0]]


def test_moving_to_a_device_moves_every_tensor():
    moved = Segments.from_list([[(0, 2, 1)]]).to("meta")
    devices = {x.device.type for x in (moved.starts, moved.ends, moved.labels, moved.counts)}
    assert devices == {"meta"}


def test_an_empty_batch_is_a_batch():
    assert Segments.from_list([]).to_list() == []
    assert Segments.from_list([]).to_labels(3).shape == (0, 3)


# Bad input


def test_every_misfit_of_the_tensors_is_named_at_once():
    with pytest.raises(ShapeError) as caught:
        Segments(
            torch.zeros(2, 3, dtype=torch.int64),
            torch.zeros(2, 3),
            torch.zeros(2, 4, dtype=torch.int64),
            torch.zeros(3, dtype=torch.int64),
        )
    message = str(caught.value)
    assert "ends must be int64, got float32" in message
    assert "labels must be (2, 3), got (2, 4)" in message
    assert "counts must be (2,), got (3,)" in message


def test_tensors_without_a_batch_dimension_are_an_error():
    flat = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ShapeError, match=r"starts must be \(\.\.\., B, N\), got \(3,\)"):
        Segments(flat, flat, flat, torch.tensor(1))


BAD_ENTRIES = {
    "empty": (2, 2, 0),
    "backwards": (3, 1, 0),
    "a negative start": (-1, 1, 0),
    "a negative label": (0, 1, -1),
    "a fraction": (0, 1.5, 0),
    "too short": (0, 1),
    "too long": (0, 1, 0, 0),
    "a name": (0, 1, "P"),
    "nothing": (0, 1, None),
    "not a number": (0, math.nan, 0),
    "infinite": (0, math.inf, 0),
}


@pytest.mark.parametrize("entry", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_a_bad_entry_of_a_list_is_named(entry):
    with pytest.raises(SegmentError, match="sequence 1, segment 1: expected integers"):
        Segments.from_list([[(0, 1, 0)], [(0, 1, 0), entry]])


BAD_LABELS = {
    "no batch": (torch.zeros(3, dtype=torch.int64), {}, r"labels must be \(B, T\) int"),
    "floats": (torch.zeros(1, 3), {}, r"labels must be \(B, T\) int .* float32"),
    "no position": (torch.zeros(1, 0, dtype=torch.int64), {}, "T >= 1"),
    "no duration": (torch.zeros(1, 3).long(), {"max_duration": 0}, "max_duration must be >= 1"),
    "unknown choice": (torch.zeros(1, 3).long(), {"long_runs": "clamp"}, "'clamp'"),
    "lengths of zero": (
        torch.zeros(2, 3).long(),
        {"lengths": torch.tensor([3, 0])},
        r"lengths must be in 1\.\.T = 1\.\.3, got \[3, 0\]",
    ),
    "lengths above T": (
        torch.zeros(1, 3).long(),
        {"lengths": torch.tensor([4])},
        r"in 1\.\.T = 1\.\.3",
    ),
    "fractional lengths": (
        torch.zeros(1, 3).long(),
        {"lengths": torch.tensor([2.5])},
        "lengths must be integers .* float32",
    ),
    "lengths of another batch": (
        torch.zeros(2, 3).long(),
        {"lengths": torch.tensor([3])},
        r"lengths must be \(B,\) = \(2,\), got \(1,\)",
    ),
}


@pytest.mark.parametrize(("labels", "options", "message"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_bad_labels_are_an_error_that_says_what_was_expected(labels, options, message):
    with pytest.raises(ShapeError, match=message):
        Segments.from_labels(labels, **options)


def test_a_negative_label_inside_a_sequence_is_named_with_its_place():
    labels = torch.tensor([[0, 0, 0], [0, -1, 0]])
    with pytest.raises(SegmentError, match="got -1 at sequence 1, position 1; shorten lengths"):
        Segments.from_labels(labels)


def test_lengths_left_out_are_all_positions():
    assert check_lengths(None, 2, 5, torch.device("cpu")).tolist() == [5, 5]


def test_booleans_are_no_lengths():
    with pytest.raises(ShapeError, match="got dtype bool"):
        check_lengths(torch.tensor([True]), 1, 5, torch.device("cpu"))
