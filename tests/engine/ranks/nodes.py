"""Other machines of a model, as processes of this one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Loopback addresses that no other test uses, so that the port is free.
ADDRESS = f"127.{1 + os.getpid() // 250 % 250}.{os.getpid() % 250}.7"
JOIN_TIMEOUT_S = 120.0


@contextmanager
def worker(
    model: Path, *, rank: int = 1, nnodes: int = 2, options: tuple[str, ...] = ()
) -> Iterator["subprocess.Popen[str]"]:
    """`servery worker`; it is killed at the end, if it is still there."""
    arguments = [
        "--nnodes",
        str(nnodes),
        "--node-rank",
        str(rank),
        "--master-addr",
        ADDRESS,
        "--threads",
        "1",
        *options,
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "servery", "worker", str(model), "--join-timeout", str(JOIN_TIMEOUT_S), *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def settings(**more: object) -> dict[str, object]:
    """Of the head."""
    return {"nnodes": 2, "master_addr": ADDRESS, "join_timeout_s": JOIN_TIMEOUT_S, **more}
