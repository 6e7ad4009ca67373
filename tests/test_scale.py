"""Training at scale: processes and accumulated batches give what one process and one batch give."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from cli_cases import fails, succeeds
from distributed_cases import run_on_ranks
from training_cases import tiny_config, tiny_records, write_npz

from torch_semimarkov.data import read_segments
from torch_semimarkov.errors import ConfigError
from torch_semimarkov.training.config import TrainConfig
from torch_semimarkov.training.examples import batch_order
from torch_semimarkov.training.ranks import Ranks, process_group
from torch_semimarkov.training.run import train

needs_group = pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed")
# No dropout, so that processes and batches see the same model.
PLAIN = {"dropout": 0.0, "epochs": 2, "batch_size": 4}
# Settings in which two processes are to learn what one learns.
SHARED = ({}, {"crf_reg": 0.1}, {"accumulate": 2, "batch_size": 2})


def learned(count=9, **changes):
    trained = train(tiny_records(count), None, tiny_config(**{**PLAIN, **changes}), quiet=True)
    return {
        "weights": trained.saved.model.state_dict(),
        "losses": [row["train_loss"] for row in trained.progress.history],
        "validation": [row["validation_loss"] for row in trained.progress.history],
    }


def assert_same_learning(found, expected):
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    assert found["validation"] == pytest.approx(expected["validation"], rel=1e-5)
    for name, weight in expected["weights"].items():
        if not name.endswith("_extra_state"):
            # steps of Adam turn a rounded gradient near 0 into a step of its own
            torch.testing.assert_close(found["weights"][name], weight, rtol=1e-3, atol=1e-4)


def learned_on_rank(rank):
    return [learned(**changes) for changes in SHARED]


@needs_group
def test_two_processes_learn_what_one_learns_from_the_whole_batch():
    whole = [learned(**changes) for changes in SHARED]
    for found in run_on_ranks(2, learned_on_rank):
        for one, expected in zip(found, whole, strict=True):
            assert_same_learning(one, expected)


def test_accumulated_batches_are_one_larger_batch():
    # one pool of neighbours, so both cut the same order
    whole, parts = learned(batch_size=8), learned(batch_size=4, accumulate=2)
    assert_same_learning(parts, whole)


def whole_and_resumed(rank, folder):
    whole = learned(dropout=0.3)["weights"]
    config = tiny_config(**{**PLAIN, "dropout": 0.3})
    with pytest.raises(KeyboardInterrupt):
        train(
            tiny_records(9), None, config, folder, quiet=True,
            should_stop=lambda p: rank == 1 and (p.epoch, p.batch) == (1, 1),
        )  # fmt: skip
    resumed = train(tiny_records(9), None, config, folder, resume=True, quiet=True)
    return whole, resumed.saved.model.state_dict()


@needs_group
def test_processes_stop_together_and_resume_to_the_same_bits(tmp_path):
    (whole, first), (_, second) = run_on_ranks(2, whole_and_resumed, tmp_path)
    for name, weight in whole.items():
        assert torch.equal(first[name], weight)
        assert torch.equal(first[name], second[name])


def test_bounded_padding_holds_and_loses_no_example():
    lengths = np.random.default_rng(0).integers(1, 200, 300).tolist()
    batches = batch_order(lengths, 16, 0, 1, max_padding=0.1)
    assert sorted(i for batch in batches for i in batch) == list(range(300))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert 1 - sum(lengths[i] for i in batch) / (len(batch) * longest) <= 0.1
    loose = batch_order(lengths, 16, 0, 1)
    assert len(batches) > len(loose) == 19


def test_bfloat16_computes_the_encoder_and_learns_nearly_the_same():
    plain, half = learned(), learned(autocast="bfloat16")
    assert half["losses"] == pytest.approx(plain["losses"], rel=0.03)
    assert half["losses"] != plain["losses"]
    assert all(weight.dtype != torch.bfloat16 for weight in half["weights"].values())


def test_a_compiled_model_learns_the_same(monkeypatch):
    # without a compiler for C++: the graph as it is traced
    honest, seen = torch.compile, []

    def traced(model, **options):
        seen.append(options)
        return honest(model, backend="aot_eager", **options)

    monkeypatch.setattr(torch, "compile", traced)
    # batches of 7 and 6, no other size of a tensor here, so that one graph serves both
    few = {"count": 17, "batch_size": 7, "epochs": 1}
    plain, compiled = learned(**few), learned(**few, compile=True)
    assert seen == [{"dynamic": True}]
    assert_same_learning(compiled, plain)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"accumulate": 0}, "accumulate must be >= 1"),
        ({"max_padding": 0.0}, "max_padding must be <= 1 and > 0"),
        ({"autocast": "float8"}, "autocast must be one of none, bfloat16"),
    ],
)
def test_settings_out_of_range_are_refused(changes, problem):
    with pytest.raises(ConfigError, match=problem):
        TrainConfig(**changes)


# Predicting


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale")
    data = write_npz(folder / "data", tiny_records(5))
    succeeds("train", data, "-o", folder / "model", "--epochs", 1, "--hidden-dim", 8, "--quiet")
    return folder


def predict_on_rank(rank, folder, output):
    with process_group() as ranks:
        assert ranks == Ranks(rank, 2)
        arguments = ("predict", folder / "model", folder / "data", "-o", output)
        succeeds(*arguments, "--merged", output / "all.tsv", "--quiet")
    return len(list(output.glob("*.segments.tsv")))


@needs_group
def test_predict_shards_over_processes_and_merges_in_order(model, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for folder in (alone, shared):
        folder.mkdir()
    arguments = ("predict", model / "model", model / "data", "-o", alone)
    succeeds(*arguments, "--merged", alone / "all.tsv", "--quiet")
    assert run_on_ranks(2, predict_on_rank, model, shared) == [5, 5]
    assert (shared / "all.tsv").read_text() == (alone / "all.tsv").read_text()
    names = [table.name for table in read_segments(alone / "all.tsv")]
    assert names == [f"r0-{i}" for i in range(5)]
    for path in alone.glob("*.segments.tsv"):
        assert path.read_text() == (shared / path.name).read_text()


def test_a_merged_file_that_cannot_be_written_is_refused_first(model, tmp_path):
    arguments = ("predict", model / "model", model / "data", "-o", tmp_path / "out")
    assert "does not exist" in fails(*arguments, "--merged", tmp_path / "none" / "all.tsv")
    error = fails(*arguments, "--merged", tmp_path / "all.tsv", "--format", "wfdb")
    assert "--merged joins tables" in error
    assert not (tmp_path / "out").exists()
