"""A vector of eight float64 lanes for numba: kernels on it read like the formulas they compute.

The type becomes an LLVM vector, so every instruction set runs it: one register on AVX-512, two on
AVX2, four on SSE2 or NEON. ``+ - * >`` work lane by lane; there is no reordering and no fast-math,
so the same call gives the same bits.
"""

from __future__ import annotations

import math
import operator
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from torch_semimarkov.backends.cpu.compile import compiled as compiled

LANES = 8

_DOUBLE = ir.VectorType(ir.DoubleType(), LANES)
_BITS = ir.VectorType(ir.IntType(64), LANES)
_FLAGS = ir.VectorType(ir.IntType(1), LANES)
_INT = ir.IntType(32)


class _Lanes(types.Type):
    """A numba type that is an LLVM vector."""


class _DoubleLanes(_Lanes):
    pass


class _MaskLanes(_Lanes):
    pass


lanes = _DoubleLanes("float64x8")
mask = _MaskLanes("bool8")


@register_model(_DoubleLanes)
class _DoubleModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any):
        super().__init__(manager, kind, _DOUBLE)


@register_model(_MaskLanes)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any):
        super().__init__(manager, kind, _FLAGS)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _DOUBLE.as_pointer())


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Eight neighbours of a flat float64 array, from ``index`` on."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], *args)
        return builder.load(pointer, align=8)

    return lanes(array, types.intp), emit


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write eight lanes to a flat float64 array, from ``index`` on."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], *args[:2])
        builder.store(args[2], pointer, align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), emit


@intrinsic
def spread(typing: Any, value: Any) -> Any:
    """Eight lanes of the same number."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one = builder.insert_element(
            ir.Constant(_DOUBLE, ir.Undefined), args[0], ir.Constant(_INT, 0)
        )
        return builder.shuffle_vector(
            one, one, ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES)
        )

    return lanes(types.float64), emit


@intrinsic
def where(typing: Any, condition: Any, yes: Any, no: Any) -> Any:
    """Lane by lane ``yes`` or ``no``."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(*args)

    return lanes(mask, lanes, lanes), emit


@intrinsic
def _two_to_the(typing: Any, shifted: Any) -> Any:
    """2 ** n from ``n + _MAGIC``, whose low bits are the integer n."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], _BITS)
        bias = ir.Constant(_BITS, [1023] * LANES)
        shift = ir.Constant(_BITS, [52] * LANES)
        return builder.bitcast(builder.shl(builder.add(bits, bias), shift), _DOUBLE)

    return lanes(lanes), emit


@intrinsic
def beats(typing: Any, a: Any, b: Any) -> Any:
    """Lane by lane whether a > b, and true where either is NaN, so that NaN is never lost."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fcmp_unordered(">", *args)

    return mask(lanes, lanes), emit


def _operator(name: str, result: Any) -> Any:
    @intrinsic
    def apply(typing: Any, a: Any, b: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            if name in (">", "<"):
                return builder.fcmp_ordered(name, *args)
            return getattr(builder, name)(*args)

        return result(lanes, lanes), emit

    return apply


def _overload(symbol: Any, function: Any) -> None:
    @overload(symbol)
    def implementation(a, b):  # numba compares these names with the lambda's
        if a == lanes and b == lanes:
            return lambda a, b: function(a, b)
        return None


_overload(operator.add, _operator("fadd", lanes))
_overload(operator.sub, _operator("fsub", lanes))
_overload(operator.mul, _operator("fmul", lanes))
_overload(operator.gt, _operator(">", mask))
_overload(operator.lt, _operator("<", mask))


def _call(builder: Any, name: str, args: Any) -> Any:
    kind = ir.FunctionType(_DOUBLE, [_DOUBLE] * len(args))
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


@intrinsic
def log(typing: Any, x: Any) -> Any:
    """Lane by lane the natural logarithm; of 0 it is -inf."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call(builder, f"llvm.log.v{LANES}f64", args)

    return lanes(lanes), emit


@intrinsic
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, fused where the machine has an instruction for it."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call(builder, f"llvm.fmuladd.v{LANES}f64", args)

    return lanes(lanes, lanes, lanes), emit


@njit(inline="always")
def larger(a, b):
    """Lane by lane the larger of two vectors; the first where they are equal."""
    return where(b > a, b, a)


# exp(x) = 2 ** n * exp(r) with |r| <= log(2) / 2, and exp(r) by its Taylor sum.
_MAGIC = 1.5 * 2.0**52
_PER_LOG2 = 1.4426950408889634
_LOG2_HIGH, _LOG2_LOW = 0.6931471803691238, 1.9082149292705877e-10
_SMALLEST = -708.0
_C = tuple(1.0 / math.factorial(n) for n in range(13))


@njit(inline="always")
def exp(x):
    """Lane by lane the exponential of x <= 700; below -708 it is 0."""
    shifted = multiply_add(x, spread(_PER_LOG2), spread(_MAGIC))
    n = shifted - spread(_MAGIC)
    r = multiply_add(n, spread(-_LOG2_HIGH), x)
    r = multiply_add(n, spread(-_LOG2_LOW), r)
    p = spread(_C[12])
    p = multiply_add(p, r, spread(_C[11]))
    p = multiply_add(p, r, spread(_C[10]))
    p = multiply_add(p, r, spread(_C[9]))
    p = multiply_add(p, r, spread(_C[8]))
    p = multiply_add(p, r, spread(_C[7]))
    p = multiply_add(p, r, spread(_C[6]))
    p = multiply_add(p, r, spread(_C[5]))
    p = multiply_add(p, r, spread(_C[4]))
    p = multiply_add(p, r, spread(_C[3]))
    p = multiply_add(p, r, spread(_C[2]))
    p = multiply_add(p, r, spread(_C[1]))
    p = multiply_add(p, r, spread(_C[0]))
    return where(x < spread(_SMALLEST), spread(0.0), p * _two_to_the(shifted))
