"""One tile of positions in the linear domain, or its image in the max semiring.

With S the prefix sums of the scores inside the tile, all relative to a scale of the tile::

    Q[j] = P[j] @ X                  all ways to enter a segment after j positions of the tile
    E[j] = Q[j] * enter[j]           enter[j] = exp(opens[j] - S[j])
    w[j] = sum over d of E[j+1-d] * D[d]
    P[j+1] = w[j] * leave[j]         leave[j] = exp(closes[j] + S[j+1])

From left to right ``opens`` are the start scores and ``closes`` the end scores; from right to left
the positions are mirrored and the two change places. The terms of w from earlier tiles, its
history, are summed for the whole tile at once; the rest follows position by position.
"""

from __future__ import annotations

import math

import numpy as np

from torch_semimarkov.backends.cpu.compile import part, small
from torch_semimarkov.backends.cpu.elementary import (
    exp,
    exp_and_inverse,
    finite_or_zero,
    larger,
    smaller,
)
from torch_semimarkov.backends.cpu.plan import TILE, S
from torch_semimarkov.backends.cpu.vector import (
    any_of,
    beats,
    load,
    load_part,
    load_rows,
    multiply_add,
    of,
    repeat,
    spread,
    spread_each,
    store,
    store_part,
    sum_of_rows,
    where,
    zero_rows,
)
from torch_semimarkov.backends.cpu.vector_types import LANES, ROWS

LOG2 = math.log(2.0)
# Bounds inside which a product of four numbers neither overflows nor underflows.
EXPONENT = 184.0
ENTER_LOW, ENTER_HIGH = 2.0**-266, 2.0**266
SUM_LOW, SUM_HIGH = 2.0**-332, 2.0**332
DRIFT = 200.0
LARGE = 2.0**1000
SUM_ROWS = TILE + ROWS
# Powers of two that a scale moves by at most, so that sums of them are integers of 64 bits.
MOST_POWERS = 2.0**40


@small
def load_some(array, at, count):
    """Eight lanes, or the ``count`` that are left before the padding; 0 in the others."""
    return load(array, at) if count >= LANES else load_part(array, at, count)


@small
def load_labels(array, at, real):
    """Eight lanes, 0 where they are padding; what lies there may belong to the next position."""
    inside = at + LANES <= len(array)
    row = load(array, at) if inside else load_part(array, at, len(array) - at)
    return where(real > spread(0.0), row, spread(0.0))


@part
def load_tile(terms, at, step, n, work, plan):
    """The terms of n positions, from ``at`` on in steps of ``step``, as float64 rows."""
    scores, opens, closes = terms
    for v in range(0, plan.C, LANES):
        real = load(work, plan.real + v)
        for j in range(n):
            here, there = j * plan.C + v, at + j * step + v
            store(work, plan.scores + here, load_labels(scores, there, real))
            if plan.boundaries:
                store(work, plan.opens + here, load_labels(opens, there, real))
                store(work, plan.closes + here, load_labels(closes, there, real))


@small
def store_labels(array, at, count, end, row):
    """Write the ``count`` labels of eight lanes, in the type of the array.

    The lanes of the padding overwrite what comes next, which is still to be written, up to ``end``.
    """
    if count >= LANES or at + LANES <= end:
        store(array, at, row)
    else:
        store_part(array, at, count, row)


@small
def powers_in(x):
    """Whole powers of two in a log, as many as there may be: the rest stays in logs."""
    return math.floor(min(max(x / LOG2, -MOST_POWERS), MOST_POWERS))


@part
def growth_of(n, mirrored, work, plan):
    """Powers of two by which the middle label grows in the tile, and the best one beyond that.

    The first is the same from both sides.
    """
    high, low = spread(-np.inf), spread(np.inf)
    for v in range(0, plan.C, LANES):
        total = spread(0.0)
        for r in range(n):
            j = n - 1 - r if mirrored else r
            total = total + load(work, plan.scores + j * plan.C + v)
        real = load(work, plan.real + v) > spread(0.0)
        high = larger(high, where(real, total, spread(-np.inf)))
        low = smaller(low, where(real, total, spread(np.inf)))
    store(work, plan.drift, high)
    store(work, plan.drift + LANES, low)
    top, bottom = -np.inf, np.inf
    for i in range(LANES):
        top = max(top, work[plan.drift + i])
        bottom = min(bottom, work[plan.drift + LANES + i])
    middle = (top + bottom) / 2.0
    if not np.isfinite(middle):
        return 0, 0
    return powers_in(middle), powers_in(top - middle)


@part
def fill_factors(n, gamma, work, plan):
    """enter, leave, and as ``jump`` the sum of the scores, less gamma a position.

    Returns False if an exponent is out of bounds.
    """
    C, fine = plan.C, True
    for v in range(0, C, LANES):
        less = spread(gamma) * load(work, plan.real + v)
        lift = load(work, plan.lift + v)
        total, inverse = spread(0.0), spread(1.0)
        low, high = spread(0.0), spread(0.0)
        for j in range(n):
            here = j * C + v
            before = total
            total = total + load(work, plan.scores + here) - less
            if plan.boundaries:
                x = load(work, plan.opens + here) - before
                y = load(work, plan.closes + here) + total
                low = smaller(low, smaller(finite_or_zero(x), finite_or_zero(y)))
                high = larger(high, larger(x, y))
                store(work, plan.enter + here, exp(x))
                store(work, plan.leave + here, exp(y) * lift)
            else:
                low, high = smaller(low, total), larger(high, total)
                store(work, plan.enter + here, inverse)
                power, inverse = exp_and_inverse(total)
                store(work, plan.leave + here, power * lift)
        store(work, plan.jump + v, total)
        if any_of(low < spread(-EXPONENT)) or any_of(high > spread(EXPONENT)):
            fine = False
    return fine


@small
def convolve(algebra, count, x_array, x, y_array, y, y_step):
    """ROWS rows of the sum over j of x_array[x + 8 j] * y_array[y + j y_step + row]."""
    total = zero_rows(algebra)
    for j in range(count):
        factor = repeat(of(algebra, load(x_array, x + j * LANES)))
        total = multiply_add(factor, of(algebra, load_rows(y_array, y + j * y_step)), total)
    return total


@part
def history(algebra, n, open_rows, window, rows, work, plan):
    """Write to ``sums`` what segments that are open at the start of the tile give its positions.

    E of the positions before the tile lies in the ``open_rows`` rows before ``window``, a row of a
    block of ``rows``.
    """
    for v in range(plan.C // LANES):
        for i in range(0, n, ROWS):
            count = min(open_rows, plan.K - 1 - i)
            total = convolve(
                algebra, count, work, window + (v * rows - count) * LANES,
                work, plan.D + (v * plan.depth + i + 1 + count) * LANES, -LANES,
            )  # fmt: skip
            store(work, plan.sums + (v * SUM_ROWS + i) * LANES, total)


@small
def product(algebra, P, X, v, work, plan):
    """Block v of the row at P times the matrix at X."""
    total = zero_rows(algebra)
    for c in range(0, plan.labels, ROWS):
        factor = of(algebra, spread_each(work, P + c))
        row = of(algebra, load_rows(work, X + (v * plan.C + c) * LANES))
        total = multiply_add(factor, row, total)
    return sum_of_rows(total)


@part
def solve(algebra, n, window, rows, work, plan):
    """The positions of the tile one after the other; Q[0] is given, P[1..n], Q[1..n] are found.

    What waits for the last position is a product with X and one multiplication.
    """
    C, K = plan.C, plan.K
    for j in range(n):
        for v in range(C // LANES):
            here = j * C + v * LANES
            q = of(algebra, load(work, plan.Q + here))
            if j > 0:
                q = product(algebra, plan.P + j * C, plan.X, v, work, plan)
                store(work, plan.Q + here, q)
            to = plan.sums + (v * SUM_ROWS + j) * LANES
            D = plan.D + (v * plan.depth + 1) * LANES
            enter, leave = (
                of(algebra, load(work, plan.enter + here)),
                of(algebra, load(work, plan.leave + here)),
            )
            first, old = of(algebra, load(work, D)), of(algebra, load(work, to))
            P = multiply_add(q, enter * first * leave, old * leave)
            store(work, plan.P + here + C, P)
            e = q * enter
            store(work, window + (v * rows + j) * LANES, e)
            store(work, to, multiply_add(e, first, old))
            factor = repeat(e)
            for i in range(1, min(K, n - j), ROWS):
                more = of(algebra, load_rows(work, D + i * LANES))
                later = of(algebra, load_rows(work, to + i * LANES))
                store(work, to + i * LANES, multiply_add(factor, more, later))
    for v in range(C // LANES):
        q = product(algebra, plan.P + n * C, plan.X, v, work, plan)
        store(work, plan.Q + n * C + v * LANES, q)


@part
def harmless(n, work, state, plan):
    """True if nothing that the tile flushed or overflowed could matter.

    Every E and every sum lies inside bounds or is 0 because it is forbidden: E where Q is 0, since
    what bounds P and X keeps Q from vanishing, while a small Q times a small factor may; and E
    where its factor is 0, since a start is forbidden. A sum may be 0 only where no element of its
    window can have been flushed: ``drift`` holds, for each label, the lowest and the highest log
    scale of the open rows, relative to the tile's.
    """
    strict = state[S.STRICT]
    for v in range(plan.C // LANES):
        real = load(work, plan.real + v * LANES)
        padding = spread(1.0) - real
        lowest = load(work, plan.drift + v * LANES)
        highest = load(work, plan.drift + plan.C + v * LANES)
        narrow = where(highest - lowest < spread(DRIFT), spread(1.0), padding)
        may_vanish = padding if strict else narrow
        enters = padding if strict else spread(1.0)
        low, high = spread(1.0), spread(1.0)
        q = load(work, plan.Q + n * plan.C + v * LANES)  # the next tile begins with it, in logs too
        low_enter, high_enter = where(q > spread(0.0), q, enters), spread(1.0)
        for j in range(n):
            w = load(work, plan.sums + (v * SUM_ROWS + j) * LANES)
            low = smaller(low, where(w > spread(0.0), w, may_vanish))
            high = larger(high, w)
            e = load(work, plan.window + (v * plan.rows + plan.K - 1 + j) * LANES)
            q = load(work, plan.Q + j * plan.C + v * LANES)
            forbidden = where(q > spread(0.0), spread(0.0), enters)
            factor = load(work, plan.enter + j * plan.C + v * LANES)
            forbidden = where(factor > spread(0.0), forbidden, spread(1.0))
            low_enter = smaller(low_enter, where(e > spread(0.0), e, forbidden))
            high_enter = larger(high_enter, e)
        last = load(work, plan.P + n * plan.C + v * LANES)
        if (
            any_of(highest * real > spread(DRIFT))
            or any_of(low < spread(SUM_LOW))
            or any_of(beats(high, spread(SUM_HIGH)))
            or any_of(low_enter < spread(ENTER_LOW))
            or any_of(beats(high_enter, spread(ENTER_HIGH)))
            or any_of(beats(last, spread(LARGE)))
        ):
            return False
    return True
