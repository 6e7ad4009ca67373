"""The head under DistributedDataParallel: two processes learn what one learns from both halves."""

import copy
import os

import pytest
import torch
import torch.distributed as dist
from head_cases import LENGTHS, D, random_batch, random_head
from tolerances import FLOAT64, assert_close
from torch.nn.parallel import DistributedDataParallel

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed")

BATCH = 4
CASES = {"model": False, "head alone": True}


class Model(torch.nn.Module):
    """What a user wraps: a layer, the head, and the loss as the result of forward."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(D, D).double()
        self.head = random_head(boundary_scores=True, duration_distribution="geometric")

    def forward(self, features, lengths, labels):
        return self.head.compute_loss(self.layer(features), lengths, labels)


class HeadAlone(torch.nn.Module):
    """The head by itself: the mean log partition, a function of the whole batch."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, features, lengths, labels):
        return self.head(features, lengths)["partition"].mean()


def whole_batch():
    features, lengths, labels = random_batch()
    rows = [0, 1, 2, 0]
    return features[rows] + torch.randn(BATCH, 1, D).double(), lengths[rows], labels[rows]


def case_of(alone):
    """The model and the batch, the same in every process."""
    torch.manual_seed(7)
    model = HeadAlone(random_head(min_duration=1)) if alone else Model()
    return model, whole_batch()


def work(rank, folder):
    """One of two processes: the averaged gradients from its half of the batch, for each case."""
    torch.set_num_threads(1)
    if os.path.exists("/sys/class/net/lo"):
        # Gloo looks the host's name up otherwise, which a container may not know.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", f"file://{folder}/init", rank=rank, world_size=2)
    for alone in CASES.values():
        model, batch = case_of(alone)
        half = [tensor[rank::2] for tensor in batch]
        if alone:
            wrapped = DistributedDataParallel(model.head)
            loss = wrapped(*half[:2])["partition"].mean()
        else:
            wrapped = DistributedDataParallel(model)
            loss = wrapped(*half)
        loss.backward()
        grads = {name: weight.grad for name, weight in model.named_parameters()}
        torch.save(grads, f"{folder}/{alone}-{rank}.pt")
    dist.barrier()
    # Taking a group down can deadlock in torch: the main thread waits for gloo's, which waits for
    # the interpreter's lock to let go of its last work.
    os._exit(0)


@pytest.fixture(scope="module")
def gradients_folder(tmp_path_factory):
    """Where both processes left their gradients."""
    folder = tmp_path_factory.mktemp("ddp")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("alone", CASES.values(), ids=CASES)
def test_the_averaged_gradients_are_those_of_the_whole_batch(gradients_folder, alone):
    model, batch = case_of(alone)
    model(*batch).backward()
    for rank in range(2):
        grads = torch.load(gradients_folder / f"{alone}-{rank}.pt", weights_only=True)
        assert set(grads) == {name for name, _ in model.named_parameters()}
        for name, weight in model.named_parameters():
            assert_close("gradient", FLOAT64, grads[name], weight.grad)


def test_the_halves_differ_so_that_averaging_matters():
    model, batch = case_of(alone=False)
    other = copy.deepcopy(model)
    model(*[tensor[0::2] for tensor in batch]).backward()
    other(*[tensor[1::2] for tensor in batch]).backward()
    assert len(set(LENGTHS)) > 1
    assert not torch.allclose(model.head.transition.grad, other.head.transition.grad, rtol=0.01)
