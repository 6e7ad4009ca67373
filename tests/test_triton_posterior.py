"""Samples, messages and max-marginals of the triton backend: forms of the same call, what it draws.

The kernels run in Triton's interpreter if TRITON_INTERPRET=1 is set, else on a CUDA device.
"""

from unittest import mock

import pytest
import torch
from factory import (
    BACKENDS,
    PER_POSITION,
    SIZES,
    Size,
    device_of,
    make_inputs,
    runs_on,
    with_padding,
)

pytest.importorskip("triton")

from torch_semimarkov import dispatch
from torch_semimarkov.backends import reference
from torch_semimarkov.backends import triton as backend
from torch_semimarkov.backends.triton import launch_posterior, launch_walk, variants
from torch_semimarkov.errors import UnsupportedError
from torch_semimarkov.functional import explain, max_marginals, sample
from torch_semimarkov.potentials import Potentials

BACKEND, SEED = "triton", (1 << 62) + 12345
DEVICE = device_of(BACKEND)
marks = [mark for each in BACKENDS if each.values == (BACKEND,) for mark in each.marks]
# What torch itself warns about where it traces.
pytestmark = [*marks, pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")]
NAMES = ("alpha", "entering", "labels", "starts", "ends")


def potentials(size, dtype=torch.float64, flags="boundary", junk=torch.nan):
    inputs = with_padding(make_inputs(size, dtype, flags, device=DEVICE), junk)
    return Potentials(**inputs).canonical()


def questions(p):
    """Messages and max-marginals by name."""
    return dict(zip(NAMES, (*backend.messages(p), *backend.max_marginals(p)), strict=True))


def truth_of(p):
    """The same of the reference in float64, -inf past the lengths."""
    wide = p.map_terms(lambda x: x.double())
    found = (*reference.messages(wide), *reference.max_marginals(wide))
    inside = p.inside()[..., None]
    cut = (torch.where(inside, x, -torch.inf) for x in found)
    return dict(zip(NAMES, cut, strict=True))


def agree(found, truth, limit):
    for name in NAMES:
        assert found[name].dtype == torch.float64
        torch.testing.assert_close(found[name], truth[name], rtol=limit, atol=limit, msg=name)


def split_in_tiles():
    """Every ring is one whose history is split over programs, in tiles of 8 positions."""
    return mock.patch.object(variants, "TABLE", ((1 << 20, 1, 4, 4, 8),))


@pytest.mark.parametrize(
    ("size", "dtype", "flags"),
    [
        (Size((9, 5, 1), K=3, C=3, padding=2), torch.float64, "forbidden"),
        (Size((5, 9), K=40, C=1), torch.float64, "start-end"),
        (Size((5,), K=1, C=2), torch.float32, "boundary"),
        (Size((5, 4), K=2, C=70), torch.float32, "forbidden"),
    ],
    ids=str,
)
def test_messages_and_max_marginals_are_those_of_the_reference(size, dtype, flags):
    p = potentials(size, dtype, flags)
    agree(questions(p), truth_of(p), 1e-11 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize(
    ("size", "dtype", "flags"),
    [
        (Size((6, 4, 1), K=3, C=3, padding=1), torch.float64, "all"),
        (Size((3, 4), K=9, C=9), torch.float32, "per-duration"),
    ],
    ids=str,
)
def test_messages_by_duration_are_those_of_the_reference(size, dtype, flags):
    p = potentials(size, dtype, flags)
    found, truth = backend.messages(p), reference.messages(p.map_terms(lambda x: x.double()))
    limit, inside = 1e-11 if dtype == torch.float64 else 1e-5, p.inside()[..., None]
    for one, other, mask in zip(found, truth, (inside, inside[..., None]), strict=True):
        assert one.dtype == torch.float64
        other = torch.where(mask, other, -torch.inf)
        torch.testing.assert_close(one, other, rtol=limit, atol=limit)


def test_blocks_of_positions_and_of_labels_change_no_bit_of_a_max_marginal():
    p = potentials(Size((18, 9), K=5, C=3), flags="forbidden")
    whole = backend.max_marginals(p)
    with mock.patch.multiple(launch_posterior, POSITIONS=8, LABELS=2):
        parts = backend.max_marginals(p)
    assert all(map(torch.equal, whole, parts))
    torch.testing.assert_close(whole[0], truth_of(p)["labels"], rtol=1e-12, atol=1e-11)


def test_a_history_that_is_split_gives_the_same_messages():
    p = potentials(Size((18, 9), K=17, C=2), flags="forbidden")
    with split_in_tiles():
        agree(questions(p), truth_of(p), 1e-11)


def test_two_runs_give_the_same_bits():
    p = potentials(Size((11, 7), K=4, C=3), torch.float32)
    first, second = questions(p), questions(p)
    assert all(torch.equal(first[name], second[name]) for name in NAMES)


# Samples


def same(one, other):
    """True if two calls drew the same: tables of one width, and counts."""
    return all(map(torch.equal, one, other))


@pytest.mark.parametrize("flags", ["boundary", "all"])
def test_the_number_of_samples_and_the_batch_change_none(flags):
    size = Size((5, 3), K=2, C=2, padding=1)
    p = potentials(size, torch.float32, flags)
    table, counts = backend.sample(p, 5, SEED)
    fewer, few = backend.sample(p, 2, SEED)
    assert torch.equal(few, counts[:2])
    assert torch.equal(fewer, table[:, :2, :, : fewer.shape[-1]])
    alone = {name: x[:1] if name in PER_POSITION else x for name, x in p.terms()}
    alone = Potentials(**alone, lengths=p.lengths[:1]).canonical()
    single, count = backend.sample(alone, 5, SEED)
    assert torch.equal(count, counts[:, :1])
    assert torch.equal(single, table[:, :, :1, : single.shape[-1]])


@pytest.mark.parametrize("flags", ["boundary", "all"])
def test_samples_that_share_a_program_change_none_of_each_other(flags):
    p = potentials(Size((4, 3), K=2, C=2), torch.float32, flags)
    together = backend.sample(p, 3, SEED)
    with mock.patch.multiple(launch_walk, ENTRIES=1, PAIR_ENTRIES=1):
        assert same(backend.sample(p, 3, SEED), together)


@pytest.mark.parametrize("flags", ["boundary", "forbidden", "all"])
def test_durations_that_are_drawn_in_turns_have_the_same_frequencies(flags):
    p, draws = potentials(Size((6,), K=5, C=2), flags=flags), 2000
    rows = {"ENTRIES": 1 << 12, "PAIR_ENTRIES": 1 << 13}
    with mock.patch.multiple(launch_walk, LANES=2, PAIR_LANES=2, **rows):
        table, counts = backend.sample(p, draws, SEED)
    value, kept = backend.forward(p, "log", True, None)
    truth = backend.backward(p, value, kept, torch.ones_like(value))["duration_bias"]
    starts, ends, labels = table
    inside = torch.arange(table.shape[-1], device=DEVICE) < counts[..., None]
    cells = ((ends - starts - 1) * p.C + labels)[inside]
    seen = torch.bincount(cells, minlength=truth.numel()).view(truth.shape) / draws
    # a count is of several segments at most, each there or not
    error = (truth.clamp(min=0) / draws).sqrt()
    assert ((seen - truth).abs() <= 5 * error + 3 / draws).all()


def test_two_draws_of_two_steps_are_independent():
    # four positions, two labels, all alike: labels of neighbours, and of two samples, are coins
    zeros = {"scores": torch.zeros(1, 4, 2), "transition": torch.zeros(2, 2)}
    zeros |= {"duration_bias": torch.zeros(1, 2), "lengths": torch.tensor([4])}
    p = Potentials(**{name: x.to(DEVICE) for name, x in zeros.items()}).canonical()
    with mock.patch.object(launch_walk, "ENTRIES", 1 << 13):
        labels = backend.sample(p, 4000, SEED)[0][2, :, 0].double()
    centred = labels - 0.5
    neighbours = (centred[:, :-1] * centred[:, 1:]).mean(0) * 4
    samples = (centred[:-1] * centred[1:]).mean(0) * 4
    for correlation in (centred.mean(0) * 2, neighbours, samples):
        assert (correlation.abs() < 5 / 4000**0.5).all()


def test_an_impossible_sequence_has_no_segments_and_the_others_have_theirs():
    for flags in ("impossible", "impossible-per-duration"):
        table, counts = backend.sample(potentials(SIZES[4], flags=flags), 3, SEED)
        assert (counts[:, 0] == 0).all() and (table[:, :, 0] == -1).all()
        assert (counts[:, 1:] > 0).all()


@pytest.mark.parametrize("flags", ["boundary", "all"])
def test_the_registered_op_keeps_its_promises(flags):
    from torch_semimarkov.dispatch.path_library import sample_op

    fields = potentials(Size((2, 1), K=2, C=2), flags=flags, junk=0.0).fields()
    seed = torch.tensor([7], device=DEVICE)
    torch.library.opcheck(sample_op, (*fields, seed, 2, BACKEND))


def test_samples_compile_in_one_graph_and_are_those_of_the_call():
    inputs = make_inputs(Size((2, 1), K=2, C=2), device=DEVICE)

    def run(**terms):
        return sample(**terms, num_samples=2, backend=BACKEND).starts

    torch.manual_seed(1)
    compiled = torch.compile(run, fullgraph=True, backend="eager")(**inputs)
    torch.manual_seed(1)
    starts = run(**inputs)
    assert torch.equal(compiled[..., : starts.shape[-1]], starts)


# What it cannot run


def test_transitions_by_duration_have_samples_and_messages_and_no_max_marginals():
    p = potentials(SIZES[4], flags="all", junk=0.0)
    assert backend.reasons_against("sample", p) == backend.reasons_against("messages", p) == []
    reasons = backend.reasons_against("max_marginals", p)
    assert reasons == ["has no max_marginals for (K, C, C) transitions"]


def test_nothing_of_this_has_a_tail():
    p = potentials(SIZES[4], flags="tail", junk=0.0)
    for op in ("sample", "messages", "max_marginals"):
        assert f"has no {op} with a geometric tail" in backend.reasons_against(op, p)


def test_a_pinned_call_runs_here_or_says_why_not():
    inputs = make_inputs(SIZES[4], device=DEVICE)
    with runs_on(BACKEND):
        max_marginals(**inputs)
    assert "x 4 in registers" in explain(**inputs, op="max_marginals", backend=BACKEND).variant
    with pytest.raises(UnsupportedError, match=r"triton: has no max_marginals for \(K, C, C\)"):
        dispatch.max_marginals(potentials(SIZES[4], flags="all", junk=0.0), BACKEND)
