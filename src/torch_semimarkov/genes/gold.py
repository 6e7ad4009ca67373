"""From annotated genes to the one segmentation of a contig that they mean, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from torch_semimarkov.genes.genome import UNKNOWN, Contig, Gene
from torch_semimarkov.genes.masks import NO_CODON, Sites, next_in_frame, strands
from torch_semimarkov.genes.states import (
    FORWARD,
    FORWARD_INTO,
    FRAMES,
    INTERGENIC,
    KIND_OF,
    KINDS,
    LONGEST_OVERLAP,
    REVERSE,
    REVERSE_INTO,
    REVERSE_STOP,
    SHORTEST,
    STOP,
    GeneticCode,
)
from torch_semimarkov.segments import Segment


@dataclass(frozen=True)
class Gold:
    """The segmentation of a contig by its annotated genes.

    Args:
        segments: tiling the contig, with labels of ``states``.
        genes: the genes in it.
        left_out: one line of text for each gene that is not in it, and why.
        contig: the bases, those unknown that belong to no gene here but to one left out or to
            another unclear feature. They count as intergenic, yet look like a gene: a model that
            is trained on them learns to miss genes with a usage of codons of their own.
    """

    segments: tuple[Segment, ...]
    genes: tuple[Gene, ...]
    left_out: tuple[str, ...]
    contig: Contig


def gold_of(
    contig: Contig, genes: Iterable[Gene], code: GeneticCode, unclear: Iterable[Gene] = ()
) -> Gold:
    """The segmentation by the genes of a contig that the model can express.

    Args:
        contig: the bases.
        genes: annotated genes; those of other contigs are passed over.
        code: the genetic code.
        unclear: features that may be genes or their remains, such as pseudogenes; likewise.
    """
    sites = dict(zip("+-", strands(contig, code), strict=True))
    left_out, fit, hidden = [], [], [x for x in unclear if x.contig == contig.name]
    for gene in sorted((g for g in genes if g.contig == contig.name), key=lambda g: g.start):
        problem = _problem(gene, sites[gene.strand], contig.length)
        if problem:
            left_out.append(f"{gene.where} {problem}")
            hidden.append(gene)
        else:
            fit.append(gene)
    kept: list[Gene] = []
    for gene in fit:
        while kept and (problem := _conflict(kept[-1], gene)):
            shorter = min(kept[-1], gene, key=lambda g: g.end - g.start)
            left_out.append(f"{shorter.where} {problem}")
            hidden.append(shorter)
            if shorter is gene:
                break
            kept.pop()
        else:
            kept.append(gene)
    segments = tuple(_segments(kept, contig.length))
    return Gold(segments, tuple(kept), tuple(left_out), _hide(contig, kept, hidden))


def _hide(contig: Contig, genes: Iterable[Gene], hidden: Iterable[Gene]) -> Contig:
    """The contig with unknown bases where there are features to hide and no genes."""
    codes = contig.codes.copy()
    for feature in hidden:
        codes[feature.start : feature.end] = UNKNOWN
    for gene in genes:
        codes[gene.start : gene.end] = contig.codes[gene.start : gene.end]
    return Contig(contig.name, codes)


def _problem(gene: Gene, sites: Sites, T: int) -> str:
    """Why a gene breaks the rules of its strand; empty if it does not."""
    start = gene.start if gene.strand == "+" else T - gene.end
    stop = start + gene.end - gene.start - FRAMES
    if stop - start < SHORTEST:
        return f"has {gene.end - gene.start} bases only"
    unknown = sites.codons[start : stop + FRAMES : FRAMES] == NO_CODON
    if unknown[0] or unknown[-1]:
        return f"has an unknown base in its {'start' if unknown[0] else 'stop'} codon"
    if not sites.stops[stop]:
        return "does not end at a stop codon"
    if sites.stops[start:stop:FRAMES].any():
        return "has a stop codon in its frame"
    return "" if sites.starts[start] > 0 else "does not start at a start codon"


def _conflict(left: Gene, right: Gene) -> str:
    """Why two genes cannot both be in a segmentation; empty if they can."""
    overlap = left.end - right.start
    if overlap <= 0:
        return ""
    if overlap > LONGEST_OVERLAP:
        return f"overlaps a longer gene by {overlap} bases"
    if right.end - left.end < SHORTEST or right.start - left.start < SHORTEST:
        return "lies in a longer gene"
    if (left.strand, right.strand) == ("-", "+"):
        return "overlaps a longer gene at the starts of both"
    return ""


def _segments(genes: Sequence[Gene], T: int) -> list[Segment]:
    """Segments that tile [0, T)."""
    found: list[Segment] = []
    position = 0
    for i, gene in enumerate(genes):
        after = genes[i + 1].start if i + 1 < len(genes) else T
        if gene.start > position:
            found.append(Segment(position, gene.start, INTERGENIC))
        if gene.strand == "+":
            found += _forward(gene, after)
        else:
            found += _reverse(gene, position)
        position = found[-1].end
    if position < T:
        found.append(Segment(position, T, INTERGENIC))
    return found


def _forward(gene: Gene, after: int) -> list[Segment]:
    frame = gene.start % FRAMES
    if after < gene.end:
        return [Segment(gene.start, after, FORWARD_INTO + frame)]
    stop = gene.end - FRAMES
    return [Segment(gene.start, stop, FORWARD + frame), Segment(stop, gene.end, STOP)]


def _reverse(gene: Gene, before: int) -> list[Segment]:
    frame = gene.start % FRAMES
    if before > gene.start:
        return [Segment(before, gene.end, REVERSE_INTO + frame)]
    stop = gene.start + FRAMES
    return [Segment(gene.start, stop, REVERSE_STOP), Segment(stop, gene.end, REVERSE + frame)]


def genes_of(contig: Contig, segments: Iterable[Segment], code: GeneticCode) -> list[Gene]:
    """The genes that a segmentation means, their stop codons included.

    Args:
        contig: the bases.
        segments: labels of ``states``.
        code: the genetic code.
    """
    T = contig.length
    forward, reverse = (next_in_frame(sites.stops > 0) for sites in strands(contig, code))
    genes = []
    for start, end, label in segments:
        kind = KINDS[KIND_OF[label]]
        if kind in ("forward", "forward into"):
            stop = int(forward[start])
            genes.append(Gene(contig.name, start, stop + FRAMES, "+"))
        elif kind in ("reverse", "reverse into"):
            stop = int(reverse[T - end])
            genes.append(Gene(contig.name, T - stop - FRAMES, end, "-"))
    return genes


def as_array(segments: Sequence[Segment]) -> np.ndarray:
    """(N, 3) int64 rows of start, end, label."""
    return np.array(segments, np.int64).reshape(-1, 3)
