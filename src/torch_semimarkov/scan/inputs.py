"""From the arguments of a public scan to checked (outer, T, inner) tensors, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torch_semimarkov.errors import ShapeError, UnsupportedError, raise_all

OPS = ("add", "mul", "max", "min", "logaddexp")
HALF_TYPES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Layout:
    """How a tensor is read as (outer, T, inner): its dimensions in the order of memory.

    Args:
        shape: the tensor's own shape.
        order: its dimensions, outermost in memory first.
        place: where the scanned dimension stands in ``order``.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    place: int

    @property
    def in_order(self) -> bool:
        """The tensor lies in memory in the order of its dimensions."""
        return self.order == tuple(range(len(self.shape)))

    def fold(self, x: Tensor) -> Tensor:
        """(outer, T, inner), a view wherever the strides allow one."""
        if not self.order:
            return x.reshape(1, 1, 1)
        x = x if self.in_order else x.permute(self.order)
        before, after = x.shape[: self.place], x.shape[self.place + 1 :]
        return x.reshape(_product(before), x.shape[self.place], _product(after))

    def unfold(self, y: Tensor) -> Tensor:
        """A result (outer, T, inner) in the tensor's own shape and order of memory."""
        if self.in_order:
            return y.reshape(self.shape)
        sizes = [self.shape[dim] for dim in self.order]
        return y.reshape(sizes).permute(_inverse(self.order))

    def fold_edge(self, edge: Tensor) -> Tensor:
        """(outer, inner), from a tensor that has every dimension but the scanned one."""
        kept, order = self._edge()
        edge = edge.expand([self.shape[dim] for dim in kept]).permute(order)
        sizes = [self.shape[dim] for dim in self.order]
        return edge.reshape(_product(sizes[: self.place]), _product(sizes[self.place + 1 :]))

    def unfold_edge(self, edge: Tensor) -> Tensor:
        """A result (outer, inner) with every dimension but the scanned one."""
        kept, order = self._edge()
        return edge.reshape([self.shape[kept[i]] for i in order]).permute(_inverse(order))

    def _edge(self) -> tuple[list[int], tuple[int, ...]]:
        """The dimensions but the scanned one, and their places in the order of memory."""
        scanned = self.order[self.place] if self.order else 0
        kept = [dim for dim in range(len(self.shape)) if dim != scanned]
        return kept, tuple(kept.index(dim) for dim in self.order if dim != scanned)


def layout_of(x: Tensor, dim: int, in_order: bool) -> Layout:
    """How to read ``x`` along ``dim``; ``in_order`` keeps the dimensions in their own order.

    A tensor whose dimensions are only permuted is read as it lies in memory.
    """
    dim = dim % max(x.ndim, 1)
    order = tuple(range(x.ndim))
    if not in_order and not x.is_contiguous():
        by_stride = tuple(sorted(order, key=lambda i: -x.stride(i)))
        if x.permute(by_stride).is_contiguous():
            order = by_stride
    return Layout(tuple(x.shape), order, order.index(dim) if order else 0)


def result_type(x: Tensor, op: str, dtype: torch.dtype | None) -> torch.dtype:
    """The type of a scan's result: that of ``x``; int64 for sums and products of integers."""
    if dtype is not None:
        return dtype
    whole = not (x.dtype.is_floating_point or x.dtype.is_complex)
    if whole and op in ("add", "mul"):
        return torch.int64
    return autocast_type(x.dtype, x.device)


def autocast_type(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Half types become float32 under autocast, as for torch.cumsum on a GPU."""
    if dtype in HALF_TYPES and torch.is_autocast_enabled(device.type):
        return torch.float32
    return dtype


def check_type(op: str, dtype: torch.dtype) -> None:
    """Refuse an op that is unknown, or that the type lacks.

    Raises:
        UnsupportedError: with the types or ops that there are.
    """
    if op not in OPS:
        raise UnsupportedError(f"op must be one of {list(OPS)}, got {op!r}")
    if dtype.is_complex and op not in ("add", "mul"):
        remedy = "complex numbers have only 'add' and 'mul'; scan .real and .imag apart"
        raise UnsupportedError(f"op={op!r} does not exist for {str(dtype)[6:]}: {remedy}")
    if op == "logaddexp" and not dtype.is_floating_point:
        remedy = "pass dtype=torch.float32, or convert x"
        raise UnsupportedError(f"op={op!r} does not exist for {str(dtype)[6:]}: {remedy}")


def check_way(reverse: bool | str) -> None:
    """Refuse a direction that is none.

    Raises:
        ShapeError: ``reverse`` is not True, False or "both".
    """
    if isinstance(reverse, Tensor) or reverse not in (True, False, "both"):
        raise ShapeError(f"reverse must be True, False or 'both', got {reverse!r}")


def check_kinds(
    dim: int,
    dtype: torch.dtype | None,
    initial: Tensor | None,
    lengths: Tensor | None = None,
    exclusive: bool = False,
) -> None:
    """Refuse arguments that are not of their kind.

    Raises:
        ShapeError: every misfit is named.
    """
    problems = []
    if not hasattr(dim, "__index__"):
        problems.append(f"dim must be an integer, got {dim!r}")
    if not (dtype is None or isinstance(dtype, torch.dtype)):
        problems.append(f"dtype must be a torch.dtype such as torch.float32, got {dtype!r}")
    if exclusive not in (True, False):
        problems.append(f"exclusive must be True or False, got {exclusive!r}")
    for name, value in (("initial", initial), ("lengths", lengths)):
        if not (value is None or isinstance(value, Tensor)):
            kind = type(value).__name__
            problems.append(f"{name} must be a tensor, got {kind}; pass torch.tensor({name})")
    raise_all(ShapeError, "the arguments of the scan are not of their kind", problems)


def check_scan(x: Tensor, dim: int, initial: Tensor | None, lengths: Tensor | None) -> None:
    """Refuse a dimension that is not there, and an initial value or lengths that do not fit.

    Raises:
        ShapeError: every misfit is named.
    """
    problems = []
    rank = max(x.ndim, 1)
    if not -rank <= dim < rank:
        problems.append(
            f"dim must be in [{-rank}, {rank - 1}] for x of shape {tuple(x.shape)}, got {dim}"
        )
        raise_all(ShapeError, "the arguments of the scan do not fit together", problems)
    dim = dim % rank
    shape = tuple(x.shape)
    if initial is not None:
        problems += _edge_problems(initial, x, shape[:dim] + shape[dim + 1 :])
    if lengths is not None:
        problems += _length_problems(lengths, x, dim)
    raise_all(ShapeError, "the arguments of the scan do not fit together", problems)


def _edge_problems(initial: Tensor, x: Tensor, wanted: tuple[int, ...]) -> list[str]:
    problems = []
    shape = tuple(initial.shape)
    fits = len(shape) <= len(wanted) and all(
        size in (1, target) for size, target in zip(shape[::-1], wanted[::-1], strict=False)
    )
    if not fits:
        problems.append(
            f"initial must have the shape of x without the scanned dimension, {wanted}, "
            f"or broadcast to it, got {shape}"
        )
    if initial.device != x.device:
        problems.append(f"initial must be on {x.device}, where x is, got {initial.device}")
    if initial.dtype.is_complex and not x.dtype.is_complex:
        problems.append(f"initial must be real, as x is, got {str(initial.dtype)[6:]}")
    return problems


def _length_problems(lengths: Tensor, x: Tensor, dim: int) -> list[str]:
    problems = []
    leading, T = tuple(x.shape[:dim]), x.shape[dim] if x.ndim else 1
    if lengths.dtype.is_floating_point or lengths.dtype.is_complex or lengths.dtype == torch.bool:
        problems.append(f"lengths must be integers, got {str(lengths.dtype)[6:]}")
    if tuple(lengths.shape) != leading[: lengths.ndim]:
        problems.append(
            f"lengths must have the leading dimensions of x before dim={dim}, as {leading[:1]} or "
            f"{leading}, got {tuple(lengths.shape)}; move the batch before the scanned dimension"
        )
    if lengths.device != x.device:
        problems.append(f"lengths must be on {x.device}, where x is, got {lengths.device}")
    if not problems and _may_look(lengths) and lengths.numel():
        low, high = int(lengths.min()), int(lengths.max())
        if low < 0 or high > T:
            problems.append(f"lengths must be in [0, T] = [0, {T}], got {low} to {high}")
    return problems


def _may_look(lengths: Tensor) -> bool:
    """A look at values costs a GPU synchronisation, and a trace or a transform allows none."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return lengths.device.type == "cpu"


def fold_lengths(lengths: Tensor | None, shape: tuple[int, ...], dim: int) -> Tensor | None:
    """(outer,) int64, one length for each index of the dimensions before ``dim``."""
    if lengths is None:
        return None
    leading = shape[: dim % max(len(shape), 1)]
    for _ in range(len(leading) - lengths.ndim):
        lengths = lengths[..., None]
    return lengths.to(torch.int64).expand(leading).reshape(_product(leading))


def _product(sizes: tuple[int, ...] | list[int] | torch.Size) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(i) for i in range(len(order)))
