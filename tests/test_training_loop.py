"""Training: resuming gives the same result, early stopping, the best weights, batches."""

import json
import math
import shutil

import pytest
import torch
from training_cases import tiny_config, tiny_records

from torch_semimarkov.data import Record
from torch_semimarkov.errors import ConfigError, FileFormatError, NumericsError, SegmentError
from torch_semimarkov.nn import ARSSMEncoder
from torch_semimarkov.training.checkpoint import read_checkpoint
from torch_semimarkov.training.examples import batch_order, collate_examples, make_examples
from torch_semimarkov.training.folder import load_model, save_model
from torch_semimarkov.training.loop import learning_rate
from torch_semimarkov.training.run import train


def run(folder=None, *, stop_at=None, resume=False, records=None, **changes):
    """Train; ``stop_at`` is (epoch, batch) at which to ask for a stop."""
    return train(
        records or tiny_records(),
        None,
        tiny_config(**changes),
        folder,
        resume=resume,
        quiet=True,
        should_stop=lambda p: (p.epoch, p.batch) == stop_at,
    )


def weights(trained):
    return {name: value.clone() for name, value in trained.saved.model.state_dict().items()}


def assert_same_bits(left, right):
    assert left.keys() == right.keys()
    differing = [name for name in left if not torch.equal(left[name], right[name])]
    assert not differing


HEADS_AND_ENCODERS = [
    {"head": "semi-crf", "dropout": 0.3},
    {"head": "semi-crf", "dropout": 0.3, "schedule": "cosine", "warmup_steps": 2},
    {"head": "linear-crf", "dropout": 0.3, "encoder": "bilstm", "num_layers": 2},
    {"head": "argmax", "dropout": 0.5},
    {"head": "semi-crf", "dropout": 0.3, "encoder": "unet", "num_layers": 2, "head_lr": 0.1},
    {"head": "semi-crf", "encoder": "ar-ssm", "gate_mode": "gumbel", "rank_warmup_steps": 5},
]


@pytest.mark.parametrize(
    "changes", HEADS_AND_ENCODERS, ids=lambda c: "-".join(map(str, c.values()))
)
def test_a_run_stopped_within_an_epoch_resumes_to_the_same_bits(tmp_path, changes):
    whole = run(**changes)
    with pytest.raises(KeyboardInterrupt, match="epoch 2, after 1 batches"):
        run(tmp_path, stop_at=(2, 1), **changes)
    torch.manual_seed(99)  # the state of the caller's generator plays no part
    resumed = run(tmp_path, resume=True, **changes)
    assert_same_bits(weights(whole), weights(resumed))
    for left, right in zip(whole.progress.history, resumed.progress.history, strict=True):
        assert {**left, "seconds": 0} == {**right, "seconds": 0}


def test_a_run_stopped_at_every_batch_resumes_to_the_same_bits(tmp_path):
    whole = run(dropout=0.3, epochs=2)
    for stop_at in [(1, 1), (1, 2), (2, 0), (2, 1)]:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, stop_at=stop_at, resume=stop_at != (1, 1), dropout=0.3, epochs=2)
    resumed = run(tmp_path, resume=True, dropout=0.3, epochs=2)
    assert_same_bits(weights(whole), weights(resumed))


def test_the_head_has_its_own_learning_rate_and_its_projection_has_not():
    slow, fast = (run(epochs=1, dropout=0.0, lr=1e-9, head_lr=rate) for rate in (None, 0.1))
    left, right = weights(slow), weights(fast)
    moved = {k for k in left if not torch.allclose(left[k], right[k], rtol=0, atol=1e-3)}
    assert moved == {"head.transition", "head.start", "head.end", "head.durations.weight"}


def test_the_ranks_of_an_ar_ssm_rise_over_the_warm_up(monkeypatch):
    ranks, update = [], ARSSMEncoder.update_rank_schedule
    monkeypatch.setattr(
        ARSSMEncoder, "update_rank_schedule", lambda *call: ranks.append(update(*call))
    )
    trained = run(encoder="ar-ssm", max_rank=12, min_rank=2, rank_warmup_steps=4, epochs=3)
    assert ranks == [2, 4, 7, 9, 12, 12]
    assert trained.saved.model.encoder.blocks[0].layer.current_rank in ranks


def test_gates_weigh_on_the_loss_in_training_only():
    free, dear = (run(encoder="ar-ssm", gate_l1=w, epochs=1, lr=1e-9) for w in (0.0, 8.0))
    rows = [one.progress.history[0] for one in (free, dear)]
    # The mean gate is near a half at first.
    assert 2.0 < rows[1]["train_loss"] - rows[0]["train_loss"] < 6.0
    assert abs(rows[1]["validation_loss"] - rows[0]["validation_loss"]) < 1e-3


def test_a_start_takes_the_weights_of_an_ar_ssm_and_not_its_gate_mode(tmp_path):
    first = run(encoder="ar-ssm", head="argmax", gate_mode="ste", epochs=1)
    folder = str(save_model(tmp_path / "first", first.saved))
    after = run(encoder="ar-ssm", gate_mode="soft", start_from=folder, epochs=1, lr=1e-9)
    layers = [one.saved.model.encoder.blocks[0].layer for one in (first, after)]
    assert layers[1].gate_mode == "soft"
    torch.testing.assert_close(
        layers[0].project_u.weight, layers[1].project_u.weight, rtol=0, atol=1e-6
    )
    with pytest.raises(ConfigError, match="max_rank is 32, not 8"):
        run(encoder="ar-ssm", max_rank=8, start_from=folder)


@pytest.fixture
def argmax_folder(tmp_path):
    trained = run(head="argmax", epochs=1)
    return save_model(tmp_path / "argmax", trained.saved)


def test_a_run_starts_from_the_encoder_and_label_scores_of_a_saved_model(argmax_folder):
    before = load_model(argmax_folder).model.state_dict()
    after = weights(run(start_from=str(argmax_folder), epochs=1, dropout=0.0, lr=1e-9))
    shared = [name for name in after if name in before]
    assert "head.projection.weight" in shared and "encoder.enter.weight" in shared
    assert set(after) - set(shared) >= {"head.transition", "head.durations.weight"}
    for name in shared:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)


def test_a_run_with_a_start_resumes_to_the_same_bits_without_the_folder(tmp_path, argmax_folder):
    changes = {"start_from": str(argmax_folder), "dropout": 0.3, "head_lr": 0.1}
    whole = run(**changes)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop_at=(2, 1), **changes)
    shutil.rmtree(argmax_folder)
    assert_same_bits(weights(whole), weights(run(tmp_path, resume=True, **changes)))


def test_a_start_that_does_not_fit_is_refused_with_every_difference(tmp_path, argmax_folder):
    with pytest.raises(ConfigError, match=r"(?s)cannot start.*hidden_dim is 8, not 6.*num_layers"):
        run(start_from=str(argmax_folder), hidden_dim=6, num_layers=2)
    with pytest.raises(FileFormatError, match="no such model folder"):
        run(start_from=str(tmp_path / "none"))


def test_dropout_does_something_so_that_the_resume_tests_bite():
    with_it, without = run(dropout=0.3), run(dropout=0.0)
    assert with_it.progress.history[0]["train_loss"] != without.progress.history[0]["train_loss"]


def test_a_finished_run_resumes_to_itself_and_goes_on_when_given_more_epochs(tmp_path):
    whole = run(epochs=4)
    short = run(tmp_path, epochs=2)
    again = run(tmp_path, resume=True, epochs=2)
    assert_same_bits(weights(short), weights(again))
    longer = run(tmp_path, resume=True, epochs=4)
    assert_same_bits(weights(whole), weights(longer))


def test_training_leaves_the_random_state_of_the_caller_alone():
    before = torch.get_rng_state()
    run(epochs=1)
    assert torch.equal(before, torch.get_rng_state())


def test_training_stops_when_the_validation_loss_does_not_fall_and_keeps_the_best_weights(tmp_path):
    trained = run(tmp_path, lr=0.5, epochs=60, patience=3)
    p = trained.progress
    losses = [row["validation_loss"] for row in p.history]
    assert p.stopped_early and len(losses) < 60
    assert p.best_epoch == losses.index(min(losses)) + 1
    assert len(losses) - p.best_epoch == 3
    held_out = make_examples(
        trained.held_out, trained.saved.vocabulary, trained.saved.model.max_duration
    )
    batch = collate_examples(sorted(held_out, key=lambda e: len(e.features)))
    with torch.no_grad():
        found = trained.saved.model(batch.features, batch.lengths, batch.segments).sum()
    assert math.isclose(found / batch.lengths.sum(), min(losses), rel_tol=1e-6)


def test_without_validation_the_last_weights_are_kept():
    trained = run(validation_fraction=0.0, epochs=2)
    assert trained.held_out == []
    assert trained.progress.best_epoch == 0
    assert trained.metrics()["validation_loss"] is None


def test_the_loss_falls():
    history = run(epochs=12, dropout=0.0).progress.history
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]


def test_log_and_checkpoint_are_there_after_every_epoch(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop_at=(3, 0))
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[0].keys() >= {"train_loss", "validation_loss", "lr", "seconds"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.pt", "log.jsonl"]


def test_resuming_refuses_other_settings_and_other_data(tmp_path):
    run(tmp_path, epochs=1)
    with pytest.raises(ConfigError, match=r"hidden_dim was 8, is 6"):
        run(tmp_path, resume=True, hidden_dim=6, epochs=1)
    with pytest.raises(ConfigError, match="other data"):
        run(tmp_path, resume=True, records=tiny_records(seed=1), epochs=1)


def test_resuming_under_a_schedule_refuses_other_epochs(tmp_path):
    run(tmp_path, epochs=1, schedule="cosine")
    with pytest.raises(ConfigError, match="epochs was 1, is 2"):
        run(tmp_path, resume=True, epochs=2, schedule="cosine")


def test_resuming_without_a_checkpoint_names_the_file(tmp_path):
    with pytest.raises(FileFormatError, match=r"checkpoint\.pt: no checkpoint"):
        run(tmp_path, resume=True)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_checkpoint_is_one_clear_error(tmp_path, share):
    run(tmp_path, epochs=1)
    file = tmp_path / "checkpoint.pt"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FileFormatError, match=r"checkpoint\.pt: damaged or truncated"):
        run(tmp_path, resume=True, epochs=1)


def test_a_checkpoint_that_holds_code_is_refused(tmp_path):
    torch.save({"checkpoint_version": 1, "hook": print}, tmp_path / "checkpoint.pt")
    with pytest.raises(FileFormatError, match="damaged"):
        read_checkpoint(tmp_path / "checkpoint.pt")


def test_nan_in_training_is_an_error_and_leaves_the_last_checkpoint(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop_at=(2, 0))
    state = read_checkpoint(tmp_path / "checkpoint.pt")
    state["model"]["head.transition"][:] = math.nan
    torch.save(state, tmp_path / "checkpoint.pt")
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(NumericsError, match="transition"):
        run(tmp_path, resume=True)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_batches_hold_every_sequence_once_and_depend_on_seed_and_epoch():
    lengths = [7, 30, 8, 29, 9, 28, 10]
    order = batch_order(lengths, 2, seed=3, epoch=1)
    assert sorted(i for batch in order for i in batch) == list(range(7))
    assert order == batch_order(lengths, 2, seed=3, epoch=1)
    assert order != batch_order(lengths, 2, seed=3, epoch=2)
    assert order != batch_order(lengths, 2, seed=4, epoch=1)


def test_batches_gather_similar_lengths():
    lengths = [10, 100] * 20
    order = batch_order(lengths, 5, seed=0, epoch=1)
    waste = sum(max(lengths[i] for i in b) * len(b) - sum(lengths[i] for i in b) for b in order)
    assert waste <= 90 * 5


def test_segments_longer_than_k_are_split_and_the_report_says_how_many():
    lines = []
    config = tiny_config(max_duration=2, epochs=1)
    trained = train(tiny_records(), None, config, quiet=True, report=lines.append)
    duration = trained.duration
    assert duration["max_duration"] == 2 and duration["longer"] > 0
    assert (
        f"{duration['longer']} of {duration['segments']} training segments are longer" in lines[0]
    )
    assert "are split" in lines[0]


def test_decoded_neighbours_are_joined_unless_the_data_have_such_neighbours():
    assert run(epochs=1).saved.merge
    record = tiny_records(1)[0]
    first = record.segments[0]
    assert first.label
    twice = [(s.start, s.end, "low") for s in record.segments]
    assert not run(epochs=1, records=[Record("x", record.features, twice)] * 4).saved.merge


def test_unlabelled_records_are_refused_by_name():
    records = [*tiny_records(3), Record("bare", tiny_records(1)[0].features)]
    with pytest.raises(SegmentError, match="'bare' is not labelled"):
        run(records=records, validation_fraction=0.0)


def test_the_warm_up_rises_to_the_learning_rate():
    config = tiny_config(lr=1.0, warmup_steps=4)
    assert [learning_rate(config, step, 10) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
