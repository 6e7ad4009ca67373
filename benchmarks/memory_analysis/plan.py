"""Which configurations are measured: the grid, or a few of each shape that is compiled once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from workload import Size

PHASES = ("forward", "backward", "both")
SEMIRINGS = ("Log", "Max", "Entropy")
T_BUCKETS = (64, 128, 256, 512, 1024, 2048)
KC_BUCKETS = (12, 24, 48, 72, 96, 144, 192, 288)


class Config(NamedTuple):
    """What is measured together: every backend and phase of one size in one semiring."""

    semiring: str
    size: Size

    def __str__(self) -> str:
        return f"{self.semiring} {self.size}"


class Shape(NamedTuple):
    """A canonical shape: buckets of T and of K * C."""

    T: int
    KC: int


def grid(semirings: Sequence[str], sizes: Sequence[Size]) -> list[Config]:
    """Every semiring at every size, small sizes first."""
    ordered = sorted(dict.fromkeys(sizes), key=lambda size: size.B * size.T * size.K * size.C)
    return [Config(semiring, size) for semiring, size in product(semirings, ordered)]


def sizes_of(B: Sequence[int], T: Sequence[int], K: Sequence[int], C: Sequence[int]) -> list[Size]:
    """All combinations.

    >>> sizes_of([1], [64, 128], [4], [3])
    [Size(B=1, T=64, K=4, C=3), Size(B=1, T=128, K=4, C=3)]
    """
    return [Size(*each) for each in product(B, T, K, C)]


def canonical_shape(size: Size) -> Shape:
    """The smallest buckets that hold a size, or the largest there are.

    >>> canonical_shape(Size(4, 100, 8, 3)), canonical_shape(Size(1, 5000, 100, 24))
    (Shape(T=128, KC=24), Shape(T=2048, KC=288))
    """
    return Shape(_bucket(size.T, T_BUCKETS), _bucket(size.K * size.C, KC_BUCKETS))


def _bucket(value: int, buckets: Sequence[int]) -> int:
    return next((bucket for bucket in buckets if bucket >= value), buckets[-1])


def sample_by_shape(
    sizes: Sequence[Size], most_shapes: int, samples: int, seed: int
) -> dict[Shape, list[Size]]:
    """A few sizes of each canonical shape.

    Shapes are spread evenly over those that occur, from the smallest to the largest. Of each, sizes
    are drawn at random.

    Args:
        sizes: to choose from.
        most_shapes: shapes to keep.
        samples: sizes of each shape to keep.
        seed: of the drawing.
    """
    groups: dict[Shape, list[Size]] = {}
    for size in dict.fromkeys(sizes):
        groups.setdefault(canonical_shape(size), []).append(size)
    chosen = spread(sorted(groups), most_shapes)
    drawing = random.Random(seed)
    return {
        shape: sorted(drawing.sample(groups[shape], min(samples, len(groups[shape]))))
        for shape in chosen
    }


def spread(values: Sequence, most: int) -> list:
    """At most so many of the values, evenly, with the first and the last.

    >>> spread(range(10), 4)
    [0, 3, 6, 9]
    """
    if len(values) <= most:
        return list(values)
    if most == 1:
        return [values[0]]
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def at_shape(shape: Shape, sizes: Sequence[Size]) -> Size:
    """The size that is compiled for a shape: T of the bucket, K and C of the size nearest to it."""
    nearest = min(sizes, key=lambda size: abs(shape.KC - size.K * size.C))
    return nearest._replace(T=shape.T)
