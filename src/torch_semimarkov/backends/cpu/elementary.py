"""Functions on eight lanes: exponential and logarithm, larger and smaller of two, guards."""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from torch_semimarkov.backends.cpu.vector import (
    call_llvm,
)
from torch_semimarkov.backends.cpu.vector_types import LANES, lanes

_VECTOR = lanes.llvm
_BITS = ir.VectorType(ir.IntType(64), LANES)
# exp(x) = 2 ** n * exp(r) with |r| <= log(2) / 2, and exp(r) by its Taylor sum. Adding _MAGIC
# leaves the integer n in the low bits of a float64.
_MAGIC = 1.5 * 2.0**52
_PER_LOG2 = 1.4426950408889634
_LOG2_HIGH, _LOG2_LOW = 0.6931471803691238, 1.9082149292705877e-10
_TAYLOR = [1.0 / math.factorial(n) for n in range(13)]
_SMALLEST, _LARGEST = -708.0, 700.0


def _same(number: float) -> Any:
    return ir.Constant(_VECTOR, [number] * LANES)


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return call_llvm(builder, f"llvm.fmuladd.v{LANES}f64", _VECTOR, [a, b, c])


def _lane_by_lane(emit: Any, name: str, doc: str) -> Any:
    """An intrinsic of vectors from what it emits."""
    count = emit.__code__.co_argcount - 1

    if count == 1:

        def function(typing: Any, x: Any) -> Any:
            return lanes(lanes), lambda context, builder, signature, args: emit(builder, *args)
    else:

        def function(typing: Any, a: Any, b: Any) -> Any:
            return lanes(lanes, lanes), lambda context, builder, signature, args: emit(
                builder, *args
            )

    function.__name__, function.__doc__ = name, doc
    return intrinsic(function)


def _bounded(builder: Any, x: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", x, _same(_LARGEST)), _same(_LARGEST), x)


def _split(builder: Any, x: Any) -> Any:
    """n + _MAGIC and r of x = n log(2) + r."""
    shifted = _multiply_add(builder, x, _same(_PER_LOG2), _same(_MAGIC))
    n = builder.fsub(shifted, _same(_MAGIC))
    r = _multiply_add(builder, n, _same(-_LOG2_HIGH), x)
    return shifted, _multiply_add(builder, n, _same(-_LOG2_LOW), r)


def _sum(builder: Any, x: Any, coefficients: list[float]) -> Any:
    """The polynomial with these coefficients, lowest power first."""
    p = _same(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        p = _multiply_add(builder, p, x, _same(coefficient))
    return p


def _power(builder: Any, shifted: Any, sign: int = 1) -> Any:
    """2 ** n, or its inverse, from n + _MAGIC."""
    bits, bias = builder.bitcast(shifted, _BITS), ir.Constant(_BITS, [1023] * LANES)
    if sign < 0:  # the bits of _MAGIC cancel in the low ones only, which are all that is kept
        bits = builder.sub(ir.Constant(_BITS, [0] * LANES), bits)
    shift = ir.Constant(_BITS, [52] * LANES)
    return builder.bitcast(builder.shl(builder.add(bits, bias), shift), _VECTOR)


def _exp(builder: Any, x: Any) -> Any:
    x = _bounded(builder, x)
    shifted, r = _split(builder, x)
    value = builder.fmul(_sum(builder, r, _TAYLOR), _power(builder, shifted))
    return builder.select(builder.fcmp_ordered("<", x, _same(_SMALLEST)), _same(0.0), value)


def _exp_and_inverse(builder: Any, x: Any) -> Any:
    """exp(x) and exp(-x) from the even and the odd part of one sum."""
    x = _bounded(builder, x)
    x = builder.select(builder.fcmp_ordered("<", x, _same(-_LARGEST)), _same(-_LARGEST), x)
    shifted, r = _split(builder, x)
    square = builder.fmul(r, r)
    even, odd = (_sum(builder, square, _TAYLOR[first::2]) for first in (0, 1))
    plus = _multiply_add(builder, odd, r, even)
    minus = _multiply_add(builder, odd, builder.fneg(r), even)
    return (
        builder.fmul(plus, _power(builder, shifted)),
        builder.fmul(minus, _power(builder, shifted, -1)),
    )


@intrinsic
def exp_and_inverse(typing: Any, x: Any) -> Any:
    """exp(x) and exp(-x); beyond -700 and 700 those of the bound."""
    result = types.UniTuple(lanes, 2)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.make_tuple(builder, result, _exp_and_inverse(builder, args[0]))

    return result(lanes), emit


def _log(builder: Any, x: Any) -> Any:
    return call_llvm(builder, f"llvm.log.v{LANES}f64", _VECTOR, [x])


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", b, a), b, a)


def _smaller(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", b, a), b, a)


def _finite_or_zero(builder: Any, x: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", x, _same(-math.inf)), x, _same(0.0))


def _exponent(builder: Any, x: Any) -> Any:
    """The bits of the exponent, as the low bits of a float64 that is then a number."""
    bits = builder.lshr(builder.bitcast(x, _BITS), ir.Constant(_BITS, [52] * LANES))
    shifted = builder.or_(bits, builder.bitcast(_same(2.0**52), _BITS))
    value = builder.fsub(builder.bitcast(shifted, _VECTOR), _same(2.0**52 + 1023.0))
    return builder.select(builder.fcmp_ordered(">", x, _same(0.0)), value, _same(0.0))


def _rounded(builder: Any, x: Any) -> Any:
    return builder.fsub(builder.fadd(x, _same(_MAGIC)), _same(_MAGIC))


def _power_of_two(builder: Any, n: Any) -> Any:
    return _power(builder, builder.fadd(n, _same(_MAGIC)))


exp = _lane_by_lane(_exp, "exp", "The exponential, of 700 at most; below -708 it is 0.")
log = _lane_by_lane(_log, "log", "The natural logarithm; of 0 it is -inf.")
larger = _lane_by_lane(_larger, "larger", "The larger of two; the first if equal or NaN.")
smaller = _lane_by_lane(_smaller, "smaller", "The smaller of two; the first if equal or NaN.")
finite_or_zero = _lane_by_lane(
    _finite_or_zero, "finite_or_zero", "x, or 0 where it is -inf or NaN."
)
exponent = _lane_by_lane(_exponent, "exponent", "floor(log2(x)) of a number above 0; else 0.")
rounded = _lane_by_lane(_rounded, "rounded", "The nearest whole number, below 2 ** 51.")
power_of_two = _lane_by_lane(
    _power_of_two, "power_of_two", "2 ** n of whole numbers between -1022 and 1023."
)
