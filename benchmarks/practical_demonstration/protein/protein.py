"""Transmembrane helices from residues: semi-CRF, linear CRF and argmax on the same encoder.

    python protein.py --data path/of/protein_tm_topology --output runs/protein

Residues without a known label are masked: they allow every label. Needs torch_semimarkov[plots].
Sizes stand in protein.yaml. Ctrl-C stops after the batch in progress; the same command with
--resume goes on to the same result.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # what the small recipes share

import torch
from run_folders import TABLE
from three_heads import command, head_config, split, strips_figure, table_of
from topology import HELIX, LABELS, UNKNOWN, judged, known, read_topology
from topology_model import (
    VOCABULARY,
    SemiMarkovCRFHead,
    TopologyModel,
    check_helices,
    count_labels,
    examples_of,
    load_topology,
    save_topology,
    start_from,
)

from torch_semimarkov import metrics, plots
from torch_semimarkov.data import atomic_write
from torch_semimarkov.errors import ConfigError
from torch_semimarkov.training import Trainer
from torch_semimarkov.training.run import cpu_threads

KINDS = {"file": str, "longest": int}
# Of each head in the picture; colours of Okabe and Ito.
LINES = (
    {"color": "#56B4E9", "linestyle": ":"},
    {"color": "#D55E00", "linestyle": "--"},
    {"color": "#000000", "linestyle": "-"},
)
COLUMNS = {
    "accuracy": "residue accuracy %",
    "residue_f1": "helix residue F1 %",
    "segment_f1": "helix segment F1 %",
    "all_right": "proteins with all helices right %",
    "cpu_seconds": "training, CPU s",
}


def scores(true, found):
    """The row of one run, in percent, on residues whose label is known.

    Args:
        true, found: one list of ``(start, end, label name)`` a protein.

    A helix is found if one overlaps it by half of both together; a protein is right if all its
    helices are found, and no others. Proteins without a known helix do not count there.
    """
    found = [judged(f, t) for f, t in zip(found, true, strict=True)]
    number = VOCABULARY.encode
    pair = [[[(s, e, number(label)) for s, e, label in known(rows)] for rows in side]
            for side in (true, found)]  # fmt: skip
    helix = number(HELIX)
    each = [metrics.segment_scores([t], [f], iou=0.5, labels=[helix]).micro
            for t, f in zip(*pair, strict=True)]  # fmt: skip
    right = [s.true == s.predicted == s.matched for s in each if s.true]
    total, matched = sum(s.true + s.predicted for s in each), sum(s.matched for s in each)
    return {
        "accuracy": 100 * metrics.position_accuracy(*pair),
        "residue_f1": 100 * (metrics.label_f1(*pair)["per_label"][helix]["f1"] or 0.0),
        "segment_f1": 100 * 2 * matched / max(1, total),
        "all_right": 100 * sum(right) / max(1, len(right)),
        "proteins": len(right),
    }


def one_run(parts, config, folder, resume, first=None):
    """Train one head by one seed, and save its model with its scores on the test part.

    Args:
        parts: proteins by part.
        config: the settings.
        folder: where the model goes, and the checkpoint.
        resume: go on from the checkpoint; how long the run took is then unknown.
        first: folder of a model whose encoder and label scores this one starts from.
    """
    began = time.process_time()
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(), cpu_threads(config.threads):
        torch.manual_seed(config.seed)
        model = TopologyModel(parts["train"][0].num_features, config)
        if isinstance(model.head, SemiMarkovCRFHead):
            count_labels(model.head, parts["train"])
        if first is not None:
            start_from(model, load_topology(first))
        examples = [examples_of(parts[part]) for part in ("train", "validation")]
        trainer = Trainer(model, *examples, config, folder, quiet=True)
        if resume:
            trainer.resume()
        progress = trainer.run()
        spent = None if resume else time.process_time() - began
        found = [model.decode(record) for record in parts["test"]]
    row = scores([record.segments for record in parts["test"]], found)
    more = {
        "epochs": len(progress.history), "best_epoch": progress.best_epoch,
        "validation_loss": progress.best_loss, "cpu_seconds": spent,
    }  # fmt: skip
    row = {"head": config.head, "seed": config.seed, **row, **more}
    save_topology(folder, model, config, row)
    return row


def picture(records, models, path):
    """The test protein with the most known helices: P(helix), and the segments of each head."""
    counts = [sum(label == HELIX for _, _, label in r.segments) for r in records]
    record = records[counts.index(max(counts))]

    def draw(axis):
        for (head, model), look in zip(models.items(), LINES, strict=False):
            axis.plot(model.helix_posterior(record).numpy(), label=head, linewidth=1.2, **look)
        axis.set_ylabel("P(helix)")
        axis.set_xlim(0, record.length)
        axis.set_ylim(0, 1)
        axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=8, frameon=False)

    strips = {"known": record.segments, **{h: m.decode(record) for h, m in models.items()}}
    letters = {HELIX: "H", "inside": "in", "outside": "out", "signal": "S", UNKNOWN: UNKNOWN}
    strips = {n: [(s, e, letters[label]) for s, e, label in rows] for n, rows in strips.items()}
    title = f"test protein {record.name}"
    plots.save_figure(strips_figure(draw, strips, "residue", UNKNOWN, title), path)


def read_proteins(data, settings):
    """The proteins that are short enough, by name; none may have a helix that is too long."""
    every = read_topology(data / settings["file"])
    records = {r.name: r for r in every if r.length <= settings["longest"]}
    print(f"{len(records)} of {len(every)} proteins have at most {settings['longest']} residues")
    if not records:
        raise ConfigError("no protein is that short; raise longest")
    for head in settings["heads"]:
        config = head_config(settings, head, 0)
        if head == "semi-crf" and config.max_duration is None:
            raise ConfigError("the semi-CRF needs a max_duration of its own under heads")
        if head == "semi-crf":
            check_helices(list(records.values()), config.max_duration)
    return records


def compare(data, runs):
    """Train every head by every seed; write models, table.json and protein.png.

    Args:
        data: folder of the data set.
        runs: the settings, the folders, and which runs are done already.
    """
    settings, output = runs.settings, runs.output
    records = read_proteins(data, settings)
    runs.begin(list(records.values()))
    rows, shown, judged_first = [], {}, []
    for seed in settings["seeds"]:
        drawn = split(list(records), settings["validation"], settings["test"], seed)
        parts = {part: [records[name] for name in names] for part, names in drawn.items()}
        for head in settings["heads"]:
            config, folder = head_config(settings, head, seed), runs.folder(head, seed)
            later = settings["start_from_argmax"] and head != "argmax"
            first = runs.folder("argmax", seed) if later else None
            row = runs.row(head, seed) or one_run(
                parts, config, folder, runs.begun(head, seed), first
            )
            rows.append(row)
            if head not in shown:
                shown[head], judged_first = load_topology(folder), parts["test"]
            print(metrics.format_table([row], digits=1), flush=True)
    with atomic_write(output / TABLE) as file:
        json.dump({"settings": settings, "labels": LABELS, "runs": rows}, file, indent=1)
    picture(judged_first, shown, output / "protein.png")
    print(table_of(rows, COLUMNS))


main = command(__doc__, Path(__file__).with_name("protein.yaml"), compare, KINDS)

if __name__ == "__main__":
    main()
