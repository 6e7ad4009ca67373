"""The Lightning module and data module: fit, stop, resume, and Lightning's own command line."""

import subprocess
import sys
import warnings

import pytest
import torch
from training_cases import tiny_records, write_npz

lightning = pytest.importorskip("lightning", reason="needs the extra lightning")
pytestmark = pytest.mark.filterwarnings("ignore")

from torch_semimarkov.errors import ConfigError  # noqa: E402
from torch_semimarkov.training.examples import make_examples  # noqa: E402
from torch_semimarkov.training.lightning import (  # noqa: E402
    BucketSampler,
    RecordDataModule,
    SegmentationModule,
    main,
)

SMALL = {"hidden_dim": 8, "num_layers": 1, "dropout": 0.0, "lr": 0.01}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("lightning") / "data", tiny_records(12))


def trainer(folder, epochs):
    return lightning.Trainer(
        max_epochs=epochs, default_root_dir=folder, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip


def module_for(records, **changes):
    torch.manual_seed(0)
    return SegmentationModule(
        records.num_features, records.num_classes, records.max_duration,
        statistics=records.statistics, **{**SMALL, **changes},
    )  # fmt: skip


def test_fitting_lowers_the_loss_and_a_resumed_run_ends_at_the_same_weights(data, tmp_path):
    records = RecordDataModule(str(data), batch_size=4)
    whole = module_for(records)
    first = float(whole._loss(next(iter(records.val_dataloader()))))
    trainer(tmp_path / "whole", 4).fit(whole, records)
    assert float(whole._loss(next(iter(records.val_dataloader())))) < first
    half = trainer(tmp_path / "half", 2)
    half.fit(module_for(records), records)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed = module_for(records)
    trainer(tmp_path / "rest", 4).fit(resumed, records, ckpt_path=tmp_path / "half.ckpt")
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight)


def test_a_checkpoint_holds_what_it_takes_to_build_the_module(data, tmp_path):
    records = RecordDataModule(str(data), batch_size=4)
    module = module_for(records, boundary_scores=True)
    run = trainer(tmp_path, 1)
    run.fit(module, records)
    run.save_checkpoint(tmp_path / "one.ckpt")
    back = SegmentationModule.load_from_checkpoint(tmp_path / "one.ckpt")
    batch = next(iter(records.val_dataloader()))
    with torch.no_grad():
        expected = module.eval()(batch.features, batch.lengths).to_list()
        assert back.eval()(batch.features, batch.lengths).to_list() == expected


def test_the_data_module_gives_the_records_of_train(data):
    records = RecordDataModule(str(data), batch_size=4, validation_fraction=0.25, seed=1)
    assert len(records.train_set) == 9 and len(records.validation_set) == 3
    direct = make_examples(tiny_records(12), records.vocabulary, records.max_duration)
    by_name = {example.name: example for example in direct}
    for example in records.train_set + records.validation_set:
        assert torch.equal(example.segments, by_name[example.name].segments)


def test_buckets_differ_between_epochs_and_bound_the_padding():
    lengths = [10] * 5 + [100] * 5
    sampler = BucketSampler(lengths, 4, max_padding=0.2)
    first = list(sampler)
    sampler.set_epoch(1)
    assert first != list(sampler)
    assert all(len({lengths[i] for i in batch}) == 1 for batch in first)
    assert sorted(i for batch in first for i in batch) == list(range(10))


def test_the_penalty_is_in_the_loss_of_training_only(data):
    records = RecordDataModule(str(data), batch_size=4)
    module = module_for(records, crf_reg=0.5)
    batch = next(iter(records.val_dataloader()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = module.training_step(batch, 0)
    penalty = module.model.head.parameter_penalty()
    torch.testing.assert_close(loss, module._loss(batch) + 0.5 * penalty)


def test_a_tail_learns_from_whole_segments_and_comes_back_from_a_checkpoint(tmp_path):
    path = write_npz(tmp_path / "data", tiny_records(8, longest=9))
    cut = RecordDataModule(str(path), batch_size=4, max_duration=2)
    records = RecordDataModule(str(path), batch_size=4, max_duration=2, tail="geometric")
    durations = [e.segments[:, 1] - e.segments[:, 0] for e in records.train_set]
    assert max(int(each.max()) for each in durations) > 2 == cut.max_duration
    assert all((e.segments[:, 1] - e.segments[:, 0] <= 2).all() for e in cut.train_set)
    module = module_for(records, tail=records.tail, lr=0.1)
    before = module.model.head.tail_logit.detach().clone()
    run = trainer(tmp_path, 2)
    run.fit(module, records)
    assert (module.model.head.tail_logit - before).abs().max() > 0.05
    run.save_checkpoint(tmp_path / "one.ckpt")
    back = SegmentationModule.load_from_checkpoint(tmp_path / "one.ckpt")
    assert torch.equal(back.model.head.tail_logit, module.model.head.tail_logit)


def test_a_tail_of_another_name_is_refused(data):
    with pytest.raises(ConfigError, match="tail"):
        RecordDataModule(str(data), tail="poisson")
    with pytest.raises(ConfigError, match='tail must be "geometric" or None'):
        SegmentationModule(2, 3, 4, tail="poisson")


def test_unlabelled_records_are_refused(tmp_path):
    import numpy as np

    np.savez(tmp_path / "a.npz", features=np.zeros((5, 2)))
    with pytest.raises(ConfigError, match="every record must be labelled"):
        RecordDataModule(str(tmp_path))


@pytest.mark.slow
def test_the_command_line_takes_a_config_and_the_sizes_from_the_data(data, tmp_path):
    pytest.importorskip("jsonargparse", reason="needs the extra lightning")
    config = tmp_path / "run.yaml"
    config.write_text(
        f"data:\n  path: {data}\n  batch_size: 4\n  tail: geometric\n"
        "model:\n  hidden_dim: 8\n  num_layers: 1\n"
        f"trainer:\n  max_epochs: 1\n  accelerator: cpu\n  default_root_dir: {tmp_path}\n"
        "  logger: false\n  enable_progress_bar: false\n"
    )
    command = main(["fit", "--config", str(config)])
    assert command.model.model.architecture.num_features == 2
    assert command.model.model.architecture.tail == "geometric"
    assert command.trainer.current_epoch == 1


def test_without_lightning_the_error_names_the_extra():
    code = "import sys; sys.modules['lightning'] = None\nimport torch_semimarkov.training.lightning"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'torch_semimarkov[lightning]'" in done.stderr
