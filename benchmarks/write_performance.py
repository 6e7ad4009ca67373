"""Write the measured part of docs/performance.md and the README's figure from the rows.

    python benchmarks/write_performance.py            # write both
    python benchmarks/write_performance.py --check    # exit 1 if they are out of date

Every number and every sentence with a number comes from benchmarks/results/grid_2cores.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark_analysis.reading import Row, load, timed
from command import Parser

from torch_semimarkov.data import atomic_write

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "benchmarks" / "results" / "grid_2cores" / "benchmark_full.csv"
PAGE, FIGURE = ROOT / "docs" / "performance.md", ROOT / "docs" / "images" / "performance.svg"
BEGIN, END = "<!-- from the rows: begin -->", "<!-- from the rows: end -->"
OURS, REFERENCE = "cpu", "linear_scan_streaming"
HEADLINE = ((64, 1000, 100, 24), (32, 1000, 500, 24))
PHASES = ("forward", "both")
# Which sizes show the growth in each: what is fixed, and in which order B, T, K, C are asked for.
SWEEPS = {
    "T": {"B": 1, "K": 100, "C": 24},
    "K": {"B": 1, "T": 1000, "C": 24},
    "C": {"B": 1, "T": 1000, "K": 100},
    "B": {"T": 1000, "K": 100, "C": 24},
}
OTHERS = ("linear_scan_streaming", "exact", "flash_semicrf", "torch_struct", "pytorch_crf")


def number(value: float) -> str:
    """Three digits, without an exponent.

    >>> number(0.012345), number(12345.6), number(1.5)
    ('0.0123', '12,300', '1.5')
    """
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{round(value, digits):,.{max(0, digits)}f}" if digits <= 0 else f"{value:.3g}"


def size_of(row: Row) -> tuple[int, int, int, int]:
    """B, T, K, C."""
    return tuple(row[name] for name in "BTKC")


def sweep(rows: Sequence[Row], name: str, phase: str) -> list[Row]:
    """Our rows along one size, in its order."""
    fixed = SWEEPS[name]
    found = [
        row
        for row in timed(rows)
        if row["backend"] == OURS
        and row["phase"] == phase
        and all(row[key] == value for key, value in fixed.items())
    ]
    return sorted(found, key=lambda row: row[name])


def slope(rows: Sequence[Row], name: str) -> float:
    """The power with which time grows over the two largest sizes."""
    a, b = rows[-2], rows[-1]
    return math.log(b["median_ms"] / a["median_ms"]) / math.log(b[name] / a[name])


def table(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of a Markdown table."""
    rule = "|".join("---" for _ in head)
    body = [f"| {' | '.join(map(str, line))} |" for line in lines]
    return [f"| {' | '.join(head)} |", f"|{rule}|", *body]


def growth(rows: Sequence[Row]) -> list[str]:
    """A table for each of T, K, C and B, and a sentence with the power."""
    text = ["### How time grows", ""]
    for name, fixed in SWEEPS.items():
        forward, both = (sweep(rows, name, phase) for phase in PHASES)
        where = ", ".join(f"{key} = {value}" for key, value in fixed.items())
        times = {row[name]: row for row in both}
        lines = [
            (
                f"{row[name]:,}", number(row["median_ms"]), number(times[row[name]]["median_ms"]),
                number(1e6 * row["median_ms"] / (row["B"] * row["T"])),
                number((times[row[name]]["peak_bytes"] or 0) / 1e6),
            )
            for row in forward if row[name] in times
        ]  # fmt: skip
        ends = f"from {forward[-2][name]:,} to {forward[-1][name]:,}"
        text += [
            f"**{name}** ({where}): {ends} the forward grows with {name} to the power "
            f"{slope(forward, name):.2f}, forward and backward with {slope(both, name):.2f}.",
            "",
            *table(
                (name, "forward ms", "both ms", "forward ns a position", "both, peak MB"), lines
            ),
            "",
        ]
    return text


def headline(rows: Sequence[Row]) -> list[str]:
    """The two sizes that were published for a GPU."""
    found = {(size_of(row), row["phase"]): row for row in timed(rows) if row["backend"] == OURS}
    lines = [
        (*size, *(_with_quartiles(found[size, phase]) for phase in PHASES)) for size in HEADLINE
    ]
    head = ("B", "T", "K", "C", "forward ms (quartiles)", "both ms (quartiles)")
    return ["### Headline sizes", "", *table(head, lines), ""]


def _with_quartiles(row: Row) -> str:
    return f"{number(row['median_ms'])} ({number(row['q1_ms'])} to {number(row['q3_ms'])})"


def beside(rows: Sequence[Row]) -> list[str]:
    """Our times, and how many times as long each other way takes."""
    found = {(size_of(row), row["phase"], row["backend"]): row for row in rows}
    sizes = sorted({size_of(row) for row in timed(rows) if row["backend"] in OTHERS[2:]})
    lines = []
    for size in sizes:
        for phase in PHASES:
            own = found[size, phase, OURS]["median_ms"]
            others = (_ratio(found.get((size, phase, name)), own) for name in OTHERS)
            lines.append((",".join(map(str, size)), phase, number(own), *others))
    return [
        "### Beside other ways and other libraries",
        "",
        f"Milliseconds of `{OURS}`, and how many times as long the others take, in the same run:"
        f" `{REFERENCE}` is our backend in plain torch, `exact` makes the edge tensor first.",
        "",
        *table(("B,T,K,C", "phase", f"{OURS} ms", *OTHERS), lines),
        "",
    ]


def _ratio(row: Row | None, own: float) -> str:
    if row is None:
        return ""
    if row["status"] == "ok":
        return f"{number(row['median_ms'] / own)}x"
    return {"unavailable": "-"}.get(row["status"], row["status"])


def losses(rows: Sequence[Row]) -> list[str]:
    """Every size where another way is faster, or needs less memory."""
    own = {(size_of(r), r["phase"]): r for r in timed(rows) if r["backend"] == OURS}
    slower, larger, compared = [], [], 0
    for row in timed(rows):
        key = size_of(row), row["phase"]
        if row["backend"] == OURS or key not in own:
            continue
        compared += 1
        name = f"`{row['backend']}` at {','.join(map(str, key[0]))}, {key[1]}"
        if row["median_ms"] < own[key]["median_ms"]:
            slower.append(f"{name}: {number(own[key]['median_ms'] / row['median_ms'])} times")
        peaks = row["peak_bytes"], own[key]["peak_bytes"]
        if all(peaks) and peaks[0] < peaks[1]:
            larger.append(f"{name}: {number(peaks[1] / 1e6)} against {number(peaks[0] / 1e6)} MB")
    text = ["### Where we lose", ""]
    text += _listed(
        slower, f"In time: in {len(slower)} of {compared} rows",
        "`cpu` takes longer than",
        f"in none of {compared} rows is another way or library faster",
    )  # fmt: skip
    text += _listed(
        larger, f"In peak memory: in {len(larger)} of {compared} rows",
        "`cpu` needs more than",
        f"in none of {compared} rows does another need less",
    )  # fmt: skip
    return [*text, *_steps(own), *_failures(rows)]


def _listed(found: Sequence[str], head: str, verb: str, none: str) -> list[str]:
    if not found:
        return [f"- {head.split(': in 0 of ')[0]}: {none}."]
    return [f"- {head} {verb} {'; '.join(found)}."]


def _steps(own: dict) -> list[str]:
    """What small calls and lone sequences cost, from the rows."""
    smallest = min((key for key in own if key[1] == "forward"), key=lambda key: math.prod(key[0]))
    text = [
        f"- A call at {','.join(map(str, smallest[0]))}, the smallest measured, takes "
        f"{number(own[smallest]['median_ms'])} ms, which is mostly the cost of a call."
    ]
    one, many = ((B, 1000, 100, 24) for B in (1, 64))
    if (one, "forward") in own and (many, "forward") in own:
        alone, batch = own[one, "forward"]["median_ms"], own[many, "forward"]["median_ms"] / 64
        text.append(
            f"- A lone sequence at T = 1000, K = 100, C = 24 takes {number(alone)} ms, one of a "
            f"batch of 64 takes {number(batch)} ms."
        )
    return text


def _failures(rows: Sequence[Row]) -> list[str]:
    wrong = sorted({(r["backend"], r["reason"]) for r in rows if r["status"] == "wrong"})
    counts = {s: sum(r["status"] == s for r in rows) for s in ("oom", "slow", "error")}
    text = [
        f"- Without a time, for memory: {counts['oom']} rows; a call took more than the limit: "
        f"{counts['slow']}; errors: {counts['error']}; wrong results: "
        f"{sum(r['status'] == 'wrong' for r in rows)}."
    ]
    return text + [f"  - `{backend}` is wrong: {reason}" for backend, reason in wrong]


def section(rows: Sequence[Row]) -> str:
    """The part of the page between the markers."""
    own = [row for row in timed(rows) if row["backend"] == OURS]
    first = own[0]
    loads = sorted(float(row["load"]) for row in own)
    text = [
        f"{len(rows)} rows, {len(timed(rows))} of them with a time: {first['device']}, "
        f"{first['cores']} cores, {first['threads']} threads, {first['dtype']}, torch "
        f"{first['torch']}, numba {first['numba']}, commit {first['commit']}. The load of the "
        f"machine was {loads[0]:g} to {loads[-1]:g}, median {loads[len(loads) // 2]:g}. "
        + _of_load(loads, int(first["cores"])),
        "",
        *headline(rows), *growth(rows), *beside(rows), *losses(rows),
    ]  # fmt: skip
    return "\n".join(text)


def _of_load(loads: Sequence[float], cores: int) -> str:
    """What the load says of the times."""
    if loads[len(loads) // 2] <= cores + 1:
        return "The machine did little else."
    return (
        f"**More than {cores} is too much: other work ran on the same cores, and these times are "
        "too long, those beyond a few milliseconds by several times.** Short calls fit between "
        "those of others and long ones do not, so ratios to slow ways are too large too, and the "
        "powers are rough. [cpu-kernels.md](cpu-kernels.md) has those of an idle machine."
    )


def page(text: str, rows: Sequence[Row]) -> str:
    """The page with its measured part made anew."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{section(rows)}\n\n{END}{after}"


def digest(path: Path = ROWS) -> str:
    """Of the rows, for the figure to carry."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def draw(rows: Sequence[Row], path: Path) -> None:
    """Four panels, one for each size; the time of the two phases, and of what is beside us."""
    import matplotlib
    from benchmark_analysis.drawing import level_axis, log_axes
    from matplotlib.figure import Figure

    from torch_semimarkov.plots._style import FONT_SIZE, dress

    matplotlib.rcParams["svg.hashsalt"] = "torch_semimarkov"
    figure = Figure(figsize=(13.5, 4.6), layout="constrained")
    panels = figure.subplots(1, 4, sharey=True)
    looks = {"forward": ("#0072B2", "o"), "both": ("#D55E00", "s")}
    everything = []
    for axes, (name, fixed) in zip(panels, SWEEPS.items(), strict=True):
        xs = []
        for phase, (colour, marker) in looks.items():
            found = sweep(rows, name, phase)
            xs = [row[name] for row in found]
            ys = [row["median_ms"] for row in found]
            everything += ys
            label = "forward" if phase == "forward" else "forward and backward"
            axes.plot(xs, ys, color=colour, marker=marker, lw=2.4, ms=8, label=label)
        log_axes(axes, xs)
        meaning = {"T": "positions", "K": "durations", "C": "labels", "B": "sequences"}[name]
        axes.set_xlabel(f"{name} ({meaning})")
        dress(axes, ", ".join(f"{key}={value}" for key, value in fixed.items()))
    panels[0].set_ylabel("time (ms)")
    level_axis(panels[0], everything)
    panels[0].legend(fontsize=FONT_SIZE - 1, frameon=False, loc="upper left")
    metadata = {"Date": None, "Description": f"rows {digest()}"}
    figure.savefig(path, format="svg", metadata=metadata)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write, or check."""
    flags = Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    flags.add_argument("--check", action="store_true", help="write nothing; 1 if out of date")
    args = flags.parse_args(arguments)
    rows, old = load(ROWS), PAGE.read_text(encoding="utf-8")
    new = page(old, rows)
    if args.check:
        fresh = new == old and f"rows {digest()}" in FIGURE.read_text(encoding="utf-8")
        return int(not fresh)
    with atomic_write(PAGE) as file:
        file.write(new)
    draw(rows, FIGURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
