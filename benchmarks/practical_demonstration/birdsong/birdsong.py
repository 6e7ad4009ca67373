"""Syllables of Bengalese finches: semi-CRF, linear CRF and argmax on the same encoder.

    python birdsong.py --data path/of/birdsong_bengalese --output runs/birdsong

Needs torch_semimarkov[plots]. Sizes stand in birdsong.yaml. Ctrl-C stops after the batch in
progress; the same command with --resume goes on to the same result.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # what the small recipes share

from run_folders import TABLE
from songs import GAP, Spectrogram, read_songs
from three_heads import command, head_config, split, strips_figure, table_of

from torch_semimarkov import metrics, plots
from torch_semimarkov.data import atomic_write
from torch_semimarkov.training import Predictor, load_model, save_model, train

KINDS = {
    "tolerance_ms": float,
    "spectrogram": {
        "window_ms": float, "hop_ms": float, "low_hz": float, "high_hz": float, "bins_a_band": int,
    },
}  # fmt: skip
COLUMNS = {
    "syllable_error": "syllable error rate %",
    "frame_error": "frame error %",
    "segment_f1": "segment F1 %",
    "boundary_f1": "boundary F1 %",
    "cpu_seconds": "training, CPU s",
}
SHOWN_SECONDS = 4.0


def coded(segments, vocabulary):
    """Segments with label numbers for names."""
    return [(start, end, vocabulary.encode(label)) for start, end, label in segments]


def scores(true, found, gap, rate, tolerance_ms):
    """The row of one run, in percent.

    Args:
        true, found: lists of ``(start, end, label)``.
        gap: the label that is no syllable.
        rate: positions a second.
        tolerance_ms: largest distance of a boundary that is found.
    """
    names = sorted({label for row in true + found for _, _, label in row} - {gap})
    sung = [[[s for s in row if s[2] != gap] for row in rows] for rows in (true, found)]
    bounds = metrics.boundary_scores(true, found, tolerance_ms, sample_rate=rate, unit="ms")
    return {
        "syllable_error": 100 * metrics.label_edit_rate(*sung),
        "frame_error": 100 * (1 - metrics.position_accuracy(true, found)),
        "segment_f1": 100 * metrics.segment_scores(true, found, iou=0.5, labels=names).micro.f1,
        "boundary_f1": 100 * bounds.micro.f1,
    }


def one_run(parts, config, tolerance_ms, folder, resume):
    """Train one head by one seed, and save its model with its scores on the test part.

    Args:
        parts: songs by part.
        config: the settings.
        tolerance_ms: see :func:`scores`.
        folder: where the model goes, and the checkpoint.
        resume: go on from the checkpoint; how long the run took is then unknown.
    """
    began = time.process_time()
    folder.mkdir(parents=True, exist_ok=True)
    trained = train(parts["train"], parts["validation"], config, folder, resume=resume, quiet=True)
    saved = trained.saved
    spent = None if resume else time.process_time() - began
    predictions = list(Predictor(saved, "cpu")(parts["test"]))
    names = saved.vocabulary
    true = [coded(record.segments, names) for record in parts["test"]]
    found = [coded(p.segments, names) for p in predictions]
    row = scores(true, found, names.encode(GAP), parts["test"][0].sample_rate, tolerance_ms)
    row = {"head": config.head, "seed": config.seed, **row, "cpu_seconds": spent}
    row = {**row, "epochs": trained.metrics()["epochs"]}
    save_model(folder, saved, row)
    return row


def picture(predictions, spectrogram, path):
    """The middle of one test song: its spectrogram, its syllables, and those of each head."""
    record = next(iter(predictions.values())).record
    rate, seconds = record.sample_rate, record.length / record.sample_rate
    first = max(0.0, (seconds - SHOWN_SECONDS) / 2)

    def draw(axis):
        low, high = spectrogram["low_hz"] / 1000, spectrogram["high_hz"] / 1000
        values, grid = record.features.T, (0, seconds, low, high)
        axis.imshow(values, origin="lower", aspect="auto", extent=grid, cmap="Greys")
        axis.set_ylabel("frequency (kHz)")
        axis.set_xlim(first, min(seconds, first + SHOWN_SECONDS))

    rows = {"annotated": record.segments, **{h: p.segments for h, p in predictions.items()}}
    strips = {name: [(s / rate, e / rate, label) for s, e, label in r] for name, r in rows.items()}
    figure = strips_figure(draw, strips, "time (s)", GAP, f"test song {record.name}")
    plots.save_figure(figure, path)


def compare(data, runs):
    """Train every head by every seed; write models, table.json and song.png.

    Args:
        data: folder of the songs.
        runs: the settings, the folders, and which runs are done already.
    """
    settings, output = runs.settings, runs.output
    records = {r.name: r for r in read_songs(data, Spectrogram(**settings["spectrogram"]))}
    syllables = sum(label != GAP for r in records.values() for _, _, label in r.segments)
    print(f"{len(records)} songs, {syllables} syllables", flush=True)
    runs.begin(list(records.values()))
    rows, shown = [], {}
    for seed in settings["seeds"]:
        drawn = split(list(records), settings["validation"], settings["test"], seed)
        parts = {part: [records[name] for name in names] for part, names in drawn.items()}
        for head in settings["heads"]:
            config, folder = head_config(settings, head, seed), runs.folder(head, seed)
            if settings["start_from_argmax"] and head != "argmax":
                config = dataclasses.replace(config, start_from=str(runs.folder("argmax", seed)))
            row = runs.row(head, seed) or one_run(
                parts, config, settings["tolerance_ms"], folder, runs.begun(head, seed)
            )
            rows.append(row)
            if head not in shown:
                (shown[head],) = Predictor(load_model(folder), "cpu")(parts["test"][:1])
            print(metrics.format_table([row], digits=1), flush=True)
    with atomic_write(output / TABLE) as file:
        json.dump({"settings": settings, "runs": rows}, file, indent=1)
    picture(shown, settings["spectrogram"], output / "song.png")
    print(table_of(rows, COLUMNS))


main = command(__doc__, Path(__file__).with_name("birdsong.yaml"), compare, KINDS)

if __name__ == "__main__":
    main()
