#!/usr/bin/env python
"""Compile every kernel of the triton backend ahead of time; no GPU is needed.

Prints what each variant uses on each target. The exit status is 1 if a variant does not compile, or
if one that the usual calls launch spills registers or needs more shared memory than there is.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
COLUMNS = ("registers", "spills", "shared", "barriers", "instructions", "loop")


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the command line in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, checked."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--targets", type=_targets, help=f"some of {','.join(TARGETS)}, which is the default"
    )
    parser.add_argument(
        "--quick", action="store_true", help="usual sizes only, and sm_90 if --targets is not given"
    )
    parser.add_argument("--jobs", type=_positive, default=min(4, os.cpu_count() or 1))
    options = parser.parse_args(arguments)
    options.targets = options.targets or (["sm_90"] if options.quick else list(TARGETS))
    return options


def _targets(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in TARGETS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"must be some of {','.join(TARGETS)}, got {text!r}")
    return names


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, print, and say whether all is well."""
    options = parse(arguments)
    # Read where Triton is imported: an interpreted kernel cannot be compiled.
    os.environ.pop("TRITON_INTERPRET", None)
    # What Triton 3.9 says where it first compiles; it is no news of a kernel.
    warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")
    try:
        import kernel_calls
        import kernel_figures
        import triton
    except ImportError as error:
        print(f"compile_kernels.py: needs Triton 3.6 or newer: {error}", file=sys.stderr)
        return 2
    calls = kernel_calls.QUICK if options.quick else tuple(kernel_calls.all_calls())
    with kernel_figures.recorded(options.targets) as recorder:
        for call in calls:
            recorder.default = call.default
            kernel_calls.launch_all(call)
    launches = sorted(recorder.launches.values(), key=lambda launch: launch.key)
    print(f"{len(launches)} variants, {len(calls)} calls, Triton {triton.__version__}")
    print(
        "a loop is the longest one: instructions, barriers among them; * marks the usual variants"
    )
    problems = show(kernel_figures.compile_all(launches, options.jobs), launches)
    for problem in problems:
        print(f"compile_kernels.py: {problem}", file=sys.stderr)
    return 1 if problems or not launches else 0


def show(compiled: Any, launches: Sequence[Any]) -> list[str]:
    """Print a line for each variant as it comes; what is wrong with them, one line each."""
    from kernel_figures import TARGETS as KNOWN

    names = [f"{'*' if x.default else ' '} {x.kernel.__name__} {x.variant}" for x in launches]
    width = max([len(name) for name in names], default=0)
    problems, target = [], ""
    for name, (launch, figures) in zip(names, compiled, strict=True):
        if launch.target != target:
            target = launch.target
            print(f"\n{target:<{width}}  " + "  ".join(f"{column:>12}" for column in COLUMNS))
        about = f"{' '.join(launch.key)}"
        if figures.failure:
            print(f"{name:<{width}}  {figures.failure}", flush=True)
            problems.append(f"{about} does not compile: {figures.failure}")
            continue
        loop = "/".join(map(str, figures.loop))
        cells = [*(getattr(figures, column) for column in COLUMNS[:-1]), loop]
        print(f"{name:<{width}}  " + "  ".join(f"{cell:>12}" for cell in cells), flush=True)
        if launch.default and figures.spills:
            problems.append(f"{about} spills {figures.spills} bytes a thread")
        if launch.default and figures.shared > KNOWN[target][1]:
            problems.append(f"{about} needs {figures.shared} bytes of shared memory")
    return problems


if __name__ == "__main__":
    sys.exit(main())
