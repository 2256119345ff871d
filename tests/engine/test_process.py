"""The engine process by itself; what it does for a living server is told in test_engine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from servery.engine import process
from servery.engine.channel import CoreChannel, encode_config
from servery.engine.config import EngineConfig
from servery.engine.pulse import shared_memory


@pytest.mark.parametrize("settings", [{}, {"kv_memory_bytes": 1}], ids=["loaded", "cannot be loaded"])
def test_a_server_that_is_gone_once_the_model_is_loaded_is_no_crash(tiny: Path, settings: dict[str, int]) -> None:
    config = encode_config(EngineConfig(model=tiny, threads=1, **settings))  # type: ignore[arg-type]
    ours, theirs = socket.socketpair()
    memory = shared_memory()
    with theirs:
        ours.close()
        done = subprocess.run(
            [sys.executable, "-m", "servery.engine.entry", str(theirs.fileno()), str(memory), config, "m"],
            pass_fds=(theirs.fileno(), memory), capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    os.close(memory)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "the server is gone" in done.stderr


def test_a_server_learns_why_a_model_of_several_processes_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was told no more than the status that the process ended with."""
    ended: list[int] = []
    monkeypatch.setattr(process, "GIVE_UP_S", 0.0)
    monkeypatch.setattr("os._exit", ended.append)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = CoreChannel(theirs)
        process._give_up("node 1 (10.0.0.2): it is gone.", None)
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(1)
        process._give_up("node 1 (10.0.0.2): it is gone.", channel)
        assert b"node 1 (10.0.0.2): it is gone." in ours.recv(1000)
    assert ended == [1, 1]
