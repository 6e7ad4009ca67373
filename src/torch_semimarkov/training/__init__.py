"""Training, model folders and inference on records. Names load on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Predictor": "inference",
    "Prediction": "inference",
    "SavedModel": "folder",
    "TrainConfig": "config",
    "Trained": "run",
    "Trainer": "loop",
    "examine": "doctor",
    "load_batch": "doctor",
    "load_config": "config",
    "load_model": "folder",
    "save_batch": "doctor",
    "save_model": "folder",
    "train": "run",
}

if TYPE_CHECKING:
    from torch_semimarkov.training.config import TrainConfig, load_config
    from torch_semimarkov.training.doctor import examine, load_batch, save_batch
    from torch_semimarkov.training.folder import SavedModel, load_model, save_model
    from torch_semimarkov.training.inference import Prediction, Predictor
    from torch_semimarkov.training.loop import Trainer
    from torch_semimarkov.training.run import Trained, train

__all__ = [
    "Prediction",
    "Predictor",
    "SavedModel",
    "TrainConfig",
    "Trained",
    "Trainer",
    "examine",
    "load_batch",
    "load_config",
    "load_model",
    "save_batch",
    "save_model",
    "train",
]


if not TYPE_CHECKING:  # a type checker would take any name for one that this function gives

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
