"""Encoders with as many weights under the same semi-CRF: accuracy on LUDB, and the cost of a step.

    python benchmarks/encoders_on_ecg.py --data path/of/ludb --output encoders.json
    python benchmarks/encoders_on_ecg.py --steps-only --output encoders.json

Trains each encoder on lead II of the 140 training records and on variations of them, keeps the
epoch with the lowest validation loss, and scores the 40 test records by posterior decoding: segment
F1 at an intersection over union of 0.5 and boundary F1 within 20 and 150 ms (mean of onsets and
offsets), all over P, QRS and T together.
Then measures a training step (forward, backward, AdamW; one sequence) of each at several T, each in
a process of its own: median CPU time, and by how much the process grew above what it held before.
CPU time on one thread is what the step takes on a machine that does nothing else. That of an epoch
includes validation.
Needs torch_semimarkov[ecg]; the memory, Linux.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from resident import growth_of

from torch_semimarkov import Segments, metrics
from torch_semimarkov.data import atomic_write
from torch_semimarkov.nn.segmenter import Architecture, SegmentationModel
from torch_semimarkov.training import Predictor, TrainConfig, train

ENCODERS = {
    "conv": {"encoder": "conv", "num_layers": 6},
    "unet": {"encoder": "unet", "num_layers": 5},
    "bilstm": {"encoder": "bilstm", "num_layers": 2},
    "ar-ssm": {"encoder": "ar-ssm", "num_layers": 4},
    "ar-ssm checkpointed": {"encoder": "ar-ssm", "num_layers": 4, "gradient_checkpointing": True},
}
LABELS, FEATURES, MAX_DURATION = 4, 4, 150
SHAPE = {"num_features": FEATURES, "num_classes": LABELS, "max_duration": MAX_DURATION}


def model_of(name, hidden_dim):
    """An untrained model."""
    config = TrainConfig(hidden_dim=hidden_dim, **ENCODERS[name])
    shared = {key: getattr(config, key) for key in ("encoder", "hidden_dim", "num_layers")}
    options = config.encoder_options()
    return SegmentationModel(Architecture(**SHAPE, **shared, encoder_options=options))


def size_of(name, wanted):
    """The hidden size whose model is closest to so many weights, and how many it has."""
    counts = {}
    for hidden_dim in range(4, 257, 2 if name == "bilstm" else 1):
        model = model_of(name, hidden_dim)
        counts[hidden_dim] = sum(p.numel() for p in model.parameters())
        if counts[hidden_dim] > wanted:
            break
    best = min(counts, key=lambda size: abs(counts[size] - wanted))
    return best, counts[best]


def step_cost(name, hidden_dim, length, repeats):
    """CPU seconds of a training step and MiB by which the process grew; call in a new process."""
    torch.manual_seed(0)
    model = model_of(name, hidden_dim).train()
    optimizer = torch.optim.AdamW(model.parameters())

    def step(T):
        segments = Segments.from_list([[(s, min(s + 25, T), s // 25 % 4) for s in range(0, T, 25)]])
        began = time.process_time()
        loss = model(torch.randn(1, T, FEATURES), torch.tensor([T]), segments).sum() / T
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return time.process_time() - began

    step(200)  # loads kernels, allocates the optimiser's state
    grown = growth_of(lambda: [step(length) for _ in range(repeats)])
    times = {"CPU ms": 1e3 * statistics.median(grown.result), "peak MiB": grown.bytes / 2**20}
    return {"T": length, **times}


def step_rows(name, args):
    """One row a length, each measured in a new process."""
    hidden_dim, weights = size_of(name, args.weights)
    for length in args.lengths:
        job = json.dumps([name, hidden_dim, length, args.repeats if length < 50_000 else 1])
        command = [sys.executable, __file__, "--one-step", job]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        yield {"encoder": name, "hidden": hidden_dim, "weights": weights, **json.loads(done.stdout)}


def read_records(args):
    """Records to train on with their variations, to validate on and to test on."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    import numpy as np
    from ecg_variations import varied
    from ludb import open_ludb, read_leads, split_numbers

    folder = open_ludb(args.data, args.cache)
    parts = [[r for n in part for r in read_leads(folder, n)] for part in split_numbers()]
    rng = np.random.default_rng(args.seed)
    parts[0] += [varied(record, rng) for record in parts[0] for _ in range(args.copies)]
    return parts


def trained_row(name, parts, args):
    """Train one encoder and score it."""
    hidden_dim, weights = size_of(name, args.weights)
    config = TrainConfig(
        hidden_dim=hidden_dim, max_duration=MAX_DURATION, epochs=args.epochs, batch_size=8,
        lr=args.lr, schedule="cosine", warmup_steps=50, head_lr=0.02, seed=args.seed, threads=1,
        **ENCODERS[name],
    )  # fmt: skip
    learn, tune, judge = parts
    began = time.process_time()
    trained = train(learn, tune, config, quiet=True, report=lambda line: print(line, flush=True))
    busy = (time.process_time() - began) / args.epochs
    encode = trained.saved.vocabulary.encode
    true = [trained.saved.vocabulary.encode_record(record) for record in judge]
    found = [
        [(s.start, s.end, encode(s.label)) for s in p.segments]
        for p in Predictor(trained.saved, decoding="posterior")(judge)
    ]
    waves = [encode(wave) for wave in ("P", "QRS", "T")]
    overlap = metrics.segment_scores(true, found, iou=0.5, labels=waves)
    row = {"encoder": name, "hidden": hidden_dim, "weights": weights}
    row["segment F1"] = 100 * overlap.micro.f1
    for ms in (20.0, 150.0):
        sides = [
            metrics.boundary_scores(
                true,
                found,
                ms,
                labels=waves,
                kind=kind,
                sample_rate=judge[0].sample_rate,
                unit="ms",
            )
            for kind in ("onset", "offset")
        ]
        row[f"boundary F1 {ms:.0f} ms"] = 100 * statistics.mean(side.micro.f1 for side in sides)
    seconds = [epoch["seconds"] for epoch in trained.progress.history]
    losses = trained.metrics()
    chosen = {"validation loss": losses["validation_loss"], "epoch": losses["best_epoch"]}
    return {**row, "s an epoch": statistics.median(seconds), "CPU s an epoch": busy, **chosen}


def save(path, found):
    """Write what there is so far, whole or not at all."""
    with atomic_write(path) as file:
        json.dump(found, file, indent=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of LUDB")
    parser.add_argument("--output", type=Path, default=Path("encoders_on_ecg.json"))
    parser.add_argument("--cache", type=Path, default=Path("runs/ecg"), help="for LUDB, unpacked")
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--weights", type=int, default=60_000, help="about so many a model")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--copies", type=int, default=1, help="variations of each record")
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument(
        "--repeats", type=int, default=5, help="steps of less than 50,000 positions"
    )
    parser.add_argument("--steps-only", action="store_true", help="train nothing")
    parser.add_argument("--one-step", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.one_step:
        print(json.dumps(step_cost(*args.one_step)))
        return
    if args.data is None and not args.steps_only:
        parser.error("give --data, or --steps-only")
    found = {
        "torch": torch.__version__,
        "threads": 1,
        "seed": args.seed,
        "trained": [],
        "steps": [],
    }
    if not args.steps_only:
        parts = read_records(args)
        for name in (n for n in args.encoders if "checkpointed" not in n):
            found["trained"].append(trained_row(name, parts, args))
            save(args.output, found)
            print(metrics.format_table(found["trained"], digits=2), flush=True)
    for name in args.encoders:
        found["steps"] += step_rows(name, args)
        save(args.output, found)
    print(metrics.format_table(found["steps"], digits=1))


if __name__ == "__main__":
    main()
