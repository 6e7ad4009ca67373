"""Blocks of eight rows and eight positions: the rows become the lanes of vectors.

A block is transposed as it is loaded, so that each position is one vector, and once more as it is
stored.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from torch_semimarkov.backends.cpu.vector_types import DOUBLE, INT, LANES, lanes

_BLOCK = types.UniTuple(lanes, LANES)
_PLACES = types.UniTuple(types.int64, LANES)


# Rounds of a transposition, each a pair of orders in which two vectors are merged into two. Every
# one is a single instruction on AVX for eight float32.
_ROUNDS = (
    (1, [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]),
    (2, [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]),
    (4, [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]),
)
# Where the columns are after them.
_COLUMNS = (0, 2, 1, 3, 4, 6, 5, 7)


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Eight vectors of eight lanes, transposed in three rounds."""
    for distance, *orders in _ROUNDS:
        masks = [ir.Constant(ir.VectorType(INT, LANES), order) for order in orders]
        found = list(rows)
        for i in range(LANES):
            if not i & distance:
                pair = rows[i], rows[i + distance]
                found[i], found[i + distance] = (
                    builder.shuffle_vector(*pair, mask) for mask in masks
                )
        rows = found
    return [rows[i] for i in _COLUMNS]


def _pointers(
    context: Any, builder: Any, kind: Any, array: Any, starts: Any, offset: Any
) -> tuple[list[Any], Any]:
    """Addresses of eight rows of eight neighbours, and the type of such a row in memory."""
    data = context.make_array(kind)(context, builder, array).data
    vector = ir.VectorType(context.get_data_type(kind.dtype), LANES)
    indices = cgutils.unpack_tuple(builder, starts, LANES)
    addresses = [builder.gep(data, [builder.add(index, offset)]) for index in indices]
    return [builder.bitcast(address, vector.as_pointer()) for address in addresses], vector


@intrinsic
def load_block(typing: Any, array: Any, starts: Any, offset: Any) -> Any:
    """Eight vectors, one a position: lane r is of the row that starts at ``starts[r]``."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        pointers, vector = _pointers(context, builder, kind, *args)
        align = int(kind.dtype.bitwidth // 8)
        found = _transposed(builder, [builder.load(at, align=align) for at in pointers])
        if vector.element != ir.DoubleType():
            found = [builder.fpext(value, DOUBLE) for value in found]
        return context.make_tuple(builder, signature.return_type, found)

    return _BLOCK(array, _PLACES, types.int64), emit


@intrinsic
def ask_for_block(typing: Any, array: Any, starts: Any, offset: Any) -> Any:
    """Have the machine fetch what a later ``load_block`` reads; any address is allowed."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointers, _ = _pointers(context, builder, signature.args[0], *args)
        byte = ir.IntType(8).as_pointer()
        flags = [ir.Constant(INT, flag) for flag in (0, 3, 1)]  # to read, to all caches, data
        kind = ir.FunctionType(ir.VoidType(), [byte, INT, INT, INT])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        for at in pointers:
            builder.call(ask, [builder.bitcast(at, byte), *flags])
        return context.get_dummy_value()

    return types.void(array, _PLACES, types.int64), emit


@intrinsic
def store_block(typing: Any, array: Any, starts: Any, offset: Any, block: Any) -> Any:
    """Write eight vectors, one a position, to eight rows."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        pointers, vector = _pointers(context, builder, kind, *args[:3])
        values = cgutils.unpack_tuple(builder, args[3], LANES)
        if vector.element != ir.DoubleType():
            values = [builder.fptrunc(value, vector) for value in values]
        align = int(kind.dtype.bitwidth // 8)
        for value, at in zip(_transposed(builder, values), pointers, strict=True):
            builder.store(value, at, align=align)
        return context.get_dummy_value()

    return types.void(array, _PLACES, types.int64, _BLOCK), emit


@intrinsic
def places_of(typing: Any, starts: Any, row: Any, column: Any) -> Any:
    """``starts[row + r, column]`` of eight rows r, of a contiguous array of numbers."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        width = cgutils.unpack_tuple(builder, array.shape)[1]
        found = []
        for r in range(LANES):
            at = builder.mul(builder.add(args[1], ir.Constant(args[1].type, r)), width)
            found.append(builder.load(builder.gep(array.data, [builder.add(at, args[2])])))
        return context.make_tuple(builder, signature.return_type, found)

    return _PLACES(starts, types.intp, types.intp), emit


# The same as ``combine`` of lanes; and of equal values the latest is kept.
def _extreme(builder: Any, better: str, a: Any, x: Any) -> Any:
    later = builder.select(builder.fcmp_unordered(better, x, a), x, a)
    return builder.select(builder.fcmp_unordered("uno", a, a), a, later)


_EMIT = {
    "add": lambda builder, a, x: builder.fadd(a, x),
    "mul": lambda builder, a, x: builder.fmul(a, x),
    "max": lambda builder, a, x: _extreme(builder, ">=", a, x),
    "min": lambda builder, a, x: _extreme(builder, "<=", a, x),
}


def _in_order(builder: Any, block: Any, reverse: bool) -> list[Any]:
    values = cgutils.unpack_tuple(builder, block, LANES)
    return values[::-1] if reverse else values


@intrinsic(prefer_literal=True)
def scan_block(typing: Any, op: Any, state: Any, block: Any, reverse: Any, exclusive: Any) -> Any:
    """The result at each of eight positions, and the state after them.

    Args:
        op: one of OPS that has a form on vectors.
        state: eight lanes, before the first position.
        block: eight vectors, one a position.
        reverse: a constant; from the last position to the first.
        exclusive: a constant; the result is the state before a position.
    """
    backwards, before = reverse.literal_value, exclusive.literal_value

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        after, found = args[1], []
        for value in _in_order(builder, args[2], backwards):
            found.append(after)
            after = _EMIT[op.algebra](builder, after, value)
        found = found if before else [*found[1:], after]
        block = context.make_tuple(builder, _BLOCK, found[::-1] if backwards else found)
        return context.make_tuple(builder, signature.return_type, [block, after])

    return types.Tuple([_BLOCK, lanes])(op, lanes, _BLOCK, reverse, exclusive), emit


@intrinsic(prefer_literal=True)
def step_block(typing: Any, state: Any, gates: Any, inputs: Any, reverse: Any, shifted: Any) -> Any:
    """The result of a linear scan at each of eight positions, and the state after them.

    Args:
        state: eight lanes, before the first position.
        gates, inputs: eight vectors, one a position.
        reverse: a constant; from the last position to the first.
        shifted: a constant; y = state + input, after which the state is y * gate. Otherwise
            y = gate * state + input is also the state.
    """
    backwards, gate_after = reverse.literal_value, shifted.literal_value

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        after, found = args[0], []
        pairs = (_in_order(builder, block, backwards) for block in args[1:3])
        for gate, value in zip(*pairs, strict=True):
            if gate_after:
                found.append(builder.fadd(after, value))
                after = builder.fmul(found[-1], gate)
            else:
                after = builder.fadd(builder.fmul(gate, after), value)
                found.append(after)
        block = context.make_tuple(builder, _BLOCK, found[::-1] if backwards else found)
        return context.make_tuple(builder, signature.return_type, [block, after])

    return types.Tuple([_BLOCK, lanes])(lanes, _BLOCK, _BLOCK, reverse, shifted), emit


# One row, eight positions at a time

# What changes nothing, whatever it is combined with.
_NEUTRAL = {"add": -0.0, "mul": 1.0, "max": float("-inf"), "min": float("inf")}


def _moved(builder: Any, op: str, x: Any, distance: int, reverse: bool) -> Any:
    """Lanes moved by a distance towards where a scan goes; neutral ones in their place."""
    neutral = ir.Constant(DOUBLE, [_NEUTRAL[op]] * LANES)
    kept, free = list(range(LANES - distance)), [LANES] * distance
    order = [i + distance for i in kept] + free if reverse else free + kept
    return builder.shuffle_vector(x, neutral, ir.Constant(ir.VectorType(INT, LANES), order))


@intrinsic(prefer_literal=True)
def prefix(typing: Any, op: Any, x: Any, reverse: Any) -> Any:
    """The scan of eight lanes in three steps; ``reverse`` is a constant."""
    backwards = reverse.literal_value

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        found = args[1]
        for distance in (1, 2, 4):
            before = _moved(builder, op.algebra, found, distance, backwards)
            found = _EMIT[op.algebra](builder, before, found)
        return found

    return lanes(op, lanes, reverse), emit


@intrinsic(prefer_literal=True)
def moved(typing: Any, op: Any, x: Any, reverse: Any) -> Any:
    """Each lane where the next one in a scan was; ``reverse`` is a constant."""
    backwards = reverse.literal_value

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _moved(builder, op.algebra, args[1], 1, backwards)

    return lanes(op, lanes, reverse), emit


@intrinsic(prefer_literal=True)
def spread_last(typing: Any, x: Any, reverse: Any) -> Any:
    """Eight times the lane that a scan comes to last; ``reverse`` is a constant."""
    lane = 0 if reverse.literal_value else LANES - 1

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        order = ir.Constant(ir.VectorType(INT, LANES), [lane] * LANES)
        return builder.shuffle_vector(args[0], args[0], order)

    return lanes(lanes, reverse), emit


@intrinsic
def first_lane(typing: Any, x: Any) -> Any:
    """The number in lane 0."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.extract_element(args[0], ir.Constant(INT, 0))

    return types.float64(lanes), emit
