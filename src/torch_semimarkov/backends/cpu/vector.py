"""Vectors of float64 lanes for numba: kernels on them read like the formulas they compute.

A vector has eight lanes, or ROWS rows of eight. It becomes one LLVM vector, which every instruction
set runs: a row is one register on AVX-512, two on AVX2, four on SSE2 or NEON. A vector belongs to
an algebra: in LINEAR, + and * are what they say; in TROPICAL, + is the maximum and * the sum, so
that one kernel gives a log partition or a best score. Nothing is reordered and there is no
fast-math, so the same call gives the same bits.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from torch_semimarkov.backends.cpu.vector_types import (
    DOUBLE,
    INT,
    LANES,
    ROWS,
    Vector,
    lanes,
    mask,
)

# Memory


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any, width: int) -> Any:
    """Address of ``width`` neighbours in a flat array, and their type there."""
    data = context.make_array(kind)(context, builder, array).data
    vector = ir.VectorType(context.get_data_type(kind.dtype), width)
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer()), vector


def _bytes(kind: Any) -> int:
    return int(kind.dtype.bitwidth // 8)


def _loader(rows: int) -> Any:
    @intrinsic
    def load(typing: Any, array: Any, index: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = signature.args[0]
            pointer, vector = _pointer(context, builder, kind, *args, rows * LANES)
            value = builder.load(pointer, align=_bytes(kind))
            return value if vector.element == ir.DoubleType() else builder.fpext(value, wide.llvm)

        wide = Vector(rows, "linear")
        return wide(array, types.intp), emit

    return load


load = _loader(1)
load.__doc__ = "Eight neighbours of a flat float array, from ``index`` on."
load_rows = _loader(ROWS)
load_rows.__doc__ = "ROWS * 8 neighbours of a flat float array, from ``index`` on."


def _first(builder: Any, count: Any) -> Any:
    """Eight flags, true before ``count``."""
    wide = ir.VectorType(ir.IntType(64), LANES)
    return builder.icmp_signed(
        "<", ir.Constant(wide, list(range(LANES))), _spread(builder, count, wide)
    )


def _spread(builder: Any, number: Any, vector: Any) -> Any:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.Constant(INT, 0))
    zeros = ir.Constant(ir.VectorType(INT, vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, one, zeros)


def call_llvm(builder: Any, name: str, result: Any, args: Any) -> Any:
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


@intrinsic
def load_part(typing: Any, array: Any, index: Any, count: Any) -> Any:
    """The first ``count`` of eight neighbours; the other lanes are 0 and not touched in memory."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        pointer, vector = _pointer(context, builder, kind, args[0], args[1], LANES)
        name = f"llvm.masked.load.v{LANES}f{kind.dtype.bitwidth}.p0"
        rest = ir.Constant(vector, [0.0] * LANES)
        align = ir.Constant(INT, _bytes(kind))
        inside = _first(builder, args[2])
        value = call_llvm(builder, name, vector, [pointer, align, inside, rest])
        return value if vector.element == ir.DoubleType() else builder.fpext(value, DOUBLE)

    return lanes(array, types.intp, types.intp), emit


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write a vector to a flat float array, in its type, from ``index`` on."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind, width = signature.args[0], signature.args[2].rows * LANES
        pointer, vector = _pointer(context, builder, kind, *args[:2], width)
        value = args[2]
        if vector.element != ir.DoubleType():
            value = builder.fptrunc(value, vector)
        builder.store(value, pointer, align=_bytes(kind))
        return context.get_dummy_value()

    return types.void(array, types.intp, value), emit


@intrinsic
def store_part(typing: Any, array: Any, index: Any, count: Any, value: Any) -> Any:
    """Write the first ``count`` lanes to a flat float array, in its type."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        pointer, vector = _pointer(context, builder, kind, args[0], args[1], LANES)
        value = args[3]
        if vector.element != ir.DoubleType():
            value = builder.fptrunc(value, vector)
        name = f"llvm.masked.store.v{LANES}f{kind.dtype.bitwidth}.p0"
        align = ir.Constant(INT, _bytes(kind))
        inside = _first(builder, args[2])
        call_llvm(builder, name, ir.VoidType(), [value, pointer, align, inside])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, lanes), emit


# From numbers and between shapes


@intrinsic
def spread(typing: Any, value: Any) -> Any:
    """Eight lanes of the same number."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _spread(builder, args[0], DOUBLE)

    return lanes(types.float64), emit


@intrinsic
def spread_from(typing: Any, array: Any, index: Any) -> Any:
    """Eight lanes of ``array[index]``; an index from the end is not looked for."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return _spread(builder, builder.load(builder.gep(data, [args[1]])), DOUBLE)

    return lanes(array, types.intp), emit


@intrinsic
def repeat(typing: Any, value: Any) -> Any:
    """ROWS rows of the same eight lanes."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        index = ir.Constant(ir.VectorType(INT, ROWS * LANES), list(range(LANES)) * ROWS)
        return builder.shuffle_vector(args[0], args[0], index)

    return Vector(ROWS, value.algebra)(value), emit


@intrinsic
def spread_each(typing: Any, array: Any, index: Any) -> Any:
    """ROWS rows, row r with eight lanes of the number at ``index + r`` of a flat float64 array."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        rows = []
        for row in range(ROWS):  # one by one, so that each is a broadcast from memory
            at = builder.add(args[1], ir.Constant(args[1].type, row))
            rows.append(_spread(builder, builder.load(builder.gep(data, [at])), DOUBLE))
        while len(rows) > 1:
            rows = [_join(builder, *pair) for pair in zip(rows[::2], rows[1::2], strict=True)]
        return rows[0]

    return Vector(ROWS, "linear")(array, types.intp), emit


def _join(builder: Any, a: Any, b: Any) -> Any:
    count = a.type.count + b.type.count
    index = ir.Constant(ir.VectorType(INT, count), list(range(count)))
    return builder.shuffle_vector(a, b, index)


@intrinsic
def of(typing: Any, algebra: Any, value: Any) -> Any:
    """The same lanes as a member of ``algebra``."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return args[1]

    return Vector(value.rows, algebra.algebra)(algebra, value), emit


@intrinsic
def zero_rows(typing: Any, algebra: Any) -> Any:
    """ROWS rows of the algebra's zero."""
    vector = Vector(ROWS, algebra.algebra)
    zero = 0.0 if algebra.algebra == "linear" else float("-inf")

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(vector.llvm, [zero] * (ROWS * LANES))

    return vector(algebra), emit


@intrinsic
def sum_of_rows(typing: Any, value: Any) -> Any:
    """Sum of the rows in the vector's algebra, in a fixed order."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide, rows = args[0], ROWS
        while rows > 1:
            rows //= 2
            index = ir.VectorType(INT, rows * LANES)
            low, high = range(rows * LANES), range(rows * LANES, 2 * rows * LANES)
            halves = [
                builder.shuffle_vector(wide, wide, ir.Constant(index, list(half)))
                for half in (low, high)
            ]
            wide = _plus(builder, value.algebra, *halves)
        return wide

    return Vector(1, value.algebra)(value), emit


@intrinsic
def transpose(typing: Any, rows: Any) -> Any:
    """Eight vectors, of which number i holds the lanes i of the given ones."""
    kind = types.UniTuple(lanes, LANES)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, width = cgutils.unpack_tuple(builder, args[0]), 1
        while width < LANES:  # swap the halves of blocks of 2 * width rows and lanes
            for i in range(LANES):
                if i & width == 0:
                    rows[i], rows[i + width] = _swap(builder, rows[i], rows[i + width], width)
            width *= 2
        return context.make_tuple(builder, kind, rows)

    return kind(kind), emit


def _swap(builder: Any, a: Any, b: Any, width: int) -> tuple[Any, Any]:
    index = ir.VectorType(INT, LANES)
    upper = [i if i & width == 0 else i - width + LANES for i in range(LANES)]
    lower = [i + width if i & width == 0 else i + LANES for i in range(LANES)]
    return (
        builder.shuffle_vector(a, b, ir.Constant(index, upper)),
        builder.shuffle_vector(a, b, ir.Constant(index, lower)),
    )


# Operators


def _plus(builder: Any, algebra: str, a: Any, b: Any) -> Any:
    if algebra == "linear":
        return builder.fadd(a, b)
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _times(builder: Any, algebra: str, a: Any, b: Any) -> Any:
    return builder.fmul(a, b) if algebra == "linear" else builder.fadd(a, b)


@intrinsic
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, fused where the algebra is linear and the machine has an instruction."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        algebra, width = a.algebra, a.rows * LANES
        if algebra == "linear":
            return call_llvm(builder, f"llvm.fmuladd.v{width}f64", a.llvm, args)
        return _plus(builder, algebra, _times(builder, algebra, *args[:2]), args[2])

    return a(a, b, c), emit


@intrinsic
def where(typing: Any, condition: Any, yes: Any, no: Any) -> Any:
    """Lane by lane ``yes`` or ``no``."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(*args)

    return lanes(mask, lanes, lanes), emit


@intrinsic
def beats(typing: Any, a: Any, b: Any) -> Any:
    """Lane by lane whether a > b, and true where either is NaN, so that NaN is never lost."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fcmp_unordered(">", *args)

    return mask(lanes, lanes), emit


@intrinsic
def any_of(typing: Any, condition: Any) -> Any:
    """True if one of eight flags is."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(mask), emit


def _of_lanes(algebra: str, doc: str) -> Any:
    @intrinsic
    def reduce(typing: Any, x: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            (whole,) = args
            for width in (4, 2, 1):
                halves = [
                    ir.Constant(ir.VectorType(INT, width), list(range(first, first + width)))
                    for first in (0, width)
                ]
                parts = [builder.shuffle_vector(whole, whole, half) for half in halves]
                whole = _plus(builder, algebra, *parts)
            return builder.extract_element(whole, ir.Constant(INT, 0))

        return types.float64(lanes), emit

    reduce.__doc__ = doc
    return reduce


sum_of_lanes = _of_lanes("linear", "The sum of eight lanes, by halves.")
largest_of_lanes = _of_lanes("tropical", "The largest of eight lanes, by halves.")


def _operator(combine: Any, compares: bool = False) -> Any:
    @intrinsic
    def apply(typing: Any, a: Any, b: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return combine(builder, a.algebra, *args)

        return (mask if compares else a)(a, b), emit

    return apply


def _plain(name: str) -> Any:
    return lambda builder, algebra, a, b: getattr(builder, name)(a, b)


def _ordered(symbol: str) -> Any:
    return lambda builder, algebra, a, b: builder.fcmp_ordered(symbol, a, b)


def _overload(symbol: Any, function: Any) -> None:
    @overload(symbol)
    def implementation(a, b):  # numba compares these names with the lambda's
        if isinstance(a, Vector) and a == b:
            return lambda a, b: function(a, b)
        return None


_overload(operator.add, _operator(_plus))
_overload(operator.mul, _operator(_times))
_overload(operator.sub, _operator(_plain("fsub")))
_overload(operator.truediv, _operator(_plain("fdiv")))
_overload(operator.gt, _operator(_ordered(">"), compares=True))
_overload(operator.lt, _operator(_ordered("<"), compares=True))
