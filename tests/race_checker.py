"""A race checker for Triton's interpreter: other orders of execution, poisoned scratch, addresses.

The interpreter runs the programs of a grid one after the other, and each operation on a whole tile
at once. A GPU promises neither. Here the programs run in a shuffled order; a part of what is stored
between two barriers reaches the memory at the next barrier only; what the host allocates holds
junk; and every access is compared with those before it.

What counts as a race, within one launch:

- a program touches an address that another one stored, or stores one that another touched;
- between two barriers, a program loads an address that it stored, stores one that it loaded, or
  stores one twice. Which thread holds which element of a tile is the compiler's choice for each
  operation, and several may hold the same one, so the same element of two tiles counts as two
  threads. The barriers that a reduction has on the hardware do not count. One line that loads a
  tile and stores the same tile may: what it loads goes nowhere else;
- an atomic operation, whose order nothing fixes;
- an address outside the tensors of the launch.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from triton.runtime import interpreter

ORDERS = (0, 1, 2)
_SEVERAL = -1
_OURS = (str(Path(interpreter.__file__).parents[1]), __file__)
_ATOMICS = ("create_atomic_cas", "create_atomic_rmw")


class OutOfBoundsError(Exception):
    """An access outside the tensors of a launch, which must not be carried out."""


def findings(call: Callable[[], Any], orders: tuple[int, ...] = ORDERS) -> list[str]:
    """What is wrong with the launches of ``call``; empty if every order gives the same bits.

    Args:
        call: launches kernels on tensors that it makes or does not change; returns its results,
            in any nest of tuples, lists and dicts.
        orders: seeds of the orders to try, beside the interpreter's own.
    """
    results, found = {}, []
    for seed in orders:
        with watched(seed) as watch:
            try:
                results[seed] = bits_of(call())
            except interpreter.InterpreterError:
                if not watch.found:
                    raise
        found += [line for line in watch.found if not _known(line, found)]
    if len(results) < len(orders):
        return found
    with allocating(0.0, 0):
        plain = bits_of(call())
    changed = [seed for seed in orders if results[seed] != plain]
    return found + [f"order {seed} changes the result" for seed in changed]


def launched_by(call: Callable[[], Any]) -> set[str]:
    """Names of the kernels that ``call`` launches."""
    with watched(0) as watch:
        call()
    return watch.launched


def bits_of(results: Any) -> list[bytes]:
    """The bits of every tensor in a nest, in a fixed order."""
    if isinstance(results, Tensor):
        return [results.detach().contiguous().numpy().tobytes()]
    if isinstance(results, dict):
        results = [results[key] for key in sorted(results)]
    return [] if results is None else [bits for part in results for bits in bits_of(part)]


@contextmanager
def watched(seed: int) -> Iterator["Watch"]:
    """Watch every launch of a block, in the order of execution that ``seed`` stands for."""
    watch, builder = Watch(seed), interpreter.interpreter_builder
    junk = 1e30 if seed % 2 else float("nan")
    # an index of this size leads outside every tensor
    with allocating(junk, 2**31 - 7 - seed), ExitStack() as stack:
        for name in ("set_grid_idx", "create_masked_load", "create_masked_store", "create_barrier"):
            around, inner = getattr(watch, name), getattr(builder, name)
            stack.enter_context(mock.patch.object(builder, name, _bound(around, inner)))
        for name in _ATOMICS:
            around, inner = watch.atomic, getattr(builder, name)
            stack.enter_context(mock.patch.object(builder, name, _bound(around, inner)))
        launch = interpreter.GridExecutor.__call__
        around = _as_method(watch.launch, launch)
        stack.enter_context(mock.patch.object(interpreter.GridExecutor, "__call__", around))
        yield watch


def _bound(around: Callable, inner: Callable) -> Callable:
    return lambda *arguments: around(inner, *arguments)


def _as_method(around: Callable, inner: Callable) -> Callable:
    return lambda executor, *args, **kwargs: around(inner, executor, args, kwargs)


# Scratch


_ALLOCATIONS = (
    (torch, "empty"),
    (torch, "empty_like"),
    (torch, "empty_strided"),
    (torch.Tensor, "new_empty"),
    (torch.Tensor, "new_empty_strided"),
)


@contextmanager
def allocating(number: float, index: int) -> Iterator[None]:
    """Fill what a block allocates without values: floats with a number, integers with an index."""
    with ExitStack() as stack:
        for owner, name in _ALLOCATIONS:
            filled = _filled(getattr(owner, name), number, index)
            stack.enter_context(mock.patch.object(owner, name, filled))
        yield


def _filled(allocate: Callable[..., Tensor], number: float, index: int) -> Callable[..., Tensor]:
    def allocate_filled(*args: Any, **kwargs: Any) -> Tensor:
        x = allocate(*args, **kwargs)
        if type(x) is not Tensor or x.device.type != "cpu":
            return x
        if x.is_floating_point():
            return x.fill_(number)
        return x.fill_(bool(index) if x.dtype == torch.bool else index % torch.iinfo(x.dtype).max)

    return allocate_filled


# Launches


class Watch:
    """What happens in the launches of a block, one order of execution; ``found`` says what is bad.

    An interval is the time of one program between two barriers. Memory is looked at in grains, the
    elements of the tensor that a storage was first given as.
    """

    def __init__(self, seed: int) -> None:
        self.found: list[str] = []
        self.launched: set[str] = set()
        self._draw = np.random.default_rng(seed)
        self._memory: Memory | None = None
        self._kernel = ""
        self._program, self._interval = 0, 0
        self._order: np.ndarray | None = None
        self._late: list[tuple[Callable, tuple]] = []
        self._line: tuple[int, list[np.ndarray]] = (_SEVERAL, [])

    def launch(self, inner: Callable, executor: Any, args: tuple, kwargs: dict) -> None:
        """Run a grid with fresh shadows of the memory that it is given."""
        self._kernel = executor.fn.__name__
        self.launched.add(self._kernel)
        named = inspect.signature(executor.fn).bind_partial(
            *args, **{name: x for name, x in kwargs.items() if name in executor.arg_names}
        )
        tensors = {n: x for n, x in named.arguments.items() if isinstance(x, Tensor)}
        self._memory, self._order, self._program = Memory(tensors), None, 0
        try:
            inner(executor, *args, **kwargs)
            self._catch_up()
        finally:
            self._late.clear()

    def set_grid_idx(self, inner: Callable, *index: int) -> None:
        """Start the next program, another one than the interpreter has in mind."""
        self._catch_up()
        sizes = interpreter.interpreter_builder.grid_dim
        if self._order is None:
            self._order = self._draw.permutation(int(np.prod(sizes)))
        place = int(np.ravel_multi_index(index, sizes))
        self._program += 1
        inner(*(int(i) for i in np.unravel_index(self._order[place], sizes)))

    def create_barrier(self, inner: Callable) -> Any:
        """End an interval."""
        self._catch_up()
        return inner()

    def atomic(self, inner: Callable, *arguments: Any) -> Any:
        """Note that there is one."""
        self._note(f"{_place()} is atomic")
        return inner(*arguments)

    def create_masked_load(self, inner: Callable, ptrs: Any, mask: Any, *rest: Any) -> Any:
        """Compare with what was stored, then load."""
        memory, grains, here = self._access(ptrs, mask)
        old = memory.stored_in[grains] == self._interval
        text = "{here} loads {what}, stored by {there} with no barrier between"
        self._report(text, here, grains, old, memory.store_place)
        text = "{here} loads {what}, stored by another program in {there}"
        foreign = self._foreign(memory.writer[grains])
        self._report(text, here, grains, foreign, memory.store_place)
        memory.loaded_in[grains] = self._interval
        memory.load_place[grains] = here
        memory.reader[grains] = self._with(memory.reader[grains])
        self._line = here, [*(self._line[1] if self._line[0] == here else []), grains]
        return inner(ptrs, mask, *rest)

    def create_masked_store(
        self, inner: Callable, ptrs: Any, value: Any, mask: Any, *rest: Any
    ) -> Any:
        """Compare with what was loaded and stored, then store a part now and a part later."""
        memory, grains, here = self._access(ptrs, mask)
        line, tiles = self._line
        in_place = line == here and any(np.array_equal(tile, grains) for tile in tiles)
        for accesses, place, said in (
            (memory.loaded_in, memory.load_place, "loaded"),
            (memory.stored_in, memory.store_place, "stored"),
        ):
            old = accesses[grains] == self._interval
            if in_place and accesses is memory.loaded_in:
                continue
            text = f"{{here}} stores {{what}}, {said} by {{there}} with no barrier between"
            self._report(text, here, grains, old, place)
        for who, place, said in (
            (memory.reader, memory.load_place, "loaded"),
            (memory.writer, memory.store_place, "stored"),
        ):
            text = f"{{here}} stores {{what}}, {said} by another program in {{there}}"
            self._report(text, here, grains, self._foreign(who[grains]), place)
        _, first, counts = np.unique(grains, return_index=True, return_counts=True)
        twice = np.zeros(grains.shape, bool)
        twice[first[counts > 1]] = True
        memory.store_place[grains] = here
        self._report("{here} stores {what} more than once", here, grains, twice, memory.store_place)
        memory.stored_in[grains] = self._interval
        memory.writer[grains] = self._with(memory.writer[grains])
        late = self._draw.random(mask.data.shape) < 0.5
        self._late.append((inner, (ptrs, value, _masked(mask, late), *rest)))
        return inner(ptrs, value, _masked(mask, ~late), *rest)

    def _catch_up(self) -> None:
        """Carry out the stores that are late, in a shuffled order, and begin an interval."""
        for i in self._draw.permutation(len(self._late)):
            store, arguments = self._late[i]
            store(*arguments)
        self._late.clear()
        self._line = _SEVERAL, []
        self._interval += 1

    def _access(self, ptrs: Any, mask: Any) -> tuple["Memory", np.ndarray, int]:
        """The memory, the grains that the active lanes touch, and the line that touches them."""
        addresses, active = np.broadcast_arrays(ptrs.data, mask.data.astype(bool))
        memory, size = self._memory, ptrs.get_element_ty().primitive_bitwidth // 8
        grains, misfit = memory.grains(addresses[active], max(size, 1))
        if misfit:
            self._note(f"{_place()} {misfit}")
            raise OutOfBoundsError(misfit)
        return memory, grains, memory.number_of(_place())

    def _foreign(self, who: np.ndarray) -> np.ndarray:
        return (who != 0) & (who != self._program)

    def _with(self, who: np.ndarray) -> np.ndarray:
        return np.where(self._foreign(who), _SEVERAL, self._program)

    def _report(
        self, text: str, here: int, grains: np.ndarray, bad: np.ndarray, places: np.ndarray
    ) -> None:
        """Say once for each pair of lines what happened, at the first address."""
        if not bad.any():
            return
        memory = self._memory
        for there in np.unique(places[grains[bad]]):
            first = grains[bad & (places[grains] == there)][0]
            what, lines = memory.name_of(first), memory.places
            self._note(text.format(here=lines[here], what=what, there=lines[there]))

    def _note(self, text: str) -> None:
        line = f"{self._kernel}: {text}"
        if not _known(line, self.found):
            self.found.append(line)


def _known(line: str, found: list[str]) -> bool:
    """True if the same lines of source did the same before, at this address or at another."""
    return re.sub(r"\[-?\d+\]", "", line) in {re.sub(r"\[-?\d+\]", "", old) for old in found}


class Memory:
    """The tensors of a launch, and for each of their grains who touched it last and where."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        storages: dict[int, tuple[int, int, str]] = {}
        for name, x in tensors.items():
            storage = x.untyped_storage()
            known = storages.get(storage.data_ptr())
            if storage.nbytes() and (known is None or x.element_size() < known[1]):
                label = name if known is None else f"{known[2]}/{name}"
                storages[storage.data_ptr()] = (storage.nbytes(), x.element_size(), label)
        ordered = sorted(storages.items())
        self._bases = np.array([base for base, _ in ordered], np.uint64)
        self._ends = np.array([base + row[0] for base, row in ordered], np.uint64)
        self._sizes = np.array([row[1] for _, row in ordered], np.uint64)
        self._names = [row[2] for _, row in ordered]
        counts = [row[0] // row[1] for _, row in ordered]
        self._starts = np.cumsum([0, *counts])
        count = int(self._starts[-1])
        self.stored_in = np.full(count, _SEVERAL)
        self.loaded_in = np.full(count, _SEVERAL)
        self.writer = np.zeros(count, np.int64)
        self.reader = np.zeros(count, np.int64)
        self.store_place = np.zeros(count, np.int64)
        self.load_place = np.zeros(count, np.int64)
        self.places: list[str] = []
        self._numbers: dict[str, int] = {}

    def grains(self, addresses: np.ndarray, size: int) -> tuple[np.ndarray, str]:
        """The grains of elements of ``size`` bytes, and what is wrong with the addresses."""
        addresses = addresses.astype(np.uint64, copy=False)
        if addresses.size == 0:
            return np.empty(0, np.int64), ""
        if self._bases.size == 0:
            return np.empty(0, np.int64), "touches memory without a tensor"
        which = np.searchsorted(self._bases, addresses, side="right").astype(np.int64) - 1
        inside = (which >= 0) & (addresses + np.uint64(size) <= self._ends[which])
        if not inside.all():
            bad, near = int(addresses[~inside][0]), max(int(which[~inside][0]), 0)
            by = (bad - int(self._bases[near])) // int(self._sizes[near])
            return np.empty(0, np.int64), f"touches {self._names[near]}[{by}], which is outside"
        grains = self._starts[which] + (
            (addresses - self._bases[which]) // self._sizes[which]
        ).astype(np.int64)
        wide = int(size // int(self._sizes[which].min()))
        if wide > 1:
            grains = (grains[:, None] + np.arange(wide)).reshape(-1)
        return grains, ""

    def name_of(self, grain: int) -> str:
        """A grain as the name of the tensor's argument and an index."""
        which = int(np.searchsorted(self._starts, grain, side="right")) - 1
        return f"{self._names[which]}[{grain - self._starts[which]}]"

    def number_of(self, place: str) -> int:
        """A number for a line of source."""
        if place not in self._numbers:
            self._numbers[place] = len(self.places)
            self.places.append(place)
        return self._numbers[place]


def _masked(mask: Any, lanes: np.ndarray) -> Any:
    return interpreter.TensorHandle(mask.data & lanes, mask.dtype)


def _place() -> str:
    """File and line of the kernel, or of its helper, that runs now."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    if frame is None:
        return "?"
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
