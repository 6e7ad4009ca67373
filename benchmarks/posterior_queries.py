"""The k best and samples beside viterbi, on the cpu backend.

    python benchmarks/posterior_queries.py --output rows.csv

Before a call is timed, its result is looked at: the k best are different, in order, have the scores
of their paths, begin with viterbi's, and equal the reference's on the first positions; samples are
segmentations, and have about as many segments as the marginals expect.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from command import Parser, collect, size_of, whole
from rows import Row, Sheet, as_table, new_row, with_times
from torch import Tensor
from workload import OURS, Size, Workload, draw

import torch_semimarkov
from torch_semimarkov import kbest, marginals, sample, segment_score, viterbi
from torch_semimarkov.cli.timing import interleave
from torch_semimarkov.errors import SemiMarkovError

SIZES = (Size(8, 1000, 100, 24), Size(1, 100_000, 100, 8))
FEW, MANY = 1, 100
KS = (1, 5, 20)
# Positions on which the reference, which takes long, is asked too.
SHORT = 40


def calls_of(workload: Workload) -> dict[str, Callable[[], Any]]:
    """Everything that is measured, by name; viterbi first."""
    terms = {**_terms(workload), "backend": OURS}

    def best(k: int) -> Callable[[], Any]:
        return lambda: kbest(**terms, k=k)

    def drawn(count: int) -> Callable[[], Any]:
        return lambda: sample(
            **terms, num_samples=count, generator=torch.Generator().manual_seed(count)
        )

    found: dict[str, Callable[[], Any]] = {"viterbi": lambda: viterbi(**terms)}
    found.update({f"kbest, k={k}": best(k) for k in KS})
    found.update({f"sample, {count}": drawn(count) for count in (FEW, MANY)})
    return found


def _terms(workload: Workload, T: int | None = None) -> dict[str, Tensor]:
    scores = workload.scores[:, :T].contiguous()
    return {
        "scores": scores,
        "transition": workload.transition,
        "duration_bias": workload.duration_bias,
        "lengths": torch.full(scores.shape[:1], scores.shape[1]),
    }


def problem_of(name: str, result: Any, workload: Workload) -> str:
    """What is wrong with a result; empty if nothing is."""
    if name == "viterbi":
        return _wrong_scores(result.scores, result.segments, workload)
    if name.startswith("sample"):
        return _wrong_samples(result, workload)
    best = viterbi(**_terms(workload), backend=OURS)
    if result.segments[0] != best.segments or not torch.equal(result.scores[0], best.scores):
        return "the first is not viterbi's"
    for b, rows in enumerate(zip(*result.segments.to_list(), strict=True)):
        if len(set(map(tuple, rows))) < len(rows):
            return f"two of sequence {b} are the same"
    if (result.scores[1:] > result.scores[:-1]).any():
        return "not in order"
    few, k = _terms(workload, SHORT), len(result.scores)
    ours, truth = (kbest(**few, k=k, backend=name) for name in (OURS, "reference"))
    if not torch.allclose(ours.scores, truth.scores, rtol=1e-6, atol=0.0):
        return f"on {SHORT} positions the reference finds other scores"
    return _wrong_scores(result.scores, result.segments, workload)


def _wrong_scores(scores: Tensor, segments: Any, workload: Workload) -> str:
    truth = segment_score(segments, **_terms(workload), validate_segments=True)
    right = torch.allclose(scores, truth, rtol=1e-6, atol=0.0)
    return "" if right else "a score is not that of its path"


def _wrong_samples(segments: Any, workload: Workload) -> str:
    """Six standard errors, estimated from the samples, where there are enough of them."""
    segment_score(segments, **_terms(workload), validate_segments=True)
    counts = segments.counts.double()
    if len(counts) < MANY:
        return ""
    expected = marginals(**_terms(workload), backend=OURS).boundaries.double().sum(1)
    error = counts.std(0) / len(counts) ** 0.5
    far = (counts.mean(0) - expected).abs() > 6 * error
    return "the number of segments is not what the marginals expect" if far.any() else ""


def measured(size: Size, repeats: int) -> list[Row]:
    """A row for each call; the ratio is to viterbi."""
    workload = draw(size)
    calls, problems = calls_of(workload), {}
    for name, run in calls.items():
        try:
            problems[name] = problem_of(name, run(), workload)
        except SemiMarkovError as error:
            problems[name] = str(error)
    right = [name for name, problem in problems.items() if not problem]
    seconds = interleave({name: calls[name] for name in right}, dict.fromkeys(right, repeats))
    rows = []
    for name, problem in problems.items():
        row = new_row(
            "queries", size, name.split(",", maxsplit=1)[0], OURS, measured=name, dtype="float32",
            backend_version=torch_semimarkov.__version__, checked="identities and the reference",
        )  # fmt: skip
        row.update({"status": "wrong", "reason": problem} if problem else {})
        rows.append(with_times(row, seconds.get(name, [])))
    own = rows[0]["median_ms"]
    for row in rows[1:]:
        row["ratio"] = row["median_ms"] / own if own and row["median_ms"] else None
    return rows


def parser() -> Parser:
    """The flags."""
    made = Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = made.add_argument
    add("--configs", nargs="+", type=size_of, default=list(SIZES), metavar="B,T,K,C", help="sizes")
    add("--repeats", type=whole, default=9, help="times for each call (default 9)")
    add("--threads", type=whole, default=torch.get_num_threads(), help="threads of torch")
    add("--output", type=Path, help="a CSV to append the rows to")
    return made


def all_rows(args: argparse.Namespace, bar: Any) -> Iterator[list[Row]]:
    """The rows of size after size."""
    for size in args.configs:
        yield measured(size, args.repeats)
        bar.update()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write the CSV; 130 if interrupted, 1 if a result was wrong."""
    args = parser().parse_args(arguments)
    torch.set_num_threads(args.threads)
    try:
        sheet = Sheet(args.output)
    except SemiMarkovError as error:
        parser().error(f"--output: {error}")
    code = collect(lambda bar: all_rows(args, bar), len(args.configs), sheet)
    if sheet.rows:
        print(as_table(sheet.rows, lambda row: (None, None)))
    return code or int(any(row["status"] != "ok" for row in sheet.rows))


if __name__ == "__main__":
    sys.exit(main())
