"""Where on a contig a coding segment may start, go on and end: the hard constraints as arrays.

Position p begins the codon p, p+1, p+2. On the forward strand a segment starts at a start codon and
ends right before its first stop codon in frame. On the reverse strand everything is mirrored: its
stop codon lies before the segment, its start codon at the segment's end.

Of two genes that overlap, the one whose stop codon lies in the other is cut: a "forward into" gene
where the next one starts, a "reverse into" gene where the one before it ends. How many of its bases
are cut off is the overlap, 1..LONGEST_OVERLAP.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torch_semimarkov.genes.genome import BASES, UNKNOWN, Contig
from torch_semimarkov.genes.states import FRAMES, LONGEST_OVERLAP, GeneticCode

_COMPLEMENT = np.array([3, 2, 1, 0, UNKNOWN], np.uint8)
# Codons are numbers 0..63, this where a base is unknown or the contig ends.
NO_CODON = 64


@dataclass(frozen=True, eq=False)
class Sites:
    """Codons of one strand of a contig, and what they may do.

    Args:
        codons: (T,) uint8. The codon that begins at each position, NO_CODON where there is none.
        starts: (T,) int8. Index in the code of the start codon that begins here plus 1, or 0.
        stops: (T,) int8. Index of the stop codon that begins here plus 1, or 0.
    """

    codons: np.ndarray
    starts: np.ndarray
    stops: np.ndarray

    @classmethod
    def of(cls, codes: np.ndarray, code: GeneticCode) -> Sites:
        """The sites of the strand that is read from position 0 on.

        Args:
            codes: (T,) uint8 bases.
            code: the genetic code.
        """
        codons = codons_of(codes)
        return cls(codons, _which(codons, code.starts), _which(codons, code.stops))


def _which(codons: np.ndarray, wanted: tuple[str, ...]) -> np.ndarray:
    found = np.zeros(len(codons), np.int8)
    for i, codon in enumerate(wanted, 1):
        found[codons == number_of(codon)] = i
    return found


def reverse_complement(codes: np.ndarray) -> np.ndarray:
    """Bases of the other strand in the order in which it is read."""
    return _COMPLEMENT[codes[::-1]]


def number_of(codon: str) -> int:
    """A codon as a number in 0..63.

    >>> number_of("AAC")
    1
    """
    first, second, third = (BASES.index(base) for base in codon)
    return 16 * first + 4 * second + third


def codons_of(codes: np.ndarray) -> np.ndarray:
    """(T,) uint8. The codon that begins at each position."""
    codons = np.full(len(codes), NO_CODON, np.uint8)
    if len(codes) >= 3:
        a, b, c = codes[:-2], codes[1:-1], codes[2:]
        known = (a < UNKNOWN) & (b < UNKNOWN) & (c < UNKNOWN)
        codons[:-2] = np.where(known, 16 * a + 4 * b + c, NO_CODON)
    return codons


def strands(contig: Contig, code: GeneticCode) -> tuple[Sites, Sites]:
    """The sites of the forward strand, and of the reverse strand as it is read from its own end."""
    return Sites.of(contig.codes, code), Sites.of(reverse_complement(contig.codes), code)


def next_in_frame(where: np.ndarray) -> np.ndarray:
    """(T + 2,) int64. The first position from p on, in the frame of p, where ``where`` is True.

    T (rounded up) where there is none; the two last entries are for positions past the end.

    >>> next_in_frame(np.array([False, False, False, True])).tolist()[:4]
    [3, 6, 6, 3]
    """
    T = len(where)
    rows = -(-(T + 2) // FRAMES)
    nothing = rows * FRAMES
    at = np.full(rows * FRAMES, nothing, np.int64)
    at[:T][where] = np.flatnonzero(where)
    found = np.minimum.accumulate(at.reshape(rows, FRAMES)[::-1], axis=0)[::-1]
    return found.reshape(-1)[: T + 2]


@dataclass(frozen=True, eq=False)
class Strand:
    """What the labels of one strand may do at each position, as this strand is read.

    Args:
        sites: the codons.
        closes: (T, 3) bool. A stop codon in the frame ends with this base: no segment of the frame
            may hold it.
        ends: (T, 3) bool. A stop codon of the frame begins right after this base.
        overlap: (T, 3) int64. Bases from the next one to the end of the frame's next stop codon,
            if that codon does not end here or before; 0 if they are none or too many.
    """

    sites: Sites
    closes: np.ndarray
    ends: np.ndarray
    overlap: np.ndarray

    @classmethod
    def of(cls, sites: Sites) -> Strand:
        """The masks of a strand with these sites."""
        T = len(sites.stops)
        frame = np.arange(FRAMES)
        position = np.arange(T)[:, None]

        def shifted(where: np.ndarray, by: int) -> np.ndarray:
            """``where[t - by]`` for each t, in the frame that t - by has."""
            at = position - by
            inside = (at >= 0) & (at < T)
            return inside & where[at.clip(0, T - 1)] & (at % FRAMES == frame)

        # the first codon of the frame whose last base comes after this position
        first = position - 1 + (frame - (position - 1)) % FRAMES
        ahead = next_in_frame(sites.stops > 0)
        last = ahead[np.where(first < 0, first + FRAMES, first)] + 2
        overlap = np.where(last < T, last - position, 0)
        overlap[(overlap < 1) | (overlap > LONGEST_OVERLAP)] = 0
        return cls(
            sites,
            closes=shifted(sites.stops > 0, 2),
            ends=shifted(sites.stops > 0, -1),
            overlap=overlap,
        )
