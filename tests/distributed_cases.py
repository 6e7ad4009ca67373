"""Processes of a gloo group on this machine, for the tests of ``distributed_scan``."""

import os
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from torch_semimarkov.errors import ShapeError, UnsupportedError
from torch_semimarkov.scan import distributed_scan

# Uneven pieces by number of ranks, one of them empty.
PIECES = {1: (5,), 2: (5, 3), 4: (3, 0, 6, 2)}


def whole(ranks, dtype=torch.float64, seed=0):
    """The whole sequence (2, T, 3), and weights that make a loss of its scan."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, sum(PIECES[ranks]), 3)
    x, weights = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return x.to(dtype), weights.to(dtype)


def run_on_ranks(ranks, work, *arguments):
    """What ``work(rank, *arguments)`` returns on each rank; fails if one hangs for two minutes."""
    with tempfile.TemporaryDirectory() as folder:
        context = mp.spawn(_start, (ranks, folder, work, arguments), ranks, join=False)
        deadline = time.monotonic() + 120
        while not context.join(timeout=1):
            if time.monotonic() > deadline:
                for process in context.processes:
                    process.kill()
                raise TimeoutError(f"{work.__name__} hangs on a rank")
        return [torch.load(f"{folder}/{rank}.pt") for rank in range(ranks)]


def _start(rank, ranks, folder, work, arguments):
    torch.set_num_threads(1)
    # No interface of the machine is asked for: all ranks are here.
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(f"{folder}/store", ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    torch.save(work(rank, *arguments), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def piece(x, rank, ranks):
    """The part of the whole sequence that a rank holds."""
    return x.split(PIECES[ranks], 1)[rank]


def scan_and_gradients(rank, ranks, dtype, options):
    """This rank's piece of the scan, of its gradient, and of the gradient's gradient."""
    x, weights = (piece(part, rank, ranks) for part in whole(ranks, dtype))
    x = x.clone().requires_grad_(dtype.is_floating_point or dtype.is_complex)
    y = distributed_scan(x, 1, **options)
    if not x.requires_grad:
        return [y]
    (first,) = torch.autograd.grad(loss_of(y, weights), x, create_graph=True)
    if options.get("op") in ("max", "min", "add", None):
        return [y.detach(), first.detach()]
    (second,) = torch.autograd.grad((first * weights).abs().square().sum(), x)
    return [y.detach(), first.detach(), second]


def loss_of(y, weights):
    """A number that weighs every position differently."""
    return (y.abs().square() * weights.real).sum()


def many_calls(rank, ranks, calls):
    """Each call's results on this rank: one start of the processes serves them all."""
    return [scan_and_gradients(rank, ranks, dtype, options) for dtype, options in calls]


def errors_of(rank, calls):
    """For each call, a dictionary of arguments a rank, the error that this rank raises, or ""."""
    return [error_of(arguments[rank]) for arguments in calls]


def error_of(arguments):
    try:
        distributed_scan(**arguments)
    except (ShapeError, UnsupportedError) as error:
        return f"{type(error).__name__}: {error}"
    return ""
