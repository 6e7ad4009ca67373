"""A failed batch is kept and replayed: each planted fault is named, with its place and cause."""

import logging

import pytest
import torch
from cli_cases import call, fails, succeeds
from training_cases import tiny_config, tiny_records

from torch_semimarkov import dispatch
from torch_semimarkov.data import LabelVocabulary
from torch_semimarkov.errors import ConfigError, FileFormatError, NumericsError
from torch_semimarkov.nn import SemiMarkovCRFHead
from torch_semimarkov.training import examine, load_batch, save_batch, train
from torch_semimarkov.training.config import TrainConfig
from torch_semimarkov.training.doctor import FAILED, potentials_of, watch_drift
from torch_semimarkov.training.examples import collate_examples, make_examples, pieces_of
from torch_semimarkov.training.loop import Trainer
from torch_semimarkov.training.run import build

NAN, INF = float("nan"), float("inf")
B, T, K, C = 2, 6, 3, 2


def terms(seed=0):
    torch.manual_seed(seed)
    return {
        "scores": torch.randn(B, T, C), "transition": torch.randn(C, C),
        "duration_bias": torch.randn(K, C), "start": torch.randn(C), "end": torch.randn(C),
        "lengths": torch.tensor([6, 4]),
    }  # fmt: skip


PLACES = {
    "scores": ((1, 2, 1), "sequence 1, position 2, label 1"),
    "transition": ((0, 1), "source 0, destination 1"),
    "duration_bias": ((2, 1), "duration 3, label 1"),
    "start": ((1,), "label 1"),
    "end": ((0,), "label 0"),
}


@pytest.mark.parametrize(("value", "cause"), [(NAN, "projection"), (INF, "overflowed")])
@pytest.mark.parametrize("name", PLACES)
def test_a_planted_nan_or_inf_is_named_with_its_place_and_cause(name, value, cause):
    batch, (index, place) = terms(), PLACES[name]
    batch[name][index] = value
    (found,) = examine(batch)
    assert found.problem.startswith(f"{name} holds 1 values that are no scores")
    assert found.problem.endswith(place)
    assert cause in found.cause


def test_a_sequence_without_a_segmentation_is_named():
    batch = terms()
    batch["scores"][1, 3] = -INF
    (found,) = examine(batch)
    assert "sequence 1 has no possible segmentation" in found.problem


def test_sound_potentials_agree_on_every_backend_in_both_types():
    found = examine(terms())
    assert {(f.backend, f.dtype) for f in found} == {
        (name, dtype) for name in dispatch.available_backends() for dtype in ("float32", "float64")
    }
    assert not any(f.problem for f in found)
    assert any(f.backend == "triton" and f.skipped for f in found)


FAULTS = {
    "partition": lambda value: value + 1e-3,
    "the gradient of transition": lambda grad: grad.clone().index_fill_(0, torch.tensor([1]), NAN),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_first_tensor_that_differs_is_named(monkeypatch, name):
    from torch_semimarkov.training import doctor

    honest = doctor._results

    def with_a_fault(batch, backend, dtype):
        found = honest(batch, backend, dtype)
        if backend == "cpu":
            found[name] = FAULTS[name](found[name])
            found["the best score"] = found["the best score"] + 1
        return found

    monkeypatch.setattr(doctor, "_results", with_a_fault)
    wrong = [f for f in examine(terms()) if f.problem]
    assert {f.backend for f in wrong} == {"cpu"}
    assert wrong[0].dtype == "float64"
    assert wrong[0].problem.startswith(f"{name} differs in 2 of")
    assert "kernels of this backend" in wrong[0].cause


def test_a_file_comes_back_and_other_files_are_refused(tmp_path):
    path = save_batch(tmp_path / "batch.safetensors", terms())
    back = load_batch(path)
    assert all(torch.equal(back[name], x) for name, x in terms().items())
    (tmp_path / "torn.safetensors").write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FileFormatError, match="damaged or not safetensors"):
        load_batch(tmp_path / "torn.safetensors")
    with pytest.raises(FileFormatError, match="no such file"):
        load_batch(tmp_path / "none.safetensors")
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(FileFormatError, match="not a batch that training wrote: holds"):
        load_batch(tmp_path / "model.safetensors")


def test_the_command_says_which_tensor_differs_and_ends_with_1(tmp_path):
    path = save_batch(tmp_path / "batch.safetensors", terms())
    assert "cpu        float32  agrees" in succeeds("doctor", path)
    batch = terms()
    batch["scores"][0, 1, 0] = NAN
    result = call("doctor", save_batch(path, batch))
    assert result.exit_code == 1
    assert "sequence 0, position 1, label 0" in result.output
    assert "likely cause" in result.output
    assert "no such file" in fails("doctor", tmp_path / "none.safetensors")


# In training


def trainer(folder, **changes):
    records, config = tiny_records(), tiny_config(**changes)
    vocabulary = LabelVocabulary.from_records(records)
    saved = build(records, vocabulary, config, 5)
    examples = make_examples(records, vocabulary, 5)
    return Trainer(saved.model, examples, [], config, folder, quiet=True)


def test_a_batch_that_fails_in_training_is_written_and_replayed(tmp_path):
    training = trainer(tmp_path)
    training.model.head.transition.data[1, 0] = NAN
    with pytest.raises(NumericsError, match=r"doctor .*failed_batch.safetensors replays the batch"):
        training.run()
    (found,) = examine(load_batch(tmp_path / FAILED))
    assert "transition" in found.problem and "source 1, destination 0" in found.problem


def test_what_is_kept_is_what_the_head_saw(tmp_path):
    training = trainer(tmp_path)
    batch = collate_examples(training.train_set[:2])
    kept = potentials_of(training.model.eval(), batch)
    hidden = training.model.hidden(batch.features, batch.lengths)
    expected = training.model.head.potentials(hidden, batch.lengths)
    assert torch.equal(kept["scores"], expected["scores"])
    assert torch.equal(kept["lengths"], batch.lengths)


def test_drift_beyond_20_warns_and_names_the_remedy(caplog):
    head = SemiMarkovCRFHead(2, 3)
    with caplog.at_level(logging.DEBUG, "torch_semimarkov"):
        watch_drift(head, 1)
        assert [r.levelname for r in caplog.records] == ["DEBUG"]
        assert "largest transition" in caplog.text
        head.transition.data[0, 1] = -21.0
        watch_drift(head, 2)
    assert caplog.records[-1].levelname == "WARNING"
    assert "epoch 2" in caplog.records[-1].message and "--crf-reg" in caplog.records[-1].message


def test_rare_durations_of_a_normalised_model_are_no_drift(caplog):
    head = SemiMarkovCRFHead(1, 400, duration_distribution="geometric", duration_mean=2.0)
    assert head.durations().min().item() < -20
    with caplog.at_level(logging.WARNING, "torch_semimarkov"):
        watch_drift(head, 1)
    assert not caplog.records


def test_crf_reg_keeps_the_transitions_small():
    found = []
    for weight in (0.0, 1.0):
        config = tiny_config(crf_reg=weight, epochs=4)
        found.append(train(tiny_records(), config=config, quiet=True).saved.model.head)
    plain, penalised = (head.parameter_penalty().item() for head in found)
    assert penalised < 0.9 * plain
    with pytest.raises(ConfigError, match="crf_reg is a setting of the CRFs only"):
        TrainConfig(head="argmax", crf_reg=0.1)


def test_fixed_length_trains_on_pieces_of_that_length():
    records = tiny_records()
    examples = make_examples(records, LabelVocabulary.from_records(records), 5)
    pieces = pieces_of(examples, 7)
    assert {len(piece.features) for piece in pieces} == {7}
    assert all(int(piece.segments[-1, 1]) == 7 for piece in pieces)
    assert sum(len(p.features) for p in pieces) == sum(len(e.features) // 7 * 7 for e in examples)
    with pytest.raises(ConfigError, match=r"fixed_length is 1000, and the longest record has"):
        train(records, config=tiny_config(fixed_length=1000), quiet=True)


def test_without_triton_the_choice_of_a_backend_leaves_it_out(monkeypatch):
    seen = []
    honest = dispatch.select._left_out

    def noted():
        seen.append(honest())
        return honest()

    monkeypatch.setattr(dispatch.select, "_left_out", noted)
    train(tiny_records(), config=tiny_config(triton=False), quiet=True)
    before, *inside = seen
    assert before == {}  # what the block that leaves it out finds when it begins
    assert inside and all("triton" in left_out for left_out in inside)
