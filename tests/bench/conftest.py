from pathlib import Path

import pytest

from tests.engine import tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a complete tiny checkpoint."""
    return tiny_model.save(tmp_path_factory.mktemp("tiny"))
