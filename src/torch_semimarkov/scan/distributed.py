"""One long sequence sharded over the ranks of a ``torch.distributed`` group."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from torch_semimarkov.errors import ShapeError, UnsupportedError, raise_all
from torch_semimarkov.scan.associative import explain, fused_associative_scan
from torch_semimarkov.scan.inputs import OPS as _OPS
from torch_semimarkov.scan.inputs import check_kinds, check_scan, result_type
from torch_semimarkov.segments import require_tensors

# Op, reverse, exclusive, whether there is an initial value, dtype, backend.
Settings = tuple[Any, ...]

# The most dimensions that ranks compare; types are compared by their place in this list.
_RANK = 16
_TYPES = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64,
    torch.complex128, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
)  # fmt: skip


def distributed_scan(
    x: Tensor,
    dim: int = -1,
    group: Any = None,
    *,
    reverse: bool = False,
    op: str = "add",
    exclusive: bool = False,
    initial: Tensor | None = None,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """Scan a sequence of which each rank of a group holds one piece, in the order of the ranks.

    Every rank scans its own piece, all exchange one carry each, and the carries of the ranks before
    are combined into the piece. Every rank of the group must call this, and its backward.

    Args:
        x: this rank's piece. Its sizes are those of every rank but along ``dim``, where pieces may
            be of any length, also 0.
        dim: the dimension that is sharded and scanned.
        group: a process group; default the default one. Gloo for CPU tensors, NCCL for CUDA.
        reverse: from the last position of the last rank to the first.
        op, exclusive, dtype, backend: as in :func:`fused_associative_scan`.
        initial: as there, combined before the first position of the whole sequence; the same on
            every rank. Each rank's gradient is the share of its own piece, so the whole is the sum
            over the ranks.

    Returns:
        This rank's piece of the scan, in the shape of x.

    Raises:
        ShapeError: on every rank, if ranks disagree on the number of dimensions, on a size other
            than that along ``dim``, on the type, on the arguments, or on whether x needs a
            gradient, or if another has arguments that do not fit.
        UnsupportedError: torch.distributed is not initialised; an op that the type lacks, or a
            backend that cannot run the call. Every rank raises where one does.

    >>> distributed_scan.__name__  # see examples/distributed_scan.py, run by torchrun
    'distributed_scan'
    """
    if not dist.is_available() or not dist.is_initialized():
        remedy = "call torch.distributed.init_process_group, or start the program with torchrun"
        raise UnsupportedError(f"distributed_scan needs a process group: {remedy}")
    settings = op, reverse, exclusive, initial is not None, dtype, backend
    _agree(x, dim, initial, settings, group)
    dim = dim % max(x.ndim, 1)
    x = x.to(result_type(x, op, dtype))
    options: dict[str, Any] = {"op": op, "backend": backend}
    total = fused_associative_scan(x, dim, return_final=True, **options)[1]
    carries = _Gather.apply(total, group)
    before = _before(carries, initial, reverse, group, options)
    return fused_associative_scan(x, dim, reverse, exclusive=exclusive, initial=before, **options)


def _before(
    carries: Tensor, initial: Tensor | None, reverse: bool, group: Any, options: dict[str, Any]
) -> Tensor:
    """The carries of the ranks that the scan visits before this one, combined in their order."""
    rank = dist.get_rank(group)
    part = carries[rank + 1 :].flip(0) if reverse else carries[:rank]
    # Also where there are none: a rank outside the graph would miss the exchange of gradients.
    scan = fused_associative_scan(part, 0, initial=initial, return_final=True, **options)
    return scan[1]


class _Gather(torch.autograd.Function):
    """Everyone's tensor on every rank; its adjoint sums what every rank has for each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _all_gather(x.contiguous(), group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Scatter.apply(grad, ctx.group), None


class _Scatter(torch.autograd.Function):
    """This rank's row of the sum over all ranks, in the order of the ranks."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _all_gather(grad.contiguous(), group)[:, dist.get_rank(group)].sum(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Gather.apply(grad, ctx.group), None


def _all_gather(x: Tensor, group: Any) -> Tensor:
    """(ranks, ...). The tensors of all ranks; complex ones and half ones as what gloo carries."""
    x = x.detach()
    wire = torch.view_as_real(x.resolve_conj()) if x.dtype.is_complex else x
    wire = wire.to(torch.uint8) if wire.dtype == torch.bool else wire
    wire = wire.contiguous()
    rows = [torch.empty_like(wire) for _ in range(dist.get_world_size(group))]
    dist.all_gather(rows, wire, group=group)
    gathered = torch.stack(rows)
    return torch.view_as_complex(gathered) if x.dtype.is_complex else gathered.to(x.dtype)


def _agree(x: Tensor, dim: int, initial: Tensor | None, settings: Settings, group: Any) -> None:
    """Compare what every rank has, so that all raise an error or none does.

    A rank that raised alone would leave the others waiting for it.
    """
    error = _error_here(x, dim, initial, settings)
    note = torch.ones(9 + _RANK, dtype=torch.int64) if error else _note(x, dim, settings)
    notes = _all_gather(note.to(_device(x, group)), group).cpu()
    if error:
        raise error
    ranks, lines = range(len(notes)), []
    if notes[:, 0].any():
        faulty = [rank for rank in ranks if notes[rank, 0]]
        lines.append(f"the arguments of ranks {faulty} do not fit together; see their errors")
    elif not all(torch.equal(notes[rank], notes[0]) for rank in ranks):
        lines += [f"rank {rank} has {_words(notes[rank].tolist(), dim)}" for rank in ranks]
    heading = "all ranks must have the same sizes but along dim, the same type and arguments"
    raise_all(ShapeError, heading, lines)


def _error_here(
    x: Tensor, dim: int, initial: Tensor | None, settings: Settings
) -> ShapeError | UnsupportedError | None:
    """What this rank alone would raise, by every check of its scans."""
    op, reverse, exclusive, _, dtype, backend = settings
    try:
        require_tensors(x=x)
        if reverse not in (True, False):
            raise ShapeError(f"reverse must be True or False, got {reverse!r}")
        check_kinds(dim, dtype, initial, exclusive=exclusive)
        check_scan(x, dim, initial, None)
        # Also looks at the op, its type and the backend.
        explained = explain(x, dim, reverse, op=op, dtype=dtype, backend=backend)
    except (ShapeError, UnsupportedError) as error:
        return error
    if explained.chosen is None:
        return UnsupportedError(f"backend={backend!r} cannot run this scan:\n{explained}")
    return None


def _device(x: Any, group: Any) -> torch.device:
    """Where the group's messages lie."""
    if isinstance(x, Tensor):
        return x.device
    return torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")


def _note(x: Tensor, dim: int, settings: Settings) -> Tensor:
    """What ranks compare, as integers of a fixed number; the first is 0, for no error."""
    op, reverse, exclusive, has_initial, dtype, _ = settings
    shape = list(x.shape[:_RANK])
    if shape:
        shape[dim % x.ndim] = -1
    shape += [-2] * (_RANK - len(shape))
    choices = [_OPS.index(op), int(reverse), int(exclusive), int(has_initial)]
    choices.append(int(x.requires_grad and torch.is_grad_enabled()))
    kinds = [_TYPES.index(kind) if kind in _TYPES else -1 for kind in (x.dtype, dtype)]
    return torch.tensor([0, x.ndim, *kinds, *choices, *shape])


def _words(note: list[int], dim: int) -> str:
    _, rank, kind, wanted, op, reverse, exclusive, has_initial, needs_grad, *sizes = note
    shape = ", ".join("*" if size == -1 else str(size) for size in sizes[: min(rank, _RANK)])
    names = [str(_TYPES[i])[6:] if i >= 0 else "default" for i in (kind, wanted)]
    return (
        f"shape ({shape}), {names[0]}, dtype={names[1]}, op={_OPS[op]}, "
        f"reverse={bool(reverse)}, exclusive={bool(exclusive)}, initial={bool(has_initial)}, "
        f"requires_grad={bool(needs_grad)}"
    )
