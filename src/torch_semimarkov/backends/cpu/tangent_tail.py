"""What a tail adds to the tangent: segments of K and more positions, as one pair for each label.

From left to right they are a log mass and a slope, which take in what is K positions long and grow
by a position and the tail. From right to left they are sums over their ends: of masses, and of
masses times how many positions each has beyond K, relative to the largest score among them. Both
read the row of the window that leaves it, before the sums over durations, which stop at K - 1.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import part


@part
def join(a, a_slope, b, b_slope):
    """The sum of two log masses, and its slope."""
    high, low = max(a, b), min(a, b)
    if low == -np.inf:
        return (a, a_slope) if a >= b else (b, b_slope)
    share = np.exp(low - high)
    top, bottom = (a_slope, b_slope) if a >= b else (b_slope, a_slope)
    return high + np.log1p(share), (top + share * bottom) / (1.0 + share)


@part
def hold(terms, shifts, p, steps, tails, window, held, newest, full, beyond, sizes):
    """Take in position p, and what is K positions long at it if the window is ``full``.

    Args:
        tails: the tail and its direction, (C,) each.
        beyond: log masses and slopes (C,), without the bias; changed.
    """
    _, K, C, labels = sizes
    for c in range(labels):
        score = terms[0][p * labels + c] - steps[0] + tails[0][c]
        shift = shifts[0][p * labels + c] - steps[1] + tails[1][c]
        older, lean = beyond[0][c] + score, beyond[1][c] + shift
        fresh, slope = -np.inf, 0.0
        if full:
            at = (newest + K - 1) * C + c
            fresh, slope = window[0][at] + held[0][c], window[1][at] + held[1][c]
        older, lean = join(fresh, slope, older, lean)
        beyond[0][c], beyond[1][c] = older, lean if older > -np.inf else 0.0


@part
def close_long(bias, leaning, K, C, labels, beyond, message):
    """Add what ends with K or more positions to alpha and its slope."""
    for c in range(labels):
        row = (K - 1) * C + c
        long, lean = beyond[0][c] + bias[row], beyond[1][c] + leaning[row]
        message[0][c], message[1][c] = join(message[0][c], message[1][c], long, lean)


@part
def hold_back(terms, shifts, p, steps, tails, window, held, newest, full, sums, sizes):
    """The same from right to left: take in position p, and the ends K positions on.

    Args:
        sums: (5, C): the largest score, of which the masses are relative; sums of the mass and of
            the bent mass; and of both times the positions beyond K; changed.
    """
    _, K, C, labels = sizes
    for c in range(labels):
        scale, mass, bent, many, long = sums[0, c], sums[1, c], sums[2, c], sums[3, c], sums[4, c]
        scale += terms[0][p * labels + c] - steps[0] + tails[0][c]
        shift = shifts[0][p * labels + c] - steps[1] + tails[1][c]
        bent, long = bent + shift * mass, long + shift * many
        many, long = many + mass, long + bent
        if scale == -np.inf:
            mass = bent = many = long = 0.0
        at = (newest + K - 1) * C + c
        fresh = window[0][at] + held[0][c] if full else -np.inf
        if fresh > scale:
            factor = np.exp(scale - fresh)
            mass, bent, many, long = factor * mass, factor * bent, factor * many, factor * long
            scale = fresh
        if fresh > -np.inf:
            weight = np.exp(fresh - scale)
            lean = window[1][at] + held[1][c]
            mass += weight * window[4][at]
            bent += weight * (window[5][at] + window[4][at] * lean)
        sums[0, c], sums[1, c], sums[2, c], sums[3, c], sums[4, c] = scale, mass, bent, many, long


@part
def take_long(bias, leaning, base, sums, starts, durations, tails, sizes):
    """Masses of the segments of K and more positions that start here.

    Args:
        bias, leaning: (K, C), of which the last row counts, and its direction.
        base: score of what they have in common, and its slope.
        starts, durations, tails: of two tables each, to add to: (C,), (K, C), (C,).
    """
    _, K, C, labels = sizes
    for c in range(labels):
        row = (K - 1) * C + c
        score = base[0][c] + sums[0, c] + bias[row]
        if score == -np.inf:
            continue
        factor, shift = np.exp(score), base[1][c] + leaning[row]
        plain, curved = factor * sums[1, c], factor * (sums[2, c] + shift * sums[1, c])
        starts[0][c] += plain
        starts[1][c] += curved
        durations[0][row] += plain
        durations[1][row] += curved
        tails[0][c] += factor * sums[3, c]
        tails[1][c] += factor * (sums[4, c] + shift * sums[3, c])
