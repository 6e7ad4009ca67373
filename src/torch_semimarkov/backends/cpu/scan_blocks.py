"""Scans of neighbouring rows by blocks of eight positions: the rows become lanes of vectors.

A block of eight rows and eight positions is transposed as it is loaded, so that each position is
one vector, and once more as it is stored. The order of combination is that of one row alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from torch_semimarkov.backends.cpu.compile import compiled
from torch_semimarkov.backends.cpu.scan_kernels import TOGETHER, combine, one_row
from torch_semimarkov.backends.cpu.vector import load, spread, store
from torch_semimarkov.backends.cpu.vector_types import DOUBLE, INT, LANES, lanes

_BLOCK = types.UniTuple(lanes, LANES)


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

    return _BLOCK(array, types.UniTuple(types.int64, LANES), types.int64), emit


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

    return types.void(array, types.UniTuple(types.int64, LANES), types.int64, _BLOCK), emit


@compiled
def rows_by_blocks(op, x, y, states, starts, lengths, items, reverse, exclusive):
    """Scan groups of eight rows whose positions are neighbours; ``items`` numbers the groups.

    Args:
        op: one of OPS that has a form on vectors.
        x, y: flat.
        states: (rows,) float64, before and after.
        starts: (rows, 2) uint64, where the scan of each row starts in ``x`` and in ``y``.
        lengths: (rows,) int64, how many positions each has.
        items: numbers of groups.
        reverse: the scan goes to lower addresses.
        exclusive: write the state before each position.
    """
    step = np.uint64(-1) if reverse else np.uint64(1)
    steps = (step, step)
    for item in items:
        low = item * TOGETHER
        high = min(low + TOGETHER, len(states))
        joint = 0
        if high - low == TOGETHER:
            joint = lengths[low]
            for r in range(low + 1, high):
                joint = min(joint, lengths[r])
            joint -= joint % LANES
        if joint > 0:
            s = starts[low:high]
            a = (
                np.int64(s[0, 0]), np.int64(s[1, 0]), np.int64(s[2, 0]), np.int64(s[3, 0]),
                np.int64(s[4, 0]), np.int64(s[5, 0]), np.int64(s[6, 0]), np.int64(s[7, 0]),
            )  # fmt: skip
            b = (
                np.int64(s[0, 1]), np.int64(s[1, 1]), np.int64(s[2, 1]), np.int64(s[3, 1]),
                np.int64(s[4, 1]), np.int64(s[5, 1]), np.int64(s[6, 1]), np.int64(s[7, 1]),
            )  # fmt: skip
            state = load(states, low)
            for k in range(0, joint, LANES):
                at = 1 - LANES - k if reverse else k
                c0, c1, c2, c3, c4, c5, c6, c7 = load_block(x, a, at)
                if reverse:
                    c0, c1, c2, c3, c4, c5, c6, c7 = c7, c6, c5, c4, c3, c2, c1, c0
                n0 = combine(op, state, c0)
                n1 = combine(op, n0, c1)
                n2 = combine(op, n1, c2)
                n3 = combine(op, n2, c3)
                n4 = combine(op, n3, c4)
                n5 = combine(op, n4, c5)
                n6 = combine(op, n5, c6)
                n7 = combine(op, n6, c7)
                found = n0, n1, n2, n3, n4, n5, n6, n7
                if exclusive:
                    found = state, n0, n1, n2, n3, n4, n5, n6
                if reverse:
                    c0, c1, c2, c3, c4, c5, c6, c7 = found
                    found = c7, c6, c5, c4, c3, c2, c1, c0
                store_block(y, b, at, found)
                state = n7
            store(states, low, state)
        done = np.uint64(joint)
        for r in range(low, high):
            states[r] = one_row(
                op, x, y, states[r], starts[r, 0] + done * step,
                starts[r, 1] + done * step, lengths[r] - joint, steps, exclusive,
            )  # fmt: skip


@compiled
def totals_by_blocks(op, x, states, starts, lengths, items, reverse):
    """Combine all positions of each row into ``states``, eight positions at a time.

    Args:
        op: one of OPS that has a form on vectors; all of them commute.
        x: flat.
        states: (rows,) float64, the neutral element before.
        starts: (rows, 2) uint64, where the scan of each row starts in ``x``.
        lengths: (rows,) int64, how many positions each has.
        items: numbers of groups of eight rows.
        reverse: the scan goes to lower addresses.
    """
    lanes_of_one = np.empty(LANES)
    for item in items:
        low = item * TOGETHER
        for r in range(low, min(low + TOGETHER, len(states))):
            n, neutral = lengths[r], states[r]
            first = np.int64(starts[r, 0])
            if reverse:
                first = first - n + 1
            whole = n - n % LANES
            state = spread(neutral)
            for k in range(0, whole, LANES):
                state = combine(op, state, load(x, first + k))
            store(lanes_of_one, 0, state)
            total = neutral
            for lane in range(LANES):
                total = combine(op, total, lanes_of_one[lane])
            for k in range(whole, n):
                total = combine(op, total, np.float64(x[np.uint64(first + k)]))
            states[r] = total
