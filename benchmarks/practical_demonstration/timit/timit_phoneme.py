"""Phones of TIMIT, or of any audio with labelled phones: semi-CRF, linear CRF and pytorch-crf.

    python timit_phoneme.py preprocess --timit-dir TIMIT --output-dir runs/timit/data
    python timit_phoneme.py train --data-dir runs/timit/data --model semicrf
    python timit_phoneme.py compare --data-dir runs/timit/data --output-json table.json

Needs torch_semimarkov[speech,plots], and pytorch-crf for the model of that name. See
docs/recipes/speech.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from phone_models import BACKENDS, HEADS, MODELS, refuse_unused

from torch_semimarkov.cli.group import Commands
from torch_semimarkov.durations import DURATION_DISTRIBUTIONS
from torch_semimarkov.training import TrainConfig

PATH = click.Path(path_type=Path)
POSITIVE = click.IntRange(min=1)
DEFAULTS = {"hidden_dim": 64, "num_layers": 4, "epochs": 50, "batch_size": 16, "lr": 0.003}


class Recipe(Commands):
    """The commands of this file, with the library's way to report a user's mistake."""

    list_commands = click.Group.list_commands
    get_command = click.Group.get_command

    def main(self, args: Any = None, prog_name: str | None = None, **extra: Any) -> Any:
        """Run and exit: 0 done, 2 the user's mistake, 130 interrupted."""
        super().main(args, prog_name or "timit_phoneme.py", **extra)


@click.group(
    cls=Recipe,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
def cli() -> None:
    """Phones in speech: which, and from when to when."""


@cli.command(name="preprocess")
@click.option("--timit-dir", type=PATH, required=True, help="The corpus: TIMIT, or any folder.")
@click.option("--output-dir", type=PATH, required=True, help="Folder for the records.")
@click.option(
    "--feature-type", type=click.Choice(("mfcc", "mel")), default="mfcc", show_default=True,
    help="Cepstra with first and second differences, or log mel energies.",
)  # fmt: skip
@click.option("--n-mfcc", type=POSITIVE, default=13, show_default=True, help="Cepstra.")
@click.option("--n-mels", type=POSITIVE, default=40, show_default=True, help="Mel filters.")
@click.option(
    "--sample-rate", type=POSITIVE, default=16000, show_default=True,
    help="Hz; audio at another rate is resampled.",
)  # fmt: skip
@click.option(
    "--frame-ms", type=click.FloatRange(1, 100), default=10.0, show_default=True,
    help="Milliseconds a position.",
)  # fmt: skip
@click.option(
    "--phone-set", type=click.Choice(("auto", "timit", "open")), default="auto", show_default=True,
    help="timit: the 61 phones, folded to 48 to learn and 39 to score; open: as they are; auto: "
    "timit for .PHN, open for TextGrids.",
)  # fmt: skip
@click.option("--tier", help="Tier of the TextGrids.  [default: phones, phonetic, ...]")
@click.option("--full-test", is_flag=True, help="Test on all other speakers of TEST, not on 24.")
@click.option("--keep-sa", is_flag=True, help="Keep the two sentences that all speakers read.")
@click.option("--skip-broken", is_flag=True, help="Leave out what cannot be used, and say so.")
@click.option("--overwrite", is_flag=True, help="Replace the records of other settings.")
def preprocess_command(timit_dir: Path, output_dir: Path, *, overwrite: bool, **given: Any) -> None:
    """Features and labels of a corpus, one file an utterance.

    A corpus in TIMIT's layout (TRAIN and TEST, DR1 to DR8, a folder a speaker, .WAV in RIFF or
    SPHERE, .PHN) is parted as usual: core test set, 50 development speakers, no SA sentences. Any
    other folder holds audio with a .TextGrid or .PHN of the same name beside it; train and compare
    part it.

    A run that was stopped goes on where it was when the same command is given again.
    """
    from phone_audio import FeatureSettings
    from phone_preprocess import Preprocessing, preprocess

    audio = {name: given.pop(name) for name in ("n_mfcc", "n_mels", "sample_rate", "frame_ms")}
    features = FeatureSettings(given.pop("feature_type"), **audio)
    job = Preprocessing(timit_dir, output_dir, features, **given)
    preprocess(job, click.echo, overwrite=overwrite)


def training_options(function: Any) -> Any:
    """The flags that train and compare share."""
    add = click.option
    options = [
        add("--data-dir", type=PATH, required=True, help="Folder that preprocess wrote."),
        add("--max-duration", type=POSITIVE,
            help="Longest duration of the semi-CRF, in positions; longer phones are split.  "
            "[default: suggested from the data]"),
        add("--duration-distribution", type=click.Choice(DURATION_DISTRIBUTIONS),
            help="Durations of the semi-CRF; all but learned and uniform have one or two weights "
            "a phone.  [default: learned]"),
        add("--hidden-dim", type=POSITIVE, help="Size of the hidden states.  [default: 64]"),
        add("--num-layers", type=POSITIVE, help="Layers of the encoder.  [default: 4]"),
        add("--encoder", type=click.Choice(("conv", "bilstm", "unet", "ar-ssm")),
            help="[default: conv]"),
        add("--dropout", type=click.FloatRange(0, 1, max_open=True), help="[default: 0.1]"),
        add("--epochs", type=POSITIVE, help="Most epochs.  [default: 50]"),
        add("--patience", type=POSITIVE,
            help="Stop after so many epochs without a lower validation loss.  [default: 10]"),
        add("--batch-size", type=POSITIVE, help="Utterances a batch.  [default: 16]"),
        add("--lr", type=click.FloatRange(0, min_open=True),
            help="Learning rate.  [default: 0.003]"),
        add("--crf-reg", type=click.FloatRange(0),
            help="Weight of the squared transitions and durations in the loss.  [default: 0]"),
        add("--fixed-length", type=POSITIVE,
            help="Train on pieces of exactly so many positions, to see whether a fault needs "
            "ragged ends."),
        add("--no-triton", is_flag=True, help="Leave the Triton kernels out."),
        add("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True,
            help="What runs our heads."),
        add("--log-every", type=click.IntRange(min=0), default=0,
            help="Print the loss every so many batches.  [default: once an epoch]"),
        add("--split-by", type=click.Choice(("word", "folder", "file")), default="word",
            show_default=True,
            help="What must not be in two parts, where the corpus fixes none; drawn by the seed."),
        add("--device", help="auto, cpu, cuda, ...  [default: auto]"),
        add("--threads", type=POSITIVE, help="CPU threads.  [default: as torch chooses]"),
        add("--overwrite", is_flag=True, help="Replace what is there."),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def config_of(given: dict[str, Any]) -> tuple[TrainConfig, tuple[str, ...]]:
    """The settings of the training room, and the flags that not every model understands."""
    flags = {
        "--max-duration": given.get("max_duration") is not None,
        "--duration-distribution": given.get("duration_distribution") is not None,
        "--no-triton": given["no_triton"],
        "--backend": given["backend"] != "auto",
    }
    fields = TrainConfig.__dataclass_fields__
    values = {k: v for k, v in given.items() if k in fields and v is not None}
    config = TrainConfig(**{**DEFAULTS, **values, "triton": not given["no_triton"]})
    return config, tuple(flag for flag, there in flags.items() if there)


@cli.command(name="train")
@click.option("--model", type=click.Choice(MODELS), default="semicrf", show_default=True)
@click.option("--output-dir", type=PATH, help="Folder.  [default: DATA_DIR/runs/MODEL-seedSEED]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in the output folder.")
@training_options
def train_command(
    data_dir: Path, model: str, output_dir: Path | None, *, resume: bool, overwrite: bool,
    **given: Any,
) -> None:  # fmt: skip
    """Train one model; its folder also serves "torch-semimarkov predict" and "evaluate".

    Ctrl-C stops after the batch in progress and leaves a checkpoint; the same command with
    --resume goes on to the same result. PYTHONLOGLEVEL=DEBUG shows the largest transition and
    duration of each epoch.
    """
    from phone_training import Job, load_data, train_model

    from torch_semimarkov.cli.options import check_run_folder

    config, flags = config_of({**given, "head": HEADS[model]})
    refuse_unused((model,), flags)
    output = output_dir or data_dir / "runs" / f"{model}-seed{config.seed}"
    chosen = {name: given[name] for name in ("backend", "log_every", "split_by")}
    job = Job(data_dir, output, model, config, **chosen)
    check_run_folder(job.output, resume, overwrite)
    _, went = train_model(job, load_data(job), click.echo, resume=resume)
    click.echo(
        f"best epoch {went['best_epoch']} of {went['epochs']}, validation loss "
        f"{went['validation_loss']:.4f}, {went['seconds']:.0f} s; model: {output}"
    )


@cli.command(name="compare")
@click.option(
    "--models", multiple=True, type=click.Choice(MODELS), default=MODELS, show_default=True,
    help="May be given more than once.",
)  # fmt: skip
@click.option(
    "--seeds", multiple=True, type=click.IntRange(min=0), default=(0, 1, 2), show_default=True,
    help="May be given more than once.",
)  # fmt: skip
@click.option("--runs-dir", type=PATH, help="Folder of the models.  [default: DATA_DIR/runs]")
@click.option("--output-json", type=PATH, help="Write every number to this file.")
@click.option("--plot-dir", type=PATH, help="Write pictures to this folder.")
@click.option("--export-duration", type=PATH, help="Write the durations of each phone to a JSON.")
@training_options
def compare_command(
    data_dir: Path, models: tuple[str, ...], seeds: tuple[int, ...], runs_dir: Path | None,
    *, output_json: Path | None, plot_dir: Path | None, export_duration: Path | None,
    overwrite: bool, **given: Any,
) -> None:  # fmt: skip
    """Train the models by each seed, and score them on the test records.

    A model that is there already is only scored, and one that was stopped goes on, so a stopped
    comparison loses nothing: give the same command again.

    --max-duration, --backend and --no-triton count for the models that have them.
    """
    from phone_compare import Comparison, compare
    from phone_training import Job

    config, flags = config_of({**given, "head": HEADS[models[0]]})
    refuse_unused(models, flags)
    chosen = {name: given[name] for name in ("backend", "log_every", "split_by")}
    runs = runs_dir or data_dir / "runs"
    job = Job(data_dir, runs, models[0], config, **chosen)
    asked = Comparison(
        job, tuple(dict.fromkeys(models)), tuple(dict.fromkeys(seeds)), runs,
        output_json, plot_dir, export_duration, overwrite,
    )  # fmt: skip
    compare(asked, click.echo)


if __name__ == "__main__":
    cli()
