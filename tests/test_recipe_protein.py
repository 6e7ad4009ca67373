"""The recipe of membrane proteins: the file, unknown labels, scores, and the command."""

import json
import math

import pytest
import torch
from recipe_cases import PROTEIN, TINY, write_config, write_proteins

from torch_semimarkov.data import segments_from_runs
from torch_semimarkov.errors import ConfigError, FileFormatError, SegmentError
from torch_semimarkov.training import TrainConfig
from torch_semimarkov.training.examples import collate_examples

topology = pytest.importorskip("topology")
topology_model = pytest.importorskip("topology_model")
protein = pytest.importorskip("protein")
three_heads = pytest.importorskip("three_heads")


def read(tmp_path, text):
    path = tmp_path / "p.fasta"
    path.write_text(text)
    return topology.read_topology(path)


def test_a_protein_is_one_hot_and_its_labels_are_runs(tmp_path):
    (record,) = read(tmp_path, ">p\nACDX\nu1hH\n")
    assert [tuple(s) for s in record.segments] == [
        (0, 1, "unknown"), (1, 2, "inside"), (2, 4, "helix"),
    ]  # fmt: skip
    assert record.features.sum(1).tolist() == [1, 1, 1, 0]
    assert record.features.argmax(1)[:3].tolist() == [0, 1, 2]


GOOD = ">a\nAAA\nHHH\n"
FAULTS = {
    GOOD + "b\nAAA\nHHH\n": r"p\.fasta:4: expected '>' and a name, got 'b'",
    GOOD + ">b\nAAA\n": r"p\.fasta:5: the file ends before residues and labels",
    GOOD + ">b\nAAA\nHHHH\n": r"p\.fasta:6: 4 labels for 3 residues",
    GOOD + ">b\nAAA\nHQH\n": r"p\.fasta:6: column 2: unknown label 'Q'",
    GOOD + ">b\nAA*\nHHH\n": r"p\.fasta:5: column 3: unknown residue '\*'",
    GOOD + GOOD: r"p\.fasta:4: 'a' stands on line 1 already",
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_fault_of_the_file_is_named_with_its_line(tmp_path, text):
    with pytest.raises(SegmentError, match=FAULTS[text]):
        read(tmp_path, text)


def test_a_file_without_proteins_or_none_at_all_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="holds no protein"):
        read(tmp_path, "\n")
    with pytest.raises(FileFormatError, match="cannot be read"):
        topology.read_topology(tmp_path / "none.fasta")


def config(head, **more):
    return TrainConfig(**{**TINY, "head": head, "dropout": 0.0, **more})


def loss_of(model, labels):
    record = topology.record_of("p", "ACDEFGHIKL"[: len(labels)], labels)
    batch = collate_examples(topology_model.examples_of([record]))
    return model(batch.features, batch.lengths, batch.segments)


@pytest.mark.parametrize(("head", "K"), [("semi-crf", 4), ("linear-crf", 1), ("argmax", 1)])
def test_the_loss_sums_over_what_an_unknown_residue_may_be(head, K):
    model = topology_model.TopologyModel(20, config(head, max_duration=K)).eval()
    each = torch.stack([-loss_of(model, f"11H{x}2") for x in "H12S"])
    expected = -torch.logsumexp(each, 0)
    torch.testing.assert_close(loss_of(model, "11HU2"), expected, rtol=1e-4, atol=1e-4)
    nothing = loss_of(model, "UUUUU").detach()
    torch.testing.assert_close(nothing, torch.zeros(1), rtol=0, atol=1e-4)


def test_the_semi_crf_finds_no_helix_longer_than_its_longest():
    model = topology_model.TopologyModel(20, config("semi-crf", max_duration=3)).eval()
    with torch.no_grad():
        model.head.projection.bias[topology.LABELS.index("helix")] = 50.0
    found = model.decode(topology.record_of("p", "ACDEFGHIKL", "U" * 10))
    helices = [end - start for start, end, label in found if label == "helix"]
    assert helices and max(helices) <= 3


def test_a_helix_longer_than_the_model_allows_is_named():
    record = topology.record_of("p", "ACDEF", "1HHHH")
    with pytest.raises(
        SegmentError, match=r"'p': helix \[1, 5\) has 4 residues, max_duration is 3"
    ):
        topology_model.check_helices([record], 3)


def test_what_is_found_where_nothing_is_known_is_not_judged():
    true = segments_from_runs(list("aauuaa"))
    true = [(s, e, "unknown" if label == "u" else label) for s, e, label in true]
    assert topology.judged([(0, 6, "helix")], true) == [(0, 2, "helix"), (4, 6, "helix")]
    assert topology.judged([(2, 3, "helix")], true) == []


def test_the_scores_of_a_small_case_by_hand():
    true = [
        [(0, 4, "helix"), (4, 8, "inside"), (8, 12, "unknown")],
        [(0, 4, "helix"), (4, 8, "inside")],
        [(0, 8, "inside")],
    ]
    found = [
        [(0, 4, "helix"), (4, 9, "inside"), (9, 12, "helix")],
        [(0, 1, "helix"), (1, 8, "inside")],
        [(0, 8, "inside")],
    ]
    row = protein.scores(true, found)
    assert row["accuracy"] == pytest.approx(100 * 21 / 24)
    assert row["residue_f1"] == pytest.approx(100 * 2 * 5 / (8 + 5))
    assert row["segment_f1"] == 50.0 and row["all_right"] == 50.0 and row["proteins"] == 2


def test_no_sequence_is_in_two_parts_and_too_few_are_refused():
    names = [f"p{i}" for i in range(20)]
    parts = three_heads.split(names, 0.15, 0.25, seed=3)
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [12, 3, 5]
    assert sorted(name for part in parts.values() for name in part) == sorted(names)
    assert three_heads.split(names, 0.15, 0.25, seed=4) != parts
    with pytest.raises(ConfigError, match="2 sequences are too few"):
        three_heads.split(names[:2], 0.15, 0.25, seed=0)


def test_the_command_writes_table_and_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    data, output = write_proteins(tmp_path / "data"), tmp_path / "out"
    settings = write_config(tmp_path / "c.yaml", PROTEIN)
    protein.main(["--data", str(data), "--config", str(settings), "--output", str(output)])
    rows = json.loads((output / "table.json").read_text())["runs"]
    assert [row["head"] for row in rows] == ["argmax", "linear-crf", "semi-crf"]
    assert all(math.isfinite(row[key]) for row in rows for key in protein.COLUMNS)
    assert (output / "protein.png").stat().st_size > 1000
    assert "| semi-crf | " in capsys.readouterr().out


def test_the_command_names_what_is_wrong_and_writes_no_table(tmp_path, capsys):
    data, output = write_proteins(tmp_path / "data"), tmp_path / "out"
    heads = {"argmax": {}, "semi-crf": {"max_duration": 3}}
    settings = write_config(tmp_path / "c.yaml", PROTEIN, heads=heads)
    with pytest.raises(SystemExit):
        protein.main(["--data", str(data), "--config", str(settings), "--output", str(output)])
    assert "max_duration is 3" in capsys.readouterr().err
    assert not (output / "table.json").exists()


@pytest.mark.data
def test_the_real_proteins_are_read(real_data):
    path = real_data("protein_tm_topology") / "datasets" / "alpha.fasta"
    records = topology.read_topology(path)
    assert len(records) == 593 and sum(record.length for record in records) == 276_621
    topology_model.check_helices(records, 48)
