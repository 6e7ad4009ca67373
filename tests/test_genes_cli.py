"""``torch-semimarkov genes``: a whole round on made genomes, bad input, and interruptions."""

import gzip
import re
import signal

import numpy as np
import pytest
from cli_cases import call, fails, listing, succeeds
from gene_cases import CODE, HEAD, genome, gff_line, letters, write_fasta, write_genes
from test_cli_process import finish, start

from torch_semimarkov import genes
from torch_semimarkov.cli import run_genes
from torch_semimarkov.genes.genome import Contig, Gene

SETTINGS = "--max-duration 120 --epochs 2 --quiet"


def write_genbank(path, contig, annotated):
    from Bio.Seq import Seq
    from Bio.SeqFeature import SeqFeature, SimpleLocation
    from Bio.SeqIO import write
    from Bio.SeqRecord import SeqRecord

    features = [
        SeqFeature(
            SimpleLocation(g.start, g.end, 1 if g.strand == "+" else -1), type="CDS",
            qualifiers={"locus_tag": [g.name]},
        )
        for g in annotated
    ]  # fmt: skip
    record = SeqRecord(
        Seq(letters(contig.codes)), contig.name, features=features,
        annotations={"molecule_type": "DNA"},
    )  # fmt: skip
    write(record, path, "genbank")
    return path


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A genome to train on, as FASTA and GFF3."""
    folder = tmp_path_factory.mktemp("known")
    contig, annotated = genome(1, 60)
    write_fasta(folder / "known.fna", contig)
    write_genes(folder / "known.gff3", *annotated)
    return folder


@pytest.fixture(scope="module")
def trained(known):
    """A model trained on it."""
    folder = known / "model"
    succeeds("genes train --genome", known / "known.fna", "--annotation", known / "known.gff3",
             "-o", folder, SETTINGS)  # fmt: skip
    return folder


@pytest.fixture
def unseen(tmp_path):
    """Another genome of two contigs, and its genes in a file."""
    contigs, annotated = [], []
    for seed in (2, 3):
        contig, found = genome(seed, 20)
        contigs.append(Contig(f"unseen{seed}", contig.codes))
        annotated += [Gene(f"unseen{seed}", g.start, g.end, g.strand, g.name + str(seed))
                      for g in found]  # fmt: skip
    write_genes(tmp_path / "unseen.gff3", *annotated)
    return write_fasta(tmp_path / "unseen.fna", *contigs)


def rates(text):
    """Sensitivity and precision of stop codons."""
    found = re.search(r"stop codon +sensitivity ([\d.]+) +precision ([\d.]+)", text)
    return tuple(map(float, found.groups()))


def test_a_model_trained_on_one_genome_finds_the_genes_of_another(trained, unseen):
    output = unseen.parent / "found.gff3"
    said = succeeds("genes annotate", trained, "--genome", unseen, "-o", output, "--quiet")
    text = succeeds("genes evaluate", output, "--genome", unseen,
                    "--annotation", unseen.parent / "unseen.gff3")  # fmt: skip
    assert re.match(r"\d+ genes on 2 contigs: ", said)
    assert "40 annotated genes" in text
    assert min(rates(text)) > 0.8


def test_the_gff3_has_a_gene_and_a_cds_a_line_with_their_probability(trained, unseen):
    output = unseen.parent / "found.gff3"
    succeeds("genes annotate", trained, "--genome", unseen, "-o", output, "--quiet")
    lines = output.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "##gff-version 3"
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    assert [row[2] for row in rows] == ["gene", "CDS"] * (len(rows) // 2)
    assert all(len(row) == 9 and 0 <= float(row[5]) <= 1 for row in rows)
    assert len({row[5] for row in rows}) > 2
    succeeds("genes annotate", trained, "--genome", unseen, "-o", output, "--no-posterior")
    rows_of_path = [line.split("\t") for line in output.read_text().splitlines() if "\t" in line]
    assert {row[5] for row in rows_of_path} == {"."}
    assert [row[3:5] for row in rows_of_path] == [row[3:5] for row in rows]


def test_genbank_and_gzip_train_the_same_model_as_fasta_and_gff3(trained, known, tmp_path):
    contig, annotated = genome(1, 60)
    flat = write_genbank(tmp_path / "known.gbk", contig, annotated)
    packed = tmp_path / "known.gbk.gz"
    packed.write_bytes(gzip.compress(flat.read_bytes()))
    succeeds("genes train --genome", packed, "-o", tmp_path / "model", SETTINGS)
    weights = [folder / "model.safetensors" for folder in (trained, tmp_path / "model")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_genes_shorter_than_the_least_length_are_left_out(trained, unseen):
    found = {}
    for bases in (0, 90, 150):
        output = unseen.parent / f"{bases}.gff3"
        succeeds("genes annotate", trained, "--genome", unseen, "-o", output,
                 "--no-posterior --min-length", bases)  # fmt: skip
        read = genes.read_genes(output, genes.read_contigs(unseen)).genes
        found[bases] = {gene.site for gene in read}
        assert min(end - start for _, start, end, _ in found[bases]) >= bases
    assert found[150] < found[90] <= found[0]


# Bad input


def test_a_contig_that_is_not_in_the_fasta_is_named_with_its_line(known, tmp_path):
    broken = tmp_path / "other.gff3"
    broken.write_text(HEAD + "# a remark\n" + gff_line(Gene("chr2", 0, 90, "+", "g")))
    for command in (
        ("genes train -o", tmp_path / "m", "--annotation", broken),
        ("genes evaluate", broken, "--annotation", known / "known.gff3"),
    ):
        text = fails(*command, "--genome", known / "known.fna")
        assert text == f"error: {broken}:3: contig 'chr2' is not in the FASTA, which has made\n"
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("made\tx\tCDS\t1\t90\n", "expected 9 columns of GFF3, got 5"),
        ("made\tx\tCDS\t90\t1\t.\t+\t0\tID=a\n", "ends at 1, before it starts"),
        ("made\tx\tCDS\t1\t90\t.\t?\t0\tID=a\n", "strand must be + or -, got '?'"),
        ("made\tx\tCDS\t1\t90\t.\t\t0\tID=a\n", "strand must be + or -, got ''"),
        ("made\tx\tCDS\t1\t9000000\t.\t+\t0\tID=a\n", "ends at 9000000, after the last base"),
        ("made\tx\tCDS\t0\t90\t.\t+\t0\tID=a\n", "start and end must be positions from 1 on"),
        (
            "made\tx\tCDS\tone\t90\t.\t+\t0\tID=a\n",
            "not GFF3: invalid literal for int() with base 10: 'one'",
        ),
    ],
)
def test_a_broken_line_is_named(known, tmp_path, line, message):
    broken = tmp_path / "broken.gff3"
    broken.write_text(HEAD + line, encoding="utf-8")
    text = fails("genes train --genome", known / "known.fna", "--annotation", broken,
                 "-o", tmp_path / "m")  # fmt: skip
    assert text.startswith(f"error: {broken}:2: {message}")


def test_a_feature_that_3_does_not_divide_is_left_out_by_line_and_teaches_nothing(known, tmp_path):
    contig, annotated = genome(1, 60)
    short = annotated[2]
    short = Gene(short.contig, short.start, short.end - 1, short.strand, "broken")
    path = write_genes(tmp_path / "some.gff3", *annotated[:2], short, *annotated[3:])
    read = genes.read_genes(path, [contig])
    assert read.left_out == (
        f"{path}:4: broken has {short.end - short.start} bases, which 3 does not divide",
    )
    gold = genes.gold_of(contig, read.genes, CODE, read.unclear)
    assert all(gene.start != short.start for gene in gold.genes)
    assert (gold.contig.codes[short.start : short.end] == 4).all()
    result = call("genes train --genome", known / "known.fna", "--annotation", path,
                  "-o", tmp_path / "m", SETTINGS)  # fmt: skip
    assert result.exit_code == 0
    assert f"left out: {read.left_out[0]}" in result.stderr


def test_pseudogenes_and_joined_features_are_hidden_but_not_the_genes_beside_them(tmp_path):
    contig, annotated = genome(1, 20)
    one, two, three, four = annotated[3], annotated[8], annotated[12], annotated[16]
    path = tmp_path / "odd.gff3"
    joined = [Gene(two.contig, two.start, two.start + 30, two.strand, "j"),
              Gene(two.contig, two.start + 30, two.end, two.strand, "j")]  # fmt: skip
    kept = [g for g in annotated if g not in (one, two, three, four)]
    path.write_text(
        HEAD
        + gff_line(one, attributes="ID=p;pseudo=true")
        + "".join(map(gff_line, joined))
        + gff_line(three, "pseudogene")
        + gff_line(four, "tRNA")
        + "".join(map(gff_line, kept)),
        encoding="utf-8",
    )
    read = genes.read_genes(path, [contig])
    assert read.left_out == (
        f"{path}:2: p is a pseudogene",
        f"{path}:3: j is joined from 2 pieces",
    )
    gold = genes.gold_of(contig, read.genes, CODE, read.unclear)
    hidden = gold.contig.codes == 4
    expected = [False] * contig.length
    for feature in (one, two, three):
        expected[feature.start : feature.end] = [True] * (feature.end - feature.start)
    for gene in gold.genes:
        expected[gene.start : gene.end] = [False] * (gene.end - gene.start)
    assert hidden.tolist() == expected


@pytest.mark.parametrize("codon", ["start", "inner", "stop"])
def test_a_gene_with_an_unknown_base_is_left_out_only_if_it_is_in_its_start_or_stop_codon(
    tmp_path, codon
):
    contig, annotated = genome(1, 20)
    gene = annotated[2]
    first = {"start": 0, "inner": 30, "stop": gene.end - gene.start - 3}[codon]
    place = gene.start + first if gene.strand == "+" else gene.end - 1 - first
    codes = contig.codes.copy()
    codes[place] = 4
    path = write_fasta(tmp_path / "n.fna", Contig("made", codes))
    table = write_genes(tmp_path / "n.gff3", *annotated)
    result = call("genes train --genome", path, "--annotation", table, "-o", tmp_path / "m",
                  SETTINGS)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "nan" not in (tmp_path / "m" / "metrics.json").read_text().lower()
    line = f"not in the training: {table}:4: g2 has an unknown base in its {codon} codon"
    assert (line in result.stderr) == (codon != "inner")


def test_unknown_bases_break_no_annotation_and_hold_no_start_or_stop(trained, tmp_path):
    contig, _ = genome(4, 20)
    codes = contig.codes.copy()
    codes[200:260] = 4
    codes[::97] = 4
    path = write_fasta(tmp_path / "n.fna", Contig("made", codes))
    succeeds("genes annotate", trained, "--genome", path, "-o", tmp_path / "n.gff3", "--quiet")
    found = genes.read_genes(tmp_path / "n.gff3", [contig]).genes
    assert found
    for gene in found:
        assert (codes[gene.start : gene.start + 3] != 4).all()
        assert (codes[gene.end - 3 : gene.end] != 4).all()


def test_a_genome_without_annotation_and_an_empty_one_are_mistakes(known, tmp_path):
    text = fails("genes train --genome", known / "known.fna", "-o", tmp_path / "m")
    assert "is no GenBank file, so --annotation must name a GFF3 file" in text
    (tmp_path / "none.gff3").write_text(HEAD)
    text = fails("genes train --genome", known / "known.fna", "--annotation",
                 tmp_path / "none.gff3", "-o", tmp_path / "m")  # fmt: skip
    assert "0 genes to train on, need 2" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello\n", ":1: expected '>' and a name in FASTA, got 'hello'"),
        ("", ": holds no sequence; expected FASTA"),
        (">a\nACGT\n>b\n>c\nAAA\n", ": sequence 'b' has no bases"),
        (">a\nACGT\n>a\nAAA\n", ": sequence 'a' is there twice; rename one"),
    ],
)
def test_what_is_no_genome_is_said(trained, tmp_path, text, message):
    path = tmp_path / "broken.fna"
    path.write_text(text, encoding="utf-8")
    said = fails("genes annotate", trained, "--genome", path, "-o", tmp_path / "out.gff3")
    assert said == f"error: {path}{message}\n"
    assert not (tmp_path / "out.gff3").exists()


def test_contigs_that_are_too_short_for_a_gene_have_none(trained, tmp_path):
    short = [Contig(f"c{n}", np.arange(n, dtype=np.uint8) % 4) for n in range(1, 10)]
    path = write_fasta(tmp_path / "short.fna", *short)
    said = succeeds("genes annotate", trained, "--genome", path, "-o", tmp_path / "out.gff3")
    assert said.startswith("0 genes on 9 contigs")
    assert "##sequence-region c9 1 9" in (tmp_path / "out.gff3").read_text()


# Interruptions


def test_an_interrupted_training_resumes_to_the_same_model(known, trained, tmp_path):
    command = ("genes", "train", "--genome", known / "known.fna", "--annotation",
               known / "known.gff3", *SETTINGS.split()[:-1])  # fmt: skip
    folder = tmp_path / "stopped"
    with start(*command, "-o", folder) as process:
        for line in process.stdout:
            if line.startswith("epoch 1/"):
                process.send_signal(signal.SIGINT)
                break
        code, _, errors = finish(process)
    assert code == 130, errors
    assert "Traceback" not in errors
    assert listing(folder) == ["checkpoint.pt"]
    text = fails("genes train --genome", known / "known.fna", "--annotation",
                 known / "known.gff3", "-o", folder, SETTINGS)  # fmt: skip
    assert "--resume" in text
    succeeds(*command, "-o", folder, "--resume")
    models = [path / "model.safetensors" for path in (trained, folder)]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_a_training_resumes_on_the_same_data_only(known, trained, tmp_path):
    _, annotated = genome(1, 60)
    table = write_genes(tmp_path / "fewer.gff3", *annotated[:-1])
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "checkpoint.pt").write_bytes((trained / "checkpoint.pt").read_bytes())
    text = fails("genes train --genome", known / "known.fna", "--annotation", table,
                 "-o", folder, SETTINGS, "--resume")  # fmt: skip
    assert "belongs to a run on other data" in text


@pytest.mark.parametrize("before", [None, "what was there\n"])
def test_an_interrupted_annotation_leaves_nothing_half_written(
    trained, unseen, tmp_path, monkeypatch, before
):
    output = tmp_path / "out" / "found.gff3"
    output.parent.mkdir()
    if before:
        output.write_text(before)
    honest, calls = genes.annotate, []

    def interrupted(model, contig, *rest):
        calls.append(contig.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return honest(model, contig, *rest)

    monkeypatch.setattr(run_genes.genes, "annotate", interrupted)
    result = call("genes annotate", trained, "--genome", unseen, "-o", output, "--quiet")
    assert result.exit_code != 0
    assert calls == ["unseen2", "unseen3"]
    assert listing(output.parent) == (["found.gff3"] if before else [])
    if before:
        assert output.read_text() == before
