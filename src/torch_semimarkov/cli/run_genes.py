"""What ``genes`` does once its arguments are known."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from tqdm import tqdm

from torch_semimarkov import genes
from torch_semimarkov.cli.options import check_run_folder, made_folder
from torch_semimarkov.data import atomic_write
from torch_semimarkov.errors import ConfigError
from torch_semimarkov.genes.genome import is_genbank
from torch_semimarkov.training.folder import remove_run

_SHOWN = 3


@dataclass(frozen=True)
class TrainCall:
    """The arguments of one call of ``genes train``."""

    genome: Path
    annotation: Path | None
    output: Path
    settings: dict[str, Any]
    resume: bool
    overwrite: bool
    quiet: bool


def run_train(call: TrainCall) -> None:
    """Read, count, maximise the likelihood, save."""
    config = genes.GeneConfig(**call.settings)
    code = genes.GeneticCode.table(config.genetic_code)
    check_run_folder(call.output, call.resume, call.overwrite)
    contigs, annotation = _read(call.genome, call.annotation)
    _say_left_out("left out", annotation.left_out)
    data = [genes.gold_of(contig, annotation.genes, code, annotation.unclear) for contig in contigs]
    _say_left_out("not in the training", [line for gold in data for line in gold.left_out])
    count = sum(len(gold.genes) for gold in data)
    if count < 2:
        raise ConfigError(f"{call.annotation or call.genome}: {count} genes to train on, need 2")
    torch.manual_seed(config.seed)
    model = genes.make_model(config)
    genes.start_by_counting(model, data)
    parts = [part for gold in data for part in genes.stretches(gold, config.stretch)]
    click.echo(f"{count} genes on {len(contigs)} contigs; {len(parts)} stretches to train on")
    report = (lambda line: None) if call.quiet else click.echo
    with made_folder(call.output):
        trainer = genes.GeneTrainer(model, parts, config, call.output, report, call.quiet)
        if call.resume:
            trainer.resume()
        elif call.overwrite:
            remove_run(call.output)
        steps = trainer.run()
        metrics = {"loss": steps.history, "loss_unit": "nats per base", "genes": count}
        genes.save_gene_model(call.output, model, config, metrics)
    click.echo(f"model: {call.output}")


def run_annotate(
    model: Path, genome: Path, output: Path, posterior: bool, min_length: int, quiet: bool
) -> None:
    """Decode every contig and write GFF3."""
    loaded = genes.load_gene_model(model)
    contigs = genes.read_contigs(genome)
    found = []
    hidden = True if quiet else None
    with atomic_write(output) as file:
        bases = sum(contig.length for contig in contigs)
        with tqdm(total=bases, unit="base", unit_scale=True, disable=hidden, leave=False,
                  file=sys.stderr) as bar:  # fmt: skip
            for contig in contigs:
                found += genes.annotate(loaded, contig, posterior, min_length)
                bar.update(contig.length)
        genes.write_gff3(file, contigs, found)
    click.echo(f"{len(found)} genes on {len(contigs)} contigs: {output}")


def run_evaluate(predicted: Path, genome: Path, annotation: Path | None) -> None:
    """Print sensitivity and precision."""
    contigs, gold = _read(genome, annotation)
    _say_left_out("left out of the annotation", gold.left_out)
    guess = genes.read_genes(predicted, contigs)
    found = genes.agreement(gold.genes, guess.genes)
    click.echo(f"{found.annotated} annotated genes, {found.predicted} predicted")
    for name, (sensitivity, precision) in found.rows().items():
        click.echo(f"{name:<11} sensitivity {sensitivity:.4f}  precision {precision:.4f}")


def _read(genome: Path, annotation: Path | None) -> tuple[Sequence[genes.Contig], genes.Annotation]:
    if annotation is None and not is_genbank(genome):
        raise ConfigError(f"{genome} is no GenBank file, so --annotation must name a GFF3 file")
    contigs = genes.read_contigs(genome)
    return contigs, genes.read_genes(annotation or genome, contigs)


def _say_left_out(what: str, lines: Sequence[str]) -> None:
    for line in lines[:_SHOWN]:
        click.echo(f"{what}: {line}", err=True)
    if len(lines) > _SHOWN:
        click.echo(f"{what}: {len(lines) - _SHOWN} more", err=True)
