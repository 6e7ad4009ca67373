"""The recipe of genomes: the stretch that is shown, probabilities, rows, and the whole command."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_cases import succeeds
from gene_cases import CODE, genome, write_fasta, write_genes

from torch_semimarkov import functional, genes
from torch_semimarkov.errors import ConfigError
from torch_semimarkov.genes.genome import Contig, Gene

genomes = pytest.importorskip("genomes")


def test_the_stretch_that_is_shown_is_the_one_with_the_fewest_genes_agreed_on():
    contigs = [Contig(name, np.zeros(60000, np.uint8)) for name in "ab"]
    common = [Gene("a", 3000 * i, 3000 * i + 900, "+") for i in range(15)]
    alone = [Gene("b", 40000 + 300 * i, 40000 + 300 * i + 90, "-") for i in range(5)]
    contig, first = genomes.most_different(contigs, [common, common + alone])
    assert contig.name == "b"
    assert first <= 40000 and alone[-1].start < first + genomes.WIDTH
    assert genomes.most_different(contigs[:1], [common, common]) == (contigs[0], 0)


def test_the_probability_of_a_stretch_is_that_on_the_whole_contig_if_it_is_near(monkeypatch):
    contig, annotated = genome(1, 20)
    torch.manual_seed(0)
    model = genes.GeneModel(CODE, 120, hidden_dim=4)
    genes.start_by_counting(model, [genes.gold_of(contig, annotated, CODE)])
    found = genomes.coding_probability(model, contig, 100, 900)
    terms = model.terms(genes.GenomeInput.of(contig, CODE))
    whole = functional.marginals(**{k: x.detach() for k, x in terms.items()}).labels[0, 100:900]
    assert found[:, 0] == pytest.approx(whole[:, 1:8].sum(1).numpy(), abs=1e-5)
    assert found[:, 1] == pytest.approx(whole[:, 8:].sum(1).numpy(), abs=1e-5)


def test_a_row_has_the_rates_of_stop_codons_and_of_whole_genes_in_percent():
    gold = [Gene("c", 0, 90, "+"), Gene("c", 200, 290, "-")]
    row = genomes.row_of("x", gold, [Gene("c", 30, 90, "+"), gold[1]], (2.0, 1.5, 3.0))
    assert (row["found %"], row["precision %"], row["exact %"]) == (100, 100, 50)
    assert (row["seconds"], row["CPU s"], row["peak MiB"]) == (2.0, 1.5, 3.0)


def test_a_program_is_measured_by_itself_and_its_last_words_are_told_if_it_fails():
    here = bytearray(300 << 20)
    code = "import time; x = bytearray(100 << 20); time.sleep(0.2)"
    seconds, used, memory = genomes.measured([sys.executable, "-c", code])
    assert seconds > 0.2 and 0 < used < 5
    assert 100 < memory < 200 < len(here) >> 20
    code = "import sys; sys.exit('no such genome')"
    with pytest.raises(ConfigError, match="no such genome"):
        genomes.measured([sys.executable, "-c", code])


def test_the_fasta_for_other_programs_is_the_genome(tmp_path):
    contigs = [Contig("a", np.arange(205, dtype=np.uint8) % 5), genome(0, 4)[0]]
    genomes.write_fasta(tmp_path / "c.fna", contigs)
    back = genes.read_contigs(tmp_path / "c.fna")
    assert [c.name for c in back] == ["a", "made"]
    assert all((b.codes == c.codes).all() for b, c in zip(back, contigs, strict=True))


def test_the_command_trains_annotates_and_compares(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    for name, seed in (("known", 1), ("new", 2)):
        contig, annotated = genome(seed, 40)
        write_fasta(tmp_path / f"{name}.fna", contig)
        write_genes(tmp_path / f"{name}.gff3", *annotated)
    other = tmp_path / "other-program"
    other.write_text("#!/bin/sh\nexit 0\n")
    os.chmod(other, 0o755)

    def in_process(command):
        """Ours without a process of its own; the other program finds every annotated gene."""
        if command[0] == str(other):
            Path(command[-1]).write_text((tmp_path / "new.gff3").read_text())
        else:
            succeeds(*command[3:])
        return 1.0, 0.5, 2.0

    monkeypatch.setattr(genomes, "measured", in_process)
    files = [f"--genome={tmp_path}/known.fna", f"--annotation={tmp_path}/known.gff3",
             f"--new={tmp_path}/new.fna", f"--new-annotation={tmp_path}/new.gff3"]  # fmt: skip
    output = tmp_path / "out"
    genomes.main([*files, f"--output={output}", "--epochs=1", f"--prodigal={other}"])
    table = json.loads((output / "table.json").read_text())
    assert [row["annotator"] for row in table["runs"]] == [
        "torch_semimarkov", "without posterior", "Prodigal",
    ]  # fmt: skip
    rows = {row["annotator"]: row for row in table["runs"]}
    assert rows["Prodigal"]["found %"] == 100
    assert rows["torch_semimarkov"]["found %"] > 80
    assert (output / "genomes.png").read_bytes().startswith(b"\x89PNG")
    assert table["training"] == {"seconds": 1.0, "CPU s": 0.5, "peak MiB": 2.0}
    files = [f"--model={output}/model", *files[2:]]
    genomes.main([*files, f"--output={tmp_path}/again", "--prodigal=no-such-program"])
    assert "no no-such-program here" in capsys.readouterr().err
    again = json.loads((tmp_path / "again" / "table.json").read_text())
    assert again["training"] is None
    assert [row["found %"] for row in again["runs"]] == [
        row["found %"] for row in table["runs"][:2]
    ]


def test_a_mistake_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*none\.fna: cannot be read"):
        genomes.main(["--genome=x", f"--new={tmp_path}/none.fna", f"--output={tmp_path}/out"])
