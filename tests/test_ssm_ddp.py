"""AR-SSM under DistributedDataParallel: two processes learn what one learns from both halves."""

import os

import pytest
import torch
import torch.distributed as dist
from ssm_cases import D, L, layer_of
from tolerances import FLOAT64, assert_close
from torch.nn.parallel import DistributedDataParallel

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed")

CASES = {
    "causal": {"causal": True},
    "mean, hard gates": {"normaliser": "mean"},
    "both ways, checkpointed": {
        "normaliser": "decay", "own_reverse": True, "gradient_checkpointing": True,
    },
}  # fmt: skip


class Model(torch.nn.Module):
    """The layer with a loss: the mean over the sequences of a weighted sum, and open gates."""

    def __init__(self, name):
        super().__init__()
        self.layer = layer_of(l1_regularization=0.5, **CASES[name])
        self.layer.update_rank_schedule(1, 3)
        if "hard" in name:
            self.layer.set_gate_mode("ste")

    def forward(self, x, lengths):
        layer = self.layer
        run = layer.forward_bidirectional if layer.own_reverse else layer
        y, found = run(x, lengths)
        return (y * torch.arange(D)).sum((1, 2)).mean() + found["gate_l1_loss"]


def case_of(name):
    """The model and the batch, the same in every process; both halves have 17 positions."""
    torch.manual_seed(7)
    return Model(name), (torch.randn(4, L, D).double(), torch.tensor([11, 6, 6, 11]))


def work(rank, folder):
    """One of two processes: the averaged gradients from its half of the batch, for each case."""
    torch.set_num_threads(1)
    if os.path.exists("/sys/class/net/lo"):
        # As in test_head_ddp: gloo looks the host's name up otherwise.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", f"file://{folder}/init", rank=rank, world_size=2)
    for i, name in enumerate(CASES):
        model, batch = case_of(name)
        wrapped = DistributedDataParallel(model)
        wrapped(*(tensor[rank::2] for tensor in batch)).backward()
        grads = {name: weight.grad for name, weight in model.named_parameters()}
        torch.save(grads, f"{folder}/{i}-{rank}.pt")
    dist.barrier()
    os._exit(0)  # as in test_head_ddp: taking a group down can deadlock in torch


@pytest.fixture(scope="module")
def gradients_folder(tmp_path_factory):
    """Where both processes left their gradients."""
    folder = tmp_path_factory.mktemp("ddp")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_the_averaged_gradients_are_those_of_the_whole_batch(gradients_folder, name):
    model, batch = case_of(name)
    model(*batch).backward()
    half, _ = case_of(name)
    half(*(tensor[0::2] for tensor in batch)).backward()
    for rank in range(2):
        grads = torch.load(
            gradients_folder / f"{list(CASES).index(name)}-{rank}.pt", weights_only=True
        )
        assert set(grads) == {name for name, _ in model.named_parameters()}
        for key, weight in model.named_parameters():
            assert_close("gradient", FLOAT64, grads[key], weight.grad)
    other = half.layer.project_u.weight.grad
    assert not torch.allclose(model.layer.project_u.weight.grad, other, rtol=0.01)
