"""Made-up genomes with genes on both strands, some of them overlapping."""

from pathlib import Path

import numpy as np

from torch_semimarkov.genes import Contig, Gene, GeneticCode
from torch_semimarkov.genes.genome import BASES
from torch_semimarkov.genes.masks import codons_of, number_of, reverse_complement

CODE = GeneticCode.table(11)
HEAD = "##gff-version 3\n"
STOPS = tuple(map(number_of, CODE.stops))


def letters(codes: np.ndarray) -> str:
    """Bases as text."""
    return "".join(np.array([*BASES, "N"])[codes])


def codon(number: int) -> list[int]:
    """A codon's bases."""
    return [number // 16, number // 4 % 4, number % 4]


def coding(rng: np.random.Generator, codons: int) -> np.ndarray:
    """A gene of so many codons with a usage of its own, its stop codon included."""
    usable = [c for c in range(64) if c not in STOPS]
    usage = np.array([4.0 if c % 4 == 1 else 0.5 for c in usable])
    inner = rng.choice(usable, codons - 2, p=usage / usage.sum())
    numbers = [number_of("ATG"), *inner, rng.choice(STOPS)]
    return np.array([base for number in numbers for base in codon(number)], np.uint8)


def genome(seed: int = 0, genes: int = 12) -> tuple[Contig, list[Gene]]:
    """A contig and its genes; every fifth one overlaps the one before by ATGA's four bases."""
    rng = np.random.default_rng(seed)
    pieces, found, position = [rng.integers(0, 4, 40).astype(np.uint8)], [], 40
    for i in range(genes):
        body = coding(rng, int(rng.integers(30, 80)))
        strand = "+" if rng.random() < 0.5 else "-"
        if i % 5 == 4 and found[-1].strand == "+":
            strand = "+"
            pieces[-1][-6:] = [2, 1, 0, 3, 2, 0]  # GCA TGA, of which ATGA is shared
            body = body[4:]
            body[:2] = [1, 1]
            start = position - 4
        else:
            space = rng.integers(0, 4, int(rng.integers(20, 60))).astype(np.uint8)
            pieces.append(space)
            position += len(space)
            start = position
        pieces.append(body if strand == "+" else reverse_complement(body))
        position += len(body)
        found.append(Gene("made", start, position, strand, f"g{i}"))
    pieces.append(rng.integers(0, 4, 40).astype(np.uint8))
    return Contig("made", np.concatenate(pieces)), found


def stops_in_frame(gene: Gene, contig: Contig) -> int:
    """Stop codons among the codons of a gene."""
    codes = contig.codes[gene.start : gene.end]
    codes = codes if gene.strand == "+" else reverse_complement(codes)
    return int(np.isin(codons_of(codes)[::3], STOPS).sum())


def write_fasta(path: Path, *contigs: Contig) -> Path:
    """Sequences as FASTA, each on a line."""
    lines = [line for c in contigs for line in (f">{c.name} made up", letters(c.codes))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def gff_line(gene: Gene, kind: str = "CDS", attributes: str | None = None) -> str:
    """A gene as a line of GFF3."""
    place = f"{gene.start + 1}\t{gene.end}\t.\t{gene.strand}\t0"
    attributes = f"ID={gene.name};locus_tag={gene.name}" if attributes is None else attributes
    return f"{gene.contig}\tmade\t{kind}\t{place}\t{attributes}\n"


def write_genes(path: Path, *annotated: Gene) -> Path:
    """Genes as GFF3, the first one on line 2."""
    path.write_text(HEAD + "".join(map(gff_line, annotated)), encoding="utf-8")
    return path
