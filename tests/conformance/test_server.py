"""A server for a suite is there for the block and gone after it; one that does not start says why."""

import os
import urllib.request

import pytest

from conformance.errors import CannotRun
from conformance.server import serving


def test_a_server_is_ready_within_the_block_and_gone_after_it() -> None:
    with serving("amuse", "--kv-memory", "16MiB", "--threads", "1") as served:
        with urllib.request.urlopen(f"{served.url}/ready", timeout=60) as answer:
            assert answer.status == 200
        os.kill(served.pid, 0)
        assert any("ready at" in line for line in served.said)
    with pytest.raises(ProcessLookupError):
        os.kill(served.pid, 0)


def test_a_server_that_does_not_start_says_why() -> None:
    with (
        pytest.raises(CannotRun, match=r"(?s)the server ended with 2:.*'nothing' is neither a directory"),
        serving("nothing"),
    ):
        pass
