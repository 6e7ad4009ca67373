"""P, QRS and T waves on lead II of LUDB: semi-CRF, linear CRF and argmax on the same encoder.

    python examples/ecg_delineation.py --data path/of/ludb --output runs/ecg

Trains one encoder on variations of all leads, then each model from there on those of lead II.
Prints, for each wave's onset and offset on the 40 test records, F1 within 150 and 20 ms, the signed
error (predicted - true, mean and sd in ms), and segment F1 at an intersection over union of 0.5.
Needs torch_semimarkov[ecg,plots]. One CPU thread (OMP_NUM_THREADS=1) takes 10 to 14 minutes.
"""

import argparse
import json
import time
from pathlib import Path

from ecg_variations import training_records
from ludb import WAVES, open_ludb, read_leads, split_numbers

from torch_semimarkov import metrics, plots
from torch_semimarkov.data import atomic_write
from torch_semimarkov.training import Predictor, TrainConfig, save_model, train

MODEL = {
    "encoder": "unet", "num_layers": 6, "hidden_dim": 24, "max_duration": 150, "batch_size": 8,
    "schedule": "cosine", "warmup_steps": 50,
}  # fmt: skip


def timed(name, training, held_out, config):
    """A trained model; prints wall-clock and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    saved = train(training, held_out, config, report=print).saved
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name}: trained in {wall:.0f} s ({cpu:.0f} s of CPU time)", flush=True)
    return saved


def coded(segments, vocabulary):
    """Segments with label numbers for names."""
    return [(start, end, vocabulary.encode(label)) for start, end, label in segments]


def score(saved, test, predictions):
    """One row a wave and side."""
    code, rate = saved.vocabulary.encode, test[0].sample_rate
    true = [saved.vocabulary.encode_record(record) for record in test]
    found = [coded(p.segments, saved.vocabulary) for p in predictions]
    overlap = metrics.segment_scores(true, found, iou=0.5, labels=[code(w) for w in WAVES])
    for wave, kind in ((wave, kind) for wave in WAVES for kind in ("onset", "offset")):
        wide, near = (
            metrics.boundary_scores(true, found, ms, kind=kind, sample_rate=rate, unit="ms")
            for ms in (150.0, 20.0)
        )
        wide, near = wide.per_label[code(wave)], near.per_label[code(wave)]
        yield {
            "model": saved.model.architecture.head, "boundary": f"{wave} {kind}",
            "F1 150 ms": 100 * wide.f1, "F1 20 ms": 100 * near.f1, "mean ms": wide.error_mean,
            "sd ms": wide.error_sd, "segment F1": 100 * overlap.per_label[code(wave)].f1,
        }  # fmt: skip


def draw(prediction, vocabulary, path):
    """The first ten seconds at most of one test record."""
    record = prediction.record
    true = vocabulary.encode_record(record)
    found = coded(prediction.segments, vocabulary)
    figure = plots.plot_segmentation(
        record.features.mean(1), true, found, prediction.labels, prediction.boundaries,
        vocabulary.names, record.sample_rate, f"LUDB record {record.name}",
    )  # fmt: skip
    plots.save_figure(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of LUDB")
    parser.add_argument("--output", type=Path, default=Path("runs/ecg"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = open_ludb(args.data, args.output)
    learn, tune, judge = split_numbers()
    lead_two, others = training_records(folder, learn, args.seed)
    held_out, test = ([r for n in part for r in read_leads(folder, n)] for part in (tune, judge))
    first = TrainConfig(head="argmax", epochs=2, lr=2e-3, seed=args.seed, **MODEL)
    save_model(args.output / "encoder", timed("encoder", lead_two + others, held_out, first))
    rows = []
    for head in ("semi-crf", "linear-crf", "argmax"):
        config = TrainConfig(
            head=head, start_from=str(args.output / "encoder"), epochs=1, lr=5e-4, head_lr=0.02,
            seed=args.seed, **MODEL,
        )  # fmt: skip
        saved = timed(head, lead_two, held_out, config)
        predictions = list(Predictor(saved, posteriors=True, decoding="posterior")(test))
        rows += score(saved, test, predictions)
        save_model(args.output / head, saved)
        draw(predictions[0], saved.vocabulary, args.output / f"{head}.png")
    print(metrics.format_table(rows, digits=2))
    with atomic_write(args.output / "table.json") as file:
        json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
