"""Genes as segments: masks by hand, every path of the model is a set of whole genes, and back."""

import numpy as np
import pytest
import torch
from gene_cases import CODE, genome, letters, stops_in_frame

import torch_semimarkov
from torch_semimarkov import genes
from torch_semimarkov.errors import ConfigError
from torch_semimarkov.genes.genome import Contig
from torch_semimarkov.genes.masks import Strand, next_in_frame, reverse_complement, strands
from torch_semimarkov.genes.states import CODING, FRAMES, LABELS, LONGEST_OVERLAP, SHORTEST
from torch_semimarkov.segments import Segments

CONTIG, ANNOTATED = genome()
GOLD = genes.gold_of(CONTIG, ANNOTATED, CODE)


def small_model(max_duration: int = 120) -> genes.GeneModel:
    torch.manual_seed(0)
    return genes.GeneModel(CODE, max_duration, hidden_dim=4)


def test_the_made_genome_has_genes_on_both_strands_and_overlaps():
    assert {gene.strand for gene in GOLD.genes} == {"+", "-"}
    assert len(GOLD.genes) > len(ANNOTATED) / 2
    assert any(a.end > b.start for a, b in zip(GOLD.genes, GOLD.genes[1:], strict=False))


@pytest.mark.parametrize("seed", range(4))
def test_genes_become_segments_and_come_back(seed):
    contig, annotated = genome(seed)
    gold = genes.gold_of(contig, annotated, CODE)
    assert [s.start for s in gold.segments[1:]] == [s.end for s in gold.segments[:-1]]
    assert gold.segments[0].start == 0 and gold.segments[-1].end == contig.length
    back = genes.genes_of(contig, gold.segments, CODE)
    assert [gene.site for gene in back] == [gene.site for gene in gold.genes]


def test_the_first_position_in_frame_is_the_one_that_a_search_finds():
    where = np.random.default_rng(0).random(50) < 0.1
    found = next_in_frame(where)
    for p in range(50):
        later = [q for q in range(p, 50, FRAMES) if where[q]]
        assert found[p] == later[0] if later else found[p] >= 50


def test_overlaps_are_counted_to_the_end_of_the_next_stop_codon():
    sites, _ = strands(CONTIG, CODE)
    strand, T = Strand.of(sites), CONTIG.length
    for t in range(0, T, 7):
        for frame in range(FRAMES):
            stops = [q for q in range(frame, T - 2, FRAMES) if q + 2 > t and sites.stops[q]]
            expected = stops[0] + 2 - t if stops and stops[0] + 2 - t <= LONGEST_OVERLAP else 0
            assert strand.overlap[t, frame] == expected


def test_every_sampled_segmentation_is_a_set_of_whole_genes_without_a_stop_codon_inside():
    terms = small_model().terms(genes.GenomeInput.of(CONTIG, CODE))
    terms = {name: x.detach() for name, x in terms.items()}
    generator = torch.Generator().manual_seed(0)
    drawn = torch_semimarkov.sample(**terms, num_samples=20, generator=generator)
    seen = set()
    for segments in (one for draw in drawn.to_list() for one in draw):
        for gene in genes.genes_of(CONTIG, segments, CODE):
            assert (gene.end - gene.start) % FRAMES == 0
            assert stops_in_frame(gene, CONTIG) == 1
            codes = CONTIG.codes[gene.start : gene.end]
            codes = codes if gene.strand == "+" else reverse_complement(codes)
            assert letters(codes[:FRAMES]) in CODE.starts
            assert letters(codes[-FRAMES:]) in CODE.stops
        seen |= {LABELS[s.label].rstrip("012 ") for s in segments}
        assert all(s.duration >= SHORTEST for s in segments if CODING[s.label])
    assert {"forward", "forward into", "reverse", "reverse into"} <= seen


def test_the_annotation_has_a_probability_and_so_has_that_of_the_other_strand():
    model = small_model()
    flipped = Contig(CONTIG.name, reverse_complement(CONTIG.codes))
    totals = []
    for contig in (CONTIG, flipped):
        terms = {k: x.detach() for k, x in model.terms(genes.GenomeInput.of(contig, CODE)).items()}
        totals.append(float(torch_semimarkov.log_partition(**terms)))
    gold = Segments.from_list([list(GOLD.segments)])
    terms = {k: x.detach() for k, x in model.terms(genes.GenomeInput.of(CONTIG, CODE)).items()}
    value = float(torch_semimarkov.segment_log_prob(gold, **terms))
    assert -np.inf < value < 0
    # the rule which of two overlapping genes is cut is not the same read from the other end
    assert totals[0] == pytest.approx(totals[1], rel=0.05)


def test_training_raises_the_likelihood_and_finds_most_genes_of_another_genome():
    contig, annotated = genome(1, 60)
    gold = genes.gold_of(contig, annotated, CODE)
    model = small_model()
    genes.start_by_counting(model, [gold])
    parts = genes.stretches(gold, 1500)
    config = genes.GeneConfig(max_duration=120, hidden_dim=4, epochs=2, stretch=1500)
    steps = genes.GeneTrainer(model, parts, config, quiet=True).run()
    assert steps.history[1] < steps.history[0]
    unseen, truth = genome(2, 40)
    found = genes.annotate(model, unseen)
    compared = genes.agreement(genes.gold_of(unseen, truth, CODE).genes, found)
    sensitivity, precision = compared.rows()["stop codon"]
    assert sensitivity > 0.8 and precision > 0.8
    assert all(0 <= gene.score <= 1 for gene in found)


def test_the_score_of_a_gene_is_the_share_of_samples_that_have_it():
    model = small_model()
    genes.start_by_counting(model, [GOLD])
    found = genes.annotate(model, CONTIG)
    terms = model.terms(genes.GenomeInput.of(CONTIG, CODE))
    terms = {k: x.detach() for k, x in terms.items()}
    drawn = torch_semimarkov.sample(
        **terms, num_samples=400, generator=torch.Generator().manual_seed(1)
    )
    sites = [{g.site for g in genes.genes_of(CONTIG, d[0], CODE)} for d in drawn.to_list()]
    for gene in found:
        share = np.mean([gene.site in one for one in sites])
        assert share == pytest.approx(gene.score, abs=0.1)


def test_there_is_nothing_to_count_without_a_gene():
    contig = Contig.from_text("c", "ACGT" * 500)
    model = genes.make_model(genes.GeneConfig())
    with pytest.raises(ConfigError, match="data must hold at least one gene"):
        genes.start_by_counting(model, [genes.gold_of(contig, [], CODE)])


def test_stretches_are_the_whole_contig_and_keep_the_frames():
    parts = genes.stretches(GOLD, 600)
    assert len(parts) > 2
    assert sum(part.contig.length for part in parts) == CONTIG.length
    offset, back = 0, []
    for part in parts:
        assert offset % FRAMES == 0
        for gene in genes.genes_of(part.contig, part.segments, CODE):
            back.append((gene.start + offset, gene.end + offset, gene.strand))
        offset += part.contig.length
    assert back == [(g.start, g.end, g.strand) for g in GOLD.genes]


def test_an_unknown_base_is_neither_start_nor_stop():
    codes = CONTIG.codes.copy()
    gene = next(g for g in GOLD.genes if g.strand == "+")
    codes[gene.end - 1] = 4
    gold = genes.gold_of(Contig(CONTIG.name, codes), [gene], CODE)
    assert not gold.genes
    assert "unknown base in its stop codon" in gold.left_out[0]
