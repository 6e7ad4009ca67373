"""Training of a gene model: first by counting, then by maximum likelihood on stretches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torch_semimarkov import functional
from torch_semimarkov.errors import ConfigError
from torch_semimarkov.genes.genome import Contig
from torch_semimarkov.genes.gold import Gold, as_array
from torch_semimarkov.genes.masks import NO_CODON, number_of, strands
from torch_semimarkov.genes.model import (
    CODING_DURATION,
    INTERGENIC_DURATION,
    KNOTS,
    PAIRS,
    GeneModel,
    GenomeInput,
)
from torch_semimarkov.genes.states import (
    CODING,
    FRAMES,
    INTERGENIC,
    KIND_OF,
    LONGEST_OVERLAP,
    allowed_kinds,
)
from torch_semimarkov.segments import Segment, Segments

# What a codon is taken to be seen before it is counted, in parts of its frequency.
_PRIOR = 50.0


@dataclass(frozen=True, eq=False)
class Stretch:
    """A part of a contig with whole genes, cut in the middle of intergenic segments.

    Args:
        contig: the part; its first base has frame 0, as in the whole.
        segments: its segmentation.
    """

    contig: Contig
    segments: tuple[Segment, ...]


def stretches(gold: Gold, size: int) -> list[Stretch]:
    """Parts of about ``size`` bases, in order; together they are the whole contig."""
    contig = gold.contig
    cuts = [0]
    for start, end, label in gold.segments:
        middle = (start + end) // 2 // FRAMES * FRAMES
        if label == INTERGENIC and start < middle < end and middle - cuts[-1] >= size:
            cuts.append(middle)
    cuts.append(contig.length)
    table, found = as_array(gold.segments), []
    for first, stop in itertools.pairwise(cuts):
        inside = table[(table[:, 1] > first) & (table[:, 0] < stop)]
        inside[:, :2] = inside[:, :2].clip(first, stop) - first
        part = Contig(f"{contig.name}:{first + 1}-{stop}", contig.codes[first:stop])
        found.append(Stretch(part, tuple(Segment(*map(int, row)) for row in inside)))
    return found


# By counting


@torch.no_grad()
def start_by_counting(model: GeneModel, data: Sequence[Gold]) -> None:
    """Set codon usage, start and stop codons, transitions, overlaps and durations by counts.

    Raises:
        ConfigError: there is no gene to count.
    """
    if not any(gold.genes for gold in data):
        raise ConfigError("data must hold at least one gene to count")
    coding, anywhere = np.zeros(PAIRS), np.zeros(PAIRS)
    starts, stops = np.zeros(len(model.code.starts) + 1), np.zeros(len(model.code.stops) + 1)
    for gold in data:
        for strand, sites in zip("+-", strands(gold.contig, model.code), strict=True):
            anywhere += np.bincount(_pairs(sites.codons), minlength=PAIRS)
            for gene in gold.genes:
                if gene.strand != strand:
                    continue
                first = gene.start if strand == "+" else gold.contig.length - gene.end
                last = first + gene.end - gene.start - FRAMES
                codons = sites.codons[first:last:FRAMES].astype(np.int64)
                np.add.at(coding, codons[:-1] * (NO_CODON + 1) + codons[1:], 1)
                starts[sites.starts[first]] += 1
                stops[sites.stops[last]] += 1
    usage = _conditional(coding), _conditional(anywhere)
    both = usage[0] * usage[1] > 0
    pairs = np.log(usage[0], where=both, out=np.zeros(PAIRS))
    pairs -= np.log(usage[1], where=both, out=np.zeros(PAIRS))
    model.pairs.copy_(torch.from_numpy(pairs))
    share = anywhere.reshape(NO_CODON + 1, -1).sum(0)[:NO_CODON]
    share = share / share.sum()
    for parameter, counts, codons in (
        (model.start_codons, starts, model.code.starts),
        (model.stop_codons, stops, model.code.stops),
    ):
        odds = (counts[1:] + 0.5) / counts[1:].sum() / [share[number_of(c)] for c in codons]
        parameter.copy_(torch.from_numpy(np.log(odds)))
    _count_structure(model, data)


def _pairs(codons: np.ndarray) -> np.ndarray:
    wide = codons.astype(np.int64)
    return wide[:-FRAMES] * (NO_CODON + 1) + wide[FRAMES:]


def _conditional(counts: np.ndarray) -> np.ndarray:
    """Share of each codon after each codon, smoothed towards its share after any."""
    table = counts.reshape(NO_CODON + 1, NO_CODON + 1).copy()
    table[:, NO_CODON] = 0.0
    overall = table.sum(0) + 0.5
    overall[NO_CODON] = 0.0
    overall /= overall.sum()
    smooth = table + _PRIOR * overall
    return (smooth / smooth.sum(1, keepdims=True)).reshape(-1)


def _count_structure(model: GeneModel, data: Sequence[Gold]) -> None:
    moves = np.where(allowed_kinds(), 0.5, 0.0)
    overlaps = np.full(LONGEST_OVERLAP + 1, 0.05)
    durations: dict[int, list[int]] = {INTERGENIC_DURATION: [], CODING_DURATION: []}
    for gold in data:
        table = as_array(gold.segments)
        kinds = KIND_OF[table[:, 2]]
        np.add.at(moves, (kinds[:-1], kinds[1:]), 1)
        length = table[:, 1] - table[:, 0]
        durations[INTERGENIC_DURATION] += length[table[:, 2] == INTERGENIC].tolist()
        durations[CODING_DURATION] += length[CODING[table[:, 2]]].tolist()
        for left, right in zip(gold.genes, gold.genes[1:], strict=False):
            if left.end > right.start:
                overlaps[left.end - right.start] += 1
    with np.errstate(divide="ignore"):
        rates = np.where(moves > 0, np.log(moves / moves.sum(1, keepdims=True)), 0.0)
    model.moves.copy_(torch.from_numpy(rates))
    model.overlaps.copy_(torch.from_numpy(np.log(overlaps / overlaps.sum())))
    for column, lengths in durations.items():
        knots, rate = _duration_counts(np.array(lengths), model.max_duration, column)
        model.knots[:, column].copy_(torch.from_numpy(knots))
        model.rates[column] = rate


def _duration_counts(lengths: np.ndarray, K: int, column: int) -> tuple[np.ndarray, float]:
    """Log density at the knots, and the logit of going on beyond K."""
    row = np.log(np.arange(1, max(K, KNOTS[-1]) + 1))
    knots = np.log(KNOTS)
    hats = np.stack([np.interp(row, knots, unit) for unit in np.eye(len(knots))])
    counts = np.bincount(np.minimum(lengths, len(row)) - 1, minlength=len(row))
    # every third duration is possible where codons are whole
    width = hats.sum(1) / (FRAMES if column == CODING_DURATION else 1)
    density = (hats @ counts + 0.1) / np.maximum(width, 1e-9) / max(len(lengths), 1)
    beyond = lengths[lengths > K] - K
    mean = beyond.mean() if len(beyond) else K
    return np.log(density), float(np.log(max(mean, 1.0)))


# By maximum likelihood


def loss_of(model: GeneModel, stretch: Stretch) -> Tensor:
    """Negative log-likelihood of a stretch, nats per base."""
    terms = model.terms(GenomeInput.of(stretch.contig, model.code))
    gold = Segments.from_list([list(stretch.segments)])
    value = functional.segment_log_prob(gold, **terms)
    return -value[0] / stretch.contig.length
