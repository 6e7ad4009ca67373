"""How far the posteriors on LUDB can be believed, what they are good for, and learning from less.

    python benchmarks/uncertainty_on_ecg.py --data path/of/ludb --output runs/uncertainty

Trains a conv encoder under a semi-CRF on lead II of the 140 training records with a share of the
positions labelled, drawn once for each record; a temperature is fitted on the 20 validation
records, and everything is judged on the 40 test records. The segments are the runs of the most
probable labels; a segment's certainty is the mean posterior of its label over its positions.
One CPU thread; needs torch_semimarkov[ecg,plots].
"""

import argparse
import json
import sys
import time
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from torch_semimarkov import metrics, plots
from torch_semimarkov.data import atomic_write
from torch_semimarkov.nn.segmenter import Architecture, SegmentationModel

LABELS = ("baseline", "P", "QRS", "T")
LEVELS = (0.5, 0.8, 0.9, 0.95)


def read_records(args):
    """Records to train on, to validate on and to test on."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    from ludb import open_ludb, read_leads, split_numbers

    folder = open_ludb(args.data, args.cache)
    return [[r for n in part for r in read_leads(folder, n)] for part in split_numbers()]


def labels_of(record):
    """(T,) label numbers."""
    found = np.zeros(record.length, dtype=np.int64)
    for start, end, label in record.segments:
        found[start:end] = LABELS.index(label)
    return found


def batch_of(records, known):
    """Padded features, lengths, and the labels that each position may have."""
    lengths = torch.tensor([record.length for record in records])
    features = torch.zeros(len(records), int(lengths.max()), records[0].num_features)
    allowed = torch.ones(*features.shape[:2], len(LABELS), dtype=torch.bool)
    for b, (record, seen) in enumerate(zip(records, known, strict=True)):
        features[b, : record.length] = torch.as_tensor(record.features, dtype=torch.float32)
        one = torch.nn.functional.one_hot(torch.from_numpy(labels_of(record)), len(LABELS)).bool()
        allowed[b, : record.length] = one | ~torch.from_numpy(seen)[:, None]
    return features, lengths, allowed


def trained(records, share, args):
    """A model that learnt from this share of the positions."""
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    known = [rng.random(record.length) < share for record in records]
    model = SegmentationModel(
        Architecture(
            num_features=records[0].num_features, num_classes=len(LABELS),
            max_duration=args.max_duration, hidden_dim=args.hidden, num_layers=6,
        )
    )  # fmt: skip
    rows = torch.cat([torch.as_tensor(r.features, dtype=torch.float32) for r in records])
    # No label follows itself: a segment starts where the label changes, the event that is judged.
    model.head.allowed_transitions.fill_diagonal_(False)
    model.set_normaliser(rows.mean(0), rows.std(0))
    groups = [
        {"params": model.encoder.parameters(), "lr": args.lr},
        {"params": model.head.parameters(), "lr": 0.01},
    ]
    optimizer = torch.optim.AdamW(groups)
    steps = args.epochs * -(-len(records) // 8)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(args.epochs):
        order = rng.permutation(len(records)).tolist()
        for first in range(0, len(order), 8):
            chosen = order[first : first + 8]
            some = [records[i] for i in chosen], [known[i] for i in chosen]
            features, lengths, allowed = batch_of(*some)
            hidden = model.hidden(features, lengths)
            loss = model.head.compute_loss(hidden, lengths, allowed=allowed, reduction="sum")
            optimizer.zero_grad()
            (loss / lengths.sum()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
        print(f"{share:.0%} labelled, epoch {epoch + 1}: {loss / lengths.sum():.4f}", flush=True)
    return model.eval()


def posteriors_of(model, records):
    """For each record: label posteriors (T, C), boundary posteriors (T,), true labels (T,)."""
    for record in records:
        features = torch.as_tensor(record.features, dtype=torch.float32)[None]
        found = model.marginals(features)
        yield found.labels[0].double().numpy(), found.boundaries[0].numpy(), labels_of(record)


def changes(labels):
    """(T - 1,) True where a label differs from the one before."""
    return labels[1:] != labels[:-1]


def together(found):
    """Posteriors and outcomes of all records: of labels, and of boundaries after position 0."""
    labels = np.concatenate([p for p, _, _ in found]), np.concatenate([y for _, _, y in found])
    starts = np.concatenate([s[1:] for _, s, _ in found])
    return {"label": labels, "boundary": (starts, np.concatenate([changes(y) for *_, y in found]))}


def calibration_rows(tune, judge):
    """One row for each posterior before and after scaling, and the curves."""
    rows, curves = [], {}
    held_out, test = together(tune), together(judge)
    for name, (p, y) in test.items():
        temperature = metrics.fit_temperature(*held_out[name])
        curves[name] = {}
        for when, T in (("before", 1.0), ("after", temperature)):
            scaled = metrics.apply_temperature(p, T)
            curve = curves[name][when] = metrics.reliability(scaled, y)
            row = {"posterior": name, "scaling": when, "temperature": T, "ECE": curve.ece}
            rows.append({**row, "MCE": curve.mce, "Brier": metrics.brier_score(scaled, y)})
    return rows, curves


def segments_of(p, y):
    """(certainty, right positions, length) of each run of the most probable labels."""
    guess, at = p.argmax(1), 0
    for label, run in groupby(guess.tolist()):
        end = at + len(list(run))
        yield p[at:end, label].mean(), int((y[at:end] == label).sum()), end - at
        at = end


def review_rows(judge, seed):
    """Accuracy with the least certain tenth of the segments handed to a person, or any tenth."""
    sure, right, length = np.array([s for p, _, y in judge for s in segments_of(p, y)]).T
    handed = round(0.1 * len(sure))
    orders = {
        "none": np.array([], dtype=int),
        "10 % at random": np.random.default_rng(seed).permutation(len(sure))[:handed],
        "10 % least certain": np.argsort(sure, kind="stable")[:handed],
    }
    rows = []
    for name, gone in orders.items():
        kept = np.setdiff1d(np.arange(len(sure)), gone)
        errors = (length - right)[kept].sum()
        rows.append({
            "handed over": name, "segments": len(gone),
            "positions %": 100 * length[gone].sum() / length.sum(),
            "accuracy of the rest %": 100 * right[kept].sum() / length[kept].sum(),
            "accuracy with the person %": 100 * (1 - errors / length.sum()),
        })  # fmt: skip
    return rows, metrics.selective_curve(sure, right / length)


def coverage_rows(judge):
    """One row a level of the boundary intervals."""
    given = [s for _, s, _ in judge]
    guess = [np.flatnonzero(changes(p.argmax(1))) + 1 for p, _, _ in judge]
    true = [np.flatnonzero(changes(y)) + 1 for *_, y in judge]
    rows = [{"level": x, **metrics.interval_coverage(given, guess, true, x)} for x in LEVELS]
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of LUDB")
    parser.add_argument("--output", type=Path, default=Path("runs/uncertainty"))
    parser.add_argument("--cache", type=Path, default=Path("runs/ecg"), help="for LUDB, unpacked")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument(
        "--hidden", type=int, default=40, help="channels; 40 is about 60,000 weights"
    )
    parser.add_argument("--max-duration", type=int, help="default: longest training run")
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    learn, tune, judge = read_records(args)
    longest = max(end - start for record in learn for start, end, _ in record.segments)
    args.max_duration = args.max_duration or longest
    print(f"max_duration {args.max_duration}", flush=True)
    args.output.mkdir(parents=True, exist_ok=True)
    tables = {"labelled": []}
    for share in (1.0, 0.3, 0.1):
        began = time.process_time()
        model = trained(learn, share, args)
        found = list(posteriors_of(model, judge))
        accuracy = np.mean(np.concatenate([p.argmax(1) == y for p, _, y in found]))
        weights = sum(p.numel() for p in model.parameters())
        row = {"labelled %": 100 * share, "accuracy %": 100 * accuracy, "weights": weights}
        tables["labelled"].append({**row, "CPU s": time.process_time() - began})
        if share == 1.0:
            held_out = list(posteriors_of(model, tune))
            tables["calibration"], curves = calibration_rows(held_out, found)
            tables["review"], selective = review_rows(found, args.seed)
            tables["coverage"] = coverage_rows(found)
            draw(curves, selective, tables["coverage"], args.output)
        with atomic_write(args.output / "tables.json") as file:
            json.dump(tables, file, indent=1)
    for rows in tables.values():
        print(metrics.format_table(rows, digits=3), flush=True)


def draw(curves, selective, coverage, folder):
    """All pictures."""
    for name, curve in curves.items():
        figure = plots.plot_reliability(curve, f"LUDB, {name} posterior")
        plots.save_figure(figure, folder / f"reliability_{name}.png")
    levels = {row["level"]: row["coverage"] for row in coverage}
    plots.save_figure(plots.plot_coverage({"boundaries": levels}), folder / "coverage.png")
    figure = plots.plot_selective({"mean posterior": selective}, "LUDB, segments")
    plots.save_figure(figure, folder / "selective.png")


if __name__ == "__main__":
    main()
