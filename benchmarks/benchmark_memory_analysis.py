"""Time and peak memory of every backend, and of peers, over a grid of sizes.

    python benchmarks/benchmark_memory_analysis.py --T 128,256 --K 4,8 --C 3,6 --output-dir results

Writes benchmark_full.csv, heatmap_data.json and memory_breakdown.csv, which analyze_benchmarks.py
draws. What is measured and what the columns mean stands in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from command import INTERRUPTED, Parser
from memory_analysis import compiling
from memory_analysis.flags import add_flags, checked_device, settings_of
from memory_analysis.memory import DTYPES
from memory_analysis.output import FULL, Results, key_of, new_row, require_writable
from memory_analysis.plan import Config, Shape, grid, sample_by_shape, sizes_of
from memory_analysis.runner import Runner, Settings
from tqdm import tqdm
from workload import Size

from torch_semimarkov.errors import SemiMarkovError
from torch_semimarkov.metrics import format_table

SHOWN = {
    "semiring": "semiring", "size": "B,T,K,C", "phase": "phase", "backend": "backend",
    "status": "status", "median_ms": "median ms", "q1_ms": "q1", "q3_ms": "q3",
    "peak_MB": "peak MB",
}  # fmt: skip


def parser() -> Parser:
    """The flags."""
    made = Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add_flags(made)
    return made


def plan(args: argparse.Namespace) -> tuple[list[Config], dict[Shape, list[Size]]]:
    """What is measured, and the sizes of each canonical shape if there are to be any."""
    sizes = args.configs or sizes_of(args.B, args.T, args.K, args.C)
    if not args.compile_friendly:
        return grid(args.semirings, sizes), {}
    shapes = sample_by_shape(sizes, args.max_canonical_shapes, args.samples_per_shape, args.seed)
    kept = [size for group in shapes.values() for size in group]
    return grid(args.semirings, kept), shapes


def compile_first(args: argparse.Namespace, settings: Settings, shapes: dict) -> Path | None:
    """Fill the folder of compiled kernels; where it is, or None if none is wanted."""
    if not (args.compile_friendly or args.compile_cache_dir):
        return None
    folder = args.compile_cache_dir or args.output_dir / ".torch_compile_cache"
    require_writable(folder)
    compiling.use_cache(folder, args.compile_threads)
    if shapes and not args.skip_precompile:
        calls = compiling.precompile(
            shapes, settings.backends, args.semirings, settings.phases, device=settings.device,
            dtype=DTYPES[settings.dtype], use_compile=settings.use_compile, say=_note,
        )  # fmt: skip
        _note(f"{len(shapes)} canonical shapes, {calls} calls compiled")
    return folder


def measure_all(runner: Runner, configs: Sequence[Config], results: Results) -> int:
    """Measure what has no rows yet; the exit code, which Ctrl-C makes INTERRUPTED."""
    there, s = results.measured(), runner.settings
    todo = [config for config in configs if not _wanted(config, s) <= there]
    if len(todo) < len(configs):
        _note(f"{len(configs) - len(todo)} of {len(configs)} configurations have rows already")
    try:
        with tqdm(total=len(todo), disable=None, unit="configuration", smoothing=0.1) as bar:
            runner.say = bar.set_description
            for config in todo:
                results.add(runner.measure(config))
                bar.update()
    except KeyboardInterrupt:
        _note(f"stopped; {len(results.rows)} rows are kept, --resume goes on")
        return INTERRUPTED
    return 0


def _wanted(config: Config, settings: Settings) -> set[tuple[str, ...]]:
    """The keys of the rows that a configuration gives."""
    facts = {"dtype": settings.dtype, "seed": settings.seed}
    return {key_of(new_row(config, *key, **facts)) for key in settings.pairs()}


def _note(text: str) -> None:
    print(text, file=sys.stderr)


def shown(rows: Sequence[dict]) -> str:
    """The rows as a table, with the reasons of those without a time below it."""
    table = []
    for row in rows:
        peak = row["peak_bytes"]
        numbers = {
            name: None if row[name] in (None, "") else float(row[name])
            for name in ("median_ms", "q1_ms", "q3_ms")
        }
        more = {"peak_MB": None if peak in (None, "") else float(peak) / 1e6}
        more["size"] = ",".join(str(row[name]) for name in "BTKC")
        table.append({**row, **numbers, **more})
    notes = dict.fromkeys(
        f"{row['backend']}, {row['semiring']}: {row['status']}: {row['reason']}"
        for row in rows
        if row["reason"]
    )
    return "\n".join([format_table(table, SHOWN), *notes])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the files, print a table; 130 if interrupted, 1 if a result was wrong."""
    flags = parser()
    args = flags.parse_args(arguments)
    try:
        args.device = checked_device(args.device)
        settings = settings_of(args)
        require_writable(args.output_dir)
        results = Results(args.output_dir, args.resume)
        configs, shapes = plan(args)
        folder = compile_first(args, settings, shapes)
    except (SemiMarkovError, OSError) as error:
        flags.error(" ".join(str(error).split()))
    if results.moved:
        _note(f"the rows that were there are in {results.moved}; --resume would go on with them")
    if not settings.verify:
        _note("--no-verify: nothing is compared with the oracle; the rows say so")
    try:
        code = measure_all(Runner(settings), configs, results)
    finally:
        if folder is not None:
            removed = compiling.evict(folder, args.compile_cache_size_gb * 2**30)
            if removed:
                _note(f"{len(removed)} kernels removed from {folder}, which was too large")
    if results.rows:
        print(shown(results.rows))
        print(f"rows: {os.path.join(args.output_dir, FULL)}")
    wrong = [r for r in results.rows if r["status"] == "wrong" and r["backend"] in args.backends]
    return code or int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
