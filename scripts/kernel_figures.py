"""What kernels would launch with, recorded without a GPU, and what they compile to."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

# Name of a target -> what Triton calls it, and the bytes of shared memory a program may have.
TARGETS = {
    "sm_80": (GPUTarget("cuda", 80, 32), 163 * 1024),
    "sm_90": (GPUTarget("cuda", 90, 32), 227 * 1024),
    "sm_100": (GPUTarget("cuda", 100, 32), 227 * 1024),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 64 * 1024),
}
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P[T0-9]+\s+)?([A-Z][A-Z0-9_.]*)(.*)")
_AMD_INSTRUCTION = re.compile(r"^\s+([a-z][a-z0-9_]*)\b(.*)")
_LABEL = re.compile(r"^(\.[A-Za-z_0-9]+):")
_BRANCH = re.compile(r"(\.L[A-Za-z_0-9]+)")


@dataclass(frozen=True)
class Launch:
    """One variant of a kernel: everything that its machine code depends on.

    Args:
        kernel: the function.
        target: name in ``TARGETS``.
        options: of the compiler, such as num_warps.
        source: signature, constants and attributes, as ``ASTSource`` takes them.
        variant: its declared constants, its float type and the tensors that are None, in words.
        default: True if calls of the usual sizes launch it.
    """

    kernel: JITFunction
    target: str
    options: dict[str, Any]
    source: tuple[dict, dict, dict]
    variant: str
    default: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from other variants."""
        return self.target, self.kernel.__name__, self.variant


@dataclass(frozen=True)
class Figures:
    """What a variant uses: counts of instructions, and memory in bytes; ``failure`` if nothing.

    Args:
        registers: of each thread.
        spills: bytes of memory of its own that each thread needs for want of registers.
        shared: bytes of a program.
        barriers: instructions that wait for the other threads of a program.
        instructions: all of them.
        loop: instructions and barriers in the longest loop.
        failure: why it does not compile.
    """

    registers: int = 0
    spills: int = 0
    shared: int = 0
    barriers: int = 0
    instructions: int = 0
    loop: tuple[int, int] = (0, 0)
    failure: str = ""


class Recorder:
    """Launches of a block by their keys, none of them carried out."""

    def __init__(self, targets: list[str]) -> None:
        self.launches: dict[tuple[str, ...], Launch] = {}
        self.default = False
        self._targets = targets

    def run(self, kernel: JITFunction, args: tuple, options: dict) -> None:
        """Note what a launch would compile for each target."""
        for target in self._targets:
            found = _launch(kernel, target, args, dict(options))
            known = self.launches.get(found.key, found)
            default = known.default or self.default
            self.launches[found.key] = replace(known, default=default)


@contextmanager
def recorded(targets: list[str]) -> Iterator[Recorder]:
    """Record the launches of a block for these targets instead of carrying them out."""
    recorder = Recorder(targets)

    def run(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        recorder.run(kernel, args, options)

    with mock.patch.object(JITFunction, "run", run):
        yield recorder


def _launch(kernel: JITFunction, target: str, args: tuple, options: dict) -> Launch:
    backend = make_backend(TARGETS[target][0])
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    options.setdefault("debug", False)
    bound, specialization, others = binder(*args, **options)
    parsed, signature, constants, attributes = kernel._pack_args(
        backend, options, bound, specialization, others
    )
    words = [str(next((x for x in signature.values() if x.startswith("*fp")), ""))[1:]]
    absent = [parameter.name for parameter in kernel.params if bound[parameter.name] is None]
    for parameter in kernel.params:
        value = bound[parameter.name]
        if parameter.is_constexpr and value is not False and value is not None:
            flag = value is True
            words.append(parameter.name if flag else f"{parameter.name}={_short(value)}")
    words.append(f"warps={parsed.num_warps}")
    words += [f"no:{','.join(name.removeprefix('p_') for name in absent)}"] if absent else []
    source = signature, constants, attributes
    return Launch(kernel, target, vars(parsed), source, " ".join(filter(None, words)))


def _short(value: Any) -> str:
    return str(getattr(value, "value", value))


# Compiling


def compile_all(launches: list[Launch], processes: int) -> Iterator[tuple[Launch, Figures]]:
    """Each launch with its figures, in order."""
    if processes == 1 or len(launches) < 2:
        yield from ((launch, figures_of(launch)) for launch in launches)
        return
    global _shared
    _shared = launches  # the functions cannot be pickled; forked processes have them
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        yield from zip(launches, pool.imap(_figures_of_number, range(len(launches))), strict=True)


_shared: list[Launch] = []


def _figures_of_number(i: int) -> Figures:
    return figures_of(_shared[i])


def figures_of(launch: Launch) -> Figures:
    """Compile one variant and read what it uses."""
    target, _ = TARGETS[launch.target]
    try:
        source = ASTSource(launch.kernel, *launch.source)
        compiled = triton.compile(source, target=target, options=launch.options)
    except Exception as error:  # whatever the compiler raises is what a user would meet
        lines = [line for line in str(error).splitlines() if line.strip()]
        return Figures(failure=f"{type(error).__name__}: {' '.join(lines[-1:])}")
    read = _cuda_figures if target.backend == "cuda" else _amd_figures
    return replace(read(compiled.asm), shared=compiled.metadata.shared)


def _cuda_figures(asm: Any) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kernel.cubin")
        with open(path, "wb") as file:
            file.write(asm["cubin"])
        usage = _output("cuobjdump", "--dump-resource-usage", path)
        listing = _output("nvdisasm", "-c", path)
    used = {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    figures = count(listing, _INSTRUCTION, lambda name: name.startswith("BAR."))
    return replace(figures, registers=used["REG"], spills=used["STACK"] + used["LOCAL"])


def _amd_figures(asm: Any) -> Figures:
    text, _, about = asm["amdgcn"].partition(".amdgpu_metadata")
    used = {name: int(number) for name, number in re.findall(r"\.(\w+):\s+(\d+)\b", about)}
    figures = count(text, _AMD_INSTRUCTION, lambda name: name.startswith("s_barrier"))
    spilled = used["private_segment_fixed_size"]
    return replace(figures, registers=used["vgpr_count"], spills=spilled)


def _output(tool: str, *arguments: str) -> str:
    path = getattr(triton.knobs.nvidia, tool).path
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


def count(listing: str, instruction: re.Pattern[str], is_barrier: Callable[[str], bool]) -> Figures:
    """Instructions and barriers of a listing, in all and in its longest loop; padding left out."""
    barriers, labels, number = [], {}, 0
    longest = (0, 0)
    for line in listing.splitlines():
        label, found = _LABEL.match(line), instruction.match(line)
        if label:
            labels[label.group(1)] = number
        elif found and found.group(1).lower() not in ("nop", "s_nop", "s_code_end"):
            number += 1
            if is_barrier(found.group(1)):
                barriers.append(number)
            for name in _BRANCH.findall(found.group(2)):
                first = labels.get(name, number)
                inside = sum(place > first for place in barriers)
                longest = max(longest, (number - first, inside))
    return Figures(barriers=len(barriers), instructions=number, loop=longest)
