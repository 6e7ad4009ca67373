"""Genes of bacteria and archaea on whole chromosomes: read, train, annotate, compare."""

from __future__ import annotations

from torch_semimarkov.genes.annotate import Agreement, agreement, annotate
from torch_semimarkov.genes.fit import start_by_counting, stretches
from torch_semimarkov.genes.folder import load_gene_model, make_model, save_gene_model
from torch_semimarkov.genes.genome import (
    Annotation,
    Contig,
    Gene,
    read_contigs,
    read_genes,
    write_gff3,
)
from torch_semimarkov.genes.gold import Gold, genes_of, gold_of
from torch_semimarkov.genes.learning import GeneConfig, GeneTrainer
from torch_semimarkov.genes.model import GeneModel, GenomeInput
from torch_semimarkov.genes.states import GeneticCode

__all__ = [
    "Agreement",
    "Annotation",
    "Contig",
    "Gene",
    "GeneConfig",
    "GeneModel",
    "GeneTrainer",
    "GeneticCode",
    "GenomeInput",
    "Gold",
    "agreement",
    "annotate",
    "genes_of",
    "gold_of",
    "load_gene_model",
    "make_model",
    "read_contigs",
    "read_genes",
    "save_gene_model",
    "start_by_counting",
    "stretches",
    "write_gff3",
]
