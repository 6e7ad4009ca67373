"""Records, label names, batches, and the longest duration the data ask for."""

import json

import numpy as np
import pytest
import torch

from torch_semimarkov.data import (
    LabelVocabulary,
    Record,
    collate,
    split_long_segments,
    suggest_max_duration,
)
from torch_semimarkov.errors import ConfigError, SegmentError, ShapeError


def labelled(name, durations, labels, D=2):
    ends = np.cumsum(durations)
    segments = [(int(e) - d, int(e), c) for e, d, c in zip(ends, durations, labels, strict=True)]
    return Record(name, np.ones((int(ends[-1]), D)), segments)


BAD_TILINGS = {
    "gap": [(0, 2, "a"), (3, 5, "b")],
    "overlap": [(0, 3, "a"), (2, 5, "b")],
    "late start": [(1, 5, "a")],
    "early end": [(0, 4, "a")],
    "past the end": [(0, 3, "a"), (3, 6, "b")],
    "empty segment": [(0, 0, "a"), (0, 5, "b")],
    "no segment": [],
}


@pytest.mark.parametrize("segments", BAD_TILINGS.values(), ids=BAD_TILINGS)
def test_segments_that_do_not_tile_are_an_error_naming_the_record(segments):
    with pytest.raises(SegmentError, match="record 'r7'"):
        Record("r7", np.zeros((5, 1)), segments)


def test_a_misplaced_segment_is_named():
    with pytest.raises(SegmentError, match=r"segment 1 \[3, 5\) 'b': gap, expected start 2"):
        Record("r", np.zeros((5, 1)), BAD_TILINGS["gap"])


def test_features_are_kept_as_float32():
    assert Record("r", np.zeros((3, 1), dtype=np.int16)).features.dtype == np.float32


@pytest.mark.parametrize("shape", [(3,), (0, 2), (3, 0), (1, 2, 3)])
def test_features_of_another_shape_are_refused(shape):
    with pytest.raises(ShapeError, match=r"features must be \(T, D\)"):
        Record("r", np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_features_without_a_float32_value_are_refused_with_their_place(value):
    features = np.zeros((4, 2))
    features[2, 1] = value
    with pytest.raises(ShapeError, match="position 2, feature 1"):
        Record("r", features)


def test_every_misfit_of_a_record_is_reported_at_once():
    with pytest.raises(ShapeError, match=r"(?s)features.*sample_rate.*offset"):
        Record("r", np.zeros(3), sample_rate=0.0, offset=-1)


def test_a_vocabulary_does_not_depend_on_the_order_of_the_records():
    one, two = labelled("a", [1, 1], ["10", "2"]), labelled("b", [1], ["b"])
    expected = LabelVocabulary(("2", "10", "b"))
    assert LabelVocabulary.from_records([one, two]) == expected
    assert LabelVocabulary.from_records([two, one]) == expected


def test_a_vocabulary_survives_json():
    vocabulary = LabelVocabulary(("P", "QRS", "T"))
    again = LabelVocabulary(tuple(json.loads(json.dumps(vocabulary.to_json()))))
    assert again == vocabulary and [again.encode(name) for name in again] == [0, 1, 2]


def test_names_come_back_from_ids():
    record, vocabulary = labelled("r", [2, 3], ["x", "y"]), LabelVocabulary(("y", "x"))
    encoded = vocabulary.encode_record(record)
    assert [segment.label for segment in encoded] == [1, 0]
    assert tuple(vocabulary.decode_segments(encoded)) == record.segments


def test_an_unknown_label_is_an_error_naming_record_and_label():
    with pytest.raises(SegmentError, match="record 'r9': unknown label 'z'"):
        collate([labelled("r9", [2], ["z"])], LabelVocabulary(("x",)))


@pytest.mark.parametrize("names", [(), ("a", "a"), ("",)])
def test_a_vocabulary_needs_distinct_names(names):
    with pytest.raises(SegmentError, match="distinct"):
        LabelVocabulary(names)


@pytest.mark.parametrize("index", [-1, 2])
def test_an_id_out_of_range_is_an_error(index):
    with pytest.raises(SegmentError, match=r"0\.\.1"):
        LabelVocabulary(("a", "b")).decode(index)


def test_a_batch_holds_each_record_and_zeros_after_it():
    records = [labelled("a", [2, 1], ["x", "y"]), labelled("b", [5], ["y"])]
    batch = collate(records, LabelVocabulary(("x", "y")))
    assert batch.names == ("a", "b") and batch.lengths.tolist() == [3, 5]
    assert batch.features.dtype == torch.float32
    assert batch.features.sum(dim=(1, 2)).tolist() == [6.0, 10.0]
    assert batch.segments.to_labels(5).tolist() == [[0, 0, 1, -1, -1], [1, 1, 1, 1, 1]]
    assert batch.to("cpu").segments == batch.segments


def test_a_batch_of_unlabelled_records_has_no_segments():
    records = [Record("a", np.zeros((2, 1))), Record("b", np.zeros((3, 1)))]
    assert collate(records, LabelVocabulary(("x",))).segments is None


def test_a_batch_labelled_in_part_is_refused():
    records = [labelled("a", [2], ["x"]), Record("b", np.zeros((3, 2)))]
    with pytest.raises(SegmentError, match="'b' is not labelled"):
        collate(records, LabelVocabulary(("x",)))
    assert collate(records).segments is None


def test_records_of_different_width_are_refused():
    with pytest.raises(ShapeError, match="'b' has 3 features, record 'a' has 2"):
        collate([Record("a", np.zeros((2, 2))), Record("b", np.zeros((2, 3)))])


def test_an_empty_batch_is_refused():
    with pytest.raises(ShapeError, match="at least one record"):
        collate([])


def test_the_suggestion_covers_the_quantile_of_every_label():
    records = [
        labelled("a", [*range(1, 101), 300], ["common"] * 100 + ["rare"]),
        labelled("b", [200], ["rare"]),
    ]
    half = suggest_max_duration(records, quantile=0.5)
    assert (half.max_duration, half.longer, half.total, half.longest) == (200, 1, 102, 300)
    assert [(row.label, row.quantile, row.longer) for row in half.labels] == [
        ("common", 50, 0),
        ("rare", 200, 1),
    ]
    whole = suggest_max_duration(records, quantile=1.0)
    assert (whole.max_duration, whole.longer) == (300, 0)


def test_the_suggestion_says_what_it_took():
    text = str(suggest_max_duration([labelled("a", [1, 1, 9], ["x"] * 3)], quantile=0.5))
    assert text == "max_duration 1: 1 of 3 segments are longer (longest 9)"


@pytest.mark.parametrize("quantile", [0.0, 1.5, float("nan")])
def test_a_quantile_out_of_range_is_an_error(quantile):
    with pytest.raises(ConfigError, match="quantile"):
        suggest_max_duration([labelled("a", [2], ["x"])], quantile)


def test_nothing_is_suggested_without_labels():
    with pytest.raises(SegmentError, match="labelled"):
        suggest_max_duration([Record("a", np.zeros((2, 1)))])


def test_split_segments_tile_as_before_and_are_short_enough():
    record = labelled("a", [7, 2], ["x", "y"])
    pieces = split_long_segments(record.segments, 3)
    assert max(piece.duration for piece in pieces) == 3
    assert Record("a", record.features, pieces).segments[-1] == (7, 9, "y")


def test_a_split_into_nothing_is_an_error():
    with pytest.raises(ConfigError, match="max_duration"):
        split_long_segments([(0, 2, "a")], 0)
