"""Tables, plots and the page, from a small made CSV whose numbers are known."""

import csv

import analyze_benchmarks as analyze
import matplotlib.image
import pytest
import write_performance
from benchmark_analysis import drawing, plots, tables
from benchmark_analysis.reading import load
from memory_analysis.output import COLUMNS

SPEED = {"linear_scan_streaming": 1.0, "cpu": 0.01, "exact": 0.02}
PHASE = {"forward": 1.0, "backward": 2.0}


def made_rows():
    """Times grow with T and K * C; those of exact with the square, and it is cheaper at first."""
    rows = []
    for semiring, factor in (("Log", 1.0), ("Max", 0.5)):
        for T in (128, 256, 512):
            for K, C in ((4, 3), (8, 6), (12, 12)):
                for backend, speed in SPEED.items():
                    for phase, share in PHASE.items():
                        power = 2 if backend == "exact" else 1
                        time = factor * T * (K * C) ** power * speed * share / 1000
                        size = {"B": 2, "T": T, "K": K, "C": C, "KC": K * C}
                        peak = T * K * C**power * 4.0
                        rows.append({
                            **size, "semiring": semiring, "phase": phase, "backend": backend,
                            "status": "ok", "median_ms": time, "peak_bytes": peak,
                            "dtype": "float32", "device": "a machine", "commit": "abc",
                        })  # fmt: skip
    rows.append({**rows[0], "backend": "triton", "status": "unavailable", "median_ms": None})
    return rows


def write(path, rows, columns=COLUMNS):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analysis")
    path = write(folder / "rows.csv", made_rows())
    command = ["--input", str(path), "--output-dir", str(folder / "out"), "--format", "png"]
    assert analyze.main(command) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The tables alone."""
    folder = tmp_path_factory.mktemp("tables")
    rows = load(write(folder / "rows.csv", made_rows()))
    tables.write_tables(tables.all_tables(rows, "linear_scan_streaming"), folder)
    return folder


def test_ten_kinds_of_plots_and_five_tables_are_written(folder):
    names = {path.name for path in folder.iterdir()}
    for picture in plots.PICTURES:
        semirings = ("max",) if picture.name == "semiring_overhead" else ("log", "max")
        assert {f"{picture.name}_{each}.png" for each in semirings} <= names
    assert len(plots.PICTURES) == 10
    assert {f"{name}.csv" for name in tables.COLUMNS} <= names and len(tables.COLUMNS) == 5
    assert len(names) == 19 + 5 + 1


def test_the_page_shows_every_file_with_a_sentence(folder):
    text = (folder / "report.html").read_text()
    for path in folder.iterdir():
        assert path.name in text or path.name == "report.html"
    assert all(picture.sentence in text for picture in plots.PICTURES)
    assert all(sentence in text for sentence in tables.SENTENCES.values())
    assert "Baseline: linear_scan_streaming" in text


def test_no_plot_is_blank_and_every_panel_has_labelled_axes_and_lines(folder):
    for path in folder.glob("*.png"):
        assert matplotlib.image.imread(path)[..., :3].std() > 0.03, path.name
    rows = load(folder.parent / "rows.csv")
    for picture in plots.PICTURES:
        figure = picture.draw(rows, "Max", "cpu")
        panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
        assert all(axes.lines or axes.images for axes in panels)
        assert any(axes.get_xlabel() for axes in panels)
        assert any(axes.get_ylabel() for axes in figure.axes)


def test_ratios_are_those_of_the_made_numbers(written):
    found = read(written / "baseline_ratios.csv")
    assert len(found) == 2 * 2 * 9 * 2
    cpu = [row for row in found if row["backend"] == "cpu"]
    assert {float(row["time_ratio"]) for row in cpu} == {0.01}
    assert {float(row["memory_ratio"]) for row in cpu} == {1.0}
    ratios = read(written / "backward_forward_ratios.csv")
    assert {row["ratio"] for row in ratios} == {"2"} and len(ratios) == 54
    overhead = read(written / "semiring_overhead.csv")
    assert {row["ratio"] for row in overhead} == {"0.5"} and len(overhead) == 54


def test_a_crossover_is_the_first_size_from_which_streaming_stays_faster(written):
    found = read(written / "crossover_points.csv")
    chosen = [
        r for r in found if (r["streaming"], r["backend"]) == ("linear_scan_streaming", "exact")
    ]
    # exact takes 0.02 KC times as long: 0.24, 0.96 and 2.88
    assert {row["crossover_KC"] for row in chosen} == {"144"} and len(chosen) == 12
    cpu = [row for row in found if (row["streaming"], row["backend"]) == ("cpu", "exact")]
    assert {row["in_words"] for row in cpu} == {"faster at every K*C measured"}
    slower = [
        r for r in found if (r["streaming"], r["backend"]) == ("linear_scan_streaming", "cpu")
    ]
    assert {row["crossover_KC"] for row in slower} == {""}


def test_the_summary_counts_what_became_of_the_rows(written):
    found = {
        (r["backend"], r["semiring"], r["phase"]): r for r in read(written / "summary_stats.csv")
    }
    row = found["cpu", "Log", "forward"]
    assert (row["rows"], row["ok"], row["oom"]) == ("9", "9", "0")
    assert float(row["least_ms"]) == pytest.approx(128 * 12 * 0.01 / 1000, rel=1e-5)
    assert found["triton", "Log", "forward"]["unavailable"] == "1"


def test_a_backward_that_was_not_measured_is_both_less_forward(tmp_path):
    rows = [row for row in made_rows() if row["phase"] == "forward" and row["status"] == "ok"]
    rows += [{**row, "phase": "both", "median_ms": 3 * row["median_ms"]} for row in rows]
    found = tables.backward_ratios(load(write(tmp_path / "rows.csv", rows)))
    assert {round(row["ratio"], 9) for row in found} == {2.0}
    assert {row["backward_is"] for row in found} == {"both less forward"}


@pytest.mark.parametrize("ending", ["svg", "pdf"])
def test_one_size_of_one_backend_gives_what_can_be_drawn_and_says_what_cannot(
    ending, tmp_path, capsys
):
    path = write(tmp_path / "rows.csv", made_rows()[:1])
    command = ["--input", str(path), "--output-dir", str(tmp_path / "out"), "--format", ending]
    assert analyze.main(command) == 0
    assert len(list((tmp_path / "out").glob(f"*.{ending}"))) == 4
    printed = capsys.readouterr().out
    assert printed.count("not drawn") == 6 and "only Log was measured" in printed
    assert "Not drawn" in (tmp_path / "out" / "report.html").read_text()


def test_backends_look_different_from_each_other():
    looks = drawing.looks(drawing.ORDER)
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == len(drawing.ORDER)


BAD = {
    "no such file": (None, (), "No such file"),
    "no columns": ("a,b\n1,2\n", (), "lacks the columns backend, semiring"),
    "empty": ("", (), "lacks the columns"),
    "no rows": (",".join(COLUMNS) + "\n", (), "none of its 0 rows"),
    "no numbers": ("few", (), "is no row of a benchmark"),
    "no baseline": ("rows", ("--baseline", "flash_semicrf"), "no row with a time"),
    "a baseline without times": ("rows", ("--baseline", "triton"), "no row with a time"),
    "a format": ("rows", ("--format", "gif"), "gif"),
    "no folder": ("rows", ("--output-dir", "FILE"), "must be a folder"),
    "a folder below a file": ("rows", ("--output-dir", "FILE/x"), "cannot be made"),
}


@pytest.mark.parametrize(("text", "flags", "expected"), BAD.values(), ids=BAD)
def test_a_mistake_is_one_line_and_nothing_is_written(text, flags, expected, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    if text in ("rows", "few"):
        rows = made_rows() if text == "rows" else [{**made_rows()[0], "T": "many"}]
        write(path, rows)
    elif text is not None:
        path.write_text(text)
    flags = [flag.replace("FILE", str(path)) for flag in flags]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stop:
        analyze.main(["--input", str(path), "--output-dir", str(tmp_path / "out"), *flags])
    printed = capsys.readouterr()
    assert stop.value.code == 2 and printed.err.count("\n") == 1 and expected in printed.err
    assert sorted(tmp_path.iterdir()) == before and printed.out == ""


# The page of performance


def test_the_page_and_the_figure_are_those_of_the_rows():
    assert write_performance.main(["--check"]) == 0, "run benchmarks/write_performance.py"


def test_a_changed_row_puts_the_page_out_of_date():
    rows, text = load(write_performance.ROWS), write_performance.PAGE.read_text()
    assert write_performance.page(text, rows) == text
    changed = [
        {**row, "median_ms": 2 * row["median_ms"]} if row["median_ms"] else row for row in rows
    ]
    assert write_performance.page(text, changed) != text


def test_the_rows_cover_what_is_promised_and_nothing_wrong_has_a_time():
    rows = load(write_performance.ROWS)
    ours = [row for row in rows if row["backend"] == "cpu" and row["status"] == "ok"]
    for name, least, most in (("T", 128, 100_000), ("K", 4, 1000), ("C", 3, 40)):
        values = {row[name] for row in ours}
        assert min(values) <= least and max(values) >= most
    sizes = {(write_performance.size_of(row), row["phase"]) for row in ours}
    for size in write_performance.HEADLINE:
        assert {(size, "forward"), (size, "both")} <= sizes
    assert not [row for row in rows if row["status"] != "ok" and row["median_ms"]]
    assert {"flash_semicrf", "torch_struct", "pytorch_crf"} <= {
        row["backend"] for row in rows if row["status"] == "ok"
    }


def test_a_loss_is_said_with_its_size_and_by_how_much():
    size = {"B": 1, "T": 8, "K": 2, "C": 3, "phase": "forward", "status": "ok", "reason": ""}
    ours = {**size, "backend": "cpu", "median_ms": 3.0, "peak_bytes": 4e6}
    other = {**size, "backend": "exact", "median_ms": 6.0, "peak_bytes": 8e6}
    text = "\n".join(write_performance.losses([ours, other]))
    assert "In time: in none of 1 rows" in text and "In peak memory: in none of 1 rows" in text
    better = {**other, "median_ms": 2.0, "peak_bytes": 1e6}
    text = "\n".join(write_performance.losses([ours, better]))
    assert "in 1 of 1 rows `cpu` takes longer than `exact` at 1,8,2,3, forward: 1.5 times" in text
    assert "`exact` at 1,8,2,3, forward: 4 against 1 MB" in text


def test_the_figure_is_drawn_from_rows(tmp_path):
    path = tmp_path / "figure.svg"
    write_performance.draw(load(write_performance.ROWS), path)
    assert write_performance.digest() in path.read_text()
