"""The numba types of vectors and of their algebras, as LLVM has them."""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core.imputils import lower_constant
from numba.extending import models, register_model, typeof_impl

LANES = 8
# Rows of a block: as many as leave registers for the rest, where the machine has 32 or 16.
ROWS = 8 if llvm.get_host_cpu_features().get("avx512f") else 4

INT = ir.IntType(32)


def padded(count: int) -> int:
    """A number of labels, or of durations, rounded up to whole vectors.

    >>> padded(9)
    16
    """
    return -(-count // LANES) * LANES


class AlgebraType(types.Type):
    def __init__(self, algebra: str):
        self.algebra = algebra
        super().__init__(f"Algebra({algebra})")


class Algebra:
    """What + and * of a vector mean; ``LINEAR`` or ``TROPICAL``."""

    def __init__(self, name: str):
        self.name, self.kind = name, AlgebraType(name)


LINEAR, TROPICAL = Algebra("linear"), Algebra("tropical")


class Vector(types.Type):
    """A numba type that is an LLVM vector of ``rows`` rows of eight lanes."""

    def __init__(self, rows: int, algebra: str):
        self.rows, self.algebra = rows, algebra
        super().__init__(f"Vector({rows}, {algebra})")

    @property
    def llvm(self) -> Any:
        return ir.VectorType(ir.DoubleType(), self.rows * LANES)


class _Mask(types.Type):
    """Eight booleans."""


lanes = Vector(1, "linear")
mask = _Mask("bool8")
DOUBLE = lanes.llvm
_FLAGS = ir.VectorType(ir.IntType(1), LANES)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any):
        super().__init__(manager, kind, kind.llvm)


@register_model(_Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any):
        super().__init__(manager, kind, _FLAGS)


register_model(AlgebraType)(models.OpaqueModel)


@typeof_impl.register(Algebra)
def _type_of_algebra(value: Algebra, context: Any) -> AlgebraType:
    return value.kind


@lower_constant(AlgebraType)
def _lower_algebra(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.get_dummy_value()
