"""Sizes to measure at, times of calls that take turns, and what is reported of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch_semimarkov.errors import ConfigError

# A call whose times add up to this many seconds is not repeated further once it has ENOUGH.
BUDGET, ENOUGH = 30.0, 3
# From a function without arguments to the seconds that one call took, and its result.
Clock = Callable[[Callable[[], Any]], tuple[float, Any]]


class Size(NamedTuple):
    """B sequences of T positions, durations up to K, C labels."""

    B: int
    T: int
    K: int
    C: int

    def __str__(self) -> str:
        return ",".join(map(str, self))


def parse_size(text: str) -> Size:
    """``"8,512,1,9"`` as a size.

    Raises:
        ConfigError: not four whole numbers of at least 1.

    >>> parse_size("8,512,1,9")
    Size(B=8, T=512, K=1, C=9)
    """
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdigit() and int(part) for part in parts):
        raise ConfigError(f"a size must be B,T,K,C, four whole numbers of at least 1, got {text!r}")
    return Size(*map(int, parts))


class Summary(NamedTuple):
    """Median and quartiles in milliseconds, and of how many times."""

    median: float
    q1: float
    q3: float
    repeats: int


def summarize(seconds: list[float]) -> Summary:
    """What is reported of a list of times.

    >>> summarize([0.001, 0.003, 0.002])
    Summary(median=2.0, q1=1.5, q3=2.5, repeats=3)
    """
    if not seconds:
        raise ValueError("no times to summarize")
    quartiles = seconds * 3
    if len(seconds) > 1:
        quartiles = statistics.quantiles(seconds, n=4, method="inclusive")
    q1, median, q3 = (1000 * value for value in quartiles[:3])
    return Summary(median, q1, q3, len(seconds))


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that one call took, and its result."""
    begin = time.perf_counter()
    result = run()
    return time.perf_counter() - begin, result


def interleave(
    runs: Mapping[str, Callable[[], Any]], repeats: Mapping[str, int], clock: Clock = timed
) -> dict[str, list[float]]:
    """Seconds of every call, measured in rounds.

    There are as many rounds as the least repeated call has repeats. In each round every call runs
    its share in the order of ``runs``; a call that runs several times in a round runs once before
    without being measured, since another call has just emptied the caches.

    Args:
        runs: the calls by name.
        repeats: how often to measure each; 0 leaves it out.
        clock: measures one call.
    """
    wanted = {name: repeats[name] for name in runs if repeats[name] > 0}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    rounds = min(wanted.values(), default=0)
    for i in range(rounds):
        for name, count in wanted.items():
            share = count * (i + 1) // rounds - count * i // rounds
            if share > 1:
                runs[name]()
            for _ in range(share):
                if not _enough(seconds[name]):
                    seconds[name].append(clock(runs[name])[0])
    return seconds


def _enough(seconds: list[float]) -> bool:
    return len(seconds) >= ENOUGH and sum(seconds) > BUDGET
