"""How far the posteriors on LUDB can be believed, what they are good for, and learning from less.

    python benchmarks/uncertainty_on_ecg.py --data path/of/ludb --page docs/uncertainty.md

Trains a conv encoder under a semi-CRF on lead II of the 140 training records with a share of the
positions labelled, drawn once for each record, and keeps the epoch with the best likelihood of the
20 validation records. Temperatures are fitted on these, and everything is judged on the 40 test
records. The segments are the runs of the most probable labels; a segment's certainty is the mean
posterior of its label over its positions. ``--page`` writes the tables between their marks in the
page, and the pictures beside it. One CPU thread; needs torch_semimarkov[ecg,plots].
"""

import argparse
import copy
import json
import re
import shutil
import sys
import time
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize_scalar

import torch_semimarkov as ts
from torch_semimarkov import metrics, plots
from torch_semimarkov.data import atomic_write
from torch_semimarkov.nn.segmenter import Architecture, SegmentationModel

LABELS = ("baseline", "P", "QRS", "T")
LEVELS = (0.5, 0.8, 0.9, 0.95)
# Positions of 8 ms that a boundary may be off where an event is "near".
NEAR = 2
EVENTS = {
    "label": "label of a position",
    "boundary": "boundary at the exact position",
    "near": "boundary within 16 ms",
}


class Found(NamedTuple):
    """Posteriors of one record, and the truth.

    labels: (T, C).
    boundary: (T - 1,). A segment starts at position 1, 2, ...
    near: (T - 1,). One starts within NEAR positions of it, but not at position 0; or empty.
    true: (T,) labels.
    """

    labels: np.ndarray
    boundary: np.ndarray
    near: np.ndarray
    true: np.ndarray


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


def trained(records, held_out, share, args):
    """A model that learnt from this share of the positions, of its best epoch on ``held_out``."""
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
    best, kept = np.inf, None
    for epoch in range(args.epochs):
        model.train()
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
        here = loss_of(model.eval(), held_out)
        if here < best:
            best, kept = here, (epoch + 1, copy.deepcopy(model.state_dict()))
        print(f"{share:.0%} labelled, epoch {epoch + 1}: {here:.4f} held out", flush=True)
    model.load_state_dict(kept[1])
    return model, kept[0]


@torch.no_grad()
def potentials_of(model, record):
    """Keyword arguments for functions on potentials."""
    features = torch.as_tensor(record.features, dtype=torch.float32)[None]
    return model.head.potentials(model.hidden(features))


def tempered(terms, temperature, names=None):
    """The model with these terms (default all) divided by a temperature."""
    chosen = set(terms) - {"lengths"} if names is None else set(names)
    return {
        name: x / temperature if name in chosen and x is not None else x
        for name, x in terms.items()
    }


def nll_of(terms, record):
    """-log P of the true segmentation, in nats."""
    truth = ts.Segments.from_labels(torch.from_numpy(labels_of(record))[None])
    return -float(ts.segment_log_prob(truth, **terms))


def loss_of(model, records):
    """Mean -log P of the true segmentations, for each position."""
    total = sum(nll_of(potentials_of(model, record), record) for record in records)
    return total / sum(record.length for record in records)


def model_temperature(model, records, names=None):
    """The temperature of these terms under which the true segmentations are most probable."""
    given = [potentials_of(model, record) for record in records]

    def loss(log_temperature):
        T = float(np.exp(log_temperature))
        pairs = zip(given, records, strict=True)
        return sum(nll_of(tempered(terms, T, names), record) for terms, record in pairs)

    found = minimize_scalar(loss, bounds=(-2, 2), method="bounded", options={"xatol": 1e-2})
    return float(np.exp(found.x))


def posteriors_of(model, records, temperature=1.0, names=None, near=False):
    """:class:`Found` of each record, of the model with a temperature."""
    for record in records:
        terms = tempered(potentials_of(model, record), temperature, names)
        found, at = ts.marginals(**terms), torch.arange(1, record.length)
        around = torch.stack((at - NEAR, at + NEAR + 1), -1).clamp(1, record.length)[None]
        beside = ts.window_marginals(around, **terms)[0].double().numpy() if near else np.empty(0)
        yield Found(
            found.labels[0].double().numpy(), found.boundaries[0, 1:].double().numpy(),
            beside, labels_of(record),
        )  # fmt: skip


def changes(labels):
    """(T - 1,) True where a label differs from the one before."""
    return labels[1:] != labels[:-1]


def together(found):
    """Posteriors and outcomes of all records, for each event."""
    cuts = [changes(one.true) for one in found]
    beside = [np.convolve(cut, np.ones(2 * NEAR + 1), "same") > 0 for cut in cuts]
    outcomes = {"label": [one.true for one in found], "boundary": cuts, "near": beside}
    given = {"label": "labels", "boundary": "boundary", "near": "near"}
    return {
        event: [np.concatenate(x) for x in ([getattr(one, given[event]) for one in found], y)]
        for event, y in outcomes.items()
    }


def calibration_rows(model, tune, judge):
    """One row for each event and scaling, and the curves."""
    whole = model_temperature(model, tune)
    scores = model_temperature(model, tune, ("scores",))
    plain = together(list(posteriors_of(model, judge, near=True)))
    held_out = together(list(posteriors_of(model, tune, near=True)))
    scaled = {
        "all potentials": (whole, list(posteriors_of(model, judge, whole, near=True))),
        "scores": (scores, list(posteriors_of(model, judge, scores, ("scores",), near=True))),
    }
    scaled = {name: (T, together(found)) for name, (T, found) in scaled.items()}
    rows, curves = [], {}
    for event in EVENTS:
        p, y = plain[event]
        T = metrics.fit_temperature(*held_out[event])
        cases = {"none": (1.0, p), "posterior": (T, metrics.apply_temperature(p, T))}
        cases |= {name: (T, found[event][0]) for name, (T, found) in scaled.items()}
        curves[event] = {}
        for scaling, (T, q) in cases.items():
            curve = curves[event][scaling] = metrics.reliability(q.clip(0, 1), y)
            worst = int(np.abs(curve.confidence - curve.frequency).argmax())
            rows.append({
                "event": event, "temperature on": scaling, "temperature": T,
                "mean": float(np.average(curve.confidence, weights=curve.counts)),
                "true": float(np.average(curve.frequency, weights=curve.counts)), "ECE": curve.ece,
                "MCE": curve.mce, "in its bin": int(curve.counts[worst]),
                "Brier": metrics.brier_score(q.clip(0, 1), y),
            })  # fmt: skip
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
    sure, right, length = np.array(
        [s for one in judge for s in segments_of(one.labels, one.true)]
    ).T
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
    given = [np.concatenate(([1.0], one.boundary)) for one in judge]
    guess = [np.flatnonzero(changes(one.labels.argmax(1))) + 1 for one in judge]
    true = [np.flatnonzero(changes(one.true)) + 1 for one in judge]
    return [{"level": x, **metrics.interval_coverage(given, guess, true, x)} for x in LEVELS]


def written(tables, page, pictures):
    """Put the tables between their marks in the page, and the pictures into ``images``."""
    text = page.read_text(encoding="utf-8")
    for name, rows in tables.items():
        lines = [
            list(rows[0]),
            ["---"] * len(rows[0]),
            *([shown(x) for x in r.values()] for r in rows),
        ]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        marks = rf"(<!-- {name}, from the command -->\n).*?(?=<!-- end -->)"
        text, count = re.subn(marks, lambda m, t=table: f"{m[1]}{t}\n", text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{page} must hold the marks of the table {name} once, found {count}")
    with atomic_write(page) as file:
        file.write(text)
    for picture in pictures:
        shutil.copy(picture, page.parent / "images" / f"uncertainty_{picture.name}")


def shown(value):
    """A cell of a table."""
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of LUDB")
    parser.add_argument("--output", type=Path, default=Path("runs/uncertainty"))
    parser.add_argument("--page", type=Path, help="page whose tables and pictures to write anew")
    parser.add_argument("--cache", type=Path, default=Path("runs/ecg"), help="for LUDB, unpacked")
    parser.add_argument("--epochs", type=int, default=40)
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
        model, epoch = trained(learn, tune, share, args)
        spent = time.process_time() - began
        found = list(posteriors_of(model, judge))
        right = np.concatenate([one.labels.argmax(1) == one.true for one in found])
        tables["labelled"].append({
            "labelled %": round(100 * share), "accuracy %": 100 * float(right.mean()),
            "-log P held out": loss_of(model, tune), "-log P judged": loss_of(model, judge),
            "epoch": epoch, "CPU s": round(spent),
        })  # fmt: skip
        if share == 1.0:
            tables["calibration"], curves = calibration_rows(model, tune, judge)
            tables["review"], selective = review_rows(found, args.seed)
            tables["coverage"] = coverage_rows(found)
            draw(curves, selective, tables["coverage"], args.output)
        with atomic_write(args.output / "tables.json") as file:
            json.dump(tables, file, indent=1)
    for rows in tables.values():
        print(metrics.format_table(rows, digits=3), flush=True)
    if args.page:
        written(tables, args.page, sorted(args.output.glob("*.png")))


def draw(curves, selective, coverage, folder):
    """All pictures."""
    for name, curve in curves.items():
        figure = plots.plot_reliability(curve, f"LUDB, {EVENTS[name]}", "temperature on")
        plots.save_figure(figure, folder / f"reliability_{name}.png")
    levels = {row["level"]: row["coverage"] for row in coverage}
    figure = plots.plot_coverage({"boundaries": levels}, "LUDB, intervals around boundaries")
    plots.save_figure(figure, folder / "coverage.png")
    figure = plots.plot_selective({"mean posterior": selective}, "LUDB, mean over segments")
    plots.save_figure(figure, folder / "selective.png")


if __name__ == "__main__":
    main()
