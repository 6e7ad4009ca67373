"""Peak memory of one backend and configuration, split into inputs, working memory and gradients.

On the CPU that is the growth of the resident set of a process of its own, which has run a small
call before; the same process tells how long the call takes, and is where memory may run out. On
CUDA it is the peak of the allocator, in this process.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import resident
import torch
from workload import Size, draw

from memory_analysis.plan import Config
from memory_analysis.ways import Way, staged, way_of
from torch_semimarkov.cli.timing import parse_size

SMALL = Size(1, 8, 4, 3)
# Seconds in which a new process is ready to measure, compiling included.
READY = 90.0
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Task:
    """What a new process is to measure.

    Args:
        backend: its name.
        config: semiring and size.
        phases: some of plan.PHASES.
        dtype: "float32" or "float64".
        seed: of the inputs.
        limit: seconds that one call may take.
    """

    backend: str
    config: Config
    phases: tuple[str, ...]
    dtype: str = "float32"
    seed: int = 0
    limit: float = 60.0


Facts = dict[str, Any]


def available_bytes() -> int | None:
    """Memory that can be had without swapping, and within the limit of a control group."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    free = int(facts["MemAvailable"].split()[0]) * 1024
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        most = int((group / "memory.max").read_text())
        free = min(free, most - int((group / "memory.current").read_text()))
    return free


def too_large(way: Way, phase: str) -> str:
    """Why there is not memory enough, where that can be said before; else an empty text."""
    free = available_bytes()
    needed = way.edge_bytes * (1 if phase == "forward" else 2)
    if free is None or needed <= free:
        return ""
    return f"needs {needed / 1e9:.1f} GB for its largest tensors, {free / 1e9:.1f} GB are free"


def is_out_of_memory(error: BaseException) -> bool:
    """True for what Python and torch raise where memory cannot be had."""
    text = str(error).lower()
    words = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
    return isinstance(error, MemoryError) or any(word in text for word in words)


def in_a_new_process(task: Task) -> dict[str, Facts]:
    """Facts of each phase: bytes and seconds, or ``status`` and ``reason``.

    Empty where the system does not tell the resident set: then nothing is said of memory.
    """
    if not resident.is_known():
        return {}
    command = [sys.executable, "-m", "memory_analysis.memory", *_arguments(task)]
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(x).resolve()) for x in sys.path)}
    with tempfile.TemporaryFile("w+") as problems:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=problems, text=True, env=where
        )
        try:
            facts, late = _listen(child, task)
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
        problems.seek(0)
        lost = _lost(None if late else child.returncode, problems.read(), task.limit)
    return {phase: facts.get(phase, lost) for phase in task.phases}


def _listen(child: subprocess.Popen, task: Task) -> tuple[dict[str, Facts], bool]:
    """What a process reports of each phase, and whether it was given up as too slow."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in child.stdout:
            lines.put(line)
        child.wait()
        lines.put("")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    facts: dict[str, Facts] = {}
    patience = READY
    while True:
        try:
            line = lines.get(timeout=patience)
        except queue.Empty:
            child.kill()
            reader.join()
            return facts, True
        if not line:
            reader.join()
            return facts, False
        one = json.loads(line)
        facts[one.pop("phase")] = one
        # the inputs are drawn before the call begins
        patience = 1.2 * task.limit + 10


def _lost(code: int | None, problem: str, limit: float) -> Facts:
    """What became of phases that a process did not report."""
    if code is None:
        return {"status": "slow", "reason": f"one call takes more than {limit:g} s"}
    if code == -signal.SIGKILL:
        return {"status": "oom", "reason": "the system killed the process for its memory"}
    last = (problem.strip().splitlines() or ["no reason given"])[-1]
    return {"status": "error", "reason": f"a new process ended with {code}: {last}"}


def growth(way: Way, phase: str) -> Facts:
    """Bytes by kind and seconds of one call in this process, on the CPU."""
    call = staged(way, phase)
    inputs = sum(leaf.nbytes for leaf in way.leaves.values())
    grown = resident.growth_of(call)
    return {**_split(inputs, grown.bytes, grown.result), "seconds": grown.seconds}


def on_cuda(way: Way, phase: str) -> Facts:
    """The same by the peak of CUDA's allocator; the call has run before."""
    call = staged(way, phase)
    inputs = sum(leaf.nbytes for leaf in way.leaves.values())
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    return _split(inputs, torch.cuda.max_memory_allocated() - before, result)


def _split(inputs: int, grown: int, result: Any) -> Facts:
    gradients = sum(x.nbytes for x in result[1]) if isinstance(result, tuple) else 0
    return {
        "input_bytes": inputs,
        "working_bytes": max(0, grown - gradients),
        "gradient_bytes": gradients,
        "peak_bytes": inputs + max(grown, gradients),
    }


# In the new process


def _arguments(task: Task) -> list[str]:
    config = task.config
    words = [task.backend, config.semiring, str(config.size), ",".join(task.phases)]
    return [*words, task.dtype, str(task.seed), str(task.limit)]


def limit_memory() -> None:
    """Let allocations fail at nine tenths of what is free, before the system kills processes."""
    import resource

    free = available_bytes()
    if free is None:
        return
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    mapped = next(line for line in status.splitlines() if line.startswith("VmSize"))
    most = int(mapped.split()[1]) * 1024 + free * 9 // 10
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def report(task: Task) -> None:
    """Print the facts of each phase, a line each; phases after a slow one are slow too."""
    dtype = DTYPES[task.dtype]
    # K = 1 stays K = 1, pytorch-crf knows nothing else; batches have kernels of their own
    size = task.config.size
    warm = SMALL._replace(K=min(SMALL.K, size.K), B=min(8, size.B))
    tried = Config(task.config.semiring, warm)
    small = way_of(task.backend, draw(tried.size, dtype), tried)
    for phase in task.phases:
        staged(small, phase)()
    limit_memory()
    print(json.dumps({"phase": "ready"}), flush=True)
    facts: Facts = {}
    for phase in task.phases:
        if facts.get("seconds", 0.0) <= task.limit and facts.get("status") != "oom":
            facts = measured(task, phase)
        print(json.dumps({"phase": phase, **_judged(facts, task.limit)}), flush=True)


def measured(task: Task, phase: str) -> Facts:
    """The facts of one phase; an allocation that fails is one."""
    try:
        workload = draw(task.config.size, DTYPES[task.dtype], task.seed)
        way = way_of(task.backend, workload, task.config)
        problem = too_large(way, phase)
        return {"status": "oom", "reason": problem} if problem else growth(way, phase)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        first = (str(error).strip().splitlines() or ["memory ran out"])[0]
        return {"status": "oom", "reason": first[:200]}


def _judged(facts: Facts, limit: float) -> Facts:
    if facts.get("seconds", 0.0) <= limit:
        return facts
    seconds = facts["seconds"]
    reason = f"one call takes {seconds:.0f} s, more than {limit:g} s"
    return {"status": "slow", "reason": reason, "seconds": seconds}


def main(arguments: Sequence[str] | None = None) -> None:
    """What the new process does."""
    parser = argparse.ArgumentParser()
    for name in ("backend", "semiring", "size", "phases", "dtype"):
        parser.add_argument(name)
    parser.add_argument("seed", type=int)
    parser.add_argument("limit", type=float)
    given = parser.parse_args(arguments)
    config = Config(given.semiring, parse_size(given.size))
    phases = tuple(given.phases.split(","))
    report(Task(given.backend, config, phases, given.dtype, given.seed, given.limit))


if __name__ == "__main__":
    main()
