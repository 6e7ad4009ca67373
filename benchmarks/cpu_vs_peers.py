"""Our cpu backend against other libraries on the CPU, in one process, taking turns.

    python benchmarks/cpu_vs_peers.py --output rows.csv

Without a choice of what to measure: the sizes with a wanted ratio, against the peers, and the
headline sizes. What the columns mean stands in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import overhead
import torch
from command import Parser, add_common, collect, whole
from measuring import Repeats, Step, measure
from peers import PEERS
from rows import Row, Sheet, as_table
from truth import Truth
from workload import OURS, PHASES, Size, draw

from torch_semimarkov.errors import SemiMarkovError

# A peer's median divided by ours, at least, for each phase of PHASES.
WANTED = {
    Size(8, 1000, 100, 24): (2500, 4000, 1500),
    Size(1, 1000, 100, 24): (5000, 10_000, 3000),
    Size(4, 2000, 30, 40): (1200, 2000, 800),
    Size(1, 2000, 500, 24): (10_000, 18_000, 6000),
    Size(8, 512, 8, 9): (400, 700, 400),
    Size(8, 512, 1, 9): (60, 100, 150),
}
# Forward, at most, in ms on 2 cores. An implementation of this model published 38 and 224 ms for
# these two sizes on a GPU (L40S, float32).
HEADLINE = {Size(64, 1000, 100, 24): 12.0, Size(32, 1000, 500, 24): 20.0}
SCALING = (
    *(Size(1, T, 100, 24) for T in (10_000, 100_000, 1_000_000)),
    *(Size(1, 10_000, K, 24) for K in (200, 500, 1000)),
)
# Of a small call, in ms, a backward being a call too; and of a call with checks of values, relative
# to one without.
MOST_OVERHEAD, MOST_CHECKS = 0.1, 2.0


def wanted(row: Row) -> tuple[str | None, bool | None]:
    """What is wanted of a row, in words, and whether it is met; None where nothing is."""
    size, phase = Size(*(row[name] for name in "BTKC")), row["phase"]
    ratio, median = row["ratio"], row["median_ms"]
    if row["case"] == "bars" and row["backend"] != OURS and size in WANTED:
        least = WANTED[size][PHASES.index(phase)]
        return f">= {least}x", None if ratio is None else ratio >= least
    if row["case"] == "headline":
        return f"< {HEADLINE[size]:g} ms", None if median is None else median < HEADLINE[size]
    if row["case"] == "overhead" and row["measured"].startswith("overhead"):
        most = MOST_OVERHEAD * (1 + (phase == PHASES[1]))
        return f"< {most:g} ms", None if median is None else median < most
    if row["case"] == "checks" and ratio is not None:
        return f"< {MOST_CHECKS:g}x", ratio < MOST_CHECKS
    return None, None


def parser() -> Parser:
    """The flags."""
    made = Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add_common(made)
    add = made.add_argument
    add(
        "--threads",
        type=lambda text: [whole(part) for part in text.split(",")],
        metavar="N,M",
        help="numbers of threads, each measured (default: what torch uses)",
    )
    add(
        "--peer-threads",
        type=whole,
        metavar="N",
        help="threads for the peers, whatever ours are (default: the same)",
    )
    add("--bars", action="store_true", help="the sizes with a wanted ratio, against the peers")
    add("--headline", action="store_true", help="the two headline sizes, forward, ours alone")
    add("--scaling", action="store_true", help="how our time grows with T and K; takes minutes")
    add(
        "--overhead",
        action="store_true",
        help="the cost of a call around its kernel, and of checks of values",
    )
    return made


def plan(args: argparse.Namespace) -> list[Step]:
    """Every step but those of --overhead."""
    peers = () if args.no_peers else PEERS
    chosen = args.bars or args.headline or args.scaling or args.overhead
    steps = []
    if args.bars or not chosen:
        sizes = args.configs or WANTED
        steps += [
            Step("bars", size, phase, peers, args.peer_threads)
            for size in sizes
            for phase in args.phases
        ]
    if args.headline or not (chosen or args.configs):
        steps += [Step("headline", size, "forward") for size in HEADLINE]
    if args.scaling:
        steps += [Step("scaling", size, phase) for size in SCALING for phase in args.phases]
    return steps


def overhead_plan(args: argparse.Namespace) -> list[Step]:
    """Sizes and phases of --overhead."""
    if not args.overhead:
        return []
    sizes = args.configs or WANTED
    small = (Step("overhead", overhead.SMALL, phase) for phase in args.phases)
    return [*small, *(Step("checks", size, phase) for size in sizes for phase in args.phases)]


def run_overhead(step: Step, truth: Truth, repeats: Repeats) -> list[Row]:
    """Rows of one step of --overhead."""
    reason = overhead.problem_of(truth, step.phase)
    if reason:
        return [overhead.wrong_row(step.case, truth.workload, step.phase, reason)]
    if step.case == "overhead":
        return overhead.call_overhead(truth.workload, step.phase, overhead.CALLS)
    return overhead.check_cost(truth.workload, step.phase, repeats.ours)


def measured(args: argparse.Namespace, bar: Any) -> Iterator[list[Row]]:
    """The rows of step after step."""
    repeats = Repeats(args.repeats, args.peer_repeats)
    truth = None
    for step in [*plan(args), *overhead_plan(args)]:
        if truth is None or truth.workload.size != step.size:
            truth = Truth(draw(step.size))
        for threads in args.threads or [torch.get_num_threads()]:
            torch.set_num_threads(threads)
            bar.set_description(f"{step.size} {step.phase}")
            if step.case in ("overhead", "checks"):
                yield run_overhead(step, truth, repeats)
            else:
                yield measure(step, truth, repeats, bar.set_description)
            bar.update()


def show_list() -> None:
    """Sizes, what is wanted of them, and which peers are here."""
    for size, ratios in WANTED.items():
        texts = (f"{phase} >= {ratio}x" for phase, ratio in zip(PHASES, ratios, strict=True))
        print(f"{size}: {', '.join(texts)}")
    for size, limit in HEADLINE.items():
        print(f"{size}: forward < {limit:g} ms (--headline)")
    print("--scaling:", *SCALING)
    for peer in PEERS:
        print(f"{peer.name}: {peer.missing() or peer.version()}{' (K = 1)' * peer.only_k1}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write the CSV; 130 if interrupted, 1 if ours was wrong."""
    flags = parser()
    args = flags.parse_args(arguments)
    if args.list:
        show_list()
        return 0
    try:
        sheet = Sheet(args.output)
    except (SemiMarkovError, OSError) as error:
        flags.error(f"--output: {error}")
    threads = torch.get_num_threads()
    steps = len(plan(args)) + len(overhead_plan(args))
    try:
        total = steps * len(args.threads or [threads])
        code = collect(lambda bar: measured(args, bar), total, sheet)
    finally:
        torch.set_num_threads(threads)
    if sheet.rows:
        print(as_table(sheet.rows, wanted))
    wrong = any(row["backend"] == OURS and row["status"] != "ok" for row in sheet.rows)
    return code or int(wrong)


if __name__ == "__main__":
    sys.exit(main())
