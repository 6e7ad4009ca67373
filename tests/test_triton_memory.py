"""What the triton backend asks of a device: memory, and never to wait. No kernel runs here."""

from contextlib import ExitStack, contextmanager
from unittest import mock

import pytest
import torch

pytest.importorskip("triton")

from factory import Size, gradients_of, make_inputs, upstream, with_grad
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from torch_semimarkov.backends import triton as backend
from torch_semimarkov.backends.triton import (
    launch,
    launch_posterior,
    launch_split,
    launch_walk,
    scan_kernels,
)
from torch_semimarkov.functional import log_partition, viterbi
from torch_semimarkov.potentials import Potentials

# Of inputs and gradients, what a call may hold at most in the checkpointed mode.
MOST_MEMORY = 1.10
# The host reads a tensor by these, so it waits for the device, or shapes memory by what it reads.
READS = ("item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__")
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "index.Tensor", "bincount")


class Silent:
    """A kernel whose launches do nothing."""

    def __getitem__(self, grid):
        return lambda *arguments, **options: None


@contextmanager
def no_kernels():
    """No launch in this block is carried out."""
    with ExitStack() as stack:
        for module in (launch, launch_split, launch_posterior, launch_walk):
            for name in [name for name in vars(module) if name.endswith("_kernel")]:
                stack.enter_context(mock.patch.object(module, name, Silent()))
        for name in ("block_totals", "scan_totals", "apply_blocks"):
            stack.enter_context(mock.patch.object(scan_kernels, name, Silent()))
        stack.enter_context(mock.patch.object(backend, "INTERPRETED", True))
        yield


class Watch(TorchDispatchMode):
    """The operations of a block, and the most memory that what they made held at a time."""

    def __init__(self):
        super().__init__()
        self.names, self.peak, self._alive = set(), 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.names.add(str(func))
        old = {x.untyped_storage()._cdata for x in args if isinstance(x, torch.Tensor)}
        for x in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in old:
                storage = x.untyped_storage()
                self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._alive = {k: (ref, n) for k, (ref, n) in self._alive.items() if not ref.expired()}
        self.peak = max(self.peak, sum(n for _, n in self._alive.values()))
        return found


def potentials(T, K, C=24, B=1, boundary=False, tail=False):
    shapes = {"scores": (B, T, C), "transition": (C, C), "duration_bias": (K, C)}
    if boundary:
        shapes |= {"start_scores": (B, T, C), "end_scores": (B, T, C)}
    if tail:
        shapes["tail"] = (C,)
    return Potentials(**{name: torch.zeros(shape) for name, shape in shapes.items()}).canonical()


def share(p, interval):
    """Of inputs and gradients, what a forward with its backward holds."""
    with no_kernels(), Watch() as watch:
        value, kept = backend.forward(p, "log", True, interval)
        backend.backward(p, value, kept, torch.ones(p.B))
    size = sum(x.nbytes for _, x in p.terms())
    return (size + watch.peak) / (2 * size)


# docs/gpu-kernels.md says from which T on.
@pytest.mark.parametrize(
    ("T", "K", "options"),
    [
        (24_000, 100, {}),
        (6_000, 100, {"boundary": True}),
        (24_000, 100, {"B": 3}),
        (100_000, 100, {}),
        (8_500, 32, {}),
        (140_000, 500, {}),
        (30_000, 100, {"tail": True}),
    ],
)
def test_checkpoints_hold_inputs_gradients_and_a_tenth_of_them(T, K, options):
    p = potentials(T, K, **options)
    assert share(p, 1) <= MOST_MEMORY
    assert share(p, None) > MOST_MEMORY


def test_a_shorter_interval_than_a_stretch_may_have_is_the_shortest():
    p = potentials(5_000, 100)
    assert backend.kept_shape(p, True, 1) == backend.kept_shape(p, True, 128)
    groups, size, _ = backend.kept_shape(p, True, 128)
    assert groups == 7
    assert size * 8 == 4 * (100 + 3) * 24
    assert backend.kept_shape(potentials(5_000, 100, tail=True), True, 1)[1] * 8 == 4 * 105 * 24


@pytest.mark.parametrize(("K", "tail"), [(4, False), (300, False), (4, True)])
@pytest.mark.parametrize("interval", [None, 1])
def test_a_training_step_can_be_captured_since_the_host_reads_nothing(K, tail, interval):
    p = potentials(700, K, C=3, B=2, boundary=True, tail=tail)
    with no_kernels(), Watch() as watch:
        value, kept = backend.forward(p, "log", True, interval)
        backend.backward(p, value, kept, torch.ones(p.B))
        backend.viterbi(p)
    assert [name for name in watch.names if any(wait in name for wait in WAITS)] == []


@pytest.mark.parametrize("K", [4, 300])
def test_questions_about_the_posterior_wait_for_nothing_and_hold_some_tables_of_scores(K):
    p = potentials(7000, K, C=24, boundary=True)
    table = p.scores.nbytes
    # float64 counts twice; beside the results, that many tables of the size of the scores
    for ask, most in ((backend.messages, 6), (backend.max_marginals, 16)):
        with no_kernels(), Watch() as watch:
            found = ask(p)
        assert [name for name in watch.names if any(wait in name for wait in WAITS)] == []
        assert watch.peak <= sum(x.nbytes for x in found) + most * table


def test_samples_wait_once_for_the_longest_and_hold_one_table_of_messages():
    p, reads = potentials(7000, 100, B=2), []
    with no_kernels(), Watch() as watch:
        walks = launch_walk.Walks(p, 50, 7)
        walks.counts.fill_(9)
        with mock.patch.object(launch_walk, "Walks", lambda *a: walks):
            read = torch.Tensor.__int__
            with mock.patch.object(torch.Tensor, "__int__", lambda x: reads.append(1) or read(x)):
                table, _ = launch_walk.sample(p, 50, 7)
    assert table.shape == (3, 50, 2, 9)
    assert len(reads) == 1
    assert watch.peak <= table.nbytes + walks.counts.nbytes + 4 * p.scores.nbytes


@contextmanager
def unread():
    """A read of a tensor by the host fails in this block."""

    def read(*arguments, **options):
        raise AssertionError("the host reads a tensor")

    with ExitStack() as stack:
        for name in READS:
            stack.enter_context(mock.patch.object(torch.Tensor, name, read))
        yield


@pytest.mark.parametrize("interval", [None, 1])
def test_nor_does_the_host_read_a_tensor_on_the_way_to_the_kernels(interval):
    leaves = with_grad(make_inputs(Size((70, 33), K=7, C=3), torch.float32, "boundary"))
    weight = upstream(2)
    options = {"backend": "triton", "validate_args": False, "checkpoint_interval": interval}
    with no_kernels(), unread():
        gradients_of(log_partition(**leaves, **options), leaves, weight)


def test_the_watch_sees_a_read():
    with unread(), pytest.raises(AssertionError, match="the host reads a tensor"):
        assert torch.ones(1)
    with Watch() as watch:
        torch.ones(3)[torch.tensor([True, False, True])]
    assert any("index.Tensor" in name for name in watch.names)
    inputs = make_inputs(Size((9,), K=3, C=2))
    with no_kernels(), unread(), pytest.raises(AssertionError, match="the host reads a tensor"):
        viterbi(**inputs, backend="triton", validate_args=True)
