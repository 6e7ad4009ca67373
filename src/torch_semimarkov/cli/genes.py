"""``torch-semimarkov genes``: train on an annotated genome, annotate another, compare."""

from __future__ import annotations

from pathlib import Path

import click

from torch_semimarkov.cli.options import PATH

genome_option = click.option(
    "--genome", type=PATH, required=True, help="FASTA or GenBank file, gzipped or not."
)


@click.group()
def command() -> None:
    """Find the genes of bacteria and archaea on whole chromosomes.

    A gene starts at a start codon, ends at a stop codon, has whole codons and no stop codon among
    them: these are hard constraints. Codon usage, start sites, overlaps and durations are learned.

    \b
    Examples:
      torch-semimarkov genes train --genome k12.fna --annotation k12.gff -o runs/coli
      torch-semimarkov genes annotate runs/coli --genome new.fna -o new.gff3
      torch-semimarkov genes evaluate new.gff3 --genome new.fna --annotation curated.gff
    """


@command.command()
@genome_option
@click.option(
    "--annotation", type=PATH, help="GFF3 file; default the features of a GenBank --genome."
)
@click.option("--output", "-o", type=PATH, required=True, help="Folder for the model.")
@click.option("--genetic-code", type=int, default=11, show_default=True, help="NCBI's table.")
@click.option(
    "--max-duration", type=int, default=900, show_default=True,
    help="Longest duration with a weight of its own, in bases; longer ones decay geometrically.",
)  # fmt: skip
@click.option("--epochs", type=int, default=10, show_default=True, help="Passes over the genome.")
@click.option("--lr", type=float, default=0.01, show_default=True, help="Learning rate of Adam.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of weights and order.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in the output folder.")
@click.option("--overwrite", is_flag=True, help="Replace a run that is in the output folder.")
@click.option("--quiet", is_flag=True, help="No progress bar and no line for each epoch.")
def train(
    genome: Path,
    annotation: Path | None,
    *,
    output: Path,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    **settings: float,
) -> None:
    """Train a gene model on an annotated genome.

    The weights start from counts of the annotated genes; then the likelihood of the annotation is
    maximised on stretches that are cut between genes. Ctrl-C leaves a checkpoint for --resume.
    """
    from torch_semimarkov.cli.run_genes import TrainCall, run_train

    run_train(TrainCall(genome, annotation, output, settings, resume, overwrite, quiet))


@command.command()
@click.argument("model", type=PATH)
@genome_option
@click.option("--output", "-o", type=PATH, required=True, help="GFF3 file to write.")
@click.option(
    "--min-length", type=click.IntRange(min=0), default=90, show_default=True,
    help="Leave out genes of fewer bases, stop codon included.",
)  # fmt: skip
@click.option("--no-posterior", is_flag=True, help="Leave the score column empty; 4 times faster.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def annotate(
    model: Path, genome: Path, *, output: Path, min_length: int, no_posterior: bool, quiet: bool
) -> None:
    """Write the genes of a genome as GFF3.

    MODEL is a folder made by "genes train". Every contig is decoded as a whole. The score column is
    the probability of the gene, its start included.
    """
    from torch_semimarkov.cli.run_genes import run_annotate

    run_annotate(model, genome, output, not no_posterior, min_length, quiet)


@command.command()
@click.argument("predicted", type=PATH)
@genome_option
@click.option(
    "--annotation", type=PATH, help="GFF3 file; default the features of a GenBank --genome."
)
def evaluate(predicted: Path, genome: Path, *, annotation: Path | None) -> None:
    """Compare the genes of a GFF3 file with an annotation of the same genome.

    A gene is found if its stop codon is; it is exact if its start is, too.
    """
    from torch_semimarkov.cli.run_genes import run_evaluate

    run_evaluate(predicted, genome, annotation)
