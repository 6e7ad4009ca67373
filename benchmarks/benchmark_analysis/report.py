"""One page that shows every plot and every table with a sentence each."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from rows import short

from benchmark_analysis.reading import Row, grouped
from benchmark_analysis.tables import COLUMNS, SENTENCES
from torch_semimarkov.data import atomic_write

# Rows of a table that the page shows; the CSV has all of them.
SHOWN = 40
STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
img, object { max-width: 100% } figure { margin: 2em 0 } .wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 13px } td, th { padding: 2px 8px; text-align: right }
tr:nth-child(even) { background: #f4f4f4 } th { border-bottom: 1px solid #888 }
"""


def write_report(
    path: Path,
    rows: Sequence[Row],
    baseline: str,
    pictures: Sequence[tuple[Path, str]],
    left_out: Sequence[str],
    tables: dict[str, list[Row]],
) -> None:
    """Write the page; pictures and tables lie beside it.

    Args:
        path: of the page.
        rows: what everything was made of.
        baseline: whom the ratios are relative to.
        pictures: paths, each with its sentence.
        left_out: plots without points, and why.
        tables: rows by name.
    """
    parts = [f"<h1>Benchmark</h1><p>{html.escape(_source(rows, baseline))}</p>"]
    parts += [_figure(picture, sentence) for picture, sentence in pictures]
    if left_out:
        items = "".join(f"<li>{html.escape(line)}</li>" for line in left_out)
        parts.append(f"<h2>Not drawn</h2><ul>{items}</ul>")
    parts += [_table(name, found) for name, found in tables.items()]
    body = "\n".join(parts)
    with atomic_write(path) as file:
        file.write(
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Benchmark</title>'
            f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
        )


def _source(rows: Sequence[Row], baseline: str) -> str:
    devices = [str(key[0]) for key in grouped(rows, "device")] if "device" in rows[0] else []
    commits = [str(key[0]) for key in grouped(rows, "commit")] if "commit" in rows[0] else []
    where = f" on {', '.join(devices)}" if devices else ""
    what = f" at commit {', '.join(commits)}" if commits else ""
    good = sum(row["status"] == "ok" for row in rows)
    return f"{len(rows)} rows{where}{what}, {good} of them with status ok. Baseline: {baseline}."


def _figure(picture: Path, sentence: str) -> str:
    name, text = html.escape(picture.name, quote=True), html.escape(sentence)
    tag = f'<img src="{name}" alt="{text}">'
    if picture.suffix == ".pdf":
        tag = f'<object data="{name}" type="application/pdf" width="100%" height="480"></object>'
    return f'<figure>{tag}<figcaption>{text} <a href="{name}">{name}</a></figcaption></figure>'


def _table(name: str, rows: Sequence[Row]) -> str:
    columns = COLUMNS[name]
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    lines = "".join(
        "<tr>" + "".join(f"<td>{_cell(row.get(column))}</td>" for column in columns) + "</tr>"
        for row in rows[:SHOWN]
    )
    more = f" The first {SHOWN} of {len(rows)} rows." if len(rows) > SHOWN else ""
    empty = " No rows: nothing of the kind was measured." if not rows else ""
    return (
        f'<h2>{name}</h2><p>{SENTENCES[name]}{more}{empty} <a href="{name}.csv">{name}.csv</a></p>'
        f'<div class="wide"><table><tr>{head}</tr>{lines}</table></div>'
    )


def _cell(value: object) -> str:
    value = f"{value:.3g}" if isinstance(value, float) else short(value)
    return "" if value is None else html.escape(str(value))
