"""The model and the records for Lightning: a module, a data module, and Lightning's command line.

    python -m torch_semimarkov.training.lightning fit --data.path recordings/ --trainer.max_epochs 5

Needs the extra ``lightning``. Checkpoints, resuming (``--ckpt_path``), loggers, precision,
gradient accumulation and several devices are Lightning's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from torch_semimarkov.data import LabelVocabulary, ReadOptions, read_folder
from torch_semimarkov.errors import ConfigError
from torch_semimarkov.nn.segmenter import Architecture, SegmentationModel
from torch_semimarkov.training.config import TrainConfig
from torch_semimarkov.training.examples import (
    Example,
    ExampleBatch,
    batch_order,
    collate_examples,
    make_examples,
    split_records,
)
from torch_semimarkov.training.ranks import Ranks
from torch_semimarkov.training.run import choose_duration
from torch_semimarkov.training.statistics import feature_statistics

try:
    import lightning
except ImportError as error:
    raise ModuleNotFoundError(
        "Lightning is not installed: pip install 'torch_semimarkov[lightning]'", name="lightning"
    ) from error


class BucketSampler(Sampler[list[int]]):
    """Batches of examples of similar lengths, a share of them for each process.

    Args:
        lengths: positions of each example.
        batch_size: examples of a batch at most.
        max_padding: largest share of padding in a batch, 0..1.
        seed: what the order is drawn by; another one in each epoch.

    Every process has the same number of batches: the first few are there twice if need be.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, max_padding: float = 0.5, seed: int = 0
    ):
        self.lengths, self.batch_size = list(lengths), batch_size
        self.max_padding, self.seed, self.epoch = max_padding, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of an epoch; Lightning calls this."""
        self.epoch = epoch

    def _batches(self) -> list[list[int]]:
        batches = batch_order(
            self.lengths, self.batch_size, self.seed, self.epoch, self.max_padding
        )
        ranks = Ranks.here()
        batches += batches[: -len(batches) % ranks.size]
        return ranks.share(batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches())

    def __len__(self) -> int:
        return len(self._batches())


class RecordDataModule(lightning.LightningDataModule):
    """Labelled records from a file or a folder, as ``torch-semimarkov train`` reads them.

    Args:
        path: the records.
        validation: records to validate on; default a share of ``path``.
        batch_size: records of a batch at most.
        max_padding: largest share of padding in a batch, 0..1.
        validation_fraction: that share, 0..1.
        max_duration: longest duration K; default suggested from the data.
        tail: "geometric" for a model whose segments may be longer than K; none are cut then.
        annotator, label_column, sample_rate: as in :class:`torch_semimarkov.data.ReadOptions`.
        seed: of the split and of the order of the batches.

    Raises:
        ConfigError: no labelled record, or a setting out of its range.
    """

    def __init__(
        self,
        path: str,
        validation: str | None = None,
        *,
        batch_size: int = 16,
        max_padding: float = 0.5,
        validation_fraction: float = 0.1,
        max_duration: int | None = None,
        tail: str | None = None,
        annotator: str | None = None,
        label_column: str = "label",
        sample_rate: float | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.save_hyperparameters()
        options = ReadOptions(
            annotator=annotator, label_column=label_column, sample_rate=sample_rate
        )
        records = list(read_folder(Path(path), options))
        if not records or any(record.segments is None for record in records):
            raise ConfigError(f"{path}: every record must be labelled")
        if validation is None:
            training, held_out = split_records(records, validation_fraction, seed)
        else:
            training, held_out = records, list(read_folder(Path(validation), options))
        self.vocabulary = LabelVocabulary.from_records(training)
        config = TrainConfig(max_duration=max_duration, tail=tail or "none")
        duration = choose_duration(training, config, lambda line: None)
        self.max_duration: int = duration["max_duration"]
        self.tail = tail
        longest = self.max_duration if tail is None else None
        self.num_features, self.num_classes = training[0].num_features, len(self.vocabulary)
        self.statistics = [x.tolist() for x in feature_statistics(training)]
        self.train_set, self.validation_set = (
            make_examples(part, self.vocabulary, longest) for part in (training, held_out)
        )

    def train_dataloader(self) -> DataLoader:
        """Batches in an order of the epoch's own."""
        h = self.hparams
        lengths = [len(example.features) for example in self.train_set]
        sampler = BucketSampler(lengths, h["batch_size"], h["max_padding"], h["seed"])
        return _loader(self.train_set, sampler)

    def val_dataloader(self) -> DataLoader:
        """All validation records."""
        lengths = [len(example.features) for example in self.validation_set]
        sampler = BucketSampler(lengths, self.hparams["batch_size"])
        return _loader(self.validation_set, sampler)


def _loader(examples: list[Example], sampler: BucketSampler) -> DataLoader:
    return DataLoader(examples, batch_sampler=sampler, collate_fn=collate_examples)  # type: ignore[arg-type]


class SegmentationModule(lightning.LightningModule):
    """:class:`~torch_semimarkov.nn.segmenter.SegmentationModel`, trained by Lightning.

    Args:
        num_features, num_classes, max_duration, head, encoder, hidden_dim, num_layers, kernel_size,
            dropout, duration_distribution, boundary_scores, tail: as in
            :class:`~torch_semimarkov.nn.segmenter.Architecture`; ``tail`` as in the records.
        statistics: mean and standard deviation of each feature, to normalise by.
        lr, weight_decay: of AdamW.
        crf_reg: weight of the head's ``parameter_penalty`` in the loss.

    The loss is the negative log-likelihood in nats per position.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        max_duration: int = 1,
        *,
        head: str = "semi-crf",
        encoder: str = "conv",
        hidden_dim: int = 64,
        num_layers: int = 4,
        kernel_size: int = 5,
        dropout: float = 0.1,
        duration_distribution: str = "learned",
        boundary_scores: bool = False,
        tail: str | None = None,
        statistics: list[list[float]] | None = None,
        lr: float = 0.003,
        weight_decay: float = 0.01,
        crf_reg: float = 0.0,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.model = SegmentationModel(
            Architecture(
                num_features, num_classes, max_duration, head, encoder, hidden_dim, num_layers,
                kernel_size, dropout, duration_distribution, boundary_scores, tail=tail,
            )
        )  # fmt: skip
        if statistics is not None:
            self.model.set_normaliser(*map(torch.tensor, statistics))

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Any:
        """The decoded segments of (B, T, D) features."""
        return self.model.decode(features, lengths)

    def _loss(self, batch: ExampleBatch) -> Tensor:
        losses = self.model(batch.features, batch.lengths, batch.segments)
        return losses.sum() / batch.lengths.sum()

    def training_step(self, batch: ExampleBatch, index: int) -> Tensor:
        """The loss of a batch."""
        loss = self._loss(batch)
        self.log("train_loss", loss, batch_size=len(batch.lengths), prog_bar=True)
        weight = self.hparams["crf_reg"]
        return loss + weight * self.model.head.parameter_penalty() if weight else loss

    def validation_step(self, batch: ExampleBatch, index: int) -> None:
        """Log the loss of a batch."""
        self.log("val_loss", self._loss(batch), batch_size=len(batch.lengths), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        h = self.hparams
        return torch.optim.AdamW(self.parameters(), lr=h["lr"], weight_decay=h["weight_decay"])

    def transfer_batch_to_device(
        self, batch: ExampleBatch, device: torch.device, index: int
    ) -> ExampleBatch:
        """The batch on the device."""
        return batch.to(device)


def main(arguments: list[str] | None = None) -> Any:
    """Lightning's command line over the two, the model's sizes taken from the data."""
    from lightning.pytorch.cli import LightningCLI

    class Command(LightningCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            for name in ("num_features", "num_classes", "max_duration", "statistics", "tail"):
                parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")

    return Command(
        SegmentationModule,
        RecordDataModule,
        args=arguments,
        trainer_defaults={"use_distributed_sampler": False},
        save_config_kwargs={"overwrite": True},
    )


if __name__ == "__main__":
    main()
