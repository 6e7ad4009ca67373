"""Our triton backend against flash-semicrf's Triton kernel, in one process, taking turns.

    python benchmarks/gpu_vs_peers.py

Without a choice of what to measure: the headline sizes against the peer, and their peak memory.
What the columns mean stands in benchmarks/README.md. Without a GPU it says so and does nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from command import Parser, add_common, collect
from gpu_card import Card, file_name, find_card
from gpu_ceilings import Rates, bound_of, measure_rates
from measuring import Repeats, Step, check, measure
from peers import PEERS
from rows import COLUMNS, HEADINGS, Row, Sheet, as_table, measured_row, new_row
from truth import Truth
from workload import PHASES, Call, Size, draw, our_call

from torch_semimarkov.errors import SemiMarkovError

FORWARD, BOTH = PHASES[:2]
# A peer's median divided by ours, at least: forward, and forward with backward.
WANTED = {Size(64, 1000, 100, 24): (100, 50), Size(32, 1000, 500, 24): (100, 50)}
# Microseconds from one position to the next, whatever the batch, and with this K.
MOST_STEP, STEP_K = 0.5, 100
# Forward with backward, relative to forward alone; bytes relative to inputs and gradients.
MOST_BOTH, MOST_MEMORY = 3.0, 1.10
SCALING = (
    *(Size(1, T, 100, 24) for T in (1000, 10_000, 100_000)),
    *(Size(B, 1000, 100, 24) for B in (2, 8, 32, 128, 512)),
    *(Size(B, 1000, K, 24) for B in (1, 64) for K in (1, 2, 8, 32, 200, 500, 1000)),
)
MEMORY = (*WANTED, Size(8, 20_000, 100, 24), Size(1, 100_000, 100, 24))
# Positions from one checkpoint to the next: the more, the fewer snapshots of K rows are kept, and
# the more rows of a stretch. At T = 100,000 both are small.
INTERVALS = (None, 500, 1300)
PEER = tuple(peer for peer in PEERS if peer.name == "flash_semicrf")
EXTRA = (
    "us_per_step", "to_forward", "ceiling", "share", "input_bytes", "peak_bytes", "peak_ratio",
    "triton", "runtime",
)  # fmt: skip
GPU_COLUMNS = (*COLUMNS, *EXTRA)
GPU_HEADINGS = {
    **HEADINGS, "us_per_step": "us/step", "to_forward": "to forward", "share": "share",
    "peak_ratio": "peak",
}  # fmt: skip
NO_GPU = "no GPU here: nothing was measured, and the bars of benchmarks/gpu_vs_peers.py stay open"


def wanted(row: Row) -> tuple[str | None, bool | None]:
    """What is wanted of a row, in words, and whether it is met; None where nothing is."""
    size, phase = Size(*(row[name] for name in "BTKC")), row["phase"]
    if row["case"] == "memory" and "checkpoint" in row["measured"]:
        return _at_most("peak", row["peak_ratio"], MOST_MEMORY)
    if row["case"] == "bars" and row["backend"] == PEER[0].name and phase in PHASES[:2]:
        if size not in WANTED:
            return None, None
        least, ratio = WANTED[size][PHASES.index(phase)], row["ratio"]
        return f">= {least}x", None if ratio is None else ratio >= least
    if row["case"] not in ("bars", "scaling") or row["backend"] == PEER[0].name:
        return None, None
    if phase == BOTH:
        return _at_most("to forward", row["to_forward"], MOST_BOTH)
    if phase == FORWARD and size.K == STEP_K:
        return _at_most("us/step", row["us_per_step"], MOST_STEP)
    return None, None


def _at_most(what: str, value: float | None, most: float) -> tuple[str, bool | None]:
    return f"{what} <= {most:g}", None if value is None else value <= most


def parser() -> Parser:
    """The flags."""
    made = Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add_common(made, PHASES[:2])
    add = made.add_argument
    add("--bars", action="store_true", help="the sizes with a wanted ratio, against the peer")
    add("--scaling", action="store_true", help="how our time grows with T, B and K")
    add("--memory", action="store_true", help="peak memory, plain and with checkpoints")
    return made


def plan(args: argparse.Namespace, card: Card) -> list[Step]:
    """Every step; of a size the forward comes first."""
    peers = () if args.no_peers else PEER
    chosen = args.bars or args.scaling or args.memory
    sets: list[tuple[str, Sequence[Size], Sequence[str]]] = []
    if args.bars or not chosen:
        sets.append(("bars", args.configs or tuple(WANTED), args.phases))
    if args.scaling:
        sets.append(("scaling", args.configs or SCALING, args.phases))
    if args.memory or not (chosen or args.configs):
        sets.append(("memory", args.configs or MEMORY, (BOTH,)))
    return [
        Step(case, size, phase, peers * (case == "bars"), None, card.backend, card.device)
        for case, sizes, phases in sets
        for size in sizes
        for phase in sorted(phases, key=PHASES.index)
    ]


def measured(args: argparse.Namespace, card: Card, bar: Any) -> Iterator[list[Row]]:
    """The rows of step after step."""
    repeats = Repeats(args.repeats, args.peer_repeats, card.clock, compiles=True)
    truth, forwards = None, {}
    bar.set_description("ceilings")
    rates = measure_rates(card.clock, card.device)
    for step in plan(args, card):
        if truth is None or truth.workload.size != step.size:
            truth = Truth(draw(step.size), "cpu")
        bar.set_description(f"{step.size} {step.phase}")
        if step.case == "memory":
            found = memory_rows(step, truth, card)
        else:
            found = [
                with_ceiling(row, rates)
                for row in measure(step, truth, repeats, bar.set_description)
            ]
        yield [{**with_forward(row, forwards), **card.facts()} for row in found]
        bar.update()


def with_ceiling(row: Row, rates: Rates) -> Row:
    """A row with its time from one position to the next, and its share of the ceiling."""
    if not row["median_ms"]:
        return row
    seconds, ceiling = bound_of(Size(*(row[name] for name in "BTKC")), row["phase"], rates)
    share = 1000 * seconds / row["median_ms"]
    step = 1000 * row["median_ms"] / row["T"]
    return {**row, "us_per_step": step, "ceiling": ceiling, "share": share}


def with_forward(row: Row, forwards: dict[tuple[Any, ...], float]) -> Row:
    """A row with its time relative to the forward alone, whose medians are kept in ``forwards``."""
    key = (row["case"], row["backend"], *(row[name] for name in "BTKC"))
    if row["phase"] == FORWARD and row["median_ms"]:
        forwards[key] = row["median_ms"]
    if row["phase"] != BOTH or not row["median_ms"] or key not in forwards:
        return row
    return {**row, "to_forward": row["median_ms"] / forwards[key]}


def memory_rows(step: Step, truth: Truth, card: Card) -> list[Row]:
    """Peak memory of forward with backward, relative to inputs and gradients."""
    load = truth.workload.to(step.device)
    found = []
    for interval in INTERVALS:
        if interval is None or interval < step.size.T:
            call = our_call(load, step.phase, backend=step.ours, checkpoint_interval=interval)
            found.append(_memory_row(step, call, truth, card))
    return found


def _memory_row(step: Step, call: Call, truth: Truth, card: Card) -> Row:
    row = new_row(
        step.case, step.size, step.phase, call.backend, measured=call.measured,
        backend_version=call.version, dtype="float32",
    )  # fmt: skip
    checked = check(call, truth)
    if checked.failure:
        return {**row, "status": "error", "reason": checked.failure}
    row = measured_row(row, checked.verdict, [])
    if row["status"] != "ok":
        return row
    peak, result = card.peak(call.run)
    gradients = sum(x.nbytes for x in call.found(result).gradients.values())
    # A gradient is as large as its input; lengths have none.
    inputs = gradients + truth.workload.lengths.nbytes
    ratio = (inputs + peak) / (inputs + gradients)
    return {**row, "input_bytes": inputs, "peak_bytes": inputs + peak, "peak_ratio": ratio}


def show_list() -> None:
    """Sizes, what is wanted of them, and whether the peer is here."""
    for size, ratios in WANTED.items():
        texts = (f"{phase} >= {ratio}x" for phase, ratio in zip(PHASES, ratios, strict=False))
        print(f"{size}: {', '.join(texts)}")
    print(f"forward at K = {STEP_K}: at most {MOST_STEP:g} us from one position to the next")
    print(f"forward+backward: at most {MOST_BOTH:g} times forward")
    print(f"peak memory with checkpoints: at most {MOST_MEMORY:g} of inputs and gradients")
    print("--scaling:", *SCALING)
    print("--memory:", *MEMORY)
    for peer in PEER:
        print(f"{peer.name}: {peer.missing() or peer.version()}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write the CSV; 130 if interrupted, 1 if ours was wrong."""
    flags = parser()
    args = flags.parse_args(arguments)
    if args.list:
        show_list()
        return 0
    card = find_card()
    if card is None:
        print(NO_GPU)
        return 0
    output = args.output or Path(__file__).parent / "results" / file_name(card.name)
    try:
        sheet = Sheet(output, GPU_COLUMNS)
    except (SemiMarkovError, OSError) as error:
        flags.error(f"--output: {error}")
    code = collect(lambda bar: measured(args, card, bar), len(plan(args, card)), sheet)
    if sheet.rows:
        rows = [{**dict.fromkeys(EXTRA), **row} for row in sheet.rows]
        print(as_table(rows, wanted, GPU_HEADINGS))
        print(f"rows are in {output}")
    wrong = any(row["backend"] == card.backend and row["status"] != "ok" for row in sheet.rows)
    return code or int(wrong)


if __name__ == "__main__":
    sys.exit(main())
