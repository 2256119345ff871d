"""Fixtures of the tests that need a real server."""

from collections.abc import Iterator

import pytest

from tests.e2e.server_process import ServerProcess, serving


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """One server for all tests that leave it as it was; it serves amuse and amuse-draft."""
    with serving("amuse", "amuse-draft") as started:
        yield started
