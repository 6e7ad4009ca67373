"""Labels of a genome read along one strand, and which may follow which.

Coding labels carry the reading frame, position modulo 3 of the segment's codons, so that "starts at
a start codon, ends before a stop codon, has whole codons and no stop among them" are masks on
positions. The stop codon is a segment of 3 bases. Genes overlap: the one whose stop codon lies in
its neighbour has a label of its own and no segment for the stop codon; see ``masks``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FRAMES = 3
# A gene on the forward strand, and one whose stop codon lies in the gene after it; on the reverse
# strand, and one whose stop codon lies in the gene before it. Each has a label for each frame.
INTERGENIC, FORWARD, STOP, FORWARD_INTO, REVERSE_STOP, REVERSE, REVERSE_INTO = 0, 1, 4, 5, 8, 9, 12
LABELS = (
    "intergenic", "forward 0", "forward 1", "forward 2", "stop", "forward into 0",
    "forward into 1", "forward into 2", "reverse stop", "reverse 0", "reverse 1", "reverse 2",
    "reverse into 0", "reverse into 1", "reverse into 2",
)  # fmt: skip
C = len(LABELS)
# Kinds of labels that share their durations and transitions.
KINDS = ("intergenic", "forward", "stop", "forward into", "reverse stop", "reverse", "reverse into")
KIND_OF = np.array([0, 1, 1, 1, 2, 3, 3, 3, 4, 5, 5, 5, 6, 6, 6])
CODING = np.isin(KIND_OF, (1, 3, 5, 6))
# A gene or an intergenic stretch starts with one of these.
_FRESH = ("intergenic", "forward", "forward into", "reverse stop")
_FOLLOWERS = {
    "intergenic": ("forward", "forward into", "reverse stop"),
    "forward": ("stop",),
    "stop": _FRESH,
    "forward into": ("forward", "forward into", "reverse stop"),
    "reverse stop": ("reverse",),
    "reverse": (*_FRESH, "reverse into"),
    "reverse into": (*_FRESH, "reverse into"),
}
# Bases that two genes share at most, and bases of a coding segment at least.
LONGEST_OVERLAP, SHORTEST = 96, 60


def allowed_kinds() -> np.ndarray:
    """(7, 7) bool. Which kind may follow which."""
    return np.array([[kind in _FOLLOWERS[before] for kind in KINDS] for before in KINDS])


def allowed_transitions() -> np.ndarray:
    """(C, C) bool, ``[source, destination]``."""
    return allowed_kinds()[KIND_OF][:, KIND_OF]


@dataclass(frozen=True)
class GeneticCode:
    """The codons that end and that begin a gene.

    Args:
        number: NCBI's number of the table, such as 11 for bacteria and 4 for Mycoplasma.
        stops: codons as text, A, C, G, T.
        starts: likewise.
    """

    number: int
    stops: tuple[str, ...]
    starts: tuple[str, ...]

    @classmethod
    def table(cls, number: int) -> GeneticCode:
        """A code by NCBI's number, its usual start codons ATG, GTG and TTG only.

        Raises:
            ConfigError: no such table.

        >>> GeneticCode.table(4).stops
        ('TAA', 'TAG')
        """
        from torch_semimarkov.errors import ConfigError

        stops = {4: ("TAA", "TAG"), 25: ("TAA", "TAG"), 11: ("TAA", "TAG", "TGA")}
        if number not in stops:
            raise ConfigError(f"genetic code must be one of {sorted(stops)}, got {number}")
        return cls(number, stops[number], ("ATG", "GTG", "TTG"))
