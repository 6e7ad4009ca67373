"""Fixtures for every test: a fixed seed, one thread per worker, and where the real data lie."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

DATA_VARIABLE = "TORCH_SEMIMARKOV_DATA"
DEFAULT_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    # The tensors are small, and threads that wait for one another slow a busy machine down.
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Start every test from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Function from a data set's folder name to its path; skips the test where it is absent.

    The folder of all data sets is $TORCH_SEMIMARKOV_DATA, else ../shared/data beside the checkout.
    """

    def folder(name: str) -> Path:
        base = Path(os.environ.get(DATA_VARIABLE, DEFAULT_DATA))
        if not (base / name).is_dir():
            pytest.skip(f"no {name} in {base}; set {DATA_VARIABLE} to the folder that holds it")
        return base / name

    return folder
