"""P, QRS and T waves on lead II of LUDB: semi-CRF, linear CRF and argmax on the same encoder.

    python examples/ecg_delineation.py --data path/of/ludb --output runs/ecg

Trains one encoder on variations of all leads, then each model from there on those of lead II.
Prints, for each wave's onset and offset on the 40 test records, F1 within 150 and 20 ms, the signed
error (predicted - true, mean and sd in ms), and segment F1 at an intersection over union of 0.5.
Needs torch_semimarkov[ecg,plots]. One CPU thread (OMP_NUM_THREADS=1) takes 10 to 14 minutes;
with ``--records 20 --copies 1`` a minute, and finds little.
"""

import argparse
import json
import time
from pathlib import Path

from ecg_scores import draw, score
from ecg_variations import training_records
from ludb import open_ludb, read_leads, split_numbers

from torch_semimarkov.data import atomic_write
from torch_semimarkov.metrics import format_table
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


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of LUDB")
    parser.add_argument("--output", type=Path, default=Path("runs/ecg"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--records", type=int, default=200, help="how many of the 200 to use")
    parser.add_argument("--copies", type=int, default=12, help="variations of a record's lead II")
    args = parser.parse_args(arguments)
    if not 10 <= args.records <= 200 or args.copies < 1:
        parser.error("--records must be in 10..200, --copies at least 1")
    folder = open_ludb(args.data, args.output)
    learn, tune, judge = (part[: round(len(part) * args.records / 200)] for part in split_numbers())
    lead_two, others = training_records(folder, learn, args.seed, args.copies)
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
    print(format_table(rows, digits=2))
    with atomic_write(args.output / "table.json") as file:
        json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
