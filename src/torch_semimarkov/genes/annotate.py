"""Genes of a whole contig by a trained model, with their probabilities; and how good they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from torch_semimarkov import functional
from torch_semimarkov.genes.genome import Contig, Gene
from torch_semimarkov.genes.gold import genes_of
from torch_semimarkov.genes.model import GeneModel, GenomeInput
from torch_semimarkov.genes.states import FORWARD, FORWARD_INTO, FRAMES, REVERSE, REVERSE_INTO

# Bases of a gene that is annotated, at least.
SHORTEST_GENE = 90


@torch.no_grad()
def annotate(
    model: GeneModel, contig: Contig, posterior: bool = True, min_length: int = SHORTEST_GENE
) -> list[Gene]:
    """The genes of the most likely segmentation of a contig, which is never cut into windows.

    Args:
        model: the trained model.
        contig: the bases.
        posterior: also give each gene its probability: that some segmentation drawn from the model
            has a gene with this start, and so with this stop codon.
        min_length: bases of a gene, its stop codon included; shorter ones are left out. They are
            too short for their codons to say much, and the usual length from which genes are
            annotated is 90 (Hyatt et al. 2010, Prodigal).
    """
    terms = model.terms(GenomeInput.of(contig, model.code))
    found = functional.viterbi(**terms)
    laid = genes_of(contig, found.segments.to_list()[0], model.code)
    genes = [gene for gene in laid if gene.end - gene.start >= min_length]
    if not posterior:
        return genes
    marginals = functional.marginals(**terms)
    return [replace(gene, score=_probability(marginals, gene)) for gene in genes]


def _probability(marginals: functional.Marginals, gene: Gene) -> float:
    """A start codon decides on the stop codon, so the probability of the start is the gene's."""
    frame = gene.start % FRAMES
    if gene.strand == "+":
        at, labels = marginals.starts[0, gene.start], (FORWARD + frame, FORWARD_INTO + frame)
    else:
        at, labels = marginals.ends[0, gene.end - 1], (REVERSE + frame, REVERSE_INTO + frame)
    return min(1.0, float(at[list(labels)].sum()))


@dataclass(frozen=True)
class Agreement:
    """How predicted genes agree with annotated ones; counts of genes.

    Args:
        annotated, predicted: all of them.
        found: annotated genes whose stop codon was predicted.
        exact: those whose start was, too.
    """

    annotated: int
    predicted: int
    found: int
    exact: int

    def rows(self) -> dict[str, tuple[float, float]]:
        """Sensitivity and precision in 0..1, for stop codons and for whole genes."""
        sizes = max(self.annotated, 1), max(self.predicted, 1)
        return {
            "stop codon": (self.found / sizes[0], self.found / sizes[1]),
            "exact gene": (self.exact / sizes[0], self.exact / sizes[1]),
        }


def agreement(annotated: Iterable[Gene], predicted: Iterable[Gene]) -> Agreement:
    """Compare two annotations of the same genome.

    >>> one = [Gene("c", 0, 90, "+"), Gene("c", 200, 260, "-")]
    >>> agreement(one, [Gene("c", 30, 90, "+")]).rows()["stop codon"]
    (0.5, 1.0)
    """
    gold, guess = list(annotated), list(predicted)
    stops = {gene.stop_site for gene in gold} & {gene.stop_site for gene in guess}
    whole = {gene.site for gene in gold} & {gene.site for gene in guess}
    return Agreement(
        len({gene.stop_site for gene in gold}), len({g.stop_site for g in guess}),
        len(stops), len(whole),
    )  # fmt: skip
