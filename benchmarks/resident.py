"""By how much a call makes the memory of this process grow; Linux tells, other systems do not."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Growth(NamedTuple):
    """Bytes that came on top at most, the seconds of the call, and its result."""

    bytes: int
    seconds: float
    result: Any


def is_known() -> bool:
    """True where the system tells the resident set."""
    return CLEAR.exists()


def growth_of(run: Callable[[], Any]) -> Growth:
    """Run a call once; what lay there before it, its inputs among them, does not count."""
    gc.collect()
    _give_back_freed_memory()
    # 5 sets the largest resident set back to what it is now
    CLEAR.write_text("5", encoding="utf-8")
    before, _ = _resident()
    begin = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - begin
    _, most = _resident()
    return Growth(max(0, most - before), seconds, result)


def _resident() -> tuple[int, int]:
    """Bytes that are resident now, and the most that were."""
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    now, most = (int(facts[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


def _give_back_freed_memory() -> None:
    """Let the C library return what is free, which a call would else use without any growth."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
