"""The speech recipe, from records to a table: models, training, scores, comparison, commands."""

import json
import signal
import sys

import numpy as np
import pytest
import torch
from timit_cases import PHONES, compared, job_of, made_data

from torch_semimarkov.cli.options import check_run_folder
from torch_semimarkov.data import Record, collate
from torch_semimarkov.errors import ConfigError, UnsupportedError
from torch_semimarkov.nn.segmenter import Architecture, SegmentationModel
from torch_semimarkov.segments import Segments
from torch_semimarkov.training import Predictor, load_model

phone_data = pytest.importorskip("phone_data")
phone_models = pytest.importorskip("phone_models")
phone_scores = pytest.importorskip("phone_scores")
phone_training = pytest.importorskip("phone_training")


def trained(job, **how):
    lines = []
    data = phone_training.load_data(job)
    saved, went = phone_training.train_model(job, data, lines.append, **how)
    return saved, went, lines


def weights(folder):
    return load_model(folder).model.state_dict()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    segments = Segments.from_list([[(0, 3, 1), (3, 7, 0), (7, 9, 2)], [(0, 5, 2), (5, 6, 1)]])
    return torch.randn(2, 9, 4), torch.tensor([9, 6]), segments


def model_of(head, K=1):
    torch.manual_seed(0)
    model = SegmentationModel(Architecture(4, 3, K, head, hidden_dim=8, num_layers=1))
    with torch.no_grad():
        model.head.transition.normal_()
        model.head.start.normal_()
        model.head.end.normal_()
    return model.eval()


# Models


def test_pytorch_crf_and_our_linear_crf_are_the_same_distribution(batch):
    pytest.importorskip("torchcrf")
    features, lengths, segments = batch
    single = Segments.from_labels(segments.to_labels(9).clamp(min=0), lengths, 1, "split")
    model = model_of("linear-crf")
    peer = phone_models.PeerCRF(model).eval()
    ours = phone_models.OnBackend(model)
    torch.testing.assert_close(peer(features, lengths, single), ours(features, lengths, single))
    assert peer.decode(features, lengths) == ours.decode(features, lengths)
    peer(features, lengths, single).sum().backward()
    assert model.head.transition.grad.abs().sum() > 0


@pytest.mark.parametrize("backend", ["streaming", "exact", "cpu", "reference"])
def test_every_backend_gives_the_same_loss_and_segments(backend, batch):
    features, lengths, segments = batch
    model = model_of("semi-crf", K=6)
    want, have = (phone_models.OnBackend(model, name) for name in ("auto", backend))
    found = have(features, lengths, segments), want(features, lengths, segments)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
    assert have.decode(features, lengths) == want.decode(features, lengths)


def test_the_backend_asked_for_is_the_one_that_runs(batch):
    features, lengths, segments = batch
    with pytest.raises(UnsupportedError, match="triton"):
        phone_models.OnBackend(model_of("semi-crf", 6), "triton")(features, lengths, segments)


def test_without_pytorch_crf_its_model_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchcrf", None)
    job = job_of(made_data(tmp_path / "data"), tmp_path / "run", "pytorch-crf")
    with pytest.raises(UnsupportedError, match=r"pip install torch_semimarkov\[bench\]"):
        trained(job)
    with pytest.raises(UnsupportedError, match=r"pip install torch_semimarkov\[bench\]"):
        compared(job, tmp_path / "runs", seeds=(0,))


@pytest.mark.parametrize(
    ("model", "flag"),
    [("linear", "--max-duration"), ("pytorch-crf", "--backend"), ("pytorch-crf", "--no-triton")],
)
def test_a_flag_without_effect_on_a_model_is_refused(model, flag):
    phone_models.refuse_unused(("semicrf", model), [flag])
    with pytest.raises(ConfigError, match=f"{flag} has no effect on {model}"):
        phone_models.refuse_unused((model,), [flag])


# Training


@pytest.mark.parametrize("model", phone_models.MODELS)
def test_a_model_learns_and_its_folder_serves_the_library(model, tmp_path):
    if model == "pytorch-crf":
        pytest.importorskip("torchcrf")
    job = job_of(made_data(tmp_path / "data"), tmp_path / "run", model, epochs=25)
    _, went, lines = trained(job)
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line) for line in log]
    assert went["validation_loss"] < losses[0]["validation_loss"] and went["seconds"] > 0
    assert any(line.startswith(f"{model}, ") for line in lines)
    saved = load_model(tmp_path / "run")
    data = phone_training.load_data(job)
    test = data.parts["test"]
    wrapped = phone_models.wrap(model, saved.model)
    found = phone_scores.decode(wrapped, test, data.manifest, passes=1)
    predictions = [p.segments for p in Predictor(saved)(test)]
    assert found.found == [phone_scores.folded(p, data.manifest.scored) for p in predictions]
    assert phone_scores.score(found, data.manifest)["position_accuracy"] > 0.9


@pytest.mark.parametrize("durations", ["learned", "negative_binomial"])
def test_a_phone_that_is_not_in_the_training_part_is_known_all_the_same(durations, tmp_path):
    made_data(tmp_path / "data")
    manifest = phone_data.read_manifest(tmp_path / "data")
    wider = phone_data.Manifest(
        ("zz", *PHONES), {**manifest.scored, "zz": "zz"}, 100.0, {}, manifest.utterances
    )
    phone_data.write_manifest(tmp_path / "data", wider)
    job = job_of(tmp_path / "data", tmp_path / "run", duration_distribution=durations)
    saved, went, _ = trained(job)
    assert list(saved.vocabulary) == ["zz", *PHONES] and np.isfinite(went["validation_loss"])


@pytest.mark.parametrize("model", ["semicrf", "pytorch-crf"])
def test_a_stopped_training_goes_on_to_the_same_weights(model, tmp_path):
    if model == "pytorch-crf":
        pytest.importorskip("torchcrf")
    data = made_data(tmp_path / "data")
    trained(job_of(data, tmp_path / "whole", model))
    job, lines = job_of(data, tmp_path / "run", model, log_every=1), []

    def stop(line):
        lines.append(line)
        if line.startswith("epoch 2, batch 1"):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="stopped in epoch 2, after 2 batches"):
        phone_training.train_model(job, phone_training.load_data(job), stop)
    assert not (tmp_path / "run" / "config.json").exists()
    _, went, lines = trained(job, resume=True)
    assert "resumed in epoch 2, after 2 batches" in lines and went["epochs"] == 3
    whole, gone_on = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(whole[name], gone_on[name]) for name in whole)


def test_a_folder_with_a_run_is_not_overwritten_by_accident(tmp_path):
    job = job_of(made_data(tmp_path / "data"), tmp_path / "run", epochs=1)
    trained(job)
    with pytest.raises(ConfigError, match="holds a run already"):
        check_run_folder(job.output, resume=False, overwrite=False)
    with pytest.raises(ConfigError, match="exclude each other"):
        check_run_folder(job.output, resume=True, overwrite=True)
    check_run_folder(job.output, resume=False, overwrite=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"crf_reg": 0.1},
        {"fixed_length": 10},
        {"max_duration": 4},
        {"lr": 0.001},
        {"duration_distribution": "poisson"},
    ],
)
def test_a_setting_of_training_has_its_effect(changes, tmp_path):
    data = made_data(tmp_path / "data")
    _, plain, _ = trained(job_of(data, tmp_path / "a", epochs=2))
    _, other, _ = trained(job_of(data, tmp_path / "b", epochs=2, **changes))
    assert plain["validation_loss"] != other["validation_loss"]


# Scores


def spans(*rows):
    return [tuple(row) for row in rows]


def decoded_of(true, found, T=40):
    record = Record("a", np.zeros((T, 1)), true, 100.0)
    return phone_scores.Decoded([record], [true], [found], 1.0, 1.0)


MANIFEST = phone_data.Manifest(PHONES, {name: name for name in PHONES}, 100.0, {}, [])
TRUE = spans((0, 10, "sil"), (10, 20, "aa"), (20, 30, "s"), (30, 40, "sil"))


def test_a_perfect_answer_has_perfect_scores():
    found = phone_scores.score(decoded_of(TRUE, TRUE), MANIFEST)
    assert found["phone_error_rate"] == found["duration_shift_ms"] == found["duration_ks"] == 0
    assert found["boundary_f1"] == found["boundary_r_value"] == found["segment_f1"] == 1
    assert found["audio_seconds"] == 0.4 and found["phones"] == 4


def test_each_score_counts_what_it_says():
    guess = spans((0, 12, "sil"), (12, 23, "aa"), (23, 30, "iy"), (30, 40, "sil"))
    found = phone_scores.score(decoded_of(TRUE, guess), MANIFEST)
    assert found["phone_error_rate"] == 1 / 4
    assert found["phone_error_rate_without_silence"] == 1 / 2
    # 12 is 20 ms from 10, 23 is 30 ms from 20, 30 is right.
    assert found["boundary_f1"] == pytest.approx(2 / 3)
    assert found["segment_f1"] == 3 / 4 and found["segment_f1_without_silence"] == 1 / 2
    # aa lasts 110 ms and not 100; the two silences 120 and 100 and not twice 100; s is not found.
    assert found["duration_shift_ms"] == pytest.approx((10 * 1 + 10 * 2) / 3)


def test_phones_are_folded_and_joined_before_they_are_scored():
    rows = spans((0, 2, "iy"), (2, 4, "aa"), (4, 5, "s"))
    assert phone_scores.folded(rows, {"iy": "aa", "aa": "aa", "s": "s"}) == [
        (0, 4, "aa"), (4, 5, "s"),
    ]  # fmt: skip


def test_expected_durations_are_those_of_the_posterior():
    model = phone_models.OnBackend(model_of("semi-crf", K=6))
    manifest = phone_data.Manifest(("a", "b", "c"), {"a": "a", "b": "a", "c": "c"}, 100.0, {}, [])
    records = [Record(str(i), torch.randn(T, 4).numpy()) for i, T in enumerate((9, 6))]
    found = phone_scores.expected_durations(model, records, manifest)
    assert set(found) == {"a", "c"}
    covered = sum(d * n for row in found.values() for d, n in enumerate(row, 1))
    assert covered == pytest.approx(15, rel=1e-5)
    batch = collate(records)
    both = model.head.marginals(model.hidden(batch.features, batch.lengths), batch.lengths)
    torch.testing.assert_close(
        torch.tensor(found["c"]).float(),
        both.durations[:, 2].detach().float(),
        rtol=1e-4,
        atol=1e-5,
    )
