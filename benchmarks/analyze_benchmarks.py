"""Plots, tables and one page from the rows of benchmark_memory_analysis.py.

python benchmarks/analyze_benchmarks.py --input results/benchmark_full.csv --output-dir plots
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark_analysis.reading import choose_baseline, load
from command import Parser
from memory_analysis.output import require_writable

from torch_semimarkov.errors import SemiMarkovError

FORMATS = ("pdf", "png", "svg")


def parser() -> Parser:
    """The flags."""
    made = Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = made.add_argument
    add("--input", type=Path, required=True, help="benchmark_full.csv of a run")
    add("--output-dir", type=Path, required=True, help="folder of plots, tables and report.html")
    add("--format", choices=FORMATS, default="pdf", help="of the plots (pdf)")
    add("--baseline", help="backend that the others are compared with (linear_scan_streaming)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, draw, write."""
    flags = parser()
    args = flags.parse_args(arguments)
    try:
        rows = load(args.input)
        baseline = choose_baseline(rows, args.baseline)
        require_writable(args.output_dir)
        pictures, left_out = write_all(rows, baseline, args.output_dir, args.format)
    except (SemiMarkovError, OSError) as error:
        flags.error(" ".join(str(error).split()))
    for line in left_out:
        print(f"not drawn: {line}")
    print(f"{len(pictures)} plots, 5 tables: {args.output_dir / 'report.html'}")
    return 0


def write_all(rows: list, baseline: str, folder: Path, ending: str) -> tuple[list, list[str]]:
    """Every file; the plots with their sentences, and what could not be drawn."""
    try:
        from benchmark_analysis.plots import draw_all
    except ImportError as error:
        raise SemiMarkovError(
            f"plots need matplotlib: pip install torch_semimarkov[plots] ({error})"
        ) from error
    from benchmark_analysis.report import write_report
    from benchmark_analysis.tables import all_tables, write_tables

    tables = all_tables(rows, baseline)
    write_tables(tables, folder)
    pictures, left_out = draw_all(rows, baseline, folder, ending)
    write_report(folder / "report.html", rows, baseline, pictures, left_out, tables)
    return pictures, left_out


if __name__ == "__main__":
    sys.exit(main())
