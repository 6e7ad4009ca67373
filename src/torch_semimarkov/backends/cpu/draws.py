"""Random numbers by counting: number i of a stream is a hash of the seed, the stream and i.

So what one sample takes depends neither on the others nor on the threads.

Source: the mixing function of Steele, Lea and Flood, Fast splittable pseudorandom number
generators, OOPSLA 2014. Two keys of a stream keep streams apart whose counters come to overlap.
"""

from __future__ import annotations

import numpy as np

from torch_semimarkov.backends.cpu.compile import part, small

_STEP, _OTHER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31, _11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_UNIT = 2.0**-53


@small
def mix(z):
    """64 bits that each depend on all bits of z."""
    z = (z ^ (z >> _30)) * _FIRST
    z = (z ^ (z >> _27)) * _SECOND
    return z ^ (z >> _31)


@part
def stream_of(seed, index):
    """The two keys of a stream."""
    first = mix(np.uint64(seed) + mix(np.uint64(index) * _STEP + _OTHER))
    return first, mix(first + _OTHER)


@part
def uniform(keys, count):
    """Number ``count`` of a stream, in [0, 1)."""
    return np.float64(mix(mix(keys[0] + np.uint64(count) * _STEP) ^ keys[1]) >> _11) * _UNIT


@part
def draw(scores, count, point):
    """An index below ``count``, drawn by exp(score) with a uniform number; -1 if all are -inf.

    The scores become running sums; those of weight 0 are never drawn.
    """
    top = -np.inf
    for i in range(count):
        top = max(top, scores[i])
    if top == -np.inf:
        return -1
    total, last = 0.0, 0
    for i in range(count):
        weight = np.exp(scores[i] - top)
        if weight > 0.0:
            last = i
        total += weight
        scores[i] = total
    for i in range(last):
        if scores[i] > point * total:
            return i
    return last
