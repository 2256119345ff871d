"""The examples in the documentation run as they stand.

A block marked `served` runs against a real server of the embedded model, a block marked `run` on its own.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.documentation import Block, blocks

DOCUMENTED = "http://127.0.0.1:8000"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
LIMIT_S = 120


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where a server of the embedded model listens."""
    command = [sys.executable, "-m", "servery", "serve", "--port", "0", "--threads", "1", "--kv-memory", "64MiB"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            said = next((line for line in server.stdout or () if "is ready at" in line), "")
            assert said, "the server ended before it was ready"
            yield re.findall(r"http://\S+:\d+", said)[0]
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=LIMIT_S)
    assert server.returncode == 0


def output_of(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ONE_THREAD, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("block", blocks("sh", marked="served"), ids=str)
def test_the_shell_example_is_answered(block: Block, address: str, require_program: Callable[[str], str]) -> None:
    require_program("curl")
    answer = output_of(["bash", "-ec", block.text.replace(DOCUMENTED, address)])
    assert answer.startswith(("{", "data: {"))
    assert '"error"' not in answer


@pytest.mark.parametrize("block", blocks("python", marked="served"), ids=str)
def test_the_client_example_is_answered(block: Block, address: str) -> None:
    assert output_of([sys.executable, "-c", block.text.replace(DOCUMENTED, address)]).strip()


@pytest.mark.parametrize("block", blocks("python", marked="run"), ids=str)
def test_the_program_runs(block: Block) -> None:
    assert output_of([sys.executable, "-c", block.text]).strip()
