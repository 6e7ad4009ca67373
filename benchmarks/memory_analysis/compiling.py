"""Kernels compiled before anything is timed, into a folder that is kept below a size."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from workload import Size, draw

from memory_analysis.memory import is_out_of_memory
from memory_analysis.plan import Config, Shape, at_shape
from memory_analysis.ways import Way, reason_against, staged, way_of

# The backends with kernels; and where torch.compile and Triton keep theirs, below the folder.
COMPILED = ("cpu", "exact", "triton", "triton_checkpointing")
FOLDERS = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}


def use_cache(folder: Path, threads: int | None) -> None:
    """Let torch.compile and Triton keep their kernels in a folder, for this process and its own.

    Args:
        folder: is made.
        threads: processes that torch.compile may use; None for all cores.
    """
    for variable, name in FOLDERS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        os.environ[variable] = str((folder / name).resolve())
    count = threads or os.cpu_count() or 1
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = str(count)
    import torch._inductor.config as inductor

    inductor.compile_threads = count


def evict(folder: Path, most_bytes: float) -> list[str]:
    """Remove the kernels that were used least lately until the rest fits; what was removed."""
    entries = [
        entry
        for name in FOLDERS.values()
        if (folder / name).is_dir()
        for entry in (folder / name).iterdir()
    ]
    sizes = {entry: _bytes(entry) for entry in entries}
    total, removed = sum(sizes.values()), []
    for entry in sorted(entries, key=_last_use):
        if total <= most_bytes:
            break
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
        total -= sizes[entry]
        removed.append(str(entry.relative_to(folder)))
    return removed


def _files(entry: Path) -> list[Path]:
    return [path for path in entry.rglob("*") if path.is_file()] if entry.is_dir() else [entry]


def _bytes(entry: Path) -> int:
    return sum(path.stat().st_size for path in _files(entry))


def _last_use(entry: Path) -> float:
    times = [path.stat() for path in _files(entry)] or [entry.stat()]
    return max(max(time.st_atime, time.st_mtime) for time in times)


def precompile(
    shapes: Mapping[Shape, Sequence[Size]],
    backends: Sequence[str],
    semirings: Sequence[str],
    phases: Sequence[str],
    *,
    device: str,
    dtype: torch.dtype,
    use_compile: bool,
    say: Callable[[str], None],
) -> int:
    """Call every backend with kernels once at each canonical shape; how many calls there were.

    A backend that cannot run there is left for its row to say why.
    """
    calls = 0
    for shape, sizes in shapes.items():
        size = at_shape(shape, sizes)
        workload = draw(size, dtype).to(device)
        for semiring in semirings:
            for name in (name for name in backends if name in COMPILED):
                config = Config(semiring, size)
                if any(reason_against(name, workload, semiring, phase) for phase in phases):
                    continue
                say(f"compiling {name} for T={shape.T}, K*C={shape.KC}, {semiring}")
                calls += _called(way_of(name, workload, config, use_compile), phases)
    return calls


def _called(way: Way, phases: Sequence[str]) -> int:
    """Run the phases; how many could be run before memory was out."""
    for done, phase in enumerate(phases):
        try:
            staged(way, phase)()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return done
    return len(phases)
