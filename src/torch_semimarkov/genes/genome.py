"""Contigs and genes, and how they are read: FASTA, GFF3 and GenBank, gzipped or not."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from torch_semimarkov.errors import FileFormatError, UnsupportedError

# What a base is as a number; 4 is any other letter, such as N.
BASES, UNKNOWN = "ACGT", 4
_CODE = np.full(256, UNKNOWN, np.uint8)
for _i, _letter in enumerate(BASES):
    _CODE[ord(_letter)] = _CODE[ord(_letter.lower())] = _i
_GENBANK = (".gb", ".gbk", ".gbff", ".genbank")


@dataclass(frozen=True, eq=False)
class Contig:
    """One sequence of a genome.

    Args:
        name: its identifier in the FASTA file.
        codes: (T,) uint8; 0..3 for A, C, G, T and 4 for any other letter.
    """

    name: str
    codes: np.ndarray

    @property
    def length(self) -> int:
        """Number of bases T."""
        return len(self.codes)

    @classmethod
    def from_text(cls, name: str, text: str) -> Contig:
        """A contig from its letters.

        >>> Contig.from_text("c", "ACGTN").codes.tolist()
        [0, 1, 2, 3, 4]
        """
        return cls(name, _CODE[np.frombuffer(text.encode("ascii", "replace"), np.uint8)])


@dataclass(frozen=True)
class Gene:
    """A coding sequence without introns, its stop codon included.

    Args:
        contig: name of the contig.
        start, end: half-open ``[start, end)`` in bases from 0 on, on either strand.
        strand: "+" or "-".
        name: how tables call it.
        score: probability in 0..1; None for an annotated gene.
        line: where it stands in its file.
        file: that file.
    """

    contig: str
    start: int
    end: int
    strand: str
    name: str = ""
    score: float | None = None
    line: int | None = None
    file: Path | None = None

    @property
    def where(self) -> str:
        """How a message calls it: its file and line if they are known, and its name.

        >>> Gene("c", 0, 90, "+", "thrL", line=7, file=Path("k12.gff")).where
        'k12.gff:7: thrL'
        """
        line = "" if self.line is None else f":{self.line}"
        file = "" if self.file is None else f"{self.file}{line}: "
        return f"{file}{self.name or self.site}"

    @property
    def stop_site(self) -> tuple[str, int, str]:
        """What two annotations of the same gene share wherever they let it start."""
        return self.contig, self.end if self.strand == "+" else self.start, self.strand

    @property
    def site(self) -> tuple[str, int, int, str]:
        """What two annotations of the same gene with the same start share."""
        return self.contig, self.start, self.end, self.strand


@dataclass(frozen=True)
class Annotation:
    """The genes of a file, and what was left out of it.

    Args:
        genes: in the order of contigs and starts.
        left_out: one line of text a feature: where it stands and why it is no gene of ours.
        unclear: from the first to the last base of each such feature, and pseudogenes without a
            coding sequence. What lies there looks like a gene, so it teaches nothing of what lies
            between genes; see ``gold``.
    """

    genes: tuple[Gene, ...]
    left_out: tuple[str, ...]
    unclear: tuple[Gene, ...] = ()


def biopython() -> Any:
    """Biopython's reader of sequences.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        from Bio import SeqIO
    except ImportError as error:
        raise UnsupportedError(
            "genomes are read by Biopython, which is not installed: "
            "pip install 'torch_semimarkov[genomics]'"
        ) from error
    return SeqIO


def open_text(path: Path) -> TextIO:
    """A text file, gzipped or not.

    Raises:
        FileFormatError: it cannot be opened.
    """
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "rt", encoding="utf-8", errors="replace")
        return path.open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise FileFormatError(path, f"cannot be read: {error.strerror or error}") from error


def is_genbank(path: Path) -> bool:
    """True if the name of a file says GenBank."""
    stem = path.with_suffix("") if path.suffix == ".gz" else path
    return stem.suffix.lower() in _GENBANK


def read_contigs(path: str | os.PathLike[str]) -> list[Contig]:
    """The sequences of a FASTA or GenBank file.

    Raises:
        FileFormatError: no sequence, one without bases, or the same name twice.
        UnsupportedError: Biopython is not installed.
    """
    path = Path(path)
    kind = "genbank" if is_genbank(path) else "fasta"
    contigs = [Contig.from_text(r.id, str(r.seq)) for r in _records(path, kind)]
    if not contigs:
        raise FileFormatError(path, f"holds no sequence; expected {kind.upper()}")
    names = Counter(contig.name for contig in contigs)
    for contig in contigs:
        if contig.length == 0:
            raise FileFormatError(path, f"sequence {contig.name!r} has no bases")
        if names[contig.name] > 1:
            raise FileFormatError(path, f"sequence {contig.name!r} is there twice; rename one")
    return contigs


def read_genes(
    path: str | os.PathLike[str], contigs: Sequence[Contig], feature: str = "CDS"
) -> Annotation:
    """The coding sequences of a GFF3 or GenBank file that lie on these contigs.

    Args:
        path: file with the annotation.
        contigs: from :func:`read_contigs`.
        feature: which features are read.

    Raises:
        FileFormatError: a contig that is not among ``contigs``, an end outside of it, or a broken
            line; names the line.
        UnsupportedError: the reader's package is not installed.
    """
    path = Path(path)
    read = _genbank_genes if is_genbank(path) else _gff3_genes
    lengths = {contig.name: contig.length for contig in contigs}
    whole, left_out, unclear = [], [], []
    for parts, note in read(path, feature):
        gene = _joined(parts)
        _check_place(path, gene, lengths)
        problem = _problem(parts, note)
        if not problem:
            whole.append(gene)
            continue
        unclear.append(gene)
        if note != _NO_CODING:
            left_out.append(f"{gene.where} {problem}")
    order = {name: i for i, name in enumerate(lengths)}
    whole.sort(key=lambda gene: (order[gene.contig], gene.start, gene.end, gene.strand))
    return Annotation(tuple(whole), tuple(left_out), tuple(unclear))


def _problem(parts: Sequence[Gene], note: str) -> str:
    """Why a feature of these pieces is no gene of ours; empty if it is one."""
    if len(parts) > 1:
        return f"is joined from {len(parts)} pieces"
    if note:
        return f"is {note}"
    length = parts[0].end - parts[0].start
    return f"has {length} bases, which 3 does not divide" if length % 3 else ""


# The pieces of a feature, and what is odd about it.
Parts = tuple[list[Gene], str]
_PSEUDO, _NO_CODING = "a pseudogene", "a pseudogene without a coding sequence"


def _gff3_genes(path: Path, feature: str) -> Iterator[Parts]:
    """Coding features with the lines of one ID together, and what is odd about them."""
    try:
        from gffutils.feature import feature_from_line
    except ImportError as error:
        raise UnsupportedError(
            "GFF3 is read by gffutils, which is not installed: "
            "pip install 'torch_semimarkov[genomics]'"
        ) from error
    found: dict[str, list[Gene]] = {}
    notes: dict[str, str] = {}
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.startswith("##FASTA"):
                break
            if line.startswith("#") or not line.strip():
                continue
            if line.count("\t") != 8:
                columns = line.count("\t") + 1
                raise FileFormatError(path, f"expected 9 columns of GFF3, got {columns}", number)
            try:
                item = feature_from_line(line.rstrip("\n"))
            except ValueError as error:
                raise FileFormatError(path, f"not GFF3: {error}", number) from error
            if item.featuretype not in (feature, "pseudogene"):
                continue
            key = item.attributes.get("ID", [f"line {number}"])[0]
            found.setdefault(key, []).append(_gff3_gene(path, item, number))
            if item.featuretype != feature:
                notes[key] = _NO_CODING
            elif "pseudo" in item.attributes:
                notes[key] = _PSEUDO
    for key, parts in found.items():
        yield parts, notes.get(key, "")


def _gff3_gene(path: Path, item: Any, number: int) -> Gene:
    if not (isinstance(item.start, int) and isinstance(item.end, int) and item.start >= 1):
        raise FileFormatError(path, "start and end must be positions from 1 on", number)
    if item.end < item.start:
        raise FileFormatError(path, f"ends at {item.end}, before it starts", number)
    if item.strand not in ("+", "-"):
        raise FileFormatError(path, f"strand must be + or -, got {item.strand!r}", number)
    names = item.attributes.get("locus_tag") or item.attributes.get("ID") or [""]
    return Gene(item.seqid, item.start - 1, item.end, item.strand, names[0], None, number, path)


def _genbank_genes(path: Path, feature: str) -> Iterator[Parts]:
    for record in _records(path, "genbank"):
        for item in record.features:
            pseudo = bool({"pseudo", "pseudogene"} & item.qualifiers.keys())
            if item.type != feature and not (item.type == "gene" and pseudo):
                continue
            names = item.qualifiers.get("locus_tag") or item.qualifiers.get("protein_id") or [""]
            strand = "-" if item.location.strand == -1 else "+"
            parts = [
                Gene(record.id, int(part.start), int(part.end), strand, names[0], file=path)
                for part in item.location.parts
            ]
            odd = _PSEUDO if item.type == feature else _NO_CODING
            yield parts, odd if pseudo else ""


def _records(path: Path, kind: str) -> Iterator[Any]:
    reader = biopython()
    with open_text(path) as file:
        try:
            if kind == "fasta":
                _check_head(path, file)
            yield from reader.parse(file, kind)
        except FileFormatError:
            raise
        except (ValueError, OSError, EOFError) as error:
            raise FileFormatError(path, f"not {kind.upper()}: {error}") from error


def _check_head(path: Path, file: TextIO) -> None:
    first = file.readline().rstrip()
    if first and not first.startswith(">"):
        raise FileFormatError(path, f"expected '>' and a name in FASTA, got {first[:40]!r}", 1)
    file.seek(0)


def _joined(parts: Sequence[Gene]) -> Gene:
    first = min(parts, key=lambda part: part.start)
    return replace(parts[0], start=first.start, end=max(part.end for part in parts))


def _check_place(path: Path, gene: Gene, lengths: dict[str, int]) -> None:
    if gene.contig not in lengths:
        known = ", ".join(list(lengths)[:5])
        raise FileFormatError(
            path, f"contig {gene.contig!r} is not in the FASTA, which has {known}", gene.line
        )
    if gene.end > lengths[gene.contig]:
        raise FileFormatError(
            path,
            f"ends at {gene.end}, after the last base {lengths[gene.contig]} of {gene.contig}",
            gene.line,
        )


def write_gff3(file: TextIO, contigs: Iterable[Contig], genes: Iterable[Gene]) -> None:
    """Write genes as GFF3: a gene and its CDS on a line each, the score their probability."""
    file.write("##gff-version 3\n")
    for contig in contigs:
        file.write(f"##sequence-region {contig.name} 1 {contig.length}\n")
    for i, gene in enumerate(genes, 1):
        score = "." if gene.score is None else f"{gene.score:.4f}"
        place = f"{gene.start + 1}\t{gene.end}\t{score}\t{gene.strand}"
        head = f"{gene.contig}\ttorch_semimarkov"
        file.write(f"{head}\tgene\t{place}\t.\tID=gene-{i}\n")
        file.write(f"{head}\tCDS\t{place}\t0\tID=cds-{i};Parent=gene-{i}\n")
