"""Scores in chunks: the same results as in one piece, whatever the chunks."""

import pytest
import torch
from factory import Size, make_inputs

from torch_semimarkov import SemiMarkovStream, log_partition, segment_score, viterbi
from torch_semimarkov.errors import ConfigError, NumericsError, ShapeError, UnsupportedError
from torch_semimarkov.segments import Segments

SIZE = Size((300, 300), K=11, C=3)
SHORT = Size((40, 40), K=5, C=3)
FLAGS = ["plain", "start-end", "boundary", "forbidden", "tail", "per-duration", "all"]
PER_POSITION = ("scores", "start_scores", "end_scores")
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def inputs_of(size=SIZE, flags="plain", **options):
    found = make_inputs(size, flags=flags, **options)
    del found["lengths"]
    return found


def shared(inputs):
    return {name: x for name, x in inputs.items() if name not in PER_POSITION}


def chunks(inputs, *sizes):
    """The terms at positions, cut into chunks of these sizes and what is left."""
    first, T = 0, inputs["scores"].shape[-2]
    for size in (*sizes, T - sum(sizes)):
        here = {n: x[..., first : first + size, :] for n, x in inputs.items() if n in PER_POSITION}
        yield here.pop("scores"), here
        first += size


def push_all(stream, inputs, *sizes):
    return [stream.push(scores, **others) for scores, others in chunks(inputs, *sizes)]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("flags", FLAGS)
def test_chunks_give_what_the_whole_gives(backend, flags):
    inputs = inputs_of(SIZE if backend == "cpu" else SHORT, flags)
    stream = SemiMarkovStream(**shared(inputs), decode=True, backend=backend)
    push_all(stream, inputs, 1, 6, 25)
    best = viterbi(**inputs, backend="reference")
    torch.testing.assert_close(
        stream.log_partition(), log_partition(**inputs, backend="reference"), **CLOSE
    )
    found = stream.finish()
    torch.testing.assert_close(found.scores, best.scores, **CLOSE)
    torch.testing.assert_close(segment_score(found.segments, **inputs), best.scores, **CLOSE)
    # segments forbidden here and there leave equally good ones, which rounding decides between
    if flags != "forbidden":
        assert found.segments.to_list() == best.segments.to_list()


@pytest.mark.parametrize("flags", FLAGS)
def test_the_log_partition_is_right_after_every_chunk(flags):
    inputs = inputs_of(SHORT, flags)
    stream = SemiMarkovStream(**shared(inputs))
    seen = 0
    for scores, others in chunks(inputs, 1, 2, 3, 20):
        stream.push(scores, **others)
        seen += scores.shape[1]
        so_far = {n: x[:, :seen] if n in PER_POSITION else x for n, x in inputs.items()}
        truth = log_partition(**so_far, backend="reference")
        torch.testing.assert_close(stream.log_partition(), truth, **CLOSE)
    assert stream.positions == 40


@pytest.mark.parametrize("K", [1, 7, 8, 9, 70])
@pytest.mark.parametrize("C", [1, 8, 9])
@pytest.mark.parametrize("flags", ["boundary", "tail", "per-duration"])
def test_sizes_around_whole_vectors(K, C, flags):
    inputs = inputs_of(Size((90,), K=K, C=C), flags)
    stream = SemiMarkovStream(**shared(inputs), decode=True, backend="cpu")
    push_all(stream, inputs, 33)
    # without boundary scores, segments in another order are as good, which rounding decides between
    best = viterbi(**inputs, backend="cpu" if flags == "per-duration" else "reference")
    truth = log_partition(**inputs, backend="reference")
    torch.testing.assert_close(stream.log_partition(), truth, **CLOSE)
    assert stream.finish().segments.to_list() == best.segments.to_list()


@pytest.mark.parametrize("flags", ["tail", "per-duration"])
def test_of_equally_good_segmentations_the_rule_takes_the_same(flags):
    inputs = inputs_of(Size((60,), K=6, C=3), flags)
    inputs = {name: x.round() for name, x in inputs.items()}
    stream = SemiMarkovStream(**shared(inputs), decode=True, backend="cpu")
    push_all(stream, inputs, 20)
    assert stream.finish().segments.to_list() == viterbi(**inputs).segments.to_list()


def test_one_sequence_without_a_batch_axis():
    inputs = inputs_of(SHORT)
    one = {name: x[0] if name in PER_POSITION else x for name, x in inputs.items()}
    stream = SemiMarkovStream(**shared(one), decode=True)
    assert push_all(stream, one, 10) == [[], []]
    assert stream.log_partition().shape == ()
    torch.testing.assert_close(stream.log_partition(), log_partition(**inputs)[0], **CLOSE)
    assert stream.finish().segments.to_list() == viterbi(**inputs).segments.to_list()[:1]


@pytest.mark.parametrize("flags", FLAGS)
def test_a_long_lag_gives_the_best_segmentation(flags):
    inputs = inputs_of(SIZE, flags)
    stream = SemiMarkovStream(**shared(inputs), decode=True, lag=80)
    pushed = push_all(stream, inputs, *[30] * 9)
    last = stream.finish()
    best = viterbi(**inputs)
    for b, whole in enumerate(best.segments.to_list()):
        early = [segment for chunk in pushed for segment in chunk[b]]
        assert early, "nothing was final before the end"
        # segments forbidden here and there leave equally good ones, which rounding decides between
        if flags != "forbidden":
            assert early + last.segments.to_list()[b] == whole
    torch.testing.assert_close(last.scores, best.scores, **CLOSE)


@pytest.mark.parametrize("lag", [1, 2, 5])
@pytest.mark.parametrize("flags", ["plain", "boundary", "tail", "per-duration"])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_what_a_short_lag_made_final_stands_and_tiles_the_sequence(lag, flags, backend):
    inputs = inputs_of(SHORT, flags, seed=lag)
    stream = SemiMarkovStream(**shared(inputs), decode=True, lag=lag, backend=backend)
    pushed = push_all(stream, inputs, *[3] * 12)
    last = stream.finish()
    whole = [
        [segment for chunk in pushed for segment in chunk[b]] + rest
        for b, rest in enumerate(last.segments.to_list())
    ]
    score = segment_score(Segments.from_list(whole), **inputs)
    torch.testing.assert_close(last.scores, score, **CLOSE)
    assert (score <= viterbi(**inputs).scores + 1e-9).all()
    for scores in (chunk[0] for chunk in pushed[-1:]):
        assert all(segment.end <= 40 - lag for segment in scores)


def test_a_lag_keeps_no_more_positions_than_it_needs():
    inputs = inputs_of(Size((3000,), K=5, C=2))
    stream = SemiMarkovStream(**shared(inputs), decode=True, lag=20)
    for scores, others in chunks(inputs, *[10] * 299):
        stream.push(scores, **others)
        assert len(stream._lagged[0]._codes) <= 20 + 10 + 2 * 5


def test_pointers_in_a_file_give_the_same_and_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("torch_semimarkov.functional.pointers._WINDOW", 100)
    inputs = inputs_of(SIZE, "tail")
    path = tmp_path / "pointers"
    stream = SemiMarkovStream(**shared(inputs), decode=True, spill=path)
    push_all(stream, inputs, 100, 150)
    partial = tmp_path / "pointers.partial"
    assert list(tmp_path.iterdir()) == [partial]
    assert stream.finish().segments.to_list() == viterbi(**inputs).segments.to_list()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spill", [False, True])
def test_the_best_segmentation_comes_in_pieces_the_last_first(tmp_path, monkeypatch, spill):
    monkeypatch.setattr("torch_semimarkov.functional.pointers._WINDOW", 100)
    inputs, path = inputs_of(SIZE, "tail"), tmp_path / "pointers" if spill else None
    stream = SemiMarkovStream(**shared(inputs), decode=True, spill=path)
    push_all(stream, inputs, 100, 1, 1, 150)
    scores, pieces = stream.finish_in_pieces()
    assert len(list(tmp_path.iterdir())) == spill
    found = [piece.to_list() for piece in pieces]
    assert list(tmp_path.iterdir()) == []
    assert len(found) == (19 if spill else 5), "one for each stretch"
    best = viterbi(**inputs)
    torch.testing.assert_close(scores, best.scores, **CLOSE)
    for b, whole in enumerate(best.segments.to_list()):
        assert [segment for piece in found[::-1] for segment in piece[b]] == whole
    with pytest.raises(UnsupportedError, match="finished"):
        stream.finish_in_pieces()


def test_pieces_are_refused_where_there_are_none_and_leave_no_file(tmp_path):
    terms = torch.zeros(2, 2), torch.zeros(3, 2)
    with pytest.raises(UnsupportedError, match=r"no finish_in_pieces\(\): decode=False"):
        SemiMarkovStream(*terms).finish_in_pieces()
    with pytest.raises(UnsupportedError, match=r"with lag, push\(\) returns the segments"):
        SemiMarkovStream(*terms, decode=True, lag=2).finish_in_pieces()
    stream = SemiMarkovStream(*terms, decode=True, spill=tmp_path / "p")
    stream.push(torch.full((4, 2), -torch.inf))
    with pytest.raises(NumericsError, match="no segmentation of sequence 0 is possible"):
        stream.finish_in_pieces()
    assert list(tmp_path.iterdir()) == []
    with SemiMarkovStream(*terms, decode=True, spill=tmp_path / "p") as stream:
        stream.push(torch.zeros(4, 2))
        stream.finish_in_pieces()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("K", "C", "tail", "width"), [
    (1, 1, False, 1), (85, 3, False, 1), (86, 3, False, 2), (85, 3, True, 2), (128, 1, True, 1),
    (1000, 24, False, 2), (32768, 2, False, 2), (32768, 2, True, 3),
])  # fmt: skip
def test_pointers_take_as_few_bytes_as_the_sizes_allow(tmp_path, K, C, tail, width):
    terms = {"tail": torch.zeros(C)} if tail else {}
    stream = SemiMarkovStream(
        torch.zeros(C, C), torch.zeros(K, C), **terms, decode=True, spill=tmp_path / "p",
        partition=False,
    )  # fmt: skip
    with stream:
        stream.push(torch.zeros(5, C))
        stream._pointers._file.flush()
        assert (tmp_path / "p.partial").stat().st_size == 5 * C * width


def test_a_closed_stream_leaves_no_file(tmp_path):
    with SemiMarkovStream(
        torch.zeros(2, 2), torch.zeros(3, 2), decode=True, spill=tmp_path / "p"
    ) as stream:
        stream.push(torch.zeros(4, 2))
    assert list(tmp_path.iterdir()) == []


def test_the_state_does_not_grow_with_the_positions():
    inputs = inputs_of(Size((2000,), K=10, C=3))
    stream = SemiMarkovStream(**shared(inputs))
    sizes = []
    for scores, _ in chunks(inputs, *[500] * 3):
        stream.push(scores)
        sizes.append(sum(x.nbytes for state in stream._sum_states for x in state))
    assert len(set(sizes)) == 1
    assert sizes[0] < 2000


def test_scores_of_a_billion_lose_no_digit_of_a_marginal_choice():
    """Messages are relative to a base that moves along, so their size does not matter."""
    inputs = inputs_of(Size((1500,), K=4, C=2))
    far = {**inputs, "scores": inputs["scores"] + 2.0**40}
    stream = SemiMarkovStream(**shared(far))
    push_all(stream, far, 700)
    exact = (far["scores"] - 2.0**40).double()
    rounded = SemiMarkovStream(**shared(inputs))
    rounded.push(exact)
    difference = stream.log_partition() - 1500 * 2.0**40
    torch.testing.assert_close(difference, rounded.log_partition(), rtol=0, atol=0.5)


GOOD = torch.zeros(1, 4, 2)
BAD_CHUNKS = {
    "another width": (torch.zeros(1, 4, 3), {}, r"with C = 2, got \(1, 4, 3\)"),
    "another batch": (torch.zeros(2, 4, 2), {}, r"scores must be \(1, n, 2\) as in the chunks"),
    "no position": (torch.zeros(1, 0, 2), {}, "at least one position"),
    "NaN": (torch.full((1, 4, 2), torch.nan), {}, "got nan at position 4, label 0"),
    "infinity": (torch.full((1, 4, 2), torch.inf), {}, "got inf at position 4, label 0"),
    "integers": (torch.zeros(1, 4, 2, dtype=torch.int64), {}, "float on cpu, got .*int64"),
    "a term more": (GOOD, {"end_scores": GOOD}, "with all chunks or with none"),
    "another shape": (GOOD, {"start_scores": GOOD[0]}, "with all chunks or with none"),
}


@pytest.mark.parametrize(("scores", "others", "message"), BAD_CHUNKS.values(), ids=BAD_CHUNKS)
def test_a_chunk_that_does_not_fit_is_refused_and_changes_nothing(scores, others, message):
    stream = SemiMarkovStream(torch.zeros(2, 2), torch.zeros(3, 2))
    stream.push(GOOD)
    before = stream.log_partition()
    with pytest.raises(ShapeError, match=message):
        stream.push(scores, **others)
    assert stream.positions == 4
    assert torch.equal(stream.log_partition(), before)


def test_a_finished_stream_takes_no_more_chunks():
    stream = SemiMarkovStream(torch.zeros(2, 2), torch.zeros(3, 2), decode=True)
    stream.push(GOOD)
    stream.finish()
    assert stream.log_partition().shape == (1,)
    with pytest.raises(UnsupportedError, match=r"push after finish\(\)"):
        stream.push(GOOD)
    with pytest.raises(UnsupportedError, match="it is finished"):
        stream.finish()


def test_results_that_the_stream_was_not_made_for_are_refused():
    stream = SemiMarkovStream(torch.zeros(2, 2), torch.zeros(3, 2))
    with pytest.raises(UnsupportedError, match="no chunk yet"):
        stream.log_partition()
    with pytest.raises(UnsupportedError, match="decode=False"):
        stream.finish()
    decoder = SemiMarkovStream(torch.zeros(2, 2), torch.zeros(3, 2), partition=False, decode=True)
    decoder.push(GOOD)
    with pytest.raises(UnsupportedError, match="partition=False"):
        decoder.log_partition()


@pytest.mark.parametrize("lag", [None, 3])
def test_a_sequence_without_a_segmentation_is_named(lag):
    scores = torch.zeros(2, 4, 2)
    scores[1, 2] = -torch.inf
    stream = SemiMarkovStream(torch.zeros(2, 2), torch.zeros(3, 2), decode=True, lag=lag)
    stream.push(scores)
    assert stream.log_partition().tolist()[1] == -torch.inf
    with pytest.raises(NumericsError, match="no segmentation of sequence 1 is possible"):
        stream.finish()


BAD_SETTINGS = [
    ({"lag": 3}, "settings of decode=True"),
    ({"spill": "x"}, "settings of decode=True"),
    ({"decode": True, "lag": 0}, "lag must be an integer >= 1, got 0"),
    ({"decode": True, "lag": 2, "spill": "x"}, "leave one"),
    ({"decode": True, "spill": "no/such/folder/x"}, "spill must be a path that can be written"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        SemiMarkovStream(torch.zeros(2, 2), torch.zeros(3, 2), **settings)


def test_transitions_of_each_duration_with_a_tail_stream_on_the_reference():
    inputs = inputs_of(SHORT, "all-tail")
    with pytest.raises(UnsupportedError, match="cpu: has no geometric tail"):
        SemiMarkovStream(**shared(inputs), backend="cpu")
    stream = SemiMarkovStream(**shared(inputs), decode=True)
    push_all(stream, inputs, 9, 1)
    truth, best = log_partition(**inputs), viterbi(**inputs)
    torch.testing.assert_close(stream.log_partition(), truth, **CLOSE)
    found = stream.finish()
    torch.testing.assert_close(found.scores, best.scores, **CLOSE)
    torch.testing.assert_close(segment_score(found.segments, **inputs), best.scores, **CLOSE)
