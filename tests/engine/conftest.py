"""Fixtures of the engine's tests."""

from pathlib import Path

import pytest
import torch

from tests.engine import tiny_model


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """One torch thread: tests of tiny models are faster so, and repeatable."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a complete tiny checkpoint."""
    return tiny_model.save(tmp_path_factory.mktemp("tiny"))
