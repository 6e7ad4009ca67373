"""One long sequence over several processes: scan it, differentiate it, compare with one process.

torchrun --standalone --nproc-per-node=2 examples/distributed_scan.py
"""

from __future__ import annotations

import argparse
import os

import torch
import torch.distributed as dist

from torch_semimarkov.scan import distributed_scan, fused_associative_scan


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=1_000_000, help="positions of the sequence")
    parser.add_argument("--width", type=int, default=4, help="columns at each position")
    parser.add_argument("--op", default="add", choices=["add", "mul", "max", "min", "logaddexp"])
    parser.add_argument("--reverse", action="store_true", help="from the last position on")
    options = parser.parse_args()
    if options.length < 1 or options.width < 1:
        parser.error("--length and --width must be at least 1")
    return options


def main() -> None:
    """Every rank takes a piece; the first one holds the whole beside it, to compare."""
    options = parse()
    if "RANK" not in os.environ:
        raise SystemExit("start it with: torchrun --standalone --nproc-per-node=2 " + __file__)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    device = "cpu"
    if torch.cuda.is_available():
        device = f"cuda:{int(os.environ['LOCAL_RANK'])}"
        torch.cuda.set_device(device)
    whole = torch.randn(options.length, options.width, generator=torch.manual_seed(0)).to(device)
    if options.op == "mul":
        whole = whole.sign()
    # Pieces may be uneven: the first takes what is left over.
    sizes = [options.length // ranks] * ranks
    sizes[0] += options.length % ranks
    x = whole.split(sizes)[rank].clone().requires_grad_()
    settings = {"op": options.op, "reverse": options.reverse}
    y = distributed_scan(x, 0, **settings)
    y.square().mean().backward()
    differences = _difference_from_the_whole(whole, sizes, rank, y, x.grad, settings)
    found = torch.tensor(differences, device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    if rank == 0:
        print(f"{ranks} ranks, pieces of {sizes} positions, op={options.op}")
        print(f"largest difference from one process: scan {found[0]:.1e}, gradient {found[1]:.1e}")
    dist.destroy_process_group()


def _difference_from_the_whole(whole, sizes, rank, y, grad, settings):
    """Largest relative differences of this rank's piece of the scan and of the gradient."""
    x = whole.clone().requires_grad_()
    truth = fused_associative_scan(x, 0, **settings)
    sum(part.square().mean() for part in truth.split(sizes)).backward()
    pairs = (y.detach(), truth.detach().split(sizes)[rank]), (grad, x.grad.split(sizes)[rank])
    return [float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs]


if __name__ == "__main__":
    main()
