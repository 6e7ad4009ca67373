"""A trained gene model in a folder: safetensors and JSON, loaded without executing code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch_semimarkov.errors import ConfigError
from torch_semimarkov.genes.learning import GeneConfig
from torch_semimarkov.genes.model import GeneModel
from torch_semimarkov.genes.states import GeneticCode
from torch_semimarkov.training.folder import read_folder, write_folder

FORMAT = "torch_semimarkov gene model"


def make_model(config: GeneConfig) -> GeneModel:
    """An untrained model with the sizes of a config."""
    code = GeneticCode.table(config.genetic_code)
    return GeneModel(code, config.max_duration, config.hidden_dim)


def save_gene_model(
    folder: str | os.PathLike[str],
    model: GeneModel,
    config: GeneConfig,
    metrics: Mapping[str, Any] | None = None,
) -> Path:
    """Write a gene model to a folder; the config last, so that a torn write is no model."""
    return write_folder(
        Path(folder), model.state_dict(), FORMAT, {"training": asdict(config)}, metrics
    )


def load_gene_model(folder: str | os.PathLike[str]) -> GeneModel:
    """Read a gene model; no code in the folder is executed.

    Raises:
        FileFormatError: a missing, truncated or tampered file, or another kind of model.
    """
    model: GeneModel = read_folder(Path(folder), FORMAT, _from_config, lambda made: made)
    return model


def _from_config(config: Mapping[str, Any]) -> GeneModel:
    training = config["training"]
    if not isinstance(training, dict):
        raise ConfigError("training must be a mapping")
    return make_model(GeneConfig(**training))
