"""A semi-Markov CRF of bacterial genes: codon usage, start sites, overlaps, durations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torch_semimarkov.genes.genome import UNKNOWN, Contig
from torch_semimarkov.genes.masks import NO_CODON, Sites, Strand, reverse_complement, strands
from torch_semimarkov.genes.states import (
    CODING,
    FRAMES,
    KIND_OF,
    KINDS,
    LONGEST_OVERLAP,
    REVERSE_STOP,
    SHORTEST,
    STOP,
    C,
    GeneticCode,
    allowed_transitions,
)

# Bases before and from a start codon on that tell whether a gene starts there.
BEFORE, AFTER = 24, 12
WINDOW = BEFORE + AFTER
PAIRS = (NO_CODON + 1) ** 2
# Durations between which a bias is interpolated, in bases.
KNOTS = (1, 2, 4, 8, 16, 32, 64, 96, 144, 216, 324, 486, 729, 1094, 1640, 2460, 3690)
# Durations are learned for these; the second is that of every coding label.
INTERGENIC_DURATION, CODING_DURATION = 0, 1


@dataclass(frozen=True, eq=False)
class StrandInput:
    """What the model needs of one strand, as it is read.

    Args:
        pairs: (T,) int64. The codon before and the codon at each position, as one number.
        sites: (n,) int64. Where a start codon begins.
        kinds: (n,) int64. Which one.
        around: (n, WINDOW) uint8. The bases around it.
        strand: the masks.
    """

    pairs: Tensor
    sites: Tensor
    kinds: Tensor
    around: Tensor
    strand: Strand

    @classmethod
    def of(cls, codes: np.ndarray, strand: Strand) -> StrandInput:
        """The input of a strand with these bases."""
        codons = strand.sites.codons.astype(np.int64)
        before = np.concatenate([np.full(FRAMES, NO_CODON), codons])[: len(codons)]
        sites = np.flatnonzero(strand.sites.starts > 0)
        padded = np.pad(codes, (BEFORE, AFTER), constant_values=UNKNOWN)
        around = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[sites]
        return cls(
            torch.from_numpy(before * (NO_CODON + 1) + codons),
            torch.from_numpy(sites),
            torch.from_numpy(strand.sites.starts[sites].astype(np.int64) - 1),
            torch.from_numpy(np.ascontiguousarray(around)),
            strand,
        )


@dataclass(frozen=True, eq=False)
class GenomeInput:
    """What the model needs of a contig: its strands, forward and reverse."""

    length: int
    forward: StrandInput
    reverse: StrandInput

    @classmethod
    def of(cls, contig: Contig, code: GeneticCode) -> GenomeInput:
        """The input of a contig."""
        both = strands(contig, code)
        codes = contig.codes, reverse_complement(contig.codes)
        parts = [StrandInput.of(x, Strand.of(s)) for x, s in zip(codes, both, strict=True)]
        return cls(contig.length, *parts)


class GeneModel(nn.Module):
    """Terms of the score of every way to lay genes on a contig.

    Args:
        code: the genetic code.
        max_duration: longest duration K whose bias is free; beyond it a geometric tail.
        hidden_dim: size of the hidden layer that scores start sites.
    """

    def __init__(self, code: GeneticCode, max_duration: int = 1200, hidden_dim: int = 32):
        super().__init__()
        self.code, self.max_duration, self.hidden_dim = code, max_duration, hidden_dim
        self.pairs = nn.Parameter(torch.zeros(PAIRS))
        self.start_codons = nn.Parameter(torch.zeros(len(code.starts)))
        self.stop_codons = nn.Parameter(torch.zeros(len(code.stops)))
        self.around = nn.Sequential(
            nn.Linear(4 * WINDOW, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, 1)
        )
        self.overlaps = nn.Parameter(torch.zeros(LONGEST_OVERLAP + 1))
        self.moves = nn.Parameter(torch.zeros(len(KINDS), len(KINDS)))
        self.knots = nn.Parameter(torch.zeros(len(KNOTS), 2))
        self.rates = nn.Parameter(torch.full((2,), 6.0))
        allowed = torch.from_numpy(allowed_transitions())
        self.register_buffer("allowed", allowed, persistent=False)
        self.register_buffer("known", _known_pairs(), persistent=False)

    def shared_terms(self) -> dict[str, Tensor]:
        """The terms that every contig shares: transition, duration_bias and tail."""
        kind = torch.from_numpy(KIND_OF)
        moves = self.moves[kind][:, kind].masked_fill(~self.allowed, -torch.inf)
        durations = self._durations()
        coding = torch.from_numpy(CODING)
        bias = torch.where(
            coding, durations[:, CODING_DURATION, None], durations[:, INTERGENIC_DURATION, None]
        )
        row = torch.arange(1, self.max_duration + 1)[:, None]
        of_stop = torch.zeros(C, dtype=torch.bool)
        of_stop[[STOP, REVERSE_STOP]] = True
        bias = bias.masked_fill(coding & (row < SHORTEST), -torch.inf)
        bias = bias.masked_fill(of_stop & (row != FRAMES), -torch.inf)
        bias = torch.where(of_stop & (row == FRAMES), 0.0, bias)
        rates = nn.functional.logsigmoid(self.rates)
        tail = torch.where(coding, rates[CODING_DURATION], rates[INTERGENIC_DURATION])
        return {
            "transition": moves,
            "duration_bias": bias,
            "tail": tail.masked_fill(of_stop, -torch.inf),
        }

    def _durations(self) -> Tensor:
        """(K, 2). Bias by interpolation between the knots, linear in the log of the duration."""
        row = torch.arange(1, self.max_duration + 1, dtype=torch.float32).log()
        knots = torch.tensor(KNOTS, dtype=torch.float32).log()
        right = torch.searchsorted(knots, row).clamp(1, len(KNOTS) - 1)
        share = (row - knots[right - 1]) / (knots[right] - knots[right - 1])
        return torch.lerp(self.knots[right - 1], self.knots[right], share[:, None])

    def position_terms(self, contig: GenomeInput) -> dict[str, Tensor]:
        """(T, C) each: scores, start_scores and end_scores of a contig."""
        T = contig.length
        content, begin, end, into = self._strand(contig.forward)
        mirror = [(T - frame) % FRAMES for frame in range(FRAMES)]
        back = [x.flip(0)[:, mirror] for x in self._strand(contig.reverse)]
        stop, back_stop = (self._stops(x.strand.sites) for x in (contig.forward, contig.reverse))
        # the last base of a codon on the strand that is read backwards is its first one here
        back_stop = back_stop.roll(2, 0).flip(0)
        free = torch.zeros(T, 1)
        return {
            "scores": torch.cat(
                [free, content, free, content, free, back[0], back[0]], 1
            ),
            "start_scores": torch.cat(
                [free, begin, stop, begin, back_stop, back[2], back[3]], 1
            ),
            "end_scores": torch.cat([free, end, free, into, free, back[1], back[1]], 1),
        }  # fmt: skip

    def _strand(self, x: StrandInput) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(T, 3) each: content, start, end before a stop codon, and end in another gene."""
        T, strand = len(x.pairs), x.strand
        value = (self.pairs * self.known)[x.pairs]
        frame = torch.arange(FRAMES)
        reads = torch.arange(T)[:, None] % FRAMES == frame
        content = torch.where(reads, value[:, None], 0.0)
        content = content.masked_fill(torch.from_numpy(strand.closes), -torch.inf)
        start = self.start_codons[x.kinds] + self._around(x.around) - value[x.sites]
        begin = torch.full((T, FRAMES), -torch.inf).index_put((x.sites, x.sites % FRAMES), start)
        end = torch.zeros(T, FRAMES).masked_fill(~torch.from_numpy(strand.ends), -torch.inf)
        overlap = torch.from_numpy(strand.overlap)
        into = self.overlaps[overlap].masked_fill(overlap == 0, -torch.inf)
        return content, begin, end, into

    def _stops(self, sites: Sites) -> Tensor:
        """(T, 1). Score of a stop codon that begins here, -inf where there is none."""
        kinds = torch.from_numpy(sites.stops).long()
        scores = torch.cat([self.stop_codons.new_full((1,), -torch.inf), self.stop_codons])
        return scores[kinds][:, None]

    def _around(self, bases: Tensor) -> Tensor:
        """(n,). Score of the bases around a start codon."""
        shown = nn.functional.one_hot(bases.long(), UNKNOWN + 1)[..., :UNKNOWN]
        return self.around(shown.flatten(1).float())[:, 0]

    def terms(self, contig: GenomeInput) -> dict[str, Any]:
        """Every term of one contig, as a batch of one sequence."""
        there = {name: x[None] for name, x in self.position_terms(contig).items()}
        return {**there, **self.shared_terms()}


def _known_pairs() -> Tensor:
    """(PAIRS,) 0 or 1. Pairs of codons without an unknown base in the second one."""
    second = torch.arange(PAIRS) % (NO_CODON + 1)
    return (second != NO_CODON).float()
