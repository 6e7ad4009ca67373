"""Explicit edges beside the streaming path: the same potentials, time and peak memory.

    python benchmarks/edge_vs_streaming.py --output rows.csv

Three ways to one number: the streaming path, the scan over an edge tensor that is already there,
and the head's exact path, which makes the edge tensor first. Times are taken in one process, in
turns. Memory is the growth of the resident set in a process of its own, after a small call that
loads the kernels.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import resident
import torch
from command import Parser, collect, size_of, whole
from measuring import check
from rows import COLUMNS, HEADINGS, Row, Sheet, as_table, measured_row, new_row
from torch import Tensor
from truth import Truth
from workload import OURS, PHASES, Call, Found, Size, Workload, draw, our_call

import torch_semimarkov
from torch_semimarkov.cli.timing import interleave
from torch_semimarkov.errors import SemiMarkovError
from torch_semimarkov.functional.edges import edge_potentials
from torch_semimarkov.functional.exact import exact_log_partition
from torch_semimarkov.potentials import Potentials
from torch_semimarkov.triton_scan import semi_crf_triton_forward

SIZE = Size(1, 1000, 100, 24)
SMALL = Size(1, 8, 4, 3)
FORWARD, BOTH = PHASES[:2]
WAYS = ("streaming", "edge scan", "exact")
EDGE_COLUMNS = (*COLUMNS, "input_bytes", "peak_bytes")
EDGE_HEADINGS = {**HEADINGS, "input_MB": "inputs MB", "peak_MB": "peak MB"}


def canonical(terms: dict[str, Tensor], lengths: Tensor) -> Potentials:
    """Terms as the functions on potentials take them."""
    return Potentials(lengths=lengths, **terms).canonical()


def call_of(way: str, workload: Workload, phase: str) -> Call:
    """One way to the log partition, as something to measure."""
    if way == "streaming":
        return our_call(workload, phase)
    make = _edge_scan if way == "edge scan" else _exact
    run, found = make(workload, phase)
    version = torch_semimarkov.__version__
    return Call(OURS, phase, way, version, run, found, (1e-6, 1e-5), True)


def _edge_scan(workload: Workload, phase: str) -> tuple[Callable[[], Any], Any]:
    """The scan over edges that are there, and how its edge marginals compare with the terms."""
    terms, lengths = workload.terms(phase), workload.lengths
    with torch.no_grad():
        edge = edge_potentials(canonical(terms, lengths))

    def value(x: Tensor) -> Tensor:
        return semi_crf_triton_forward(x, lengths + 1)

    def found(result: tuple[Tensor, tuple[Tensor, ...]]) -> Found:
        if phase == FORWARD:
            return Found(result, {})
        leaves = {name: x.detach().requires_grad_() for name, x in terms.items()}
        built = edge_potentials(canonical(leaves, lengths))
        gradients = torch.autograd.grad(built, list(leaves.values()), result[1][0])
        return Found(result[0], dict(zip(leaves, gradients, strict=True)))

    return _phase(value, [edge], phase), found


def _exact(workload: Workload, phase: str) -> tuple[Callable[[], Any], Any]:
    """The head's exact path from the terms."""
    terms, lengths = workload.terms(phase), workload.lengths

    def value(*leaves: Tensor) -> Tensor:
        p = canonical(dict(zip(terms, leaves, strict=True)), lengths)
        return exact_log_partition(p, dtype=p.scores.dtype)

    def found(result: Any) -> Found:
        if phase == FORWARD:
            return Found(result, {})
        return Found(result[0], dict(zip(terms, result[1], strict=True)))

    return _phase(value, list(terms.values()), phase), found


def _phase(value: Callable[..., Tensor], inputs: list[Tensor], phase: str) -> Callable[[], Any]:
    """A forward, or a forward with the gradient in every input; no input is copied."""
    if phase == FORWARD:

        def forward() -> Tensor:
            with torch.no_grad():
                return value(*inputs)

        return forward
    leaves = [x.detach().requires_grad_() for x in inputs]

    def both() -> tuple[Tensor, tuple[Tensor, ...]]:
        total = value(*leaves)
        return total.detach(), torch.autograd.grad(total.sum(), leaves)

    return both


# Memory


def growth(way: str, size: Size, phase: str) -> dict[str, int]:
    """Bytes of the inputs of a call, and by how much it made the resident set grow at most."""
    call_of(way, draw(SMALL), phase).run()
    workload = draw(size)
    call = call_of(way, workload, phase)
    terms = [*workload.terms(phase).values(), workload.lengths]
    inputs = sum(x.nbytes for x in terms)
    if way == "edge scan":
        B, T, K, C = size
        inputs = B * T * K * C * C * terms[0].itemsize + workload.lengths.nbytes
    return {"input_bytes": inputs, "peak_bytes": inputs + resident.growth_of(call.run).bytes}


def growth_in_a_new_process(way: str, size: Size, phase: str) -> dict[str, int]:
    """The same where nothing has run before; empty where the system does not tell."""
    if not resident.is_known():
        return {}
    command = [sys.executable, __file__, "--here", way, str(size), phase]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


# Rows


def measured(size: Size, phase: str, repeats: int) -> list[Row]:
    """A row for each way: compared, timed in turns, and its memory."""
    workload = draw(size)
    truth = Truth(workload)
    checked = {way: check(call_of(way, workload, phase), truth) for way in WAYS}
    right = [way for way, one in checked.items() if not (one.failure or one.verdict.problem)]
    runs = {way: checked[way].call.run for way in right}
    seconds = interleave(runs, dict.fromkeys(right, repeats))
    found = []
    for way, one in checked.items():
        row = new_row(
            "edges", size, phase, OURS, measured=way, dtype="float32",
            backend_version=torch_semimarkov.__version__,
        )  # fmt: skip
        row = measured_row(row, one.verdict, seconds.get(way, []))
        if one.failure:
            row.update(status="error", reason=one.failure)
        found.append({**row, **growth_in_a_new_process(way, size, phase)})
    own = found[0]["median_ms"]
    for row in found[1:]:
        row["ratio"] = row["median_ms"] / own if own and row["median_ms"] else None
    return found


def shown(rows: Sequence[Row]) -> str:
    """The rows as a table, memory in MB."""
    named = [
        {**row, **{f"{x}_MB": row.get(f"{x}_bytes", 0) / 1e6 for x in ("input", "peak")}}
        for row in rows
    ]
    return as_table(named, lambda row: (None, None), EDGE_HEADINGS)


def parser() -> Parser:
    """The flags."""
    made = Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = made.add_argument
    add("--configs", nargs="+", type=size_of, default=[SIZE], metavar="B,T,K,C", help="sizes")
    add("--repeats", type=whole, default=9, help="times for each way (default 9)")
    add("--output", type=Path, help="a CSV to append the rows to")
    add("--here", nargs=3, metavar=("WAY", "B,T,K,C", "PHASE"), help=argparse.SUPPRESS)
    return made


def all_rows(args: argparse.Namespace, bar: Any) -> Iterator[list[Row]]:
    """The rows of size after size, forward first."""
    for size in args.configs:
        for phase in (FORWARD, BOTH):
            yield measured(size, phase, args.repeats)
            bar.update()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write the CSV; 130 if interrupted, 1 if a result was wrong."""
    args = parser().parse_args(arguments)
    if args.here:
        way, size, phase = args.here
        print(json.dumps(growth(way, size_of(size), phase)))
        return 0
    try:
        sheet = Sheet(args.output, EDGE_COLUMNS)
    except SemiMarkovError as error:
        parser().error(f"--output: {error}")
    code = collect(lambda bar: all_rows(args, bar), 2 * len(args.configs), sheet)
    if sheet.rows:
        print(shown(sheet.rows))
    return code or int(any(row["status"] != "ok" for row in sheet.rows))


if __name__ == "__main__":
    sys.exit(main())
